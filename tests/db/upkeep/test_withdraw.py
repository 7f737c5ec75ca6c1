"""An agent is withdrawn: its files go, the history stays, and the report says what it does not remove."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from fl_main.console import run_command
from fl_main.db import ModelDB, ModelStore, verify_database
from fl_main.db.cli import db as fl_db
from fl_main.db.upkeep.withdraw import Influenced, plan_withdrawal, withdraw
from fl_main.db.upkeep.withdrawal_report import report
from fl_main.db.upkeep.writing import SecondWriter
from fl_main.db.whatif.replay import replay
from fl_main.errors import NotFoundError, StoreError
from fl_main.store import ModelKind, RunStatus, Verdict
from tests.db.building import RUN, agent, answer, ask, begin, model, publish, stage, train
from tests.db.recording import record

AT = 1_800_000_000.0  # 2027-01-15 08:00:00 UTC


@pytest.fixture
def hearts(folder: Path) -> Iterator[Path]:
    """A run of ten agents and three rounds that is over, with channels and strategy's arrays."""
    with ModelStore(folder) as store:
        record(store, "scaffold")
        yield folder


def own(folder: Path, name: str) -> list[str]:
    with ModelDB(folder) as db:
        return [found.model_id for found in db.run("hearts").models(agent_id=name)]


def test_its_files_go_and_rows_say_that_it_was_withdrawn(hearts: Path) -> None:
    ids = own(hearts, "bob")
    with ModelDB(hearts) as db:
        paths = [db.model_by_id(model_id).path for model_id in ids]
        others = [found.path for found in db.run().models("local") if found.agent_id != "bob"]
        done = withdraw(db, "bob", clock=lambda: AT)
        [run] = done.runs
        assert (run.models, run.files, run.gone_before) == (6, 6, 0)  # a model and a control variate each
        assert run.size == sum(db.model_by_id(model_id).size for model_id in ids)
        for model_id in ids:
            with pytest.raises(StoreError, match="is not stored: withdrawn at 2027-01-15T08:00:00Z"):
                db.model_by_id(model_id).as_stored()
        [event] = db.run().events("agent_withdrawn")
        assert event.agent_id == "bob"
        assert event.details == {"models": 6, "files": 6, "size": run.size}
    assert not any(path.exists() for path in paths)
    assert all(path.exists() for path in others)
    assert verify_database(hearts) == []


def test_what_would_be_done_is_told_and_nothing_is_done(hearts: Path) -> None:
    with ModelDB(hearts) as db:
        told = plan_withdrawal(db, "bob", clock=lambda: AT)
        assert all(db.model_by_id(model_id).is_stored for model_id in own(hearts, "bob"))
        assert db.run().events("agent_withdrawn") == []
        assert withdraw(db, "bob", clock=lambda: AT) == replace(told, is_done=True)


def test_models_that_contain_it_are_named(hearts: Path) -> None:
    with ModelDB(hearts) as db:
        replay(db, "hearts", without=["bob"], name="others")
        [run] = withdraw(db, "bob").runs
        assert db.model("hearts:3").is_stored
    assert run.counted == (1, 2, 3)
    assert run.arrays == ("control", "total")
    assert (run.is_in_last, run.roll_back_to) == (True, 0)
    assert run.influenced == (
        Influenced("hearts", "channel", 18, 18, 2, 3),  # of the nine others, from round 2 on
        Influenced("hearts", "global", 3, 3, 1, 3),
        Influenced("hearts", "local", 18, 18, 2, 3),
        Influenced("others", "global", 2, 2, 2, 3),  # of its first round, updates began from the first model
    )


def test_late_comer_s_first_round_is_where_to_roll_back_to(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store, "ab")
        ask(store, 1, "initial", "a")
        publish(store, 1, [answer(store, 1, "a", 1.0)], 0.5)
        ask(store, 2, "g1", "ab")
        publish(store, 2, [answer(store, 2, name, value) for name, value in (("a", 2.0), ("b", 3.0))], 0.25)
        store.commit([replace(RUN, status=RunStatus.STOPPED, model_id="g2", round_id=2)], 150.0)
        with ModelDB(folder) as db:
            [run] = withdraw(db, "site b").runs
    assert (run.counted, run.roll_back_to) == ((2,), 1)
    assert "`fl run rollback hearts --to 1` and training on without it takes it out" in report_of(folder, "b")


