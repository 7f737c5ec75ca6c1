"""The invariants, from the database and the sites' own journals, after everything has ended."""

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

from blake3 import blake3
from safetensors.numpy import load_file

from fl_main.db import ModelDB, Run, Update
from fl_main.db.verify import verify_database
from tests.chaos.journal import Fact, fingerprint
from tests.chaos.lanes import ChaosRun, Shape, Site
from tests.chaos.recompute import is_equal, mean
from tests.chaos.scene import BAD_WORDS, Scene
from tests.chaos.undisturbed import Metric, Outcome, outcome, undisturbed

MOST_RSS_BYTES = 300 << 20  # interpreter and libraries take 80 MiB, the receive budget is 8 MiB
MOST_OPEN_FILES = 128

Reference = Callable[[Shape, int], Outcome]


class Checks:
    """Looks through everything and tells the story's problems.

    Attributes:
        seen: How much of what was looked at.
    """

    def __init__(self, scene: Scene) -> None:
        self.seen: Counter[str] = Counter()
        self._scene = scene
        self._reference: Reference = cache(self._undisturbed)

    def run(self) -> None:
        """Check everything."""
        scene = self._scene
        for problem in self._problems():
            scene.story.problem(problem)

    def _problems(self) -> Iterator[str]:
        scene = self._scene
        yield from (f"fl db verify: {damage}" for damage in verify_database(scene.database))
        left = list((scene.database / "models" / ".staging").iterdir())
        yield from (f"{path.name} is left in models/.staging" for path in left)
        with ModelDB(scene.database) as db:
            for run in [run for run in scene.runs() if run.is_created]:
                for problem in _RunCheck(self.seen, scene.database, db, run, self._reference).problems():
                    yield f"{run.name}: {problem}"
        if scene.daemon.rss_bytes > MOST_RSS_BYTES:
            yield f"the daemon took {scene.daemon.rss_bytes >> 20} MiB of memory"
        if scene.daemon.open_files > MOST_OPEN_FILES:
            yield f"the daemon had {scene.daemon.open_files} files open"

    def _undisturbed(self, shape: Shape, seed: int) -> Outcome:
        self.seen["undisturbed runs"] += 1
        folder = self._scene.options.folder / f"undisturbed-{shape.name}-{seed}"
        return undisturbed(folder, shape, seed, self._scene.options.sites)


