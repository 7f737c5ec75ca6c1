"""Who is given what to do: the cohort of a step, each one's config, and work for whoever is free."""

import statistics
from collections.abc import Iterable
from typing import Any

from fl_main.cohort import choose_cohort, config_of, target_of
from fl_main.events import Assign
from fl_main.plan import Step, derive_id, derive_seed, end_reason
from fl_main.results import Results
from fl_main.store import RoundRecord, StepRecord, TaskRecord, TaskStatus, UpdateRecord, Verdict
from fl_main.training import Kind

LEAST_DEADLINE_S = 1.0  # of an adaptive one
POLLS_IN_DEADLINE = 2  # so that a sleeper hears of a task, and can answer


class Assignments(Results):
    """The part of the round machine that gives out tasks."""

    # --- steps -------------------------------------------------------------------------------

    def _begin(self, step: Step) -> None:
        """Begin a step: choose who is asked, and ask them.

        Raises:
            SettingsError: If a rule of the user's own fails.
        """
        self._look_at_speeds()
        eligible = tuple(sorted(self.eligible(step.kind)))
        invited, target, rule = self._cohort(step, eligible)
        deadline_s, usual_s = self._deadline_of(step, invited)
        self.step = StepRecord(
            self.run.run_id,
            step.round_id,
            step.kind,
            self._attempt(step),
            "open",
            eligible,
            invited,
            rule,
            self._at,
            deadline_s,
            enough=self._enough_of(step, target),
            usual_s=usual_s,
        )
        if step.kind is not Kind.EVALUATE:
            self.round = RoundRecord(
                self.run.run_id, step.round_id, "open", self.run.model_id, started_s=self._at
            )
            self._out.records.append(self.round)
        self._out.records.append(self.step)
        self._move("started", round_id=step.round_id, kind=step.kind)
        self._note_wait("")
        self._note_start(self.step)
        self._forget()
        if self.is_async and step.kind is Kind.EVALUATE and end_reason(self.run, self.settings):
            self._release_all("the run makes no more models")
        for agent_id in invited:
            self._assign(step.kind, agent_id)

    def _note_start(self, step: StepRecord) -> None:
        usual: dict[str, Any] = {} if step.usual_s is None else {"usual_s": round(step.usual_s, 3)}
        self._note(
            "step_started",
            step=str(step.kind),
            invited=len(step.invited),
            eligible=len(step.eligible),
            rule=step.rule,
            deadline_s=round(step.deadline_s, 3),
            **usual,
        )

    def _attempt(self, step: Step) -> int:
        """Return how often this step was tried before; an operator may have reset the failures."""
        last = self.step
        if last is not None and (last.round_id, last.kind) == (step.round_id, step.kind):
            return last.attempt + 1
        return self.run.failed_rounds

    def _cohort(self, step: Step, eligible: tuple[str, ...]) -> tuple[tuple[str, ...], int, str]:
        """Return who is asked at once, how many answers are wanted, and the rule in words."""
        if step.kind is Kind.INITIALISE:
            first = min(eligible, key=lambda agent: (self.members[agent].since, agent))
            return (first,), 1, "the first that offers"
        if self.is_open_to_all(step.kind):
            return (), 0, "whoever is free"
        if step.kind is not Kind.TRAIN:
            return eligible, len(eligible), "all that can"
        if self._buffer_given() is not None and len(self._ready[step.kind]) >= self.buffer():
            return (), 0, "nobody: enough late updates are there"
        seed = derive_seed(self.settings.seed, step.round_id, step.kind)
        labels = self._labels()
        ids = {labels[agent_id]: agent_id for agent_id in eligible}
        candidates = [self.candidate(agent_id) for agent_id in eligible]
        chosen = choose_cohort(candidates, self.settings.cohort, seed, self.least_of(step.kind))
        return tuple(sorted(ids[label] for label in chosen.labels)), chosen.target, chosen.rule

    def _enough_of(self, step: Step, target: int) -> int:
        """Return how many answers end a step early."""
        if step.kind is Kind.TRAIN and (self.is_async or self._buffer_given() is not None):
            return self.buffer()
        if self.is_async and step.kind is Kind.EVALUATE:
            return len(self.able(step.kind))
        return self.quorum_of(target)

    def _deadline_of(self, step: Step, invited: tuple[str, ...]) -> tuple[float, float | None]:
        """Return seconds until a step ends anyway, and what its cohort usually takes, if that decides."""
        settings = self.settings.round
        if step.kind is Kind.EVALUATE:
            return self.settings.evaluate.deadline_s, None
        known = [usual_s for agent in invited if (usual_s := self.members[agent].usual_s) is not None]
        is_retry = self.run.failed_rounds > 0  # perhaps it was too short
        if settings.adaptive_deadline is None or step.kind is not Kind.TRAIN or not known or is_retry:
            return settings.deadline_s, None
        usual_s = statistics.median(known)
        polls = [self.members[agent].record.poll_s or 0.0 for agent in invited]
        least_s = max(LEAST_DEADLINE_S, POLLS_IN_DEADLINE * max(polls))
        return min(settings.deadline_s, max(least_s, settings.adaptive_deadline * usual_s)), usual_s

    # --- tasks -------------------------------------------------------------------------------

    def _assign(self, kind: Kind, agent_id: str) -> None:
        """Give a present agent that is free a task of the current step, or of the one after it."""
        step, member, label = self.step, self.members[agent_id], self._labels()[agent_id]
        is_train = kind is Kind.TRAIN
        round_id = self._round_of(kind)
        place = (round_id, kind, step.attempt if step else 0, repr(self._at), member.tasks, agent_id)
        # An agent that answers twice on one base is not to do the same work twice.
        seeded = (member.tasks, kind, label) if self.is_async and is_train else (round_id, kind, label)
        task = TaskRecord(
            derive_id(self.run.run_id, *place),
            self.run.run_id,
            round_id,
            kind,
            agent_id,
            TaskStatus.OPEN,
            self.sent_model_id if kind in (Kind.TRAIN, Kind.EVALUATE) else self.run.model_id,
            self._model_round(),
            self.run.rounds_done,
            derive_seed(self.settings.seed, *seeded),
            self._at,
            config=config_of(self.candidate(agent_id), self.settings.config_for) if is_train else {},
        )
        self._occupy(member, task)
        self.tasks[task.task_id] = task
        self.unanswered[task.task_id] = agent_id
        self._out.records.append(task)
        self._out.effects.append(Assign(task, self._seconds_for(task)))

    def _round_of(self, kind: Kind) -> int:
        """Return the round of a task of a kind that is given now: who evaluated trains for the next."""
        return self.run.round_id + (kind is Kind.TRAIN and self.run.kind is Kind.EVALUATE)

    def _keep_busy(self) -> None:
        """Give those who are free something to do: mode async waits for nobody."""
        if self.step is None or not self._free or not self.is_open_to_all(self.step.kind):
            return
        if self.step.kind is Kind.EVALUATE:
            for agent_id in self._awake(Kind.EVALUATE):
                if not self._is_asked(agent_id):
                    self._assign(Kind.EVALUATE, agent_id)
        if self.step.kind is Kind.TRAIN or not end_reason(self.run, self.settings):
            for agent_id in self._chosen_now():
                self._assign(Kind.TRAIN, agent_id)

    def _is_asked(self, agent_id: str) -> bool:
        """Whether the current step asked an agent already."""
        return self.step is not None and self.task_of(self.step, agent_id) is not None

    def _is_everybody_asked(self, step: StepRecord) -> bool:
        """Whether an evaluation of mode async, which asks whoever comes free, has asked all that are here."""
        return step.kind is Kind.EVALUATE and all(map(self._is_asked, self._able(step.kind)))

    def _chosen_now(self) -> list[str]:
        """Return who of those that are free gets a training task, so that not too many work at once."""
        cohort = self.settings.cohort
        if cohort.rule in ("fraction", "number"):
            if (room := self._room()) == 0:
                return []
            cohort = cohort.model_copy(update={"rule": "number", "number": room})
        free = [agent_id for agent_id in self._awake(Kind.TRAIN) if not self._is_spared(agent_id)]
        if not free:
            return []
        candidates = [self.candidate(agent_id) for agent_id in free]
        ids = {candidate.label: agent_id for candidate, agent_id in zip(candidates, free, strict=True)}
        if cohort.rule == "all":
            return [ids[label] for label in sorted(ids)]
        given = sum(member.tasks for member in self.members.values())
        seed = derive_seed(self.settings.seed, given, "free")
        return [ids[label] for label in choose_cohort(candidates, cohort, seed, 0).labels]

    def _room(self) -> int:
        """Return how many more agents may train at once."""
        at_work = sum(
            self.tasks[task_id].kind is Kind.TRAIN and self._is_waited_for(agent_id)
            for task_id, agent_id in self.unanswered.items()
        )
        cohort = self.settings.cohort
        agents = len(self.able(Kind.TRAIN)) if cohort.rule == "fraction" else len(self.members)
        return max(0, target_of(cohort, agents, self.least_of(Kind.TRAIN)) - at_work)

    def _awake(self, kind: Kind) -> list[str]:
        """Return who is free and connected: a sleeper is asked at its next visit, about the newest model."""
        return [agent for agent in self.eligible(kind) if self.members[agent].hung_up_at is None]

    def _is_spared(self, agent_id: str) -> bool:
        """Whether an agent failed at a task of this round: it is asked again in the next one, not at once."""
        task = self.last_task(agent_id, Kind.TRAIN)
        if task is None or task.round_id != self._round_of(Kind.TRAIN):
            return False
        answer = self.updates.get(task.task_id)
        is_rejected = answer is not None and answer.verdict is Verdict.REJECTED
        return is_rejected or task.status in (TaskStatus.DECLINED, TaskStatus.FAILED)

    def _invited(self, step: StepRecord, updates: Iterable[UpdateRecord]) -> tuple[str, ...]:
        """Return all that a step asked, at once or later; in mode async whoever counts in it."""
        if step.kind is Kind.TRAIN and self.is_async:
            return tuple(sorted({update.agent_id for update in updates}))
        return step.invited or tuple(sorted({task.agent_id for task in self.tasks_of(step)}))
