"""`fl why` as an operator uses it: of a live daemon, of a dead one, of names, as JSON."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine, text

from fl_main.aggregator.operator import OrderFailedError, ask
from fl_main.cli import fl as commands
from fl_main.db import ModelDB, sqlite, verify_database
from fl_main.db.snapshots import latest_events
from fl_main.db.why import _connected
from fl_main.messages import Chunk, Decline, Join, Leave, Send
from tests.system.conftest import StartAgent, StartDaemon, StartProcess
from tests.system.daemons import ROOT, DaemonProcess, DaemonThread, environment, fl, run_of, until
from tests.system.locks import locked
from tests.system.peers import Peer, offer_of
from tests.system.test_restart import Gate

Findings = list[dict[str, Any]]


def why(daemon: DaemonThread, about: str = "") -> Findings:
    """What a live daemon answers."""
    token = (daemon.folder / "operator.token").read_text().strip()
    return list(daemon.call(ask(daemon.url, token, "why", about=about))["findings"])


def why_of(url: str, models: Path, *args: str, code: int = 0) -> str:
    """What the command prints."""
    done = CliRunner().invoke(commands, ["why", *args, "--url", url, "--database", str(models)])
    assert done.exit_code == code, done.output
    return done.output


def only(findings: Findings, subject: str) -> dict[str, Any]:
    [found] = [finding for finding in findings if finding["subject"] == subject]
    return found


# --- a live daemon ---------------------------------------------------------------------------


def test_a_waiting_run_says_what_it_waits_for_and_what_helps(
    start_process: StartProcess, start_agent: StartAgent
) -> None:
    daemon = start_process(run_of()).started()
    said = why_of(daemon.url, daemon.models)
    assert said.startswith("run r: waits for an agent that offers an initial model\n  since ")
    assert "  because    no agent ever joined\n" in said
    assert "  helps      start an agent with initial_weights" in said
    start_agent(daemon.url, 1)
    daemon.seen("waiting for agents run=r .*step=train")
    said = why_of(daemon.url, daemon.models)
    assert "run r: waits for 2 agents for train; 1 is here" in said
    assert "agent site1 of r: idle: the run waits for 2 agents for train; 1 is here" in said
    daemon.stop()


def test_a_round_says_who_is_at_work_and_an_idle_agent_why_it_is(
    start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    daemon, gate = start_daemon(run_of()), Gate(1, 1)
    first = start_agent(daemon.url, 1, gate)
    until(lambda: "the run waits for 2 agents for train; 1 is here" in first.line)
    second = start_agent(daemon.url, 2)
    until(lambda: "1 of 2 answered" in why(daemon, "r")[0]["what"])
    [task_id] = [task_id for _, task_id in first.trained]
    run = why(daemon, "r")[0]
    assert any(f"site1, task {task_id[:12]}, given " in fact for fact in run["evidence"])
    assert "  training" not in run["evidence"]
    assert only(why(daemon, "site1"), "agent")["what"] == "training, round 1"
    assert only(why(daemon, task_id[:8]), "task")["what"] == "site1 has it: training"
    assert only(why(daemon), "agent")["what"] == "idle: its answer is stored; round 1 waits for the others"
    until(lambda: "its answer is stored; round 1 waits for the others" in second.line)
    gate.open.set()
    first.join()
    assert why(daemon) == []
    found = why(daemon, task_id[:8])
    assert (only(found, "task")["what"], only(found, "update")["standing"]) == ("it was answered", "done")


def test_an_agent_that_declines_lies_or_leaves_is_told_of(start_daemon: StartDaemon, tmp_path: Path) -> None:
    np.savez(tmp_path / "initial.npz", w=np.zeros(4, np.float32))
    settings = {"min_agents": 3, "min_updates": 1, "rejoin_s": 60.0}
    daemon = start_daemon(run_of(round=settings, initial={"file": str(tmp_path / "initial.npz")}))
    with Peer(daemon.url).join("a") as a, Peer(daemon.url).join("b") as b:
        with Peer(daemon.url).join("c") as c:
            tasks = {peer: peer.assigned().task_id for peer in (a, b, c)}
        a.say(Decline(task_id=tasks[a], code="error", reason="ValueError at train.py:3"))
        b.say(offer_of(tasks[b], {"w": np.zeros(4, np.float32)}, num_examples=0))
        until(lambda: any("rejected" in fact for fact in why(daemon, "r")[0]["evidence"]))
        until(lambda: only(why(daemon, "c"), "agent")["what"] == "away")
        evidence = " | ".join(why(daemon, "r")[0]["evidence"])
        assert f"a, task {tasks[a][:12]}: failed: error: ValueError at train.py:3" in evidence
        assert f"b, task {tasks[b][:12]}: rejected: num_examples is 0; it must be at least 1" in evidence
        assert f"c, task {tasks[c][:12]}, given " in evidence
        assert "it is waited for " in evidence
        assert only(why(daemon, tasks[a]), "task")["what"] == (
            "its agent's program failed: error: ValueError at train.py:3"
        )
        assert only(why(daemon, "b"), "update")["what"].startswith("rejected: num_examples is 0")
        a.say(Leave(reason="maintenance"))
        until(lambda: only(why(daemon, "a"), "agent")["what"] == "left for good")
        assert "maintenance" in only(why(daemon, "a"), "agent")["evidence"][0]


def test_an_update_on_its_way_is_told_with_its_bytes(start_daemon: StartDaemon, tmp_path: Path) -> None:
    weights = {"w": np.zeros(1000, np.float32)}
    np.savez(tmp_path / "initial.npz", w=weights["w"])
    one = {"min_agents": 1, "min_updates": 1}
    daemon = start_daemon(run_of(round=one, initial={"file": str(tmp_path / "initial.npz")}))
    with Peer(daemon.url).join("a") as peer:
        task_id = peer.assigned().task_id
        peer.say(offer_of(task_id, weights))
        peer.hear(Send)
        peer.say(Chunk(transfer=f"{task_id}/weights", offset=0, data=bytes(800)))
        until(lambda: "sending its update, 0.8 of 4.0 kB" in only(why(daemon, "a"), "agent")["what"])
        assert "last bytes 0 s ago" in only(why(daemon, task_id[:8]), "task")["what"]


def test_an_agent_that_was_not_let_in_is_told_of(start_daemon: StartDaemon, start_agent: StartAgent) -> None:
    daemon = start_daemon(run_of())
    lost = start_agent(daemon.url, "lost", run="other")
    lost.failed()
    found = only(why(daemon, "lost"), "agent")
    assert found["what"].startswith("was refused (unknown_run): there is no run 'other' (runs: r)")
    assert found in why(daemon)


def test_a_database_in_trouble_and_its_end_are_told(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(run_of())
    host = daemon.host()

    async def change(reason: str) -> None:
        host.journal.set_trouble("test", reason)
        if not reason:
            await host.journal.flush()

    daemon.call(change("no room"))
    found = only(why(daemon), "database")
    assert found["what"] == "the model database is in trouble: no room"
    assert found["since_at"] > 0
    daemon.call(change(""))
    assert not [finding for finding in why(daemon) if finding["subject"] == "database"]
    [event] = daemon.db().run("r").events("database_trouble")
    assert (event.details["reason"], event.details["since_at"]) == ("no room", found["since_at"])


def test_a_locked_database_is_told_as_long_as_it_is(
    start_daemon: StartDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_S", 0.1)
    daemon = start_daemon(run_of())
    with locked(daemon.folder), Peer(daemon.url).join("a"):
        found = until(lambda: [finding for finding in why(daemon) if finding["subject"] == "database"])[0]
        assert "another process is writing to " in found["what"]
        assert "goes on by itself" in found["remedy"]
        assert only(why(daemon, "a"), "agent")["what"] == "idle: it has no function for initialise"
    until(lambda: daemon.db().run("r").events("database_trouble"))
    assert not [finding for finding in why(daemon) if finding["subject"] == "database"]


def test_scarce_room_is_told(start_daemon: StartDaemon, tmp_path: Path) -> None:
    retention = {"warn_free_bytes": 1 << 60}
    daemon = start_daemon(run_of(), database={"folder": tmp_path / "models", "retention": retention})
    found = only(why(daemon), "database")
    assert found["what"].endswith("MB are free for the model database")
    assert "database.retention" in found["remedy"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ('{"name": "r", "strategy": "gone"}', "strategy: 'gone' is not one of"),
        ('{"name": "r", "round": 5}', "TypeError: "),
    ],
    ids=["unknown", "altered"],
)
def test_a_run_that_cannot_go_on_is_told(settings: str, told: str, start_daemon: StartDaemon) -> None:
    first = start_daemon(run_of())
    first.stop()
    engine = create_engine(f"sqlite:///{first.folder / 'fl.db'}")
    with engine.begin() as connection:
        connection.execute(text("UPDATE runs SET settings = :settings"), {"settings": settings})
    engine.dispose()
    second = start_daemon()
    for found in (why(second), why(second, "r")):
        assert found[0]["what"].startswith(f"cannot go on: {told}")
    token = (second.folder / "operator.token").read_text().strip()
    with pytest.raises(OrderFailedError, match=f"^run 'r' is in the database and cannot go on: {told}"):
        second.call(ask(second.url, token, "create", settings=run_of()))


# --- names -----------------------------------------------------------------------------------


def test_a_name_that_nothing_has_is_one_line(start_process: StartProcess) -> None:
    daemon = start_process(run_of()).started()
    said = why_of(daemon.url, daemon.models, "nobody", code=1)
    assert said.startswith("error: there is no run, agent or task 'nobody' (runs: r; agents: none yet; ")
    assert said.count("\n") == 1


def test_names_of_others_cannot_forge_lines(start_process: StartProcess) -> None:
    daemon = start_process(run_of()).started()
    with Peer(daemon.url) as peer:
        peer.say(
            Join(
                digest_algorithms=["blake3"],
                run="r",
                agent_id="a",
                instance_id="1",
                name="x\nrun r: all is well\x1b[2J",
            )
        )
        daemon.seen("agent joined")
        said = why_of(daemon.url, daemon.models)
        target = ("--url", daemon.url, "--database", daemon.models)
        refused = fl("run", "quarantine", "r", "nobody", *target, cwd=daemon.folder).stderr
    assert refused.endswith("(agents: x\\nrun r: all is well\\x1b[2J)\n")
    assert "agent x\\nrun r: all is well\\x1b[2J of r: " in said
    assert "\x1b" not in said


def test_json_has_all_that_is_known(start_process: StartProcess) -> None:
    daemon = start_process(run_of()).started()
    found = json.loads(why_of(daemon.url, daemon.models, "--json"))
    assert (found["from"], found["left_out"]) == ("aggregator", 0)
    [run] = found["findings"]
    assert run.keys() == {
        *("subject", "name", "run", "standing", "what", "since_at", "evidence", "remedy", "ends_at")
    }
    assert (run["subject"], run["name"], run["standing"]) == ("run", "r", "waiting")
    assert found["now"] - 60 < run["since_at"] <= found["now"]


# --- without a daemon ------------------------------------------------------------------------


def killed_in_a_round(start_process: StartProcess, start_agent: StartAgent) -> tuple[DaemonProcess, str]:
    """Return a daemon that was killed while site1 trained, and site1's task; the agents are gone, too."""
    daemon, gate = start_process(run_of()).started(), Gate(1, 1)
    first = start_agent(daemon.url, 1, gate)
    second = start_agent(daemon.url, 2)
    until(lambda: "1 of 2 answered" in why_of(daemon.url, daemon.models, "r"))
    daemon.kill()
    gate.open.set()
    first.close()
    second.close()
    return daemon, first.trained[0][1]


