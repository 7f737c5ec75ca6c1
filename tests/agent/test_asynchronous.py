"""`AsyncAgent` as an asyncio program uses it."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_main.agent import AgentState, AsyncAgent, AsyncTask, Evaluation, RefusedError, TrainResult
from fl_main.errors import LocalProtocolError
from tests.system.agents import initial, site
from tests.system.conftest import StartDaemon
from tests.system.daemons import DaemonThread, run_of, until

MakeAgent = Callable[..., AsyncAgent]


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> DaemonThread:
    """A run for one agent."""
    return start_daemon(run_of(round={"min_agents": 1, "min_updates": 1}, evaluate={"every": 1}))


@pytest.fixture
def make_agent(daemon: DaemonThread, tmp_path: Path) -> MakeAgent:
    def make(**options: Any) -> AsyncAgent:
        known: dict[str, Any] = {
            "initial_weights": initial,
            "progress": False,
            "state_folder": tmp_path / "a",
        }
        return AsyncAgent(daemon.url, "r", "a", **known | options)

    return make


def test_dozen_lines_train_a_model(make_agent: MakeAgent) -> None:
    async def program() -> AsyncAgent:
        async with make_agent() as agent:
            async for task in agent.tasks():
                receipt = await task.submit({n: a + 1 for n, a in task.weights.items()}, 1, {"loss": 1})
                assert receipt
                assert receipt.verdict == "accepted"
            assert agent.state is AgentState.ENDED
        return agent

    final = asyncio.run(program()).final
    assert final
    np.testing.assert_allclose(final.weights["b"], [3, 3, 3])


@pytest.mark.parametrize("is_async", [True, False], ids=["coroutine", "function"])
def test_functions_may_be_coroutines(is_async: bool, make_agent: MakeAgent, daemon: DaemonThread) -> None:
    async def train(task: AsyncTask) -> TrainResult:
        await asyncio.sleep(0)
        return site(1)(task)

    async def evaluate(weights: Any) -> Evaluation:
        await asyncio.sleep(0)
        return Evaluation({"loss": 1}, 5)

    async def program() -> str:
        handler = evaluate if is_async else lambda weights: Evaluation({"loss": 1}, 5)
        async with make_agent(evaluate=handler) as agent:
            return (await agent.run(train if is_async else site(1))).status

    assert asyncio.run(program()) == "finished"
    assert [row.evaluate["loss"].value for row in daemon.db().run("r").rounds()[1:]] == [1, 1, 1]


def test_other_tasks_of_the_program_go_on_meanwhile(make_agent: MakeAgent) -> None:
    async def program() -> int:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        async with make_agent() as agent:
            await agent.run(site(1))
        ticking.cancel()
        return ticks

    assert asyncio.run(program()) > 10


def test_exception_is_reported_and_propagates(make_agent: MakeAgent, daemon: DaemonThread) -> None:
    async def program() -> None:
        async with make_agent() as agent:
            async for _ in agent.tasks():
                float("Smith")

    with pytest.raises(ValueError, match="Smith"):
        asyncio.run(program())
    [event] = until(lambda: daemon.db().run("r").events("task_failed"))
    assert event.details["reason"].startswith("ValueError at test_asynchronous.py:")


def test_tasks_are_skipped_declined_and_answered_once(make_agent: MakeAgent, daemon: DaemonThread) -> None:
    async def program() -> None:
        number = 0
        async with make_agent() as agent:
            async for task in agent.tasks():
                number += 1
                if number == 1:
                    await task.skip("not today")
                elif number > 2:
                    await task.submit(task.weights, 1)
                    with pytest.raises(LocalProtocolError, match="answered already"):
                        await task.submit(task.weights, 1)

    asyncio.run(program())
    reasons = [event.details["reason"] for event in daemon.db().run("r").events("task_declined")]
    assert reasons == ["not today", "the program went on to the next task"]


def test_agent_may_go_on_after_an_exception(make_agent: MakeAgent) -> None:
    tries = []

    async def train(task: AsyncTask) -> TrainResult:
        tries.append(task)
        if len(tries) == 1:
            raise RuntimeError
        return site(1)(task)

    async def program() -> str:
        async with make_agent() as agent:
            return (await agent.run(train, keep_going=True)).status

    assert asyncio.run(program()) == "finished"


def test_agent_may_go_on_after_an_evaluation_that_was_rejected(make_agent: MakeAgent) -> None:
    async def program() -> str:
        async with make_agent(evaluate=lambda weights: Evaluation({"loss": 1}, 0)) as agent:
            return (await agent.run(site(1), keep_going=True)).status

    assert asyncio.run(program()) == "finished"


def test_waiting_may_be_cancelled(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(run_of(name="other"), folder="other")

    async def program() -> None:
        async with AsyncAgent(daemon.url, "other", "a", state_folder=tmp_path / "b") as agent:
            async with asyncio.timeout(0.2):
                async for _ in agent.tasks():
                    pass

    with pytest.raises(TimeoutError):
        asyncio.run(program())
    until(lambda: not daemon.host("other").seats)


def test_agent_that_is_closed_says_so(make_agent: MakeAgent) -> None:
    async def program() -> None:
        async with make_agent() as agent:
            await agent.close()
            await agent.close()
            with pytest.raises(RefusedError, match="closed"):
                await anext(agent.tasks())

    asyncio.run(program())


def test_agent_whose_goodbye_is_not_waited_for_is_closed(
    make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hanging(*args: object) -> None:
        await asyncio.sleep(60)

    async def program() -> str:
        with monkeypatch.context() as patch:
            patch.setattr("fl_main.agent.client.Client.leave", hanging)
            agent = make_agent()
            await asyncio.to_thread(agent.start)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await agent.close()
        async with make_agent() as agent:
            return (await agent.run(site(1))).status

    assert asyncio.run(program()) == "finished"


def test_same_agent_may_be_opened_again_in_the_same_program(make_agent: MakeAgent) -> None:
    async def program() -> str:
        async with make_agent() as agent:
            await anext(agent.tasks())
        async with make_agent() as agent:
            return (await agent.run(site(1))).status

    assert asyncio.run(program()) == "finished"
