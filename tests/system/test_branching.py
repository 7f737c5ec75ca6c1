"""A run goes on from an earlier round (`fl run rollback`), or another begins there (`create --from`)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from fl_main.agent import Evaluation, NamedArrays, Role, TrainResult
from fl_main.aggregator.operator import OrderFailedError, ask
from fl_main.cli import fl as commands
from fl_main.db import ModelDB, ModelStore, verify_database
from fl_main.settings import DatabaseSettings
from fl_main.training import TrainingTask
from tests.system.agents import AgentThread, assert_equal
from tests.system.conftest import StartAgent, StartDaemon, StartProcess
from tests.system.daemons import DaemonThread, run_of, until, write_yaml
from tests.system.test_corrections import SITES, training_of, zeros
from tests.system.test_restart import Gate

# Strategies, each with what of it is kept between rounds, at the aggregator or at the sites.
KEPT: dict[str, dict[str, Any]] = {
    "fedavgm": {"strategy": "fedavgm", "strategy_options": {"eta": 0.5}},
    "fedadam": {"strategy": "fedadam"},
    "top-k": {"compression": {"codec": "top-k", "fraction": 0.3}},
    "scaffold": {"strategy": "scaffold"},
    "feddyn": {"strategy": "feddyn", "strategy_options": {"alpha": 2.0}},
    "fedcurv": {"strategy": "fedcurv", "strategy_options": {"lam": 0.1}},
}
AT_SITES = ("top-k", "scaffold", "feddyn", "fedcurv")  # a part of these


@pytest.fixture
def start_sites(start_agent: StartAgent) -> Callable[..., list[AgentThread]]:
    def start(url: str, train: Any = training_of, run: str = "r", **options: Any) -> list[AgentThread]:
        defaults = {"initial_weights": zeros, "run": run}
        return [start_agent(url, number, train(number), **defaults | options) for number in SITES]

    return start


def order(daemon: DaemonThread, what: Any, **fields: Any) -> dict[str, Any]:
    token = (daemon.folder / "operator.token").read_text().strip()
    return daemon.call(ask(daemon.url, token, what, **fields))


def models_of(folder: Path, run: str = "r") -> dict[int, str]:
    """The digest of the global model of each round, and of the first one."""
    with ModelDB(folder) as db:
        found = [*db.run(run).models("initial"), *db.run(run).models("global")]
        return {model.round_id: model.digest for model in found}


@pytest.mark.parametrize("kept", KEPT)
def test_a_finished_run_goes_on_as_it_did_the_first_time(
    kept: str, start_daemon: StartDaemon, start_sites: Callable[..., list[AgentThread]]
) -> None:
    """Their training does not depend on the round: the same state, at both ends, gives the same models."""
    daemon = start_daemon(run_of(**KEPT[kept], end={"rounds": 4}))
    for agent in start_sites(daemon.url):
        agent.join()
    to = 0 if kept in AT_SITES else 2
    found = order(daemon, "rollback", run="r", to=to, reason="once more")
    assert (found["status"], found["rounds_done"], found["rounds"]) == ("running", to, 4)
    for agent in start_sites(daemon.url):  # with the state folders of before
        final = agent.join()
    models = models_of(daemon.folder)
    assert [models[round_id] for round_id in range(5, 9 - to)] == [models[r] for r in range(to + 1, 5)]
    assert_equal(final.weights, daemon.db().model("r:4").weights())
    assert verify_database(daemon.folder) == []
    undone = [made.round_id for made in daemon.db().run("r").rounds() if made.is_undone]
    assert undone == list(range(to + 1, 5))
    [event] = daemon.db().run("r").events("run_rolled_back")
    assert (event.round_id, event.details["to"], event.details["reason"]) == (4, to, "once more")


def test_best_model_is_the_best_of_what_is_left(
    start_daemon: StartDaemon, start_sites: Callable[..., list[AgentThread]]
) -> None:
    """The loss falls from round to round, and is measured after each."""
    daemon = start_daemon(run_of(end={"rounds": 4}, evaluate={"every": 1}))

    def measured(weights: Any) -> Evaluation:
        return Evaluation({"loss": float(np.sum((weights["w"] - 1) ** 2))}, num_examples=1)

    for agent in start_sites(daemon.url, evaluate=measured):
        agent.join()
    rounds = daemon.db().run("r").rounds()
    losses = {made.round_id: made.evaluate["loss"].value for made in rounds[1:]}
    assert sorted(losses.values(), reverse=True) == list(losses.values())
    for to in (3, 2, 4):  # the last of these was undone by the first two
        found = order(daemon, "rollback", run="r", to=to, rounds=1)
        model_id = rounds[to].model_id
        assert (found["best"]["value"], found["best"]["model"]) == (losses[to], model_id)
        run = daemon.db().run("r")
        assert (run.tags()["best"], run.tags()["final"], run.facts.model_id) == (model_id,) * 3
        assert (run.facts.best_round, run.facts.rounds_done, run.facts.rounds_wanted) == (to, to, to + 1)
    found = order(daemon, "rollback", run="r", to=0)
    assert (found["best"]["value"], daemon.db().run("r").tags()["best"]) == (None, rounds[0].model_id)


def test_end_of_a_run_is_without_what_an_agent_kept_of_undone_rounds(
    start_daemon: StartDaemon, start_sites: Callable[..., list[AgentThread]]
) -> None:
    cohort = {"rule": "number", "number": 1, "choose": "least_recent"}
    few = {"min_agents": 2, "min_updates": 1}
    daemon = start_daemon(run_of(end={"rounds": 2}, cohort=cohort, round=few))
    start = NamedArrays({**zeros(), "own": np.zeros(1)}, {"own": Role.PRIVATE})

    def counting(number: int) -> Callable[[TrainingTask], TrainResult]:
        def train(task: TrainingTask) -> TrainResult:
            return TrainResult({name: array + 1 for name, array in task.weights.items()}, 1)

        return train

    for agent in start_sites(daemon.url, counting, initial_weights=start):
        assert agent.join().weights["own"][0] == 1  # each had a turn
    order(daemon, "rollback", run="r", to=1)
    owns = [
        agent.join().weights["own"][0] for agent in start_sites(daemon.url, counting, initial_weights=start)
    ]
    assert sorted(owns) == [0, 1]  # one was asked anew, and the other has nothing of what was undone


def test_running_run_gives_up_its_open_round(
    start_daemon: StartDaemon, start_sites: Callable[..., list[AgentThread]]
) -> None:
    gates = {number: Gate(number, 3) for number in SITES}
    daemon = start_daemon(run_of(end={"rounds": 3}))
    agents = start_sites(daemon.url, gates.__getitem__)
    for gate in gates.values():
        assert gate.reached.wait(30)
    found = order(daemon, "rollback", run="r", to=1)
    assert (found["status"], found["rounds_done"], found["rollbacks"]) == ("running", 1, 1)
    for gate in gates.values():
        gate.open.set()
    for agent in agents:  # what they were at work on is discarded, and they go on
        assert agent.join().round_id == 5
    run = daemon.db().run("r")
    status = {found.round_id: found.status for found in run.rounds()}
    assert status == {0: "done", 1: "done", 2: "done", 3: "failed", 4: "done", 5: "done"}
    assert run.rounds()[4].base_model_id == run.rounds()[1].model_id
    of_three = run.updates(3)
    assert {update.verdict for update in of_three} == {"discarded"}
    assert {update.reason for update in of_three} == {"the run was rolled back to round 1"}


def test_daemon_may_be_killed_after_a_rollback(
    start_process: StartProcess, start_sites: Callable[..., list[AgentThread]]
) -> None:
    run = run_of(**KEPT["fedavgm"], end={"rounds": 4})
    daemon = start_process(run).started()
    for agent in start_sites(daemon.url):
        agent.join()
    target = ["--url", daemon.url, "--database", str(daemon.models)]
    done = CliRunner().invoke(commands, ["run", "rollback", "r", "--to", "1", "--rounds", "2", *target])
    assert done.output == "run r goes on from round 1, 1 of 3 rounds done; it is running\n"
    daemon.kill()
    daemon = start_process(run, port=daemon.port).started()
    for agent in start_sites(daemon.url):
        agent.join()
    daemon.stop()
    listed = CliRunner().invoke(commands, ["db", "--folder", str(daemon.models), "rounds", "r"]).output
    assert [line.split()[:2] for line in listed.splitlines()[1:]] == [
        *(["0", "done"], ["1", "done"], ["2", "undone"], ["3", "undone"], ["4", "undone"]),
        *(["5", "done"], ["6", "done"]),
    ]
    models = models_of(daemon.models)
    with ModelDB(daemon.models) as db:
        facts = db.run("r").facts
    assert (facts.rollbacks, facts.rounds_done, facts.rounds_wanted) == (1, 3, 3)
    assert [models[round_id] for round_id in (5, 6)] == [models[round_id] for round_id in (2, 3)]
    assert verify_database(daemon.models) == []


def test_model_is_sent_as_it_is_where_its_encoded_form_was_let_go(
    start_process: StartProcess, start_sites: Callable[..., list[AgentThread]]
) -> None:
    run = run_of(compression={"codec": "int8", "download": "int8"}, end={"rounds": 4})
    kept = {"retention": {"keep": "rounds", "rounds": 1}}
    daemon = start_process(run, database=kept).started()
    for agent in start_sites(daemon.url):
        agent.join()
    daemon.stop()
    with ModelStore(daemon.models, DatabaseSettings.model_validate(kept)) as store:
        store.prune()  # the updates
        store.prune()  # and what they began from
    with ModelDB(daemon.models) as db:
        assert not db.run("r").models("download", round_id=1)[0].is_stored
    daemon = start_process(run, port=daemon.port, database=kept).started()
    until(lambda: daemon.text.count("listening url=") == 2)
    target = ["--url", daemon.url, "--database", str(daemon.models)]
    done = CliRunner().invoke(commands, ["run", "rollback", "r", "--to", "1", *target])
    assert done.exit_code == 0, done.output
    daemon.kill()
    daemon = start_process(run, port=daemon.port, database=kept).started()
    for agent in start_sites(daemon.url):
        assert agent.join().round_id == 7
    daemon.stop()
    assert verify_database(daemon.models) == []


def test_rollback_that_cannot_be_is_refused_with_the_reason(
    start_daemon: StartDaemon, start_sites: Callable[..., list[AgentThread]]
) -> None:
    daemon = start_daemon(run_of())
    with pytest.raises(OrderFailedError, match="run 'r' has no model of round 0; see `fl db rounds r`"):
        order(daemon, "rollback", run="r", to=0)
    for agent in start_sites(daemon.url):
        agent.join()
    with pytest.raises(OrderFailedError, match="cannot go on from round 3: it would end at once: 3 rounds"):
        order(daemon, "rollback", run="r", to=3)
    with pytest.raises(OrderFailedError, match="run 'r' has no model of round 4"):
        order(daemon, "rollback", run="r", to=4)
    with pytest.raises(OrderFailedError, match="there is no run 'q'"):
        order(daemon, "rollback", run="q", to=1)
    assert daemon.host().run.status == "finished"


# --- another run from a model ----------------------------------------------------------------


def test_run_begins_with_the_model_of_a_round(
    start_daemon: StartDaemon, start_sites: Callable[..., list[AgentThread]]
) -> None:
    daemon = start_daemon(run_of(seed=5))
    for agent in start_sites(daemon.url):
        agent.join()
    found = order(daemon, "create", about="r:2")
    assert (found["run"], found["status"], found["rounds_done"]) == ("r-2", "running", 0)
    db = daemon.db()
    origin, begun = db.model("r:2"), db.model("r-2:0")
    assert (begun.kind, begun.digest) == ("initial", origin.digest)
    assert [(parent.model_id, parent.share) for parent in begun.parents] == [(origin.model_id, 1.0)]
    assert db.run("r-2").facts.settings["initial"] == {"file": None, "model": origin.model_id}
    assert db.run("r-2").facts.settings["seed"] == 5
    for agent in start_sites(daemon.url, run="r-2"):
        agent.join()
    assert models_of(daemon.folder, "r-2")[1] == models_of(daemon.folder)[3]  # fedavg keeps nothing
    assert order(daemon, "create", about=origin.model_id[:12])["run"] == "r-3"
    assert order(daemon, "create", about="r-2:final", run="named")["run"] == "named"


def test_a_local_model_that_came_encoded_is_taken_whole(
    start_daemon: StartDaemon, start_sites: Callable[..., list[AgentThread]]
) -> None:
    daemon = start_daemon(run_of(compression={"codec": "top-k", "fraction": 0.3}))
    for agent in start_sites(daemon.url):
        agent.join()
    run = daemon.db().run("r")
    local = run.models("local", round_id=2)[0]
    assert (local.form, local.codec != "") == ("delta", True)
    found = order(daemon, "create", about=local.model_id, settings=run_of(name="of-one"))
    assert found["run"] == "of-one"
    begun = daemon.db().model("of-one:0")
    assert_equal(begun.weights(), local.weights())
    assert begun.layout == run.last.layout  # type: ignore[union-attr]
    for agent in start_sites(daemon.url, run="of-one"):
        agent.join()
    assert verify_database(daemon.folder) == []


def test_fl_run_create_takes_a_file_a_model_or_both(
    start_process: StartProcess, start_sites: Callable[..., list[AgentThread]], tmp_path: Path
) -> None:
    daemon = start_process(run_of()).started()
    for agent in start_sites(daemon.url):
        agent.join()
    target = ["--url", daemon.url, "--database", str(daemon.models)]

    def create(*args: str | Path, code: int = 0) -> str:
        done = CliRunner().invoke(commands, ["run", "create", *map(str, args), *target])
        assert done.exit_code == code, done.output
        return done.output

    assert create("--from", "r:final").startswith("run r-2 is running; it waits for")
    file = write_yaml(tmp_path / "new.yaml", run_of(name="new", end={"rounds": 1}))
    assert create(file, "--from", "r:1").startswith("run new is running")
    assert create(file, "--from", "r:1", "--name", "newer").startswith("run newer is running")
    assert create(file, "--from", "r:1", code=1) == "error: run 'new' exists already; choose another name\n"
    assert "give a FILE with the run's settings, or a model with --from" in create(code=2)
    assert create("--from", "r:7", code=1) == (
        "error: run 'r' has no model of round 7; see `fl db rounds r`\n"
    )
    both = write_yaml(tmp_path / "both.yaml", run_of(name="both", initial={"file": "x.npz"}))
    assert "initial" in create(both, "--from", "r:1", code=1)
    with ModelDB(daemon.models) as db:
        assert [run.name for run in db.runs()] == ["r", "r-2", "new", "newer"]
        [initial] = db.run("new").models("initial")
        assert [parent.model_id for parent in initial.parents] == [db.model("r:1").model_id]
    daemon.stop()


def test_run_of_some_arrays_begins_with_a_whole_model_and_with_a_part(
    start_daemon: StartDaemon, start_sites: Callable[..., list[AgentThread]]
) -> None:
    daemon = start_daemon(run_of())
    for agent in start_sites(daemon.url):
        agent.join()
    tuned = run_of(name="tuned", compression={"arrays": ["v"]}, end={"rounds": 1})
    order(daemon, "create", about="r:final", settings=tuned)
    whole = daemon.db().model("r:final").weights()
    [part] = daemon.db().run("tuned").models("initial")
    assert_equal(part.weights(), {"v": whole["v"]})

    def of_part(number: int) -> Callable[[TrainingTask], TrainResult]:
        return lambda task: TrainResult({**task.weights, "v": task.weights["v"] + number}, 1)

    for agent in start_sites(daemon.url, of_part, run="tuned", initial_weights=whole):
        final = agent.join()
    np.testing.assert_allclose(final.weights["v"], whole["v"] + 1.5)
    order(daemon, "create", about="tuned:final", run="again")  # its settings, and the part alone
    for agent in start_sites(daemon.url, of_part, run="again", initial_weights=whole):
        final = agent.join()
    np.testing.assert_allclose(final.weights["v"], whole["v"] + 3)


def test_settings_are_found_of_a_run_that_this_daemon_does_not_know(
    start_daemon: StartDaemon, start_sites: Callable[..., list[AgentThread]]
) -> None:
    daemon = start_daemon(run_of(seed=5))
    for agent in start_sites(daemon.url):
        agent.join()
    hosts = daemon.aggregator.daemon.runs._hosts
    host = hosts.pop("r")  # as of one that was imported meanwhile
    assert order(daemon, "create", about="r:final", run="next")["run"] == "next"
    hosts["r"] = host
    assert daemon.db().run("next").facts.settings["seed"] == 5


def test_what_is_no_model_is_no_beginning(
    start_daemon: StartDaemon, start_sites: Callable[..., list[AgentThread]]
) -> None:
    daemon = start_daemon(run_of(**KEPT["fedavgm"], end={"rounds": 1}))
    for agent in start_sites(daemon.url):
        agent.join()
    [state] = daemon.db().run("r").models("state")
    with pytest.raises(OrderFailedError, match="is of kind state: nothing to train"):
        order(daemon, "create", about=state.model_id)
    assert [run.name for run in daemon.db().runs()] == ["r"]