def test_a_daemon_that_was_killed_is_answered_for_by_its_database(
    start_process: StartProcess, start_agent: StartAgent
) -> None:
    daemon, task_id = killed_in_a_round(start_process, start_agent)
    found = json.loads(why_of(daemon.url, daemon.models, "--json"))
    assert found["from"] == "database"
    aggregator, run, *_ = found["findings"]
    assert aggregator["what"] == f"does not answer; what follows is from its database {daemon.models}"
    assert aggregator["evidence"][0].startswith("nothing listens at ")
    assert aggregator["evidence"][1].startswith("its last fact is ")
    assert "was not stopped in order since" in aggregator["evidence"][2]
    assert run["what"].startswith("train: 1 of 2 answered; not connected: site1")
    assert run["remedy"].startswith("start the aggregator; then: ")
    assert any("it was here when the aggregator ended" in fact for fact in run["evidence"])
    said = why_of(daemon.url, daemon.models, task_id[:8])
    assert f"task {task_id} of r: site1 has it and is away: it was here when the aggregator ended" in said
    said = why_of(daemon.url, daemon.models, "site2")
    assert "of r: stored; it counts when round 1 closes" in said
    assert why_of(daemon.url, daemon.models, "nobody", code=1).startswith(
        "error: there is no run, agent or task"
    )


