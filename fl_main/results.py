"""What comes of a step: new models with their parents, what counted, means of the metrics."""

import math
from collections.abc import Sequence
from dataclasses import replace

from fl_main.compression.words import in_words
from fl_main.events import (
    Prune,
    StepFolded,
    TellCounted,
)
from fl_main.plan import derive_id, download_id_of, is_better
from fl_main.quarantine import Notes, Quarantine, with_outliers
from fl_main.store import (
    MetricRecord,
    ModelKind,
    ModelRecord,
    StoredPayload,
    TagRecord,
    UpdateRecord,
)
from fl_main.training import Kind


class Results(Quarantine):
    """The part of the round machine that publishes."""

    def _publish_initial(self, model: ModelRecord) -> None:
        self._keep(model)
        self._out.records.append(model)
        self._set(model_id=model.model_id, round_id=0, kind=Kind.INITIALISE, failed_rounds=0)
        self._note("initial_model", model_id=model.model_id, agent_id=model.agent_id)
        self._expel_unfit(list(self.members))

    def _publish_sums(self, event: StepFolded, updates: list[UpdateRecord]) -> None:
        model = self._new_model(event.model, ModelKind.STATISTICS, "statistics", updates, ())
        self._set(statistics_id=model.model_id, failed_rounds=0)
        self._count(updates, ())

    def _publish_global(self, event: StepFolded, updates: list[UpdateRecord]) -> str:
        """Make the fold's model the run's, and return its id."""
        model = self._new_model(event.model, ModelKind.GLOBAL, "global", updates, event.shares)
        if event.download is not None:
            self._new_download(event.download, model)
        states = {
            name: self._new_model(payload, ModelKind.STATE, f"state/{name}", [], ())
            for name, payload in event.state.items()
        }
        self._set(
            model_id=model.model_id,
            state_ids={name: state.model_id for name, state in states.items()},
            rounds_done=self.run.rounds_done + 1,
            failed_rounds=0,
        )
        self._out.records.append(TagRecord(self.run.run_id, "final", model.model_id))
        counted = self._count(updates, event.shares, event.notes)
        self._look_for_outliers(counted)
        self._note("round_done", updates=len(updates), model_id=model.model_id)
        self._mean_metrics("train", updates)
        self._out.effects.append(Prune())
        self._drop_stale()
        return model.model_id

    def _drop_stale(self) -> None:
        """Give up what was begun on a model that is older than the settings allow by now."""
        most = self.settings.staleness.most
        if most is None or self.settings.mode == "sync":
            return
        for task_id in list(self.unanswered):
            late = self.run.rounds_done - (task := self.tasks[task_id]).version
            if task.kind is Kind.TRAIN and late > most:
                self._cancel(task, f"its base is {late} versions old, staleness.most is {most}")
        for update in self.ready(Kind.TRAIN):
            if (late := self.run.rounds_done - update.version) > most:
                reason = f"stale: its base is {late} versions old, staleness.most is {most}"
                self._discard_accepted(update, reason)

    def _new_model(
        self,
        payload: StoredPayload,
        kind: ModelKind,
        what: str,
        updates: list[UpdateRecord],
        shares: tuple[float | None, ...],
    ) -> ModelRecord:
        parents = tuple(
            (update.model_id, share)
            for update, share in zip(updates, shares or [None] * len(updates), strict=True)
            if update.model_id
        )
        model = ModelRecord(
            derive_id(self.run.run_id, self.run.round_id, self.run.failed_rounds, what),
            self.run.run_id,
            self.run.round_id,
            kind,
            payload,
            None,
            parents,
        )
        self._keep(model)
        self._out.records.append(model)
        return model

    def _new_download(self, payload: StoredPayload, model: ModelRecord) -> None:
        """Keep a global model as it travels: what agents are given, and what their updates begin from."""
        download = replace(
            model,
            model_id=download_id_of(model.model_id) or "",
            kind=ModelKind.DOWNLOAD,
            payload=payload,
            parents=((model.model_id, 1.0),),
            codec=in_words(self.download_codec),
        )
        self._keep(download)
        self._out.records.append(download)

    def _count(
        self, updates: list[UpdateRecord], shares: tuple[float | None, ...], notes: Sequence[Notes] = ()
    ) -> list[UpdateRecord]:
        """Write down that updates are part of the model that was just made; return them as they are now.

        Args:
            updates: In the order in which they were combined.
            shares: Of each, or none of all.
            notes: What was measured of each, or none of all.
        """
        measured = with_outliers(notes, self.settings.quarantine.factor) or [{}] * len(updates)
        for update, share, note in zip(updates, shares or [None] * len(updates), measured, strict=True):
            version = self.run.rounds_done - (1 if update.kind is Kind.TRAIN else 0)
            counted = replace(
                update,
                counted_in=self.run.round_id,
                staleness=max(0, version - update.version),
                share=share,
                notes=note,
            )
            self._set_update(counted)
            self._out.effects.append(TellCounted(update.agent_id, update.task_id, self.run.round_id))
        if updates and updates[0].kind is Kind.TRAIN:
            late = [self.updates[update.task_id].staleness or 0 for update in updates]
            self.last_staleness = {"mean": sum(late) / len(late), "max": max(late)}
        return [self.updates[update.task_id] for update in updates]

    # --- metrics -----------------------------------------------------------------------------

    def _mean_metrics(self, source: str, updates: list[UpdateRecord]) -> None:
        """Average each metric over the agents that reported it, weighted by their examples."""
        names = dict.fromkeys(name for update in updates for name in update.metrics)
        for name in names:
            reported = [(u.metrics[name], u.num_examples) for u in updates if name in u.metrics]
            total = sum(count for _, count in reported)
            mean = sum(value * (count / total) for value, count in reported)
            self._out.records.append(
                MetricRecord(
                    self.run.run_id,
                    self.run.round_id,
                    self.run.model_id or "",
                    None,
                    source,
                    name,
                    mean,
                    total,
                    len(reported),
                )
            )
            if not math.isfinite(mean):
                self._note("metric_not_finite", source=source, metric=name)
            elif (name, source) == (self.settings.best.metric, self.settings.best.source):
                self._judge_best(mean)

    def _judge_best(self, value: float) -> None:
        if is_better(value, self.run.best_value, self.settings.best) and self.run.model_id:
            self._set(best_value=value, best_round=self.run.rounds_done, best_model_id=self.run.model_id)
            self._out.records.append(TagRecord(self.run.run_id, "best", self.run.model_id))
