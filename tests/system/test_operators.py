"""`fl aggregator`, `fl run` and `fl status` as a person at a terminal uses them."""

import asyncio
import json
import os
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fl_main.aggregator import Aggregator
from fl_main.aggregator.operator import OrderFailedError, ask
from fl_main.cli import fl as commands
from fl_main.db import ModelStore
from fl_main.errors import RefusedError, SettingsError
from fl_main.messages import Ask, Refuse, Reply
from fl_main.settings import AggregatorSettings
from tests.system.conftest import StartAgent, StartDaemon, StartProcess
from tests.system.daemons import DaemonThread, fl, run_of, until, write_yaml
from tests.system.peers import Peer


def get(url: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url.replace("ws:", "http:") + path, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_runs_are_created_listed_shown_paused_resumed_and_stopped(
    start_process: StartProcess, start_agent: StartAgent, tmp_path: Path
) -> None:
    daemon = start_process().started()
    target = ["--url", daemon.url, "--database", str(daemon.models)]

    def run(*args: str | Path, code: int = 0) -> str:
        done = CliRunner().invoke(commands, ["run", *map(str, args), *target])
        assert done.exit_code == code, done.output
        return done.output

    file = write_yaml(tmp_path / "new.yaml", run_of(name="new"))
    assert run("create", file).startswith("run new is running")
    assert run("create", file, code=1) == "error: run 'new' exists already; choose another name\n"
    [listed] = json.loads(run("list", "--json"))
    assert (listed["run"], listed["status"], listed["rounds"]) == ("new", "running", "0/3")
    assert "run new: running, 0 of 3 rounds" in run("show", "new")
    assert run("show", "old", code=1) == "error: there is no run 'old' (runs: new)\n"
    assert run("pause", "new").startswith("run new is paused: paused by ")
    assert run("resume", "new") == "run new is running\n"
    agent = start_agent(daemon.url, 1, run="new")
    daemon.seen("agent joined run=new")
    assert "site1" in run("show", "new")
    assert run("stop", "new").startswith("run new is stopped: stopped by ")
    assert agent.join().status == "stopped"
    assert run("stop", "old", code=1) == "error: there is no run 'old' (runs: new)\n"

    done = fl("status", *target, cwd=tmp_path)
    assert "0 agents connected, 1 run\n" in done.stdout
    assert json.loads(fl("status", "--json", *target, cwd=tmp_path).stdout)["runs"][0]["status"] == "stopped"
    daemon.stop()


def test_operator_needs_the_token_of_the_database_folder(
    start_daemon: StartDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOIN", "for agents")
    daemon = start_daemon(run_of(), join_token={"env": "JOIN"})
    file = daemon.folder / "operator.token"
    assert file.stat().st_mode & 0o777 == 0o600
    target = ("run", "stop", "r", "--url", daemon.url, "--database", tmp_path / "other")
    faults = {
        "for agents": "this is not the operator's token of this aggregator",
        "": "this needs the operator's token",
    }
    for token, fault in faults.items():
        done = fl(*target, cwd=tmp_path, FL_OPERATOR_TOKEN=token)
        assert done.returncode == 1
        assert done.stderr == f"error: {fault}: --database its folder, or FL_OPERATOR_TOKEN\n"
    assert daemon.host().run.status == "running"
    token = file.read_text().strip()
    done = fl(*target, cwd=tmp_path, FL_OPERATOR_TOKEN=token, LOGNAME="ada")
    assert done.stdout == "run r is stopped: stopped by ada\n"
    events = daemon.db().run("r").events()
    assert [(event.kind, event.actor) for event in events if event.kind.startswith("run_")] == [
        ("run_created", "settings"),
        ("run_stop", "ada"),
        ("run_ended", ""),
    ]


@pytest.mark.parametrize("wrong", [{"to": 2**63}, {"rounds": 2**31}])
def test_number_that_no_run_can_have_is_an_error_in_one_line(wrong: dict[str, Any]) -> None:
    [name] = wrong
    with pytest.raises(OrderFailedError, match=f"^{name}: Input should be less than [0-9]+$"):
        asyncio.run(ask("ws://127.0.0.1:1", "", "rollback", run="r", **wrong))


def test_database_is_free_again_after_a_token_that_cannot_be_read(tmp_path: Path) -> None:
    folder: dict[str, Any] = {"database": {"folder": tmp_path}}
    with pytest.raises(SettingsError, match="FL_NOT_SET is not set") as unset:
        Aggregator(AggregatorSettings.model_validate({**folder, "operator_token": {"env": "FL_NOT_SET"}}))
    (tmp_path / "operator.token").mkdir()
    with pytest.raises(SettingsError, match=r"operator\.token: .*; let this user read it, or set") as unread:
        Aggregator(AggregatorSettings.model_validate(folder))
    ModelStore(tmp_path).close()
    assert unset.value is not unread.value  # kept until here, as a notebook keeps the last one


def test_agent_cannot_give_orders(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(run_of())
    with Peer(daemon.url).join() as peer:
        peer.say(Ask(number=1, order="stop", run="r"))
        assert peer.closed() == (1008, "'ask' in a session that is joined")
    assert daemon.host().run.status == "running"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "x", "strategy": "nothing"}, "strategy: 'nothing' is not one of"),
        ({"name": "x", "strategy_options": {"cap": 0}}, "strategy_options.cap: 0 is not"),
        ({"name": "x", "strategy_options": {"what": 0}}, "'what'; its options: weighting, cap"),
        (
            {"name": "x", "mode": "async", "strategy": "fedavg"},
            "mode: async: the strategy fedavg is not valid",
        ),
        ({"name": "x", "cohort": {"rule": "nosuch:rule"}}, "cohort.rule: 'nosuch:rule' cannot be imported"),
        ({"name": "x", "initial": {"file": "/nowhere.npz"}}, "initial.file: /nowhere.npz: No such file"),
        ({"name": "x", "initial": {"model": "m"}}, "initial.model: there is no model 'm' in this database"),
        (
            {"name": "../x"},
            "settings: name: '../x' is not allowed: must be text of 1 to 100 letters",
        ),
        ({"name": "x", "what": 1}, "settings: unknown key 'what'"),
        ({}, "settings: name is missing"),
    ],
)
def test_run_that_cannot_be_made_is_refused(
    settings: dict[str, Any], words: str, start_daemon: StartDaemon
) -> None:
    daemon = start_daemon()
    token = (daemon.folder / "operator.token").read_text().strip()
    with pytest.raises(OrderFailedError) as raised:
        daemon.call(ask(daemon.url, token, "create", settings=settings))
    assert words in str(raised.value)
    assert daemon.call(ask(daemon.url, token, "status"))["runs"] == []