class _RunCheck:
    """The invariants of one run."""

    def __init__(
        self, seen: Counter[str], database: Path, db: ModelDB, run: ChaosRun, reference: Reference
    ) -> None:
        self._seen = seen
        self._database = database
        self._db = db
        self._run = run
        self._stored: Run = db.run(run.name)
        self._reference = reference
        self._names = {agent.agent_id: agent.name for agent in self._stored.agents()}
        self._updates = [update for update in self._stored.updates() if update.kind == "train"]

    def problems(self) -> Iterator[str]:
        yield from self._finished()
        yield from self._one_chain()
        yield from self._counted_once()
        yield from self._recomputed()
        yield from self._as_undisturbed()
        for site in self._run.sites:
            for problem in self._of_site(site):
                yield f"{site.name}: {problem}"

    # --- the database -------------------------------------------------------------------------

    def _finished(self) -> Iterator[str]:
        facts, wanted = self._stored.facts, self._run.shape.rounds
        if (facts.status, facts.rounds_done) != ("finished", wanted):
            yield f"it is {facts.status} after {facts.rounds_done} of {wanted} rounds: {facts.reason}"
        numbers = [found.round_id for found in self._stored.rounds()]
        if numbers != list(range(wanted + 1)):
            yield f"its rounds are {numbers}"
        yield from (
            f"round {found.round_id} is {found.status}: {found.reason}"
            for found in self._stored.rounds()
            if found.status != "done"
        )

    def _one_chain(self) -> Iterator[str]:
        """Each round starts from the model of the round before, and makes exactly one."""
        models = Counter(model.round_id for model in self._stored.models("global"))
        if models != Counter(range(1, self._run.shape.rounds + 1)):
            yield f"global models by round: {dict(models)}"
        rounds = self._stored.rounds()
        for before, after in pairwise(rounds):
            if after.base_model_id != before.model_id:
                yield f"round {after.round_id} starts from {after.base_model_id}, not {before.model_id}"
        for model in self._stored.models("global"):
            self._seen["global models"] += 1
            if _digest_of(model.path) != model.digest:
                yield f"the model of round {model.round_id} is not what its digest says"

    def _counted_once(self) -> Iterator[str]:
        accepted = [update for update in self._updates if update.verdict == "accepted"]
        self._seen["accepted updates"] += len(accepted)
        twice = [task for task, count in Counter(u.task_id for u in accepted).items() if count > 1]
        yield from (f"task {task} has several accepted updates" for task in twice)
        for update in accepted:
            if update.counted_in != update.round_id:
                yield f"task {update.task_id} of round {update.round_id} counted in {update.counted_in}"
        sites = [site.name for site in self._run.sites]
        if sorted(self._names.values()) != sites:
            yield f"{sorted(self._names.values())} joined: a site lost its identity"
        by_round: dict[int, list[str]] = defaultdict(list)
        for update in accepted:
            by_round[update.round_id].append(self._names[update.agent_id])
        for round_id in range(1, self._run.shape.rounds + 1):
            if sorted(by_round[round_id]) != sites:
                yield f"round {round_id} counted {sorted(by_round[round_id])}"

    def _recomputed(self) -> Iterator[str]:
        """Each global model is the mean of its frozen updates, bit for bit."""
        accepted = {update.task_id: update for update in self._updates if update.verdict == "accepted"}
        models = {model.round_id: model for model in self._stored.models("global")}
        for round_id, frozen in self._frozen().items():
            updates = [accepted[task_id] for task_id in frozen]
            names = [self._names[update.agent_id] for update in updates]
            if names != sorted(names):
                yield f"round {round_id} was not frozen in the order of its agents' names: {names}"
            expected = mean([self._path(u) for u in updates], [u.num_examples for u in updates])
            self._seen["recomputed means"] += 1
            if not is_equal(expected, load_file(models[round_id].path)):
                yield f"the model of round {round_id} is not the mean of its updates"

    def _frozen(self) -> dict[int, list[str]]:
        """Return the frozen tasks of each training step, read past all code of ours."""
        with sqlite3.connect(f"file:{self._database / 'fl.db'}?mode=ro", uri=True) as connection:
            rows = connection.execute(
                "SELECT round_id, frozen FROM steps WHERE run_id = ? AND kind = 'train' AND status = 'done'",
                [self._stored.run_id],
            ).fetchall()
        connection.close()
        return {round_id: json.loads(frozen) for round_id, frozen in rows}

    def _path(self, update: Update) -> Path:
        return self._db.model_by_id(str(update.model_id)).path

    def _as_undisturbed(self) -> Iterator[str]:
        expected = self._reference(self._run.shape, self._run.seed)
        found = outcome(self._stored)
        for round_id, (digest, other) in enumerate(zip(found.digests, expected.digests, strict=False)):
            if digest != other:
                yield f"the model of round {round_id} differs from that of the undisturbed run"
                break
        yield from self._measured(set(found.metrics), set(expected.metrics))

    def _measured(self, found: set[Metric], expected: set[Metric]) -> Iterator[str]:
        """Metrics of training are the same; a site that was not there did not evaluate."""
        self._seen["metrics"] += len(found)
        wrong = {metric for metric in found - expected if metric.source == "train" or metric.site}
        wrong |= {metric for metric in expected - found if metric.source == "train"}
        yield from (f"a metric differs from the undisturbed run: {metric}" for metric in sorted(wrong)[:3])

    # --- a site -------------------------------------------------------------------------------

    def _of_site(self, site: Site) -> Iterator[str]:
        facts = site.journal.facts()
        yield from self._receipts_held(facts)
        yield from self._trained_once(facts)
        yield from self._left_clean(site, facts)

    def _receipts_held(self, facts: Iterable[Fact]) -> Iterator[str]:
        """What was answered *accepted* is stored, with the very arrays that were sent."""
        stored = {update.task_id: update for update in self._updates if update.verdict == "accepted"}
        made: dict[str, str] = {}
        for fact in facts:
            if fact["fact"] == "trained":
                made[fact["task_id"]] = fact["fingerprint"]
            if fact["fact"] != "answered" or fact["task_id"] not in made:
                continue
            self._seen["receipts"] += 1
            update = stored.get(fact["task_id"])
            if fact["verdict"] != "accepted":
                yield f"the update of task {fact['task_id']} was {fact['verdict']}"
            elif update is None:
                yield f"the accepted update of task {fact['task_id']} is lost"
            elif fingerprint(load_file(self._path(update))) != made[fact["task_id"]]:
                yield f"the accepted update of task {fact['task_id']} is stored with other arrays"

    def _trained_once(self, facts: Iterable[Fact]) -> Iterator[str]:
        """A task is trained again only after a kill that found no whole update of it on the disk."""
        begun: set[str] = set()
        whole: set[str] = set()
        accepted: set[str] = set()
        for fact in facts:
            if fact["fact"] == "killed":
                self._seen["kills of sites with an unsent update"] += bool(fact["kept"])
                whole |= set(fact["kept"])
                begun.clear()
            elif fact["fact"] == "answered":
                accepted.add(fact["task_id"])
            elif fact["fact"] == "training":
                if fact["task_id"] in accepted:
                    yield f"task {fact['task_id']} was given again after its update was accepted"
                elif fact["task_id"] in whole:
                    yield f"task {fact['task_id']} was trained again though its update was whole"
                elif fact["task_id"] in begun:
                    yield f"task {fact['task_id']} was trained twice by one process"
                begun.add(fact["task_id"])

    def _left_clean(self, site: Site, facts: Iterable[Fact]) -> Iterator[str]:
        if left := sorted(path.name for path in (site.folder / "outbox").iterdir()):
            yield f"its outbox still has {left}"
        final = self._stored.final
        ends = [fact for fact in facts if fact["fact"] == "ended"]
        if not ends or final is None or ends[-1]["fingerprint"] != fingerprint(load_file(final.path)):
            yield "it did not end with the final model"
        bad = [
            line
            for line in site.process.log.read_text(errors="replace").splitlines()
            if BAD_WORDS.search(line)
        ]
        yield from (f"its log: {line}" for line in bad[:3])


def _digest_of(path: Path) -> str:
    with open(path, "rb") as file:
        return "blake3:" + blake3(file.read()).hexdigest()
