"""What programs find in a model database: runs, their models, and what can be asked about them.

`ModelDB` finds them. Each asks the database anew with every call, but for what never changes.
"""

from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from sqlite3 import Connection
from typing import TYPE_CHECKING, Protocol

from fl_main.errors import StoreDamagedError, StoreError
from fl_main.store import ModelKind, Phase, RunStatus

from . import queries, rows
from .records import Agent, ArrayFacts, Effort, Event, Metric, Parent, Round, RunFacts, Update

if TYPE_CHECKING:
    from fl_main.weights import Array, Layout

    from .files import ModelFiles, StoredFile
    from .insight.comparison import Comparison
    from .insight.curves import Curve
    from .insight.difference import ArrayDifference
    from .insight.distances import Known
    from .insight.heat import Heat
    from .insight.lineage import Lineage
    from .insight.ranking import Standing
    from .insight.statistics import ArrayHistogram
    from .insight.timeline import Timeline

# What is imported within functions here is for those who look into model files: it needs numpy,
# which takes longer to load than a question about runs and rounds takes to be answered.


class Database(Protocol):
    """Where runs and models lie; see `ModelDB`."""

    @property
    def distances(self) -> "Known":
        """What was measured of rounds before."""

    @property
    def files(self) -> "ModelFiles":
        """The folder of its model files."""

    def connect(self) -> AbstractContextManager[Connection]:
        """Lend a connection that sees one state of the database."""

    def run(self, name: str) -> "Run":
        """Return a run by its name or id."""

    def model_by_id(self, model_id: str) -> "Model":
        """Return a model by its whole id."""

    def models_by_id(self, model_ids: Iterable[str]) -> "dict[str, Model]":
        """Return models by their whole ids; those that there are not are not in it."""

    def layout(self, digest: str) -> "Layout":
        """Return a layout by its digest."""