def test_wrong_token_is_a_typed_error(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    with pytest.raises(RefusedError) as raised:
        daemon.call(ask(daemon.url, "wrong", "status"))
    assert raised.value.code == "bad_token"


def test_status_says_what_each_agent_does_and_what_is_waited_for(
    start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    from tests.system.test_restart import Gate

    daemon = start_daemon(run_of())
    token = (daemon.folder / "operator.token").read_text().strip()

    def status() -> dict[str, Any]:
        return dict(daemon.call(ask(daemon.url, token, "status"))["runs"][0])

    assert status()["waiting_for"] == "waits for an agent that offers an initial model"
    gate = Gate(1, 1)
    start_agent(daemon.url, 1, gate)
    until(lambda: status()["waiting_for"] == "waits for 2 agents for train; 1 is here")
    start_agent(daemon.url, 2)
    until(lambda: "1 of 2 answered; waiting for site1" in status()["waiting_for"])
    doing = {agent["name"]: agent["doing"] for agent in status()["agents"]}
    assert doing["site1"] == "training, round 1"
    assert doing["site2"] == "idle: its answer is stored; round 1 waits for the others"
    gate.open.set()
    until(lambda: status()["waiting_for"] == "finished: 3 rounds are done")


def test_command_without_a_daemon_is_one_line(tmp_path: Path, unused_tcp_port: int) -> None:
    done = fl("status", "--url", f"ws://127.0.0.1:{unused_tcp_port}", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        f"error: nothing listens at 127.0.0.1:{unused_tcp_port}; start the aggregator or correct the url\n",
    )


# --- the daemon --------------------------------------------------------------------------


def test_health_and_readiness(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(run_of())
    assert get(daemon.url, "/healthz") == (200, "ok\n")
    assert get(daemon.url, "/readyz") == (200, "ready\n")
    daemon.host().journal.troubles["test"] = "no room"
    assert get(daemon.url, "/readyz") == (503, "no room\n")
    daemon.aggregator.daemon.door.is_closing = True
    daemon.host().journal.troubles.clear()
    assert get(daemon.url, "/readyz") == (503, "stopping\n")
    assert get(daemon.url, "/healthz") == (200, "ok\n")
    assert get(daemon.url, "/other")[0] == 404
    assert "speaks fl-main.v1, not plain HTTP" in get(daemon.url, "/")[1]


def test_log_may_be_json_lines(start_process: StartProcess, start_agent: StartAgent) -> None:
    daemon = start_process(run_of(end={"rounds": 1}), options=("--log-format", "json"))
    url = daemon.seen(r"listening url=([^\s\"]+)")[1]
    for agent in [start_agent(url, number) for number in (1, 2)]:
        agent.join()
    lines = [json.loads(line) for line in daemon.stop().splitlines()]
    assert all({"ts", "level", "logger", "message"} <= line.keys() for line in lines)
    assert any("round done run=r round=1" in line["message"] for line in lines)


def test_log_tells_a_round_in_under_ten_lines(start_process: StartProcess, start_agent: StartAgent) -> None:
    daemon = start_process(run_of(end={"rounds": 3})).started()
    for agent in [start_agent(daemon.url, number) for number in (1, 2)]:
        agent.join()
    lines = daemon.stop().splitlines()
    assert 1 <= len([line for line in lines if "round=2" in line]) < 10
    assert not [line for line in lines if "WARNING" in line or "ERROR" in line]


def test_second_interrupt_ends_the_daemon_at_once(start_process: StartProcess) -> None:
    from tests.system.peers import Deaf

    daemon = start_process(run_of()).started()
    with Deaf(daemon.port):
        daemon.seen("agent joined")
        os.kill(daemon.pid, signal.SIGSTOP)  # so that both arrive before the first one is done
        daemon.signal(signal.SIGINT)
        daemon.signal(signal.SIGTERM)
        os.kill(daemon.pid, signal.SIGCONT)
        assert "stopped at once" in daemon.ended(130)


def test_agents_are_told_that_the_daemon_stops(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(run_of())
    with Peer(daemon.url).join() as peer:
        daemon.stop()
        assert peer.closed() == (1001, "the aggregator is stopping")


def test_daemon_that_stops_takes_nobody_in(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(run_of())
    daemon.aggregator.daemon.door.is_closing = True
    from fl_main.messages import Join

    with Peer(daemon.url) as peer:
        peer.say(Join(digest_algorithms=["blake3"], run="r", agent_id="a", instance_id="1", name="a"))
        refusal = peer.hear(Refuse)
        assert (refusal.code, refusal.lasting) == ("stopping", False)


def test_two_runs_at_once_do_not_mix(start_daemon: StartDaemon, start_agent: StartAgent) -> None:
    daemon = start_daemon(run_of(name="a"), run_of(name="b", seed=1))
    agents = {
        (run, number): start_agent(daemon.url, f"{run}{number}", None, run=run)
        for run in ("a", "b")
        for number in (1, 2)
    }
    finals = {key: agent.join() for key, agent in agents.items()}
    for run in ("a", "b"):
        final = daemon.db().model(f"{run}:final").digest
        assert {model.digest for model in daemon.db().run(run).models("global", 3)} == {final}
    assert finals["a", 1].weights["w"].tobytes() != finals["b", 1].weights["w"].tobytes()


def test_run_is_not_made_anew_by_a_restart_with_other_settings(
    start_daemon: StartDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    first = start_daemon(run_of())
    run_id = first.host().run.run_id
    first.stop()
    second: DaemonThread = start_daemon(run_of(seed=5))
    assert second.host().run.run_id == run_id
    assert "goes on with the settings it was created with" in caplog.text


def test_operator_may_ask_more_than_once(start_daemon: StartDaemon) -> None:
    from fl_main.messages import Operate, Ping, Pong

    daemon = start_daemon(run_of())
    token = (daemon.folder / "operator.token").read_text().strip()
    with Peer(daemon.url) as peer:
        peer.say(Operate(token=token, actor="ada"))
        for number, order in enumerate(("pause", "resume"), 1):
            peer.say(Ask(number=number, order=order, run="r"))  # type: ignore[arg-type]
            answer = peer.hear(Reply)
            assert (answer.number, answer.error) == (number, "")
        peer.say(Ping())
        peer.hear(Pong)