def report_of(folder: Path, name: str) -> str:
    with ModelDB(folder) as db:
        return report(plan_withdrawal(db, name))


def test_file_of_an_equal_model_stays_and_is_named(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, 1)
        equal = model("equal", stage(store, "equal", 1.0), agent_id="b")  # as m1a
        first = model("first", stage(store, "first", 1.1), 0, ModelKind.STATE)  # as m1b
        over = replace(RUN, status=RunStatus.FINISHED, model_id="g1", round_id=1)
        store.commit([equal, first, over], 150.0)
        with ModelDB(folder) as db:
            [run] = withdraw(db, "b").runs
            assert (run.models, run.files) == (2, 0)
            assert [(entry.model_id, entry.others) for entry in run.shared] == [
                ("m1b", ("state model first in run hearts",)),
                ("equal", ("local model m1a of site a in run hearts",)),
            ]
            assert db.model("m1a").weights()["bias"][0] == 1.0
            with pytest.raises(StoreError, match="withdrawn at"):
                db.model_by_id("equal").weights()
    assert verify_database(folder) == []


def test_whose_model_the_run_began_with_is_in_all_of_them(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store)
        local = model("offered", stage(store, "offered", 7.0), 0, agent_id="a")
        first = replace(
            model("begun", stage(store, "begun", 7.0), 0, ModelKind.INITIAL), parents=(("offered", 1.0),)
        )
        store.commit([local, first, replace(RUN, model_id="begun")], 103.0)
        ask(store, 1, "begun")
        publish(store, 1, [answer(store, 1, name, value) for name, value in (("a", 2.0), ("b", 3.0))], 0.25)
        store.commit([replace(RUN, status=RunStatus.STOPPED, model_id="g1", round_id=1)], 150.0)
    with ModelDB(folder) as db:
        [run] = plan_withdrawal(db, "a").runs
    assert [entry.model_id for entry in run.shared] == ["offered"]
    assert ("initial", 1) in [(entry.kind, entry.models) for entry in run.influenced]


def test_second_time_there_is_nothing_left_to_remove(hearts: Path) -> None:
    with ModelDB(hearts) as db:
        withdraw(db, "bob")
        [run] = withdraw(db, "bob").runs
    assert (run.models, run.files, run.gone_before) == (0, 0, 6)
    assert verify_database(hearts) == []


