"""What the round machine asks for, in the words of the wire protocol."""

from typing import Any

from fl_main.compression.words import in_words
from fl_main.events import Answer, Assign, Cancel, TellCounted
from fl_main.messages import Assign as AssignMessage
from fl_main.messages import Cancel as CancelMessage
from fl_main.messages import Counted, Message, Payload, RunEnded, Verdict
from fl_main.rounds import RoundMachine
from fl_main.store import TaskRecord
from fl_main.training import Kind


def message_of(machine: RoundMachine, effect: Assign | Answer | TellCounted | Cancel) -> tuple[str, Message]:
    """Return an agent and what it is to be told."""
    if isinstance(effect, Assign):
        return effect.task.agent_id, _assignment(machine, effect)
    if isinstance(effect, Answer):
        return effect.agent_id, Verdict(
            task_id=effect.task_id, verdict=effect.verdict.value, reason=effect.reason, late=effect.late
        )
    if isinstance(effect, TellCounted):
        return effect.agent_id, Counted(task_id=effect.task_id, round_id=effect.round_id)
    return effect.agent_id, CancelMessage(task_id=effect.task_id, reason=effect.reason)


def ending_of(machine: RoundMachine) -> RunEnded:
    """Return how a run ended and what came of it."""
    run = machine.run
    return RunEnded(
        status=run.status,
        reason=run.reason,
        round_id=run.round_id,
        final=_payload(machine, "weights", run.model_id),
        statistics=_payload(machine, "statistics", run.statistics_id),
        rollbacks=run.rollbacks,
    )


def _assignment(machine: RoundMachine, effect: Assign) -> AssignMessage:
    task, run = effect.task, machine.run
    models = {"weights": task.model_id} if task.kind in (Kind.TRAIN, Kind.EVALUATE) else {}
    if task.kind is Kind.TRAIN:
        models |= {name: run.state_ids.get(name) for name in machine.strategy.down}
    if task.kind in (Kind.TRAIN, Kind.EVALUATE):
        models["statistics"] = run.statistics_id
    payloads = [_payload(machine, channel, model_id) for channel, model_id in models.items()]
    return AssignMessage(
        task_id=task.task_id,
        kind=task.kind,
        round_id=task.round_id,
        model_round=task.model_round,
        payloads=[payload for payload in payloads if payload is not None],
        config={**machine.settings.config, **task.config} if task.kind is Kind.TRAIN else {},
        correction=dict(machine.strategy.correction()) if task.kind is Kind.TRAIN else {},
        seed=task.seed,
        deadline_s=effect.deadline_s,
        rollbacks=run.rollbacks,
        **(_form_of_answer(machine, task) if task.kind is Kind.TRAIN else {}),
    )


def _form_of_answer(machine: RoundMachine, task: TaskRecord) -> dict[str, Any]:
    """Return how the weights that answer a training task are to come."""
    feeds_back = machine.settings.compression.feeds_back
    return {
        "form": machine.form,
        "codec": in_words(machine.codec),
        "feeds_back": feeds_back,
        "uncounted": machine.uncounted_of(task.agent_id) if feeds_back else [],
    }


def _payload(machine: RoundMachine, channel: str, model_id: str | None) -> Payload | None:
    model = machine.models.get(model_id or "")
    if model is None:
        return None
    stored = model.payload
    return Payload(
        channel=channel,
        layout=stored.layout.digest,
        digest=stored.digest,
        size=stored.size,
        codec=model.codec,
    )