def test_the_answer_of_the_database_changes_nothing_in_it(
    start_process: StartProcess, start_agent: StartAgent, tmp_path: Path
) -> None:
    daemon, _ = killed_in_a_round(start_process, start_agent)
    copy = shutil.copytree(daemon.models, tmp_path / "copy")
    why_of(daemon.url, daemon.models)
    for file in ("fl.db", "fl.db-wal"):
        assert (daemon.models / file).read_bytes() == (copy / file).read_bytes()


def test_a_daemon_that_is_back_says_that_it_was_away(
    start_process: StartProcess, start_agent: StartAgent
) -> None:
    daemon, _ = killed_in_a_round(start_process, start_agent)
    daemon.log.unlink()
    again = start_process(run_of()).started()
    run = json.loads(why_of(again.url, again.models, "r", "--json"))["findings"][0]
    assert any(fact.startswith("the aggregator crashed at most ") for fact in run["evidence"])
    again.stop()
    said = why_of(again.url, again.models)
    assert "it was stopped in order" in said
    with ModelDB(daemon.models) as database, _connected(database) as connection:
        past = [entry.event for entry in latest_events(connection, "", 9)]
    lives = [(event.kind, event.details.get("after")) for event in past if event.kind.startswith("daemon")]
    assert lives == [("daemon_started", None), ("daemon_started", "a crash"), ("daemon_stopped", None)]
    assert verify_database(daemon.models) == []


def test_without_a_daemon_and_a_database_both_errors_are_told(tmp_path: Path, unused_tcp_port: int) -> None:
    done = fl("why", "--url", f"ws://127.0.0.1:{unused_tcp_port}", cwd=tmp_path, FL_OPERATOR_TOKEN="x")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"error: nothing listens at 127.0.0.1:{unused_tcp_port}; start the aggregator or correct the url",
        "error: its database cannot be asked either: there is no folder models; "
        "name the model database with --database",
    ]


def test_no_code_of_a_user_is_run_to_look_at_a_dead_run(start_daemon: StartDaemon, tmp_path: Path) -> None:
    strategy = "tests.system.momentum:Momentum"
    daemon = start_daemon(run_of(strategy=strategy, strategy_options={"beta": 0.5}))
    daemon.stop()
    script = (
        "import sys, time; from pathlib import Path; from fl_main.db.why import explain; "
        f"found = explain(Path({str(daemon.folder)!r}), 'r', 'x', time.time()); "
        "assert found['findings'][1]['what'].startswith('waits for'), found; "
        "assert 'tests.system.momentum' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, env=environment(), timeout=30)
