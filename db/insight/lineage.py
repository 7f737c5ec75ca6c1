"""Where models come from, and what became of them: a graph of models and what they were made from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from sqlite3 import Connection

from fl_main.steps import strategy_in_words

MOST = 200  # models in a graph: more cannot be looked at
_PLACES = "SELECT value FROM json_each(?)"  # one statement for however many ids there are


@dataclass(frozen=True, slots=True)
class Node:
    """A model in a graph.

    Attributes:
        run: Name of its run.
        agent: Name of the agent that it came from; empty if from none.
        why_not: Why it is not stored; empty if it is.
        has_more: Whether it was made from models, or models from it, that are not in the graph.
    """

    model_id: str
    kind: str
    round_id: int
    run: str
    agent: str
    is_stored: bool
    why_not: str
    tags: tuple[str, ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Edge:
    """That a model was made from another one.

    Attributes:
        share: The parent's part of a weighted mean, from 0 to 1; None: what the child began from.
    """

    parent: str
    child: str
    share: float | None


@dataclass(frozen=True, slots=True)
class Origin:
    """What a run's models were made with.

    Attributes:
        run: Its name.
        strategy: In words: `norm_bound > trimmed_mean`.
        daemon: Versions of the software of the daemons that made them, as far as they are known.
        agents: How many agents have which software; of each the one that it came with last.
    """

    run_id: str
    run: str
    strategy: str
    settings_digest: str
    daemon: tuple[str, ...]
    agents: dict[str, int]


@dataclass(frozen=True, slots=True)
class Lineage:
    """A graph of models.

    Attributes:
        nodes: In the order in which they were stored.
        left_out: How many models belong to it and are not in it, as it would be too large.
        origins: Of the runs that they belong to.
    """

    nodes: list[Node]
    edges: list[Edge]
    left_out: int
    origins: list[Origin]


def of_model(connection: Connection, model_id: str, up: int | None, down: int | None, most: int) -> Lineage:
    """Return a model with its parents and theirs, and with what was made from it.

    Args:
        up: How many steps to go up; None: to the beginning.
        down: How many steps to go down; None: to the end.
        most: Models; the nearest are taken.
    """
    chosen, left_out = {model_id}, 0
    for steps, ways in ((up, ("model_id", "parent_id")), (down, ("parent_id", "model_id"))):
        left_out += _walk(connection, model_id, steps, ways, chosen, most)
    return _graph(connection, chosen, left_out)


def _walk(
    connection: Connection, start: str, steps: int | None, ways: tuple[str, str], chosen: set[str], most: int
) -> int:
    """Add what is so many steps away, the nearest first; return how many found no room."""
    here, there = ways
    order = "position" if here == "model_id" else "rowid"
    query = f"SELECT {there} FROM parents WHERE {here} IN ({_PLACES}) ORDER BY {order}"  # noqa: S608
    frontier, seen, left_out = [start], {start}, 0
    while frontier and steps != 0:
        steps = None if steps is None else steps - 1
        found = connection.execute(query, (json.dumps(frontier),))
        frontier = [key for key in dict.fromkeys(row[0] for row in found) if key not in seen]
        seen.update(frontier)
        room = max(0, most - len(chosen))
        new = [key for key in frontier if key not in chosen]
        left_out += len(new[room:])
        chosen.update(new[:room])
        frontier = [key for key in frontier if key in chosen]
    return left_out


def of_run(connection: Connection, run_id: str, most: int) -> Lineage:
    """Return a run's models, and what its first one was made from.

    Where all are too many, those of agents are left out; then the oldest.
    """
    query = """
        SELECT model_id, kind FROM models
        WHERE run_id = ? AND kind IN ('initial', 'global', 'local', 'download')
        ORDER BY round_id DESC, rowid DESC
    """
    found = connection.execute(query, (run_id,)).fetchall()
    kept = [row for row in found if len(found) <= most or row["kind"] in ("initial", "global")]
    chosen = [row["model_id"] for row in kept[:most]]
    query = f"""
        SELECT parent_id FROM models JOIN parents ON parents.model_id = models.model_id
        WHERE models.model_id IN ({_PLACES}) AND kind = 'initial'
    """  # noqa: S608
    before = [row[0] for row in connection.execute(query, (json.dumps(chosen),))]
    return _graph(connection, {*chosen, *before}, len(found) - len(chosen))


def _graph(connection: Connection, chosen: set[str], left_out: int) -> Lineage:
    ids = json.dumps(sorted(chosen))
    nodes = _nodes(connection, ids)
    chosen = {node.model_id for node in nodes}  # of a damaged database a row may be gone
    query = f"SELECT * FROM parents WHERE model_id IN ({_PLACES}) ORDER BY model_id, position"  # noqa: S608
    found = connection.execute(query, (ids,)).fetchall()
    edges = [
        Edge(row["parent_id"], row["model_id"], row["share"]) for row in found if row["parent_id"] in chosen
    ]
    more = {row["model_id"] for row in found if row["parent_id"] not in chosen}
    query = f"SELECT model_id, parent_id FROM parents WHERE parent_id IN ({_PLACES})"  # noqa: S608
    more |= {parent for child, parent in connection.execute(query, (ids,)) if child not in chosen}
    edges += _from_base(connection, ids, chosen, {edge.child for edge in edges})
    nodes = [replace(node, has_more=node.model_id in more) for node in nodes]
    return Lineage(nodes, edges, left_out, _origins(connection, ids))


def _origins(connection: Connection, ids: str) -> list[Origin]:
    query = f"""
        SELECT * FROM runs WHERE run_id IN (SELECT run_id FROM models WHERE model_id IN ({_PLACES}))
        ORDER BY rowid
    """  # noqa: S608
    runs = connection.execute(query, (ids,)).fetchall()
    query = """
        SELECT at, json_extract(facts, '$.details.software') AS software FROM events
        WHERE run_id = '' AND record = 'event' AND json_extract(facts, '$.kind') = 'daemon_started'
        ORDER BY seq
    """
    starts = [(row["at"], row["software"]) for row in connection.execute(query) if row["software"]]
    return [
        Origin(
            row["run_id"],
            row["name"],
            strategy_in_words(json.loads(row["settings"]).get("strategy", "")),
            row["settings_digest"],
            _daemons(starts, row["created_at"], row["changed_at"]),
            _software(connection, row["run_id"]),
        )
        for row in runs
    ]


def _daemons(starts: Sequence[tuple[float, str]], begin: float, end: float) -> tuple[str, ...]:
    """Return the software of the daemon that was up when a run began, and of those started until it ended."""
    before = [software for at, software in starts if at <= begin][-1:]
    return tuple(dict.fromkeys([*before, *(software for at, software in starts if begin < at <= end)]))


def _software(connection: Connection, run_id: str) -> dict[str, int]:
    query = "SELECT software, count(*) FROM agents WHERE run_id = ? GROUP BY software ORDER BY 2 DESC, 1"
    return dict(connection.execute(query, (run_id,)).fetchall())


def _from_base(connection: Connection, ids: str, chosen: set[str], linked: set[str]) -> list[Edge]:
    """Return from which model each was made whose updates are not in the graph."""
    query = f"SELECT base_model_id, model_id FROM rounds WHERE model_id IN ({_PLACES})"  # noqa: S608
    return [
        Edge(base, model_id, None)
        for base, model_id in connection.execute(query, (ids,))
        if base in chosen and base != model_id and model_id not in linked
    ]


def _nodes(connection: Connection, ids: str) -> list[Node]:
    tags: dict[str, list[str]] = {}
    query = f"SELECT DISTINCT model_id, tag FROM tags WHERE model_id IN ({_PLACES}) ORDER BY tag"  # noqa: S608
    for model_id, tag in connection.execute(query, (ids,)):
        tags.setdefault(model_id, []).append(tag)
    query = f"""
        SELECT models.*, runs.name AS run, agents.name AS agent
        FROM models LEFT JOIN runs ON runs.run_id = models.run_id
        LEFT JOIN agents ON agents.run_id = models.run_id AND agents.agent_id = models.agent_id
        WHERE models.model_id IN ({_PLACES}) ORDER BY models.rowid
    """  # noqa: S608
    return [
        Node(
            row["model_id"],
            row["kind"],
            row["round_id"],
            row["run"] or row["run_id"],
            row["agent"] or row["agent_id"] or "",
            bool(row["is_stored"]),
            row["not_stored_reason"],
            tuple(tags.get(row["model_id"], ())),
            False,
        )
        for row in connection.execute(query, (ids,))
    ]
