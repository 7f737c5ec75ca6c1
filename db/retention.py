"""Which model files may go, by the retention settings: a decision, without the deed.

Only what came from agents goes (local models and extra channels) and what was sent to them
(encoded global models), and never what is still needed: a base of an open task or of an update
that is kept, a tagged model, a run's current models, an update that was not counted yet. A file
goes when every model that it holds may go.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sqlalchemy import ColumnElement, Connection, and_, func, literal_column, select

from fl_main.plan import download_id_of
from fl_main.store import ModelKind, RunStatus

from .rows import PASSING, RUN
from .schema import among, files, models, parents, rowid, runs, tags, tasks, updates
from .snapshots import UNANSWERED, UNCOUNTED


class Policy(Protocol):
    """What stays; the section `retention` of the settings is one."""

    @property
    def keep(self) -> Literal["all", "rounds", "bytes"]:
        """Everything; what is of the last `rounds` rounds; or up to `bytes` of it."""

    @property
    def rounds(self) -> int:
        """Rounds of each run whose models stay."""

    @property
    def bytes(self) -> int:
        """What all together may take."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A model whose file is on disk.

    Attributes:
        size: Bytes of its file's data.
        order: A larger number was stored later, whatever the clocks said.
        may_go: Whether anything still needs it.
        age: Rounds since its own, in its run.
        run_id: Whose it is, and of which `kind`.
    """

    model_id: str
    digest: str
    size: int
    order: int
    may_go: bool
    age: int
    run_id: str = ""
    kind: str = ""


def choose(stored: Iterable[Stored], settings: Policy) -> dict[str, list[Stored]]:
    """Return the models that lose their files, by digest."""
    if settings.keep == "all":
        return {}
    by_file: dict[str, list[Stored]] = defaultdict(list)
    for model in stored:
        by_file[model.digest].append(model)
    free = [group for group in by_file.values() if all(model.may_go for model in group)]
    if settings.keep == "rounds":
        chosen = [group for group in free if all(model.age >= settings.rounds for model in group)]
    else:
        chosen = _oldest(free, sum(group[0].size for group in by_file.values()) - settings.bytes)
    return {group[0].digest: group for group in chosen}


def _oldest(groups: list[list[Stored]], excess: int) -> list[list[Stored]]:
    """Return the oldest files that together are at least as large as what is too much."""
    chosen: list[list[Stored]] = []
    for group in sorted(groups, key=lambda group: max(model.order for model in group)):
        if excess <= 0:
            break
        chosen.append(group)
        excess -= group[0].size
    return chosen


def stored_models(
    connection: Connection, settings: Policy, run_ids: Collection[str] | None = None
) -> list[Stored]:
    """Return the stored models that `choose` needs to see: few, unless a limit in bytes is reached.

    They are of a kind that goes, and by their age may go; or share the file of one that is.

    Args:
        run_ids: Whose models may go; None: of all runs.
    """
    return of_files(connection, candidates(connection, settings, run_ids), run_ids)


def of_files(
    connection: Connection,
    digests: Sequence[str],
    run_ids: Collection[str] | None = None,
    gone: Collection[str] = (),
) -> list[Stored]:
    """Return the stored models of some files, as far as these are still there.

    Args:
        run_ids: Whose models may go; None: of all runs.
        gone: Models that go anyway: what only they began from is not needed.
    """
    if not digests:
        return []
    names = ("model_id", "digest", "size", "kind", "run_id", "round_id", "agent_id")
    query = select(*(models.c[name] for name in names)).where(models.c.is_stored == 1)
    found = connection.execute(query.where(among(models.c.digest, digests)).order_by(rowid(models))).all()
    needed = _needed(connection, [row.model_id for row in found], gone)
    uncounted, now = _uncounted(connection), _rounds(connection)
    return [
        Stored(
            row.model_id,
            row.digest,
            row.size,
            order,
            row.kind in PASSING
            and (run_ids is None or row.run_id in run_ids)
            and row.model_id not in needed
            and (row.run_id, row.round_id, row.agent_id) not in uncounted,
            now.get(row.run_id, 0) - row.round_id,
            row.run_id,
            row.kind,
        )
        for order, row in enumerate(found)
    ]


def _passing() -> ColumnElement[bool]:
    """Whether a model is stored, and of a kind that goes: in the words of the index `models_passing`."""
    kinds: list[ColumnElement[str]] = [literal_column(f"'{kind}'") for kind in PASSING]
    return and_(models.c.is_stored == literal_column("1"), models.c.kind.in_(kinds))


def candidates(connection: Connection, settings: Policy, run_ids: Collection[str] | None = None) -> list[str]:
    """Return the digests of files that may have to go; most of the time there is none."""
    theirs = select(models.c.digest).where(_passing())
    if run_ids is not None:
        theirs = theirs.where(models.c.run_id.in_(list(run_ids)))
    if settings.keep == "rounds":
        old = models.c.round_id <= runs.c.round_id - settings.rounds
        theirs = theirs.join(runs, runs.c.run_id == models.c.run_id).where(old)
    elif settings.keep == "bytes":
        total = select(func.coalesce(func.sum(files.c.size), 0)).where(files.c.digest.in_(theirs))
        if connection.execute(total).scalar_one() <= settings.bytes:
            return []
    return list(dict.fromkeys(connection.execute(theirs).scalars()))


def _needed(connection: Connection, ids: Sequence[str], gone: Collection[str]) -> set[str]:
    """Return those of some models that something needs."""
    found: set[str | None] = set()
    found.update(connection.execute(select(tags.c.model_id).where(among(tags.c.model_id, ids))).scalars())
    found.update(connection.execute(select(tasks.c.model_id).where(UNANSWERED)).scalars())
    for row in connection.execute(select(runs)).mappings():
        run = RUN.read(row)
        found.update((run.model_id, download_id_of(run.model_id), run.statistics_id, run.best_model_id))
        found.update(run.state_ids.values())
    found.update(_bases(connection, ids, gone))
    return {model_id for model_id in found if model_id}


def _bases(connection: Connection, ids: Sequence[str], gone: Collection[str]) -> Iterable[str]:
    """Return those of some models from which kept updates began."""
    query = (
        select(parents.c.parent_id, parents.c.model_id)
        .join(models, models.c.model_id == parents.c.model_id)
        .where(among(parents.c.parent_id, ids), parents.c.position == 0)
        .where(models.c.is_stored == 1, models.c.kind == ModelKind.LOCAL.value)
    )
    return {row.parent_id for row in connection.execute(query) if row.model_id not in gone}


def _uncounted(connection: Connection) -> set[tuple[str, int, str]]:
    """Return run, round and agent of updates that a round may still count."""
    over: Sequence[str] = [status.value for status in RunStatus if status.is_over]
    living = select(runs.c.run_id).where(runs.c.status.not_in(over))
    query = select(updates.c.run_id, updates.c.round_id, updates.c.agent_id)
    return {
        (row.run_id, row.round_id, row.agent_id)
        for row in connection.execute(query.where(UNCOUNTED, updates.c.run_id.in_(living)))
    }


def _rounds(connection: Connection) -> dict[str, int]:
    return {row.run_id: row.round_id for row in connection.execute(select(runs.c.run_id, runs.c.round_id))}
