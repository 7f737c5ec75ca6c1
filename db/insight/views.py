"""The views of the database: its tables as one wants to ask them in SQL.

Names instead of ids, dates that one can read, JSON taken apart. They lie in the database, so that
`fl db sql`, Datasette and whatever else reads SQLite has them. Times in `…_at` of the tables are here
UTC dates without the ending (`2026-11-27 10:33:41`); numbers keep their names.

A changed view is a new version of the schema: see `migrations`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

Columns = Mapping[str, str | tuple[str, str]]


@dataclass(frozen=True, slots=True)
class View:
    """A view.

    Attributes:
        about: What it shows, a row each.
        source: What stands after FROM.
        columns: By name the expression, with what it says where that is not what the column of a table
            says.
    """

    name: str
    about: str
    source: str
    columns: Columns = field(repr=False)

    @property
    def sql(self) -> str:
        """What makes it."""
        chosen = ",\n    ".join(f"{self.expression(name)} AS {name}" for name in self.columns)
        return f"CREATE VIEW {self.name} AS\nSELECT\n    {chosen}\nFROM {self.source}"

    def expression(self, name: str) -> str:
        """Return what a column is."""
        column = self.columns[name]
        return column if isinstance(column, str) else column[0]

    def said(self, name: str) -> str | None:
        """Return what a column says; None if the column of a table that it is says it."""
        column = self.columns[name]
        return None if isinstance(column, str) else column[1]


def _date(column: str) -> str:
    return f"datetime({column}, 'unixepoch')"


def _setting(path: str) -> str:
    return f"json_extract(runs.settings, '$.{path}')"


_STRATEGY = """CASE json_type(runs.settings, '$.strategy')
        WHEN 'array' THEN (
            SELECT group_concat(
                CASE step.type WHEN 'object' THEN (SELECT key FROM json_each(step.value)) ELSE step.value END,
                ' > '
            ) FROM json_each(runs.settings, '$.strategy') AS step
        )
        ELSE json_extract(runs.settings, '$.strategy')
    END"""

_RUN = ("runs.name", "name of the run")


def _agent_of(table: str, said: str = "name of the agent") -> tuple[str, str]:
    """Return what is looked up only where somebody asks for it: SQLite does every join that it counts."""
    where = f"agents.run_id = {table}.run_id AND agents.agent_id = {table}.agent_id"
    return f"(SELECT name FROM agents WHERE {where})", said  # noqa: S608


_RUNS = View(
    "runs_view",
    "a run, with the settings that one asks for most",
    "runs",
    {
        "run": _RUN,
        "status": "runs.status",
        "reason": "runs.reason",
        "rounds": ("runs.rounds_done", "global models made"),
        "agents": (
            "(SELECT count(*) FROM agents WHERE agents.run_id = runs.run_id)",
            "how many ever joined",
        ),
        "strategy": (_STRATEGY, "its strategy, the steps of one with several after each other"),
        "mode": (_setting("mode"), "sync, semi-sync or async"),
        "min_agents": (_setting("round.min_agents"), "that must be connected before a round starts"),
        "deadline_s": (_setting("round.deadline_s"), "after which a round ends anyway"),
        "codec": (_setting("compression.codec"), "in which updates travel"),
        "metric": (_setting("best.metric"), "by which the best model is chosen"),
        "best_value": "runs.best_value",
        "best_round": (
            "(SELECT round_id FROM models WHERE models.model_id = runs.best_model_id)",
            "of the best model; empty: none was measured yet",
        ),
        "best_model_id": "runs.best_model_id",
        "model_id": "runs.model_id",
        "run_time_s": "runs.run_time_s",
        "created": (_date("runs.created_at"), "when it was made"),
        "changed": (_date("runs.changed_at"), "when it last changed"),
        "settings": "runs.settings",
        "run_id": "runs.run_id",
    },
)


def _updates_of_round(condition: str) -> str:
    where = (
        "updates.run_id = rounds.run_id AND updates.round_id = rounds.round_id AND updates.kind <> 'evaluate'"
    )
    return f"(SELECT count(*) FROM updates WHERE {where} AND {condition})"  # noqa: S608


_ROUNDS = View(
    "rounds_view",
    "a round and what came of it",
    "rounds JOIN runs ON runs.run_id = rounds.run_id",
    {
        "run": _RUN,
        "round_id": "rounds.round_id",
        "status": "rounds.status",
        "reason": "rounds.reason",
        "accepted": (_updates_of_round("verdict = 'accepted'"), "updates that were accepted"),
        "refused": (_updates_of_round("verdict <> 'accepted'"), "updates that were rejected or discarded"),
        "bytes": (
            "(SELECT sum(size) FROM updates WHERE updates.run_id = rounds.run_id "
            "AND updates.round_id = rounds.round_id)",
            "of all its updates, as they came",
        ),
        "seconds": ("rounds.ended_s - rounds.started_s", "that it took, in run time"),
        "busy_s": "rounds.busy_s",
        "wasted_s": "rounds.wasted_s",
        "idle_s": "rounds.idle_s",
        "base_model_id": "rounds.base_model_id",
        "model_id": "rounds.model_id",
        "created": (_date("rounds.created_at"), "when it began"),
        "changed": (_date("rounds.changed_at"), "when it last changed"),
        "run_id": "rounds.run_id",
    },
)


def _note(name: str) -> str:
    return f"json_extract(updates.notes, '$.{name}')"


def _model(column: str) -> str:
    return f"(SELECT {column} FROM models WHERE models.model_id = updates.model_id)"  # noqa: S608


_UPDATES = View(
    "updates_view",
    "an update: whose, what became of it, what was measured of it",
    "updates JOIN runs ON runs.run_id = updates.run_id",
    {
        "update_id": "updates.update_id",
        "run": _RUN,
        "round_id": "updates.round_id",
        "kind": "updates.kind",
        "agent": _agent_of("updates"),
        "verdict": "updates.verdict",
        "reason": "updates.reason",
        "counted_in": "updates.counted_in",
        "num_examples": "updates.num_examples",
        "num_steps": "updates.num_steps",
        "share": "updates.share",
        "staleness": "updates.staleness",
        "distance": (_note("distance"), "to what came of all"),
        "cosine": (_note("cosine"), "of what it adds and the mean of that"),
        "score": (_note("score"), "by which its strategy chose"),
        "kept": (_note("kept"), "1: its strategy chose it; 0: left it out"),
        "outlier": (_note("outlier"), "1: it was far from the others"),
        "size": "updates.size",
        "seconds": "updates.seconds",
        "took_s": (
            "nullif(updates.received_s, 0) - "
            "(SELECT assigned_s FROM tasks WHERE tasks.task_id = updates.task_id)",
            "from its task to its verdict, in run time",
        ),
        "received": (_date("updates.received_at"), "when it was stored"),
        "metrics": "updates.metrics",
        "notes": "updates.notes",
        "model_id": "updates.model_id",
        "is_stored": (_model("is_stored"), "1: its file is there"),
        "not_stored_reason": (_model("not_stored_reason"), "why it is not"),
        "task_id": "updates.task_id",
        "agent_id": "updates.agent_id",
        "run_id": "updates.run_id",
    },
)

_AGENTS = View(
    "agents_view",
    "an agent in a run",
    "agents JOIN runs ON runs.run_id = agents.run_id",
    {
        "run": _RUN,
        "agent": ("agents.name", "name of the agent"),
        "is_present": "agents.is_present",
        "joined": (_date("agents.joined_at"), "when it came for the first time"),
        "gone": (_date("agents.left_at"), "when it left for the last time; empty while it is there"),
        "software": "agents.software",
        "attributes": "agents.attributes",
        "outlying": "agents.outlying",
        "quarantined": "agents.quarantined",
        "agent_id": "agents.agent_id",
        "run_id": "agents.run_id",
    },
)

_MODELS = View(
    "models_view",
    "a model",
    "models JOIN runs ON runs.run_id = models.run_id",
    {
        "model_id": "models.model_id",
        "run": _RUN,
        "round_id": "models.round_id",
        "kind": "models.kind",
        "agent": _agent_of("models", "name of the agent whose it is"),
        "form": "models.form",
        "codec": "models.codec",
        "bytes": ("models.size", "of its arrays"),
        "is_stored": "models.is_stored",
        "not_stored_reason": "models.not_stored_reason",
        "tags": (
            "(SELECT group_concat(tag, ' ') FROM tags WHERE tags.model_id = models.model_id)",
            "its names",
        ),
        "digest": "models.digest",
        "created": (_date("models.created_at"), "when it was stored"),
        "run_id": "models.run_id",
    },
)

_METRICS = View(
    "metrics_view",
    "a metric of a model: by one agent, or the mean over agents",
    "metrics JOIN runs ON runs.run_id = metrics.run_id",
    {
        "run": _RUN,
        "round_id": "metrics.round_id",
        "source": "metrics.source",
        "name": "metrics.name",
        "agent": _agent_of("metrics", "name of the agent; empty: the mean over agents"),
        "value": "metrics.value",
        "num_examples": "metrics.num_examples",
        "agents": "metrics.agents",
        "is_mean": ("metrics.agent_id = ''", "1: the mean over agents, weighted by examples"),
        "model_id": "metrics.model_id",
        "agent_id": "metrics.agent_id",
        "run_id": "metrics.run_id",
    },
)


def _fact(name: str) -> str:
    return f"json_extract(events.facts, '$.{name}')"


_EVENTS = View(
    "events_view",
    "something that happened; its record in the chain apart from the rows that were written with it",
    "events LEFT JOIN runs ON runs.run_id = events.run_id WHERE events.record = 'event'",
    {
        "run": ("runs.name", "name of the run; empty: of no run"),
        "seq": "events.seq",
        "created": (_date("events.at"), "when it was committed"),
        "event": (_fact("kind"), "what happened"),
        "round_id": (_fact("round_id"), "the round in which it did"),
        "agent_id": (_fact("agent_id"), "whom it is about"),
        "actor": (_fact("actor"), "who did it, where a person or agent did"),
        "details": (_fact("details"), "JSON: what else there is to say"),
        "hash": "events.hash",
        "run_id": "events.run_id",
    },
)

_LINEAGE = View(
    "lineage_view",
    "an edge of the graph of models: one model, and one that it was made from",
    """parents
    JOIN models AS child ON child.model_id = parents.model_id
    JOIN models AS parent ON parent.model_id = parents.parent_id
    JOIN runs ON runs.run_id = child.run_id
    JOIN runs AS from_run ON from_run.run_id = parent.run_id
    LEFT JOIN agents ON agents.run_id = parent.run_id AND agents.agent_id = parent.agent_id""",
    {
        "model_id": "parents.model_id",
        "run": _RUN,
        "round_id": ("child.round_id", "of the model"),
        "kind": ("child.kind", "of the model"),
        "position": "parents.position",
        "share": "parents.share",
        "parent_id": "parents.parent_id",
        "parent_run": ("from_run.name", "name of the run that the parent is of"),
        "parent_round_id": ("parent.round_id", "of the parent"),
        "parent_kind": ("parent.kind", "of the parent"),
        "parent_agent": ("agents.name", "name of the agent whose the parent is"),
    },
)

VIEWS = (_RUNS, _ROUNDS, _UPDATES, _AGENTS, _MODELS, _METRICS, _EVENTS, _LINEAGE)


def statements() -> Iterator[str]:
    """Yield what makes all views."""
    return (view.sql for view in VIEWS)
