"""A site whose updates are far from all others: left out, told so, shown, and released."""

import json
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from fl_main.agent import Task, TrainResult
from fl_main.aggregator.operator import OrderFailedError, ask
from fl_main.db import ModelDB
from tests.system.agents import site
from tests.system.conftest import StartAgent, StartDaemon, StartProcess
from tests.system.daemons import fl, run_of, until

RUN = run_of(
    strategy="median",
    quarantine={"rounds": 2},
    round={"min_agents": 3, "min_updates": 3},
    end={"rounds": 5},
)


def faulty(task: Task) -> TrainResult:
    """Training that sends nonsense."""
    return TrainResult(
        {name: array * 0 - np.array(500, array.dtype) for name, array in task.weights.items()}, 10
    )


def test_a_site_whose_updates_are_outliers_is_left_out_until_it_is_released(
    start_process: StartProcess, start_agent: StartAgent, tmp_path: Path
) -> None:
    daemon, go_on = start_process(RUN).started(), Event()

    def held(task: Task) -> TrainResult:
        assert task.round_id < 4 or go_on.wait(60)
        return site(1)(task)

    bad = start_agent(daemon.url, "st-mary", faulty)
    honest = [start_agent(daemon.url, 1, held), start_agent(daemon.url, 2), start_agent(daemon.url, 3)]
    until(lambda: "in quarantine, its updates were outliers in 2 rounds in a row" in bad.line, "to be told")
    assert len(bad.trained) == 2

    daemon.kill()
    daemon = start_process(RUN, port=daemon.port).started()
    daemon.seen("agent joined run=r .* name=st-mary")
    until(lambda: "in quarantine" in bad.line, "to be told again")
    target = ("--url", daemon.url, "--database", daemon.models)
    said = fl("why", "st-mary", *target, cwd=tmp_path).stdout
    assert "agent st-mary of r: in quarantine" in said, said
    shown = fl("db", "updates", "r", "--agent", "st-mary", "--json", "-d", daemon.models, cwd=tmp_path)
    found = json.loads(shown.stdout)
    assert [update["outlier"] for update in found] == [True, True]
    assert all(update["distance"] > 100 for update in found)
    done = fl("run", "release", "r", "st-mary", *target, cwd=tmp_path, LOGNAME="ada")
    assert done.stdout == "agent st-mary of run r is free to take part\n"
    go_on.set()
    for agent in (*honest, bad):
        assert agent.join().status == "finished"
    daemon.stop()
    assert len(bad.trained) > 2
    with ModelDB(daemon.models) as db:
        actors = [
            (e.kind, e.actor)
            for e in db.run("r").events()
            if e.kind in ("agent_quarantined", "agent_released")
        ]
    assert actors == [("agent_quarantined", "aggregator"), ("agent_released", "ada")]


def test_an_operator_leaves_an_agent_out(start_daemon: StartDaemon, start_agent: StartAgent) -> None:
    daemon = start_daemon(run_of())
    agent = start_agent(daemon.url, 1)
    until(lambda: daemon.host().seats)
    token = (daemon.folder / "operator.token").read_text().strip()
    [shown] = daemon.call(ask(daemon.url, token, "quarantine", run="r", about="site1"))["agents"]
    assert shown["quarantined"].startswith("put there by ")
    until(lambda: "in quarantine, put there by " in agent.line, "to be told")
    for name, words in (
        ("site9", "there is no agent 'site9' in run 'r' (agents: site1)"),
        ("", "there is no agent ''"),
    ):
        with pytest.raises(OrderFailedError) as raised:
            daemon.call(ask(daemon.url, token, "release", run="r", about=name))
        assert words in str(raised.value)
    [shown] = daemon.call(ask(daemon.url, token, "release", run="r", about="site1"))["agents"]
    assert shown["quarantined"] == ""
    daemon.call(ask(daemon.url, token, "pause", run="r"))
    second = start_agent(daemon.url, "two\nlines", agent_id="two")
    until(lambda: len(daemon.host().seats) == 2)
    with pytest.raises(OrderFailedError, match=r"agents: site1, two\\nlines"):
        daemon.call(ask(daemon.url, token, "release", run="r", about="site9"))
    daemon.call(ask(daemon.url, token, "resume", run="r"))
    assert [one.join().status for one in (agent, second)] == ["finished", "finished"]