@dataclass(frozen=True)
class Run:
    """One training of one model.

    Attributes:
        facts: The run as it stood when it was read.
    """

    _db: Database = field(repr=False, compare=False)
    facts: RunFacts

    @property
    def run_id(self) -> str:
        """Its id."""
        return self.facts.run_id

    @property
    def name(self) -> str:
        """How people name it."""
        return self.facts.name

    @property
    def status(self) -> RunStatus:
        """What it was doing when it was read."""
        return self.facts.status

    @property
    def phase(self) -> Phase:
        """Where it was within its step."""
        return self.facts.phase

    def rounds(self) -> list[Round]:
        """Return its rounds in order, each with its counts and mean metrics."""
        with self._db.connect() as connection:
            return queries.rounds(connection, self.run_id)

    def effort(self) -> Effort:
        """Return what became of its agents' time so far, and how stale their updates were."""
        with self._db.connect() as connection:
            return queries.effort(connection, self.run_id)

    def way(self) -> tuple[str, str]:
        """Return the form (`full`, `delta`) and the codec in which its updates come; at first empty texts."""
        with self._db.connect() as connection:
            return queries.way(connection, self.run_id)

    def traffic(self) -> tuple[int, int]:
        """Return the bytes of all its updates as they came, and what they would be without a codec."""
        with self._db.connect() as connection:
            return queries.traffic(connection, self.run_id)

    def models(
        self,
        kind: ModelKind | str | None = None,
        round_id: int | None = None,
        agent_id: str | None = None,
        last: int | None = None,
        *,
        tag: str | None = None,
        is_stored: bool | None = None,
        since: float | None = None,
        after: str | None = None,
        limit: int = queries.ALL,
    ) -> list["Model"]:
        """Return its models, the oldest first.

        Args:
            kind: Only of this kind; `round_id`: only of this round; `agent_id`: only of this agent.
            last: Only so many, those of the latest rounds.
            tag: Only those with this tag; `is_stored`: only those whose file is kept, or is not.
            since: Only those that were made from this time on, Unix seconds.
            after: Only those that were stored after the model with this id, at most `limit`.
        """
        wanted = None if kind is None else ModelKind(kind).value
        with self._db.connect() as connection:
            found = queries.models(
                connection,
                self.run_id,
                wanted,
                round_id,
                agent_id,
                last,
                after,
                limit,
                tag=tag,
                is_stored=is_stored,
                since=since,
            )
        return [model_of(self._db, row) for row in found]

    def updates(
        self,
        round_id: int | None = None,
        agent_id: str | None = None,
        *,
        kind: str | None = None,
        verdict: str | None = None,
        since: float | None = None,
        are_outliers: bool = False,
        after: int = 0,
        limit: int = queries.ALL,
        last: int | None = None,
    ) -> list[Update]:
        """Return its updates in the order in which they came, those that were refused too.

        Args:
            round_id: Only of this round's tasks; `agent_id`: only of this agent.
            kind: Only of this kind of task (`train`, …); `verdict`: only those that were `accepted`, ….
            since: Only those that came from this time on, Unix seconds.
            are_outliers: Only those that were far from the others of their round.
            after: Only those after the one with this `update_id`, at most `limit`.
            last: Only so many, those of the latest rounds.
        """
        with self._db.connect() as connection:
            return queries.updates(
                connection,
                self.run_id,
                round_id,
                agent_id,
                after,
                limit,
                kind=kind,
                verdict=verdict,
                since=since,
                are_outliers=are_outliers,
                last=last,
            )

    def agents(self) -> list[Agent]:
        """Return everyone who ever joined, in that order."""
        with self._db.connect() as connection:
            return queries.agents(connection, self.run_id)

    def metrics(
        self, source: str | None = None, name: str | None = None, agent_id: str | None = None
    ) -> list[Metric]:
        """Return metrics by round.

        Args:
            source: `train` or `evaluate`; None for both.
            name: Of the metric; None for all.
            agent_id: Whose; '' for the means over agents, None for all.
        """
        with self._db.connect() as connection:
            return queries.metrics(
                connection, run_id=self.run_id, source=source, name=name, agent_id=agent_id
            )

    def events(
        self,
        kind: str | None = None,
        round_id: int | None = None,
        agent_id: str | None = None,
        since: float | None = None,
        last: int | None = None,
        *,
        after: int = 0,
        limit: int = queries.ALL,
    ) -> list[Event]:
        """Return what happened, in order.

        Args:
            kind: Only of this kind; `round_id` and `agent_id`: only of this round, of this agent.
            since: Only from this time on, Unix seconds.
            last: Only so many, the latest.
            after: Only what happened after the event with this `seq`, at most `limit`.
        """
        chosen = (kind, round_id, agent_id, since, last, after, limit)
        with self._db.connect() as connection:
            return queries.events(connection, self.run_id, *chosen)

    def tags(self) -> dict[str, str]:
        """Return model ids by tag."""
        with self._db.connect() as connection:
            return queries.tags(connection, self.run_id)

    def agent_names(self) -> dict[str, str]:
        """Return the names of all who ever joined by their ids; where two are equal, with the id behind."""
        with self._db.connect() as connection:
            return queries.agent_names(connection, self.run_id)

    # --- at a glance ----------------------------------------------------------------------

    def curves(self, source: str | None = None, agents: bool = True) -> "list[Curve]":
        """Return how each metric went over the rounds.

        Args:
            source: `train` or `evaluate`; None for both.
            agents: Whether agents are told apart, or of more than 20 quantiles given.
        """
        from .insight import curves

        with self._db.connect() as connection:
            return curves.curves(connection, self.run_id, source, agents)

    def timeline(
        self, first: int | None = None, last: int | None = None, most: int | None = None
    ) -> "Timeline":
        """Return when rounds began and ended, who was asked in them, and when which answer came.

        Args:
            first: The first round, `last`: the last one; None: from the beginning, to the end.
            most: Tasks in it; where there are more, those of the first rounds are left out.
        """
        from .insight import timeline

        with self._db.connect() as connection:
            return timeline.timeline(connection, self.run_id, first, last, most)

    def heat(
        self,
        measure: str = "distance",
        first: int | None = None,
        last: int | None = None,
        most_bytes: int | None = None,
        most: int | None = None,
    ) -> "Heat":
        """Return one number of each agent's update in each round: one sees who is odd.

        Args:
            measure: One of `Heat.measures`. A `distance` or `cosine` that the run's strategy did not
                note is computed from the stored updates: to, and with, their mean.
            first: The first round, `last`: the last one; None: from the beginning, to the end.
            most_bytes: Of models that are read for that, 512 MiB unless given; what was computed once
                is known from then on.
            most: Values in it; where there are more, the first rounds are left out.

        Raises:
            NotFoundError: If there is no such measure; the message lists those that there are.
        """
        from .insight import distances, heat

        nbytes = distances.MOST_BYTES if most_bytes is None else most_bytes
        with self._db.connect() as connection:
            measuring = distances.Measuring(connection, self._db.models_by_id, self._db.distances, nbytes)
            factor = self._outlier_factor
            return heat.heat(connection, self.run_id, measure, first, last, measuring, factor, most)

    @property
    def _outlier_factor(self) -> float:
        """Times the median distance from which on an update is an outlier, by the run's settings."""
        from fl_main.settings import QuarantineSettings

        stated = self.facts.settings.get("quarantine")
        return QuarantineSettings.model_validate(stated or {}).factor

    def lineage(self, most: int | None = None) -> "Lineage":
        """Return its models as a graph.

        Args:
            most: Models in it, 200 unless given. Where there are more, those of agents are left out.
        """
        from .insight import lineage

        with self._db.connect() as connection:
            return lineage.of_run(connection, self.run_id, lineage.MOST if most is None else most)

    def standings(
        self, metric: str | None = None, source: str | None = None, direction: str | None = None
    ) -> "list[Standing]":
        """Return its models by a metric, the best first: its value, since when it is known, and by how many.

        Args:
            metric: Name of the metric; what the run's settings say under `best`, unless given.
            source: `evaluate` (on held-out data) or `train`.
            direction: `min` or `max`; must be given for another metric than that of the settings.

        Raises:
            NotFoundError: If the run has no such metric; the message lists those that it has.
            SettingsError: If another metric is named, but not which way is better.
        """
        from .insight import ranking

        with self._db.connect() as connection:
            ranking.require(connection, self.run_id, self.facts.settings, metric, source)
            wanted = ranking.target(self.facts.settings, metric, source, direction)
            return ranking.standings(connection, self.run_id, wanted)

    def compare(self, *others: "Run") -> "Comparison":
        """Return it beside other runs of the same database: settings that differ, and what came of each."""
        from .insight import comparison

        with self._db.connect() as connection:
            return comparison.compare(connection, [self.facts, *(other.facts for other in others)])

    @property
    def best(self) -> "Model | None":
        """The best model by the run's chosen metric, if it was measured."""
        return self._db.model_by_id(self.facts.best_model_id) if self.facts.best_model_id else None

    @property
    def final(self) -> "Model | None":
        """The model that is tagged as final; without a tag the last one, once the run is over."""
        if tagged := self.tags().get("final"):
            return self._db.model_by_id(tagged)
        return self.last if self.facts.status.is_over else None

    @property
    def last(self) -> "Model | None":
        """The last global (or initial) model, if there is one."""
        return self._db.model_by_id(self.facts.model_id) if self.facts.model_id else None


