"""What a strategy is: a rule from the updates of a round to the next global model.

A strategy sees facts and blocks of arrays, never agents, sockets, files or logs. First it
*measures*: zero or more passes over the updates that yield scalars (norms, distances,
scores). Then it *combines*: block i of every update becomes block i of the new model. The
driver in `fl_main.strategies.fold` reads the blocks from the stored files into buffers that
it reuses, so a model may be larger than memory and the number of updates does not matter.

The laws that every strategy must keep (tests hold each one of the table to them):

- the order in which updates arrived does not matter: they come sorted by agent and task. A rule
  that takes one after the other depends on this order, any other on none but for rounding;
- equal models stay equal: if every update is the model that is there already, it stays, bit for
  bit; a mean of models is the model that all updates are, bit for bit, whatever was there before;
- the form on the wire does not matter but for rounding: local models, or their differences;
- examples scale: multiplying every `num_examples` by the same factor changes nothing (but for
  rounding, where updates are discounted);
- updates scale, and may be moved: a model and its updates times a number, or plus another model,
  give the same result times that, or plus that, but for rounding;
- blocks do not matter: one block gives the same bits as many. What is measured does not depend on
  them either: measuring passes always cut a model in the same way. (Where products of whole updates
  are measured, as by Krum, bits may differ from machine to machine: see `strategies.geometry`);
- a restart does not matter: what a strategy knows of the rounds before is in its state.

Where a law is not one of a rule's paper, the rule says so in `exceptions`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Contribution:
    """The facts of one update, as a strategy sees them.

    Attributes:
        agent: Who sent it.
        num_examples: Examples behind it, at least 1.
        num_steps: Optimizer steps behind it, where reported.
        staleness: Global versions made between its base and now, at least 0.
        metrics: As reported with it.
        discount: What it counts for its staleness, from 0 to 1, by the run's settings; 1 where it
            has none.
    """

    agent: str
    num_examples: int
    num_steps: int | None = None
    staleness: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    discount: float = 1.0


class Block(Protocol):
    """One stretch of the parameters: the same place in the base, every update and the state.

    All arrays are one-dimensional, of one length and one float dtype (float32, or float64
    where the model is float64), and valid only during the call they were given to.
    """

    @property
    def base(self) -> Values:
        """The global model as it is now, from which the next one follows; read-only."""

    @property
    def place(self) -> int:
        """How many float parameters lie before this block: a number for each value of the model."""

    @property
    def version(self) -> int:
        """Which global model of the run is made, from 1 on: the steps of an optimizer, for instance."""

    @property
    def is_first(self) -> bool:
        """Whether no state is there of a round before: of the run's first model, or where it begins anew."""

    @property
    def agents(self) -> int:
        """How many agents of the run may train, whether they sent an update this time or not."""

    @property
    def out(self) -> Values:
        """Where `combine` writes the new model; `measure` must not touch it."""

    @property
    def state(self) -> Mapping[str, Values]:
        """The strategy's own arrays; `combine` changes them in place."""

    def updates(self, channel: str = "weights") -> Iterator[Values]:
        """Yield this block of every update in turn, in one buffer that is reused: copy or fold it.

        The strategy's `wants` says whether the weights are local models, or what each adds to the
        model that it was trained on. It may be changed in place.
        """

    def stack(self, channel: str = "weights") -> Values:
        """Return this block of all updates at once, shape (updates, length), for rules that need it."""