def test_files_that_an_interrupted_withdrawal_left_go_with_the_next(
    hearts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon, which has the database open here, would delete them only when it starts again."""
    with ModelDB(hearts) as db:
        paths = [db.model_by_id(model_id).path for model_id in own(hearts, "bob")]
        with monkeypatch.context() as patch:
            patch.setattr(SecondWriter, "_delete_files", lambda self: None)
            withdraw(db, "bob")
        assert all(path.exists() for path in paths)
        withdraw(db, "bob")
    assert not any(path.exists() for path in paths)
    assert verify_database(hearts) == []


def test_of_several_agents_of_one_name_the_id_says_which(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store)
        over = replace(RUN, round_id=2, model_id="g2", rounds_done=2, status=RunStatus.FINISHED)
        store.commit([replace(agent("b"), name="site a"), over], 300.0)
    with ModelDB(folder) as db:
        for each in (plan_withdrawal, withdraw):
            with pytest.raises(
                NotFoundError, match="2 agents of run 'hearts' are called 'site a'; give the id of one: a, b"
            ):
                each(db, "site a")
        assert all(db.model(name).is_stored for name in ("m1a", "m1b"))
        withdraw(db, "b")
        assert [db.model(name).is_stored for name in ("m1a", "m1b")] == [True, False]


def test_in_all_runs_or_in_those_that_are_named(folder: Path) -> None:
    with ModelStore(folder) as store:
        record(store, name="hearts", rounds=1)
        record(store, name="lungs", rounds=1)
    with ModelDB(folder) as db:
        assert [run.run for run in withdraw(db, "bob", ["lungs"]).runs] == ["lungs"]
        assert db.run("hearts").models("local", agent_id="bob")[0].is_stored
        assert [run.run for run in withdraw(db, "bob").runs] == ["hearts", "lungs"]
        with pytest.raises(NotFoundError, match="no run has an agent 'zoe'"):
            withdraw(db, "zoe")
        with pytest.raises(NotFoundError, match="run lungs has no agent 'zoe'"):
            withdraw(db, "zoe", ["lungs"])
    assert verify_database(folder) == []


def test_agent_that_sent_nothing(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store)
    with ModelDB(folder) as db, pytest.raises(NotFoundError, match="'a' has sent no model yet"):
        withdraw(db, "a")


# --- runs that are under way --------------------------------------------------------------------


def test_run_that_is_under_way_must_not_ask_it_any_more(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, 1)
        ask(store, 2, "g1")
        waiting = answer(store, 2, "a", 5.0)
        with ModelDB(folder) as db:
            with pytest.raises(
                StoreError, match="is running, and site a still takes part in it: `fl run quarantine"
            ):
                withdraw(db, "a")
            store.commit([replace(agent("a"), quarantined="it goes")], 150.0)
            with pytest.raises(StoreError, match="an update of site a is being combined: wait for the end"):
                withdraw(db, "a")
            assert db.run().events("agent_withdrawn") == []
            store.commit(
                [replace(waiting, verdict=Verdict.DISCARDED, reason="its agent is in quarantine")], 151.0
            )
            [run] = withdraw(db, "a").runs
            assert run.models == 2
        publish(store, 2, [answer(store, 2, "b", 6.0)], 0.5)  # the daemon goes on
    assert verify_database(folder) == []


# --- the report and the command -----------------------------------------------------------------


def test_report_says_what_is_removed_and_what_is_not(hearts: Path) -> None:
    with ModelDB(hearts) as db:
        text = report(withdraw(db, "bob", clock=lambda: AT))
    for part in (
        "# Withdrawal of bob\n\nDone on 2027-01-15 at 08:00:00 UTC.",
        "## Run hearts\n\nRemoved\n\n- 6 files with ",
        "Not removed\n\n- What the models learned from it: rounds 1-3 count an update of it",
        "    - 3 global models of run hearts, rounds 1 to 3, 3 of them stored",
        "    - 18 local models of other agents, which were trained from such global models of run hearts",
        "- Its part of the strategy's arrays, which sum over agents: control, total.",
        "- The records: its name and attributes",
        "- Whatever lies elsewhere: backups",
        "`fl db replay hearts --without bob` combines the updates of the others again. That is not",
        "`fl run rollback hearts --to 0` and training on without it takes it out",
    ):
        assert part in text


def test_command(hearts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*args: str) -> str:
        done = CliRunner().invoke(
            fl_db, ["-d", str(hearts), "withdraw", "bob", *args], catch_exceptions=False
        )
        return done.output

    told = run()
    assert "What would be done" in told
    assert told.endswith("\nNothing was changed; say --yes to do it\n")
    file = tmp_path / "bob.md"
    assert run("--yes", "-o", str(file)) == ""
    assert "Done on" in file.read_text()
    found = json.loads(run("--json"))
    assert (found["agent"], found["is_done"], found["runs"][0]["gone_before"]) == ("bob", False, 6)
    with pytest.raises(SystemExit) as ended:
        run_command(fl_db, ["-d", str(hearts), "withdraw", "bob", "-o", str(file)])
    assert ended.value.code == 1
    assert "exists already; give the report another name" in capsys.readouterr().err


def test_where_the_report_cannot_be_written_nothing_is_done(hearts: Path, tmp_path: Path) -> None:
    file = tmp_path / "nowhere" / "bob.md"
    done = CliRunner().invoke(fl_db, ["-d", str(hearts), "withdraw", "bob", "--yes", "-o", str(file)])
    assert done.exit_code == 1
    assert "cannot write the report: there is no folder" in done.stderr
    with ModelDB(hearts) as db:
        assert db.run().events("agent_withdrawn") == []