@dataclass(frozen=True)
class Model:
    """A stored set of arrays.

    Attributes:
        agent_id: Whose it is, if it came from an agent.
        form: `full`, or `delta`: stored is what its float parameters add to those of the model
            `base_id`.
        codec: What decodes its file, with options (`top-k fraction=0.01`); empty: nothing is to be decoded.
        digest: Of its file; identical models share one.
        size: Bytes of its arrays.
        is_stored: Whether its file is kept; `not_stored_reason` says why not.
    """

    _db: Database = field(repr=False, compare=False)
    model_id: str
    run_id: str
    round_id: int
    kind: ModelKind
    agent_id: str | None
    channel: str
    form: str
    codec: str
    base_id: str | None
    digest: str
    size: int
    layout_digest: str
    is_stored: bool
    not_stored_reason: str
    created_at: float

    @property
    def run(self) -> Run:
        """The run that it belongs to."""
        return self._db.run(self.run_id)

    @property
    def base(self) -> "Model | None":
        """The model that its arrays are added to, if it is a delta."""
        return None if self.base_id is None else self._db.model_by_id(self.base_id)

    def lineage(self, up: int | None = 2, down: int | None = 2, most: int | None = None) -> "Lineage":
        """Return what it was made from, and what was made from it, as a graph.

        Args:
            up: Steps towards its parents, `down`: to what it is a parent of; None: all.
            most: Models in the graph, 200 unless given; the nearest are taken.
        """
        from .insight import lineage

        with self._db.connect() as connection:
            return lineage.of_model(
                connection, self.model_id, up, down, lineage.MOST if most is None else most
            )

    @property
    def path(self) -> Path:
        """Its `.safetensors` file; there only if it is stored."""
        return self._db.files.path(self.digest)

    @cached_property
    def layout(self) -> "Layout":
        """Names, types, shapes and roles of the arrays in its file."""
        return self._db.layout(self.layout_digest)

    @cached_property
    def decoded_layout(self) -> "Layout":
        """The same of its arrays once they are decoded: those of the model that it began from."""
        if not self.codec:
            return self.layout
        if not self.parents:
            raise StoreDamagedError(f"model {self.model_id} is encoded and names no model that it began from")
        return self._db.model_by_id(self.parents[0].model_id).decoded_layout

    @property
    def is_plain(self) -> bool:
        """Whether the arrays of its file are its own, neither differences nor encoded."""
        return self.base_id is None and not self.codec

    @cached_property
    def parents(self) -> tuple[Parent, ...]:
        """The models it was made from, in order."""
        with self._db.connect() as connection:
            found = queries.parents_of(connection, [self.model_id])[self.model_id]
        return tuple(Parent(*parent) for parent in found)

    @cached_property
    def tags(self) -> tuple[str, ...]:
        """Its tags."""
        with self._db.connect() as connection:
            return queries.tags_of(connection, self.model_id)

    def metrics(self) -> list[Metric]:
        """Return what was measured of it."""
        with self._db.connect() as connection:
            return queries.metrics(connection, model_id=self.model_id)

    def open(self) -> "StoredFile":
        """Open its file to read parts of it; the caller closes it.

        Raises:
            StoreDamagedError: If the file is missing or not what it should be.
            StoreError: If it is not stored any more.
        """
        if not self.is_stored:
            raise StoreError(f"model {self.model_id} is not stored: {self.not_stored_reason}")
        return self._db.files.open(self.digest, self.layout)

    def weights(self) -> "dict[str, Array]":
        """Return its arrays by name, decoded, of a delta those of base + delta; they are yours to change.

        Raises:
            StoreDamagedError: If its file, or its base's, is missing or not what it should be.
            StoreError: If it is not stored any more.
        """
        from fl_main.deltas import add

        own = self.decoded()
        if self.base_id is None:
            return own
        return add(self._db.model_by_id(self.base_id).weights(), own, self.decoded_layout)

    def decoded(self) -> "dict[str, Array]":
        """Return the arrays of its file by name, decoded: of a delta, what is added to its base.

        Raises:
            StoreDamagedError: If its file is missing or not what it should be.
            StoreError: If it is not stored any more.
        """
        from . import reading

        with reading.opened_decoded(self) as source:
            return reading.arrays_of(source)

    def as_stored(self) -> "dict[str, Array]":
        """Return the arrays of its file by name: of a delta, or an encoded one, what was received.

        Raises:
            StoreDamagedError: If its file is missing or not what it should be.
            StoreError: If it is not stored any more.
        """
        from . import reading

        with reading.opened_as_stored(self) as source:
            return reading.arrays_of(source)

    def arrays(self) -> list[ArrayFacts]:
        """Return the arrays of its file in numbers, without holding them in memory.

        Raises:
            StoreDamagedError: If its file is missing or not what it should be.
            StoreError: If it is not stored any more.
        """
        from . import arrays

        file = self.open()
        try:
            return list(arrays.describe(file))
        finally:
            file.close()

    def histograms(
        self, bins: int = 20, arrays: Collection[str] | None = None, as_stored: bool = False
    ) -> "list[ArrayHistogram]":
        """Return how the values of its arrays are spread, without holding them in memory.

        Args:
            bins: Of each array, from its least value to its largest; at least 1.
            arrays: Names of those that are wanted; None: all.
            as_stored: Of the arrays of its file: of a delta the delta, of an encoded model the codec's.

        Raises:
            NotFoundError: If it has no array of such a name.
            StoreDamagedError: If its file, or its base's, is missing or not what it should be.
            StoreError: If it is not stored any more.
        """
        from . import reading
        from .insight import statistics

        with reading.opened_as_stored(self) if as_stored else reading.opened(self) as source:
            return list(statistics.histograms(source, bins, arrays))

    def difference(self, other: "Model") -> "list[ArrayDifference]":
        """Return what another model has and this one has not, array by array, without holding them in memory.

        Both are taken decoded, and of a delta base + delta.

        Raises:
            StoreDamagedError: If a file is missing or not what it should be.
            StoreError: If one is not stored any more.
        """
        from . import reading
        from .insight import difference

        with reading.opened(self) as own, reading.opened(other) as theirs:
            return list(difference.difference(own, theirs))


def model_of(db: Database, row: rows.Row) -> Model:
    """Return a model as `queries` found it."""
    return Model(
        db,
        row["model_id"],
        row["run_id"],
        row["round_id"],
        ModelKind(row["kind"]),
        row["agent_id"],
        row["channel"],
        row["form"],
        row["codec"],
        row["base_id"],
        row["digest"],
        row["size"],
        row["layout_digest"],
        bool(row["is_stored"]),
        row["not_stored_reason"],
        row["created_at"],
    )