class Strategy:
    """Base of all strategies: override what yours needs.

    Its attributes belong to the class, or where options decide them, to the object.

    Attributes:
        step: What it is in a pipeline: a *rule* makes one model of all updates; a *scaling* step
            gives each update a factor, by `factors`; an *optimizer* takes what the rule found as a
            step from the base; *noise* is added last. See `fl_main.strategies.pipeline`.
        selects: Whether a rule leaves updates out by their `shares` and does nothing else, so that
            it may come before another rule, which then sees only those with a share.
        alone: Why no other step goes with it but noise, in half a sentence; empty if others do.
        state: Names of arrays, shaped like the parameters, that are kept between rounds and
            stored with each (momenta, control variates); zeros before the first round.
        paired: Which of them go with arrays that agents keep: an agent forgets those when the run is
            rolled back to an earlier round, and so both begin anew there.
        down: Which of them every agent is sent with its task, as a channel of that name; in the
            first round there are none yet.
        up: Extra channels that every update must bring, shaped like the parameters.
        needs: Facts that every update must report: `num_steps`, or names of metrics.
        modes: Modes of a run in which it is valid; only in `sync` has every update the same base.
        why_not: Why not in the others, in half a sentence.
        wants: Whether it combines local models, or their differences from the models that they
            were trained on. Whatever the agents sent, it gets what it wants.
        buffer: Updates that make a new model in the modes `semi-sync` and `async`, unless the
            settings say; None for what the mode has by itself.
        passes: How many measuring passes it makes.
        stacks: Whether it asks blocks for a `stack`; its blocks are smaller then.
        min_updates: Fewest updates that it can combine.
        why_least: Why not fewer, in half a sentence; then settings that ask for fewer are refused.
        requires: Names of agents without whose update a round cannot be combined: every round must
            ask all then, and they are never left out as outliers.
        one_each: Whether an agent counts once at most in each global model: of two of its updates, a late
            one and a new one, the newer. Rules that bear so many faulty agents need it, as they count
            updates.
        measures: Names of what its `notes` say of each update. `distance` is that to what came of
            all; by it a run can tell outliers, see `fl_main.quarantine`.
        in_turn: Whether a round is the turn of one agent.
        exact: Why its updates must come as they were made, in half a sentence; then settings whose codec
            leaves something out are refused.
        takes_buffers: Whether it combines float buffers, too, by `combine_buffer`; of integers and booleans
            each is then the median, see `integers_of`.
        takes_free: Whether it combines payloads of free layout, by `combine_free`.
        is_random: Whether it draws by chance that nobody keeps, so that nobody gets the same model again.
        exceptions: Laws that do not hold for it, each with the reason in half a sentence:
            `order`, `unchanged`, `equal`, `form`, `examples`, `scale`, `translation`; see
            `fl_main.testing.check_strategy`.
    """

    step: Literal["rule", "scaling", "optimizer", "noise"] = "rule"
    selects: bool = False
    alone: str = ""
    state: tuple[str, ...] = ()
    paired: tuple[str, ...] = ()
    down: tuple[str, ...] = ()
    up: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    modes: tuple[str, ...] = ("sync", "semi-sync")
    why_not: str = "it is not made for updates of different global models"
    wants: Literal["models", "deltas"] = "models"
    buffer: int | None = None
    passes: int = 0
    stacks: bool = False
    min_updates: int = 1
    why_least: str = ""
    requires: tuple[str, ...] = ()
    one_each: bool = False
    measures: tuple[str, ...] = ()
    in_turn: bool = False
    exact: str = ""
    takes_buffers: bool = False
    takes_free: bool = False
    is_random: bool = False
    exceptions: Mapping[str, str] = MappingProxyType({})

    def correction(self) -> Mapping[str, Any]:
        """Return what every agent is asked to do to its training, as a `name` and options.

        It goes with each training task; `fl_main.corrections` has those that are known by name. Empty:
        agents train as they like.
        """
        return {}

    def fault(self, update: Contribution) -> str:
        """Return what is wrong with the facts of one update, in a sentence, or an empty text.

        Asked of every update that is offered, which is rejected then; so a round does not fail for one
        of its agents. `needs` are there.
        """
        return ""

    def begin(self, contributions: Sequence[Contribution]) -> None:
        """Look at the facts before the first block; keep what the blocks will need.

        Called once per fold on a fresh instance; after a crash the fold begins anew.

        Raises:
            UpdateRejectedError: If these updates cannot be combined at all.
        """

    def measure(self, number: int, block: Block) -> None:
        """Take one block into the scalars of measuring pass `number` (0, 1, …)."""

    def factors(self) -> Sequence[float]:
        """Return what each update is multiplied by, in order; a scaling step's, once it has measured."""
        raise NotImplementedError  # only a strategy whose step is scaling is asked

    def combine(self, block: Block) -> None:
        """Write block's new values to `block.out`, and new state in place."""
        raise NotImplementedError  # a strategy must say how it combines

    def combine_buffer(self, block: Block) -> None:
        """Write the new values of running statistics to `block.out`; it has no state there."""
        raise NotImplementedError  # only a strategy that says `takes_buffers` is asked

    def integers_of(self) -> Sequence[int]:
        """Return whose integers and booleans count, by their places; empty: all of them.

        A rule that takes buffers is asked once every block was measured. Each of these values is the
        median of theirs (of an even number the lower of the middle two), which is one that somebody
        sent: a mean could be put anywhere by one of them.
        """
        return []

    def combine_free(self, payloads: Sequence[bytes]) -> bytes:
        """Return the new model's bytes from the updates' bytes, each of any length (boosted trees)."""
        raise NotImplementedError  # only a strategy that says `takes_free` is asked

    def bears(self, updates: int) -> int:
        """Return how many of so many updates may be whatever they want, by the paper; 0 for a mean."""
        return 0

    def leaves(self, updates: int) -> int:
        """Return how many of so many updates a rule that selects leaves to the one behind it, at least."""
        return updates

    def shares(self) -> Sequence[float]:
        """Return each update's part of the new model, in order; empty where that has no meaning.

        Known once every block was measured. Unless it `takes_buffers`, they are averaged by the same
        parts, so that a rule that leaves an update out leaves its running statistics out too. What is
        missing to 1 is the part of the base, also in the average of float buffers; if all are 0 nothing
        of the model changes but by the rule.
        """
        return []

    def notes(self) -> Sequence[Mapping[str, float]]:
        """Return what was measured of each update (distance, score, kept), stored with the round."""
        return []
