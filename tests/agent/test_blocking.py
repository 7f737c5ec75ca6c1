"""`Agent` as a program uses it, against a daemon of its own."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_main.agent import (
    Agent,
    AgentState,
    Evaluation,
    Invitation,
    RefusedError,
    Task,
    TrainResult,
    UpdateRejectedError,
    WeightsError,
)
from fl_main.db import Event
from fl_main.errors import LocalProtocolError, MissingExtraError, RunFailedError, SettingsError
from tests.system.agents import initial, site
from tests.system.conftest import StartAgent, StartDaemon
from tests.system.daemons import DaemonThread, run_of, until

MakeAgent = Callable[..., Agent]


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> DaemonThread:
    """A run for one agent."""
    return start_daemon(run_of(round={"min_agents": 1, "min_updates": 1}))


@pytest.fixture
def make_agent(daemon: DaemonThread, tmp_path: Path) -> MakeAgent:
    def make(name: str = "a", **options: Any) -> Agent:
        known: dict[str, Any] = {
            "initial_weights": initial,
            "progress": False,
            "state_folder": tmp_path / name,
        }
        return Agent(daemon.url, "r", name, **known | options)

    return make


def events(daemon: DaemonThread, kind: str) -> list[Event]:
    """Wait for events of a kind."""
    return until(lambda: daemon.db().run("r").events(kind), f"for {kind}")


def test_dozen_lines_train_a_model(make_agent: MakeAgent) -> None:
    rounds = []
    with make_agent() as agent:
        for task in agent.tasks():
            rounds.append(task.round_id)
            weights = {name: array + 1 for name, array in task.weights.items()}
            receipt = task.submit(weights, num_examples=10, metrics={"loss": 0.5})
            assert receipt
            assert (receipt.verdict, receipt.is_late) == ("accepted", False)
        assert agent.state is AgentState.ENDED
    assert rounds == [1, 2, 3]
    assert agent.final
    np.testing.assert_allclose(agent.final.weights["b"], [3, 3, 3])


def test_weights_of_a_task_cannot_be_changed_and_what_is_submitted_is_copied(make_agent: MakeAgent) -> None:
    with make_agent() as agent:
        for task in agent.tasks():
            with pytest.raises(ValueError, match="read-only"):
                task.weights["b"][:] = 1
            mine = {name: array.copy() for name, array in task.weights.items()}
            task.submit(mine, 1, wait=False)
            mine["b"][:] = 100
    assert agent.final
    assert agent.final.weights["b"].max() == 0


def test_task_says_what_it_is(start_daemon: StartDaemon, tmp_path: Path) -> None:
    settings = run_of(round={"min_agents": 1, "min_updates": 1}, config={"rate": 0.1, "layers": [1, 2]})
    daemon = start_daemon(settings)
    with Agent(daemon.url, "r", "a", initial_weights=initial(), state_folder=tmp_path / "a") as agent:
        task = next(agent.tasks())
        assert (task.round_id, task.config) == (1, {"rate": 0.1, "layers": [1, 2]})
        assert task.deadline_s
        assert 0 < task.deadline_s <= 60
        assert task.seed > 0
        assert task.state == task.channels == task.statistics == {}
        assert agent.state is AgentState.WORKING


def test_scalars_of_numpy_are_metrics(make_agent: MakeAgent, daemon: DaemonThread) -> None:
    with make_agent() as agent:
        for task in agent.tasks():
            metrics = {
                "a": np.float32(0.5),
                "b": np.array(2),
                "c": np.int64(3),
                "d": True,
                "e": np.array([5.0]),
            }
            task.submit(task.weights, np.int64(7), metrics)  # type: ignore[arg-type]
    update = next(u for u in daemon.db().run("r").updates() if u.kind == "train")
    assert (dict(update.metrics), update.num_examples) == ({"a": 0.5, "b": 2, "c": 3, "d": 1, "e": 5}, 7)


@pytest.mark.parametrize("count", [10.5, "10"])
def test_examples_that_are_no_whole_number_are_named(make_agent: MakeAgent, count: Any) -> None:
    with make_agent() as agent:
        task = next(agent.tasks())
        with pytest.raises(WeightsError, match=f"^num_examples must be a whole number, not {count!r}$"):
            task.submit(task.weights, count)


# --- not answering -----------------------------------------------------------------------


def read_patients(agent: Agent) -> None:
    for _ in agent.tasks():
        float("Smith")


def test_exception_in_the_loop_is_reported_by_type_and_place_and_propagates(
    make_agent: MakeAgent, daemon: DaemonThread
) -> None:
    with pytest.raises(ValueError, match="Smith"), make_agent() as agent:
        read_patients(agent)
    [event] = events(daemon, "task_failed")
    assert event.details["code"] == "error"
    assert event.details["reason"].startswith("ValueError at test_blocking.py:")
    assert event.details["reason"].endswith(" in read_patients")


def test_message_of_an_exception_travels_only_if_the_site_says_so(
    make_agent: MakeAgent, daemon: DaemonThread
) -> None:
    with pytest.raises(ValueError, match="Smith"), make_agent(tell_errors=True) as agent:
        read_patients(agent)
    [event] = events(daemon, "task_failed")
    assert event.details["reason"].endswith(": could not convert string to float: 'Smith'")


def test_arrays_that_cannot_be_sent_are_reported_too(make_agent: MakeAgent, daemon: DaemonThread) -> None:
    with pytest.raises(WeightsError), make_agent() as agent:
        next(agent.tasks()).submit({"w": ["text"]}, 1)
    assert "WeightsError at " in events(daemon, "task_failed")[0].details["reason"]


def test_facts_that_cannot_be_sent_do_not_hinder_the_next_start(make_agent: MakeAgent) -> None:
    with make_agent() as agent:
        task = next(agent.tasks())
        with pytest.raises(WeightsError, match="num_steps"):
            task.submit(task.weights, 1, num_steps=-1)
    with make_agent() as agent:
        assert agent.run(site(1)).status == "finished"


def test_steps_may_be_counted_by_numpy(make_agent: MakeAgent) -> None:
    with make_agent() as agent:
        for task in agent.tasks():
            task.submit(task.weights, np.int64(1), num_steps=np.int64(5))  # type: ignore[arg-type]


def test_function_that_raises_ends_the_run_of_this_agent(make_agent: MakeAgent, daemon: DaemonThread) -> None:
    def train(task: Task) -> TrainResult:
        raise ZeroDivisionError(task.round_id)

    with make_agent() as agent, pytest.raises(ZeroDivisionError):
        agent.run(train)
    assert "ZeroDivisionError at test_blocking.py:" in events(daemon, "task_failed")[0].details["reason"]


def test_agent_may_go_on_after_an_exception(make_agent: MakeAgent, daemon: DaemonThread) -> None:
    tries = []

    def train(task: Task) -> TrainResult:
        tries.append(task.task_id)
        if len(tries) == 2:
            raise RuntimeError
        return site(1)(task)

    with make_agent() as agent:
        assert agent.run(train, keep_going=True).status == "finished"
    assert len(tries) == 4
    assert len(events(daemon, "task_failed")) == 1


def test_task_may_be_skipped_with_a_reason(make_agent: MakeAgent, daemon: DaemonThread) -> None:
    with make_agent() as agent:
        for number, task in enumerate(agent.tasks()):
            if number:
                task.submit(task.weights, 1)
            else:
                task.skip("no data today")
    [event] = events(daemon, "task_declined")
    assert (event.details["code"], event.details["reason"]) == ("skipped", "no data today")


def test_going_on_without_an_answer_declines(make_agent: MakeAgent, daemon: DaemonThread) -> None:
    with make_agent() as agent:
        for number, task in enumerate(agent.tasks()):
            if number:
                task.submit(task.weights, 1)
    assert events(daemon, "task_declined")[0].details["reason"] == "the program went on to the next task"


def test_break_leaves(make_agent: MakeAgent, daemon: DaemonThread) -> None:
    with make_agent() as agent:
        for _ in agent.tasks():
            break
    [event] = events(daemon, "agent_left")
    assert event.details == {"reason": "the program ended", "for_good": True}
    with pytest.raises(RefusedError, match="closed"):
        next(agent.tasks())
    agent.close()


def test_task_can_be_answered_once(make_agent: MakeAgent) -> None:
    with make_agent() as agent:
        task = next(agent.tasks())
        task.submit(task.weights, 1)
        with pytest.raises(LocalProtocolError, match="answered already"):
            task.submit(task.weights, 1)


def test_function_must_give_a_result(make_agent: MakeAgent, daemon: DaemonThread) -> None:
    with (
        make_agent() as agent,
        pytest.raises(LocalProtocolError, match="must return a TrainResult, not dict"),
    ):
        agent.run(lambda task: {})  # type: ignore[arg-type, return-value]
    assert "LocalProtocolError at " in events(daemon, "task_failed")[0].details["reason"]


def test_agent_must_be_started(make_agent: MakeAgent) -> None:
    agent = make_agent()
    assert agent.state is AgentState.CONNECTING
    with pytest.raises(LocalProtocolError, match="with Agent"):
        agent._connected  # noqa: B018 - what every method asks first
    agent.close()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"attributes": {"gpus": ["a", "b"]}}, r"^attributes.gpus: \['a', 'b'\] is no text, finite number"),
        ({"attributes": {"age": float("nan")}}, "^attributes.age: nan is no text, finite number"),
        (
            {"attributes": {"note": "n" * 2001}},
            "^attributes.note: String should have at most 2000 characters, not 'nnn",
        ),
        (
            {"attributes": {"k" * 201: 1}},
            r"^attributes.k{60}….\[key\]: String should have at most 200 characters, not 'kkk",
        ),
        (
            {"attributes": {str(number): number for number in range(101)}},
            "^attributes: Dictionary should have at most 100 items after validation, not more, not {'0': 0",
        ),
        ({"name": "a" * 201}, "^name: String should have at most 200 characters, not 'aaa"),
        ({"run": ""}, "^run: String should have at least 1 character, not ''$"),
    ],
    ids=["list", "nan", "text", "key", "many", "name", "run"],
)
def test_facts_that_no_aggregator_would_take_are_named_at_once(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        Agent(**{"url": "ws://127.0.0.1:1", "run": "r", "name": "a", **wrong})


def skip_all(agent: Agent) -> None:
    for task in agent.tasks():
        task.skip("never")


def test_run_that_failed_is_a_typed_error(make_agent: MakeAgent) -> None:
    with make_agent() as agent, pytest.raises(RunFailedError, match="3 rounds in a row failed"):
        skip_all(agent)


def test_update_that_is_not_waited_for_is_sent_all_the_same(make_agent: MakeAgent) -> None:
    with make_agent() as agent:
        for task in agent.tasks():
            assert task.submit(task.weights, 1, wait=False) is None
    assert agent.final


# --- policy ------------------------------------------------------------------------------


def test_policy_may_deny_the_run_before_anything_is_sent(make_agent: MakeAgent, daemon: DaemonThread) -> None:
    asked: list[Any] = []

    def policy(subject: Any) -> str:
        asked.append(subject)
        return "not on Sundays"

    with make_agent(policy=policy) as agent, pytest.raises(RefusedError) as raised:
        next(agent.tasks())
    assert (raised.value.code, str(raised.value)) == (
        "policy",
        "this site's policy denied the run: not on Sundays",
    )
    [invitation] = asked
    assert isinstance(invitation, Invitation)
    assert (invitation.run, invitation.kinds) == ("r", ("train", "initialise"))
    assert invitation.stores_local_models == "every update is kept"
    assert invitation.settings_digest == daemon.host().settings.digest
    assert events(daemon, "agent_left")[0].details["reason"] == "policy: not on Sundays"


@pytest.mark.parametrize(
    ("answer", "reason"), [("only with 5 sites", "only with 5 sites"), (False, "denied"), (ValueError, "")]
)
def test_policy_may_deny_a_task_with_a_visible_reason(
    answer: Any, reason: str, make_agent: MakeAgent, daemon: DaemonThread
) -> None:
    denied: list[str] = []

    def policy(subject: Any) -> Any:
        if isinstance(subject, Invitation) or subject.kind != "train" or denied:
            return None
        denied.append(subject.task_id)
        if isinstance(answer, type):
            raise answer
        return answer

    with make_agent(policy=policy) as agent:
        assert agent.run(site(1)).status == "finished"
    [event] = events(daemon, "task_declined")
    assert event.details["code"] == "policy"
    assert event.details["reason"] == (reason or "the policy failed: ValueError")


# --- handlers ----------------------------------------------------------------------------


def test_handlers_run_in_the_callers_thread(start_daemon: StartDaemon, tmp_path: Path) -> None:
    threads = set()

    def evaluate(weights: Any) -> Evaluation:
        threads.add(threading.current_thread())
        return Evaluation({"loss": float(weights["b"].sum())}, 5)

    def statistics() -> dict[str, Any]:
        threads.add(threading.current_thread())
        return {"count": np.array(3)}

    daemon = start_daemon(
        run_of(round={"min_agents": 1, "min_updates": 1}, statistics=True, evaluate={"every": 1})
    )
    agent = Agent(
        daemon.url,
        "r",
        "a",
        initial_weights=initial,
        evaluate=evaluate,
        statistics=statistics,
        state_folder=tmp_path / "a",
    )
    with agent:
        for task in agent.tasks():
            assert task.statistics["count"] == 3
            task.submit(task.weights, 1)
    assert threads == {threading.current_thread()}
    assert agent.final
    assert agent.final.statistics["count"] == 3
    assert [row.evaluate["loss"].num_examples for row in daemon.db().run("r").rounds()[1:]] == [5, 5, 5]


def test_handler_that_raises_is_reported_and_propagates(start_daemon: StartDaemon, tmp_path: Path) -> None:
    def evaluate(weights: Any) -> Evaluation:
        raise KeyError("Smith")

    daemon = start_daemon(run_of(round={"min_agents": 1, "min_updates": 1}, evaluate={"every": 1}))
    agent = Agent(
        daemon.url, "r", "a", initial_weights=initial, evaluate=evaluate, state_folder=tmp_path / "a"
    )
    with agent, pytest.raises(KeyError):
        agent.run(site(1))
    reason = events(daemon, "task_failed")[0].details["reason"]
    assert reason.startswith("KeyError at test_blocking.py:")
    assert "Smith" not in reason


def test_evaluate_must_give_an_evaluation(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(run_of(round={"min_agents": 1, "min_updates": 1}, evaluate={"every": 1}))
    agent = Agent(
        daemon.url,
        "r",
        "a",
        initial_weights=initial,
        evaluate=lambda weights: {"loss": 1.0},
        state_folder=tmp_path / "a",
    )
    with agent, pytest.raises(LocalProtocolError, match=r"must return an Evaluation.*, not dict"):
        agent.run(site(1))


@pytest.mark.parametrize("keep_going", [False, True], ids=["ends", "goes_on"])
def test_evaluation_of_no_example_is_rejected(
    keep_going: bool, start_daemon: StartDaemon, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = start_daemon(run_of(round={"min_agents": 1, "min_updates": 1}, evaluate={"every": 1}))
    agent = Agent(
        daemon.url,
        "r",
        "a",
        initial_weights=initial,
        evaluate=lambda weights: Evaluation({"loss": 1}, 0),
        state_folder=tmp_path / "a",
    )
    rejected = pytest.raises(UpdateRejectedError, match="num_examples is 0")
    outcome: AbstractContextManager[object] = nullcontext() if keep_going else rejected
    with agent, outcome:
        assert agent.run(site(1), keep_going=keep_going).status == "finished"
    assert ("going on after UpdateRejectedError" in caplog.text) == keep_going


# --- notebooks ---------------------------------------------------------------------------


def test_second_agent_of_the_same_program_replaces_the_first(
    start_daemon: StartDaemon, start_agent: StartAgent, tmp_path: Path
) -> None:
    daemon = start_daemon(run_of())
    options: dict[str, Any] = {"state_folder": tmp_path / "a", "initial_weights": initial}
    first = Agent(daemon.url, "r", "a", **options)
    first.start()
    until(lambda: daemon.host().seats)
    with Agent(daemon.url, "r", "a", **options) as second:
        with pytest.raises(RefusedError):
            next(first.tasks())
        until(lambda: second.state is AgentState.WAITING)
        start_agent(daemon.url, 2)
        assert second.run(site(1)).status == "finished"
    assert len(daemon.db().run("r").agents()) == 2


def test_cell_that_was_interrupted_may_run_again(make_agent: MakeAgent) -> None:
    def interrupted(task: Task) -> TrainResult:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), make_agent() as agent:
        agent.run(interrupted)
    with make_agent() as agent:
        assert agent.run(site(1)).status == "finished"


def test_wait_that_was_interrupted_loses_no_task(
    make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    with make_agent() as agent:
        with monkeypatch.context() as patch:
            patch.setattr(Agent, "_wait", interrupted)
            with pytest.raises(KeyboardInterrupt):
                next(agent.tasks())
        assert agent.run(site(1)).status == "finished"


def test_cell_whose_goodbye_was_interrupted_may_run_again(
    make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(*args: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("fl_main.agent.client.Client.leave", interrupted)
        agent = make_agent()
        agent.start()
        with pytest.raises(ZeroDivisionError):
            agent.close()
    with make_agent() as agent:
        assert agent.run(site(1)).status == "finished"


def test_agent_works_where_a_loop_is_running_already(make_agent: MakeAgent) -> None:
    async def cell() -> str:
        asyncio.get_running_loop()  # raises if there is none
        with make_agent() as agent:
            return agent.run(site(1)).status

    assert asyncio.run(cell()) == "finished"


def test_model_that_needs_a_missing_package_is_an_error_not_a_silence(
    make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise MissingExtraError("numpy needs something for this model")

    monkeypatch.setattr("fl_main.agent.client.views", broken)
    with make_agent() as agent, pytest.raises(MissingExtraError, match="needs something"):
        next(agent.tasks())


def test_bug_of_ours_is_an_error_not_a_silence(
    make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("fl_main.agent.client.Client._resume", broken)
    with make_agent() as agent, pytest.raises(Exception, match="a bug of ours: ZeroDivisionError"):
        next(agent.tasks())
    assert "a bug of ours" in caplog.text
