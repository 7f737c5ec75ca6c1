"""When things happen in a local run: what the round machine asks for is done, in virtual time."""

import heapq
import math
import numbers
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from fl_main.errors import FLError, RunFailedError, SettingsError
from fl_main.events import (
    AgentJoined,
    Answer,
    Assign,
    Effect,
    Event,
    Fold,
    FoldFailed,
    Offered,
    Prune,
    Receive,
    Steered,
    TaskDeclined,
    TimePassed,
    UpdateOffered,
    UpdateReceived,
    UpdateSpoiled,
)
from fl_main.folding import fold_plan, fold_step
from fl_main.ledger import Outcome
from fl_main.local.contract import LocalRound, LocalRun
from fl_main.local.files import Files
from fl_main.local.models import Models
from fl_main.local.parts import Parts
from fl_main.local.report import Report
from fl_main.local.sites import Program, Sites
from fl_main.plan import next_step
from fl_main.rounds import RoundMachine
from fl_main.settings import RunSettings
from fl_main.store import (
    ModelKind,
    ModelRecord,
    Phase,
    RunRecord,
    RunSnapshot,
    RunStatus,
    TaskRecord,
    UpdateRecord,
    Verdict,
)
from fl_main.strategies import strategy_of
from fl_main.training import Kind


class Driver:
    """One local run.

    Args:
        settings: Of the run.
        program: By which sites work.
        data: Of each site, by its name.
        initial_weights: The model to start from.
        seconds: Returns how long a site takes for its n-th task; None for no time.
        on_round: Called with each new global model.

    Raises:
        WeightsError: If the first weights are no model that can be trained.
    """

    def __init__(
        self,
        settings: RunSettings,
        program: Program,
        data: Mapping[str, Any],
        initial_weights: Mapping[str, Any],
        seconds: Callable[[str, int], float] | None = None,
        on_round: Callable[[LocalRound], None] | None = None,
    ) -> None:
        self._settings = settings
        self._program = program
        self._names = tuple(data)
        self._seconds = seconds
        self._at = 0.0
        self._coming: list[tuple[float, int, Callable[[], Event]]] = []  # a heap: when, in which order
        self._scheduled = 0
        self._done: dict[str, int] = {}  # tasks, by site
        self._complaint = ""  # why an update did not count
        self._on_the_way: dict[str, Offered] = {}  # by task
        self._files = Files()
        self._parts = Parts(initial_weights, settings.compression.arrays)
        run = RunRecord("local", settings.name, {}, settings.digest, RunStatus.PAUSED, Phase.WAITING)
        self._machine = RoundMachine(settings, strategy_of(settings), RunSnapshot(run))
        self._models = Models(self._machine, self._files)
        self._sites = Sites(program, data, self._machine, self._models, self._parts)
        self._report = Report(on_round, self._models, self._parts, self._sites.traffic)

    def run(self) -> LocalRun:
        """Join every site, then work until nothing is left to do.

        Raises:
            RunFailedError: If the run ends early.
        """
        initial = self._files.keep_arrays(self._parts.travelling)
        self._parts.know({spec.name: spec.role for spec in initial.layout.arrays})
        self._take(self._machine.adopt(ModelRecord("initial", "local", 0, ModelKind.INITIAL, initial)))
        for name in self._names:
            self._schedule(0.0, partial(AgentJoined, name, name, self._program.kinds))
        self._schedule(0.0, partial(Steered, "resume", "run_local"))  # nothing begins before all are here
        self._go_on()
        return self._result()

    def _result(self) -> LocalRun:
        record = self._machine.run
        if record.status is not RunStatus.FINISHED:
            waits = f"it waits for {self._machine.need(next_step(record, self._settings).kind)}"
            ended = record.reason or waits
            reason = f"{ended}; {self._complaint}" if self._complaint else ended
            raise RunFailedError(f"the run ended after {record.rounds_done} rounds: {reason}")
        metrics, traffic = list(self._report.metrics.values()), self._sites.traffic
        final = self._parts.whole(self._models.arrays(record.model_id))
        return LocalRun(final, metrics, record.rounds_done, self._at, traffic.up, traffic.down)

    # --- time -----------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Let things happen in the order of their time until nothing is left, or the run is over."""
        while self._coming and not self._machine.run.status.is_over:
            wakeup_s = self._machine.next_wakeup()
            if wakeup_s is not None and wakeup_s < self._coming[0][0]:
                self._at = max(self._at, wakeup_s)
                event: Event = TimePassed()
            else:
                self._at, _, happening = heapq.heappop(self._coming)
                event = happening()
            self._take(self._machine.handle(event, self._at))

    def _schedule(self, delay_s: float, happening: Callable[[], Event]) -> None:
        self._scheduled += 1
        heapq.heappush(self._coming, (self._at + delay_s, self._scheduled, happening))

    def _time_of(self, task: TaskRecord) -> float:
        """Return how long a site takes for a task; only training takes time."""
        if self._seconds is None or task.kind is not Kind.TRAIN:
            return 0.0
        number = self._done.get(task.agent_id, 0)
        self._done[task.agent_id] = number + 1
        stated = self._seconds(task.agent_id, number)
        if isinstance(stated, numbers.Real) and 0 <= (seconds := float(stated)) < math.inf:
            return seconds
        asked = f"seconds({task.agent_id!r}, {number})"
        raise SettingsError(f"run_local: {asked} gave {stated!r}, which is no duration")

    # --- what was decided -----------------------------------------------------------------------

    def _take(self, outcome: Outcome) -> None:
        for record in outcome.records:
            if isinstance(record, UpdateRecord):
                self._sites.hear(record)
            self._report.note(record, self._at)
        for effect in outcome.effects:
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Assign):
            self._assign(effect.task)
        elif isinstance(effect, Receive):
            self._on_the_way[effect.offer.task_id] = effect.offer
            self._schedule(0.0, lambda: self._received(effect.offer))
        elif isinstance(effect, Fold):
            self._schedule(0.0, lambda: self._folded(effect))
        elif isinstance(effect, Answer) and effect.verdict is not Verdict.ACCEPTED:
            self._complaint = f"{effect.agent_id}: {effect.reason}"
            self._sites.forget(effect.agent_id, effect.task_id)
        elif isinstance(effect, Prune):
            self._drop_files()

    def _assign(self, task: TaskRecord) -> None:
        uncounted = self._machine.uncounted_of(task.agent_id)  # a daemon says so with the task
        self._schedule(self._time_of(task), lambda: self._worked(task, uncounted))

    def _worked(self, task: TaskRecord, uncounted: list[str]) -> Event:
        answer = self._sites.do(task, uncounted)
        if isinstance(answer, TaskDeclined):
            self._complaint = answer.reason
            return answer
        return UpdateOffered(answer)

    def _received(self, offer: Offered) -> Event:
        del self._on_the_way[offer.task_id]
        for channel, payload in offer.payloads.items():
            check = self._machine.check_of(offer.task_id, payload)
            if wrong := check.first_wrong(0, self._files[payload.digest].data):
                return UpdateSpoiled(offer, f"{channel}: {wrong}")
        return UpdateReceived(offer)

    def _folded(self, effect: Fold) -> Event:
        try:
            return fold_step(self._files, self._settings, fold_plan(self._machine, effect))
        except FLError as error:
            return FoldFailed(effect, str(error))

    def _drop_files(self) -> None:
        """Let go what the machine does not refer to any more, but what is on its way to it."""
        used = {model.payload.digest for model in self._machine.models.values()}
        for offer in self._on_the_way.values():
            used.update(payload.digest for payload in offer.payloads.values())
        self._files.drop_others(used)
