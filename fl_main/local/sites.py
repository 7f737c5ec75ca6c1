"""What sites do in a local run: their tasks, by the functions of the program, one after the other."""

import logging
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

from fl_main.errors import WeightsError
from fl_main.events import Offered, TaskDeclined
from fl_main.local.contract import LocalTask
from fl_main.local.kept import States
from fl_main.local.models import Models
from fl_main.local.parts import Parts
from fl_main.local.sending import Sender
from fl_main.local.traffic import Traffic
from fl_main.personal import PrivateArrays
from fl_main.rounds import RoundMachine
from fl_main.store import StoredPayload, TaskRecord, UpdateRecord, Verdict
from fl_main.strategies.fold import as_channel
from fl_main.training import (
    Asked,
    Evaluation,
    Kind,
    TrainResult,
    as_count,
    as_evaluation,
    as_metrics,
    counts_of,
    evaluation_of,
)
from fl_main.weights import Array

logger = logging.getLogger("fl_main.local")


@dataclass(frozen=True, slots=True)
class Program:
    """The functions that sites work by; see `run_local`."""

    train: Callable[[LocalTask], TrainResult]
    evaluate: Callable[..., Evaluation] | None = None
    statistics: Callable[[Any], Mapping[str, Any]] | None = None

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What a site can be asked for."""
        able = {Kind.TRAIN: True, Kind.EVALUATE: self.evaluate, Kind.STATISTICS: self.statistics}
        return tuple(kind for kind, function in able.items() if function)


class Sites:
    """All sites of a run, and what each of them keeps.

    Args:
        program: By which they work.
        data: Of each site, by its name.
        machine: Says what is asked for; it is not changed.
        models: That tasks refer to.
        parts: Which arrays leave a site.
    """

    def __init__(
        self,
        program: Program,
        data: Mapping[str, Any],
        machine: RoundMachine,
        models: Models,
        parts: Parts,
    ) -> None:
        self.traffic = Traffic()
        self._program = program
        self._data = data
        self._machine = machine
        self._models = models
        self._parts = parts
        self._states = States()
        self._sender = Sender(machine, models)
        self._private = PrivateArrays(machine.run.run_id, parts.private)
        self._has_told = False  # of something that is asked for and that nobody looks at

    def do(self, task: TaskRecord, uncounted: Container[str]) -> Offered | TaskDeclined:
        """Do a task, and return what its site says of it.

        Args:
            task: It.
            uncounted: The site's tasks of which it was told, with this one, that they will be counted.
        """
        if task.kind is Kind.STATISTICS and self._program.statistics:
            sums = self._models.files.keep_arrays(self._program.statistics(self._data[task.agent_id]))
            offer = Offered(task.task_id, task.agent_id, 0, payloads={"weights": sums})
        elif task.kind is Kind.EVALUATE and self._program.evaluate:
            offer = self._evaluated(self._program.evaluate, task)
        else:
            return self._trained(task, uncounted)
        return self._sent(offer)

    def hear(self, update: UpdateRecord) -> None:
        """Take what became of an update: what was kept with it is current once it was counted."""
        if update.counted_in is not None and update.kind is Kind.TRAIN:
            self._states.promote(update.agent_id, update.task_id)
            self._sender.residuals[update.agent_id].promote(update.task_id)
        elif update.verdict is not Verdict.ACCEPTED:
            self.forget(update.agent_id, update.task_id)

    def forget(self, site: str, task_id: str) -> None:
        """Forget what was kept with an update that will not be counted."""
        self._states.drop(site, task_id)
        self._sender.residuals[site].drop(task_id)

    def _sent(self, offer: Offered) -> Offered:
        self.traffic.up += sum(payload.size for payload in offer.payloads.values())
        return offer

    def _fetched(self, task: TaskRecord) -> Mapping[str, Array]:
        """Return a task's model as a site sees it."""
        self.traffic.fetch(task.agent_id, self._models.payload(task.model_id))
        private = self._private.of(self._states.current(task.agent_id))
        return {**self._parts.whole(self._models.arrays(task.model_id)), **private}

    def _evaluated(self, evaluate: Callable[..., Evaluation], task: TaskRecord) -> Offered:
        kept = self._states.current(task.agent_id)
        answer = evaluation_of(
            evaluate,
            self._fetched(task),
            self._data[task.agent_id],
            state=lambda: self._private.others(kept),
        )
        measured = as_evaluation(answer)
        metrics = as_metrics(measured.metrics)
        examples = as_count(measured.num_examples, "num_examples")
        return Offered(task.task_id, task.agent_id, examples, metrics=metrics)

    def _trained(self, task: TaskRecord, uncounted: Container[str]) -> Offered | TaskDeclined:
        asked = Asked(self._machine.strategy.correction())
        result = self._program.train(self._task(task, asked))
        self._warn_once(asked.warning)
        if not isinstance(result, TrainResult):
            return _declined(task, f"train returned {type(result).__name__}, not a TrainResult")
        local = self._models.files.keep_arrays(self._parts.shared_of(result.weights))
        try:
            sent = self._sender.as_sent(task, local, uncounted)
        except WeightsError as error:  # values that no codec can encode
            return _declined(task, str(error))
        self._keep_own(task, result)
        payloads = {"weights": sent, **self._channels(task, result)}
        metrics = as_metrics(result.metrics)
        return self._sent(Offered(task.task_id, task.agent_id, *counts_of(result), metrics, payloads))

    def _task(self, task: TaskRecord, asked: Asked) -> LocalTask:
        """Return a task as the program sees it."""
        machine = self._machine
        states, down = machine.run.state_ids, machine.strategy.down
        return LocalTask(
            task.agent_id,
            self._data[task.agent_id],
            task.run_id,
            task.round_id,
            task.model_round,
            self._fetched(task),
            machine.layout.trained if machine.layout else (),
            {**machine.settings.config, **task.config},
            asked,
            task.seed,
            self._models.arrays(machine.run.statistics_id),
            # As the daemon does: none in round 1
            {name: self._models.arrays(states[name]) for name in down if name in states},
            self._private.others(self._states.current(task.agent_id)),
        )

    def _warn_once(self, warning: str) -> None:
        if warning and not self._has_told:
            self._has_told = True
            logger.warning("%s", warning)

    def _keep_own(self, task: TaskRecord, result: TrainResult) -> None:
        """Keep what a site keeps with its update: private arrays, and what its training wants."""
        current = self._states.current(task.agent_id)
        kept = self._private.to_keep(current, self._parts.private_in(result.weights), result.state)
        if kept is not None:
            self._states.put(task.agent_id, task.task_id, kept)

    def _channels(self, task: TaskRecord, result: TrainResult) -> dict[str, StoredPayload]:
        """Return the extra channels of an update as they travel."""
        layout = self._models.source(task.model_id).layout
        return {
            name: self._models.files.keep_arrays(as_channel(self._parts.trained_of(arrays), layout), name)
            for name, arrays in result.channels.items()
        }


def _declined(task: TaskRecord, reason: str) -> TaskDeclined:
    return TaskDeclined(task.task_id, task.agent_id, "error", f"{task.agent_id}: {reason}")
