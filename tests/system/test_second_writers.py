"""What is done to a database beside its daemon: replays, pruning, withdrawal."""

from pathlib import Path
from threading import Event
from typing import Any

import pytest

from fl_main.agent import Task, TrainResult
from fl_main.aggregator.operator import ask
from fl_main.db import Keep, prune, replay, verify_database, withdraw
from fl_main.errors import StoreError
from tests.system.agents import site
from tests.system.conftest import StartAgent, StartDaemon
from tests.system.daemons import DaemonThread, run_of, until
from tests.system.test_free_payloads import as_weights, tree


def order(daemon: DaemonThread, what: Any, **fields: Any) -> dict[str, Any]:
    token = (daemon.folder / "operator.token").read_text().strip()
    return daemon.call(ask(daemon.url, token, what, **fields))


def test_a_run_goes_on_while_others_replay_prune_and_withdraw(
    start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    go_on = Event()

    def held(task: Task) -> TrainResult:
        assert task.round_id < 4 or go_on.wait(60)
        return site(1)(task)

    rounds = {"min_agents": 2, "min_updates": 2}
    daemon = start_daemon(run_of(strategy="fedavgm", round=rounds, end={"rounds": 6}, evaluate={"every": 0}))
    agents = [
        start_agent(daemon.url, 1, held),
        start_agent(daemon.url, 2, held),
        start_agent(daemon.url, 3, held),
    ]
    with daemon.db() as db:
        until(lambda: bool(agents[0].trained) and len(db.run("r").rounds()) == 5, "round 4 to begin")
        found = replay(db, "r", name="again")
        assert [entry.is_same for entry in found.rounds] == [True] * 3
        with pytest.raises(StoreError, match="site3 still takes part in it: `fl run quarantine r site3`"):
            withdraw(db, "site3")
        order(daemon, "quarantine", run="r", about="site3")
        sent = [update for update in db.run("r").updates() if update.agent_id == "site3" and update.model_id]
        assert withdraw(db, "site3").runs[0].models == len(sent) > 0
        assert prune(db, Keep.parse("rounds:3")).files > 0
        go_on.set()
        for agent in agents:
            agent.join()
        assert db.run("r").facts.rounds_done == 6
        with pytest.raises(
            StoreError, match="is not stored, because: deleted by fl db prune --keep rounds:3"
        ):
            replay(db, "r", name="too late", without=["site3"])
    assert verify_database(daemon.folder) == []
    daemon.stop()
    assert verify_database(daemon.folder) == []
    daemon = start_daemon()  # with the replay in its database
    assert {host.run.name for host in daemon.aggregator.daemon.runs} == {"r", "again"}


def test_a_replay_can_be_trained_on_from_one_of_its_rounds(
    start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    daemon = start_daemon(run_of(strategy="fedavgm", end={"rounds": 3}))
    for agent in [start_agent(daemon.url, number) for number in (1, 2)]:
        agent.join()
    with daemon.db() as db:
        replay(db, "r", strategy="fedadam", name="adam")
    daemon.stop()
    daemon = start_daemon()
    order(daemon, "rollback", run="adam", to=2)
    for agent in [start_agent(daemon.url, number, run="adam") for number in (1, 2)]:
        assert agent.join().round_id == 4
    with daemon.db() as db:
        [made] = db.run("adam").models("global", 4)
        assert db.run("adam").rounds()[-1].base_model_id == db.model("adam:2").model_id
        found = replay(
            db, "adam"
        )  # the updates of the first rounds are the other run's, the last are its own
        assert [(entry.round_id, entry.is_same) for entry in found.rounds] == [
            (1, True),
            (2, True),
            (4, True),
        ]
        assert db.model("adam-replay:last").digest == made.digest
    assert verify_database(daemon.folder) == []


def test_of_two_runs_of_one_name_a_daemon_goes_on_with_the_newer(
    start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    """A replay that was made beside it has the name that it gives a run of its own."""
    daemon = start_daemon(run_of(end={"rounds": 1}))
    for agent in [start_agent(daemon.url, number) for number in (1, 2)]:
        agent.join()
    with daemon.db() as db:
        replay(db, "r", name="twice")
    order(daemon, "create", settings=run_of(name="twice"))
    daemon.stop()
    daemon = start_daemon()
    assert [host.run.name for host in daemon.aggregator.daemon.runs] == ["r", "twice"]
    assert daemon.host("twice").run.status == "running"
    assert verify_database(daemon.folder) == []


def test_only_the_rounds_that_were_not_undone_are_replayed(
    start_daemon: StartDaemon, start_agent: StartAgent, tmp_path: Path
) -> None:
    daemon = start_daemon(run_of(strategy="fedavgm", end={"rounds": 3}))
    for agent in [start_agent(daemon.url, number) for number in (1, 2)]:
        agent.join()
    order(daemon, "rollback", run="r", to=1)
    for agent in [start_agent(daemon.url, number) for number in (1, 2)]:
        agent.join()
    with daemon.db() as db:
        found = replay(db, "r")
        assert [(entry.round_id, entry.is_same) for entry in found.rounds] == [
            (1, True),
            (4, True),
            (5, True),
        ]
        assert replay(db, "r", round_id=3, name="undone").rounds[0].is_same
        assert db.model("r-replay:last").digest == db.model("r:last").digest
    assert verify_database(daemon.folder) == []


def test_bytes_of_any_length_are_combined_again(start_daemon: StartDaemon, start_agent: StartAgent) -> None:
    strategy = "tests.system.bagging:Bagging"
    daemon = start_daemon(run_of(payload="free", strategy=strategy, end={"rounds": 2}, evaluate={"every": 0}))
    for agent in [start_agent(daemon.url, n, tree(n), initial_weights=as_weights(b"stump")) for n in (1, 2)]:
        agent.join()
    with daemon.db() as db:
        assert [entry.is_same for entry in replay(db, "r").rounds] == [True, True]
        replay(db, "r", without=["site1"], name="two")
        last = db.model("two:last").weights()["payload"]
    assert last.tobytes() == b"tree2tree2tree2tree2"
