"""Agents that poll, at the door and in the sessions behind it, over links in memory."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from fl_main.aggregator.door import TAKEN_OVER
from fl_main.errors import StoreFullError
from fl_main.messages import Assign, Join, Message, Nothing, Poll, Refuse
from fl_main.store import TaskRecord
from tests.aggregator.memory_link import Talker
from tests.aggregator.test_door import House, closed, play, until

__all__ = ["play"]

Play = Callable[..., None]


async def visit(house: House, agent_id: str = "a", **fields: Any) -> Talker:
    talker = await house.join(
        agent_id, **{"token": "join", "poll_s": 30.0, "kinds": ["train", "initialise"]} | fields
    )
    await until(lambda: ("r", agent_id) in house.daemon.door.sessions)
    return talker


async def hang_up(house: House, talker: Talker) -> None:
    await talker.link.close(1000, "polled")
    await until(lambda: not house.daemon.door.sessions)


async def answer(talker: Talker) -> Message:
    """Return what comes first: something to do, or nothing."""
    return await talker.hear(Assign | Nothing)  # type: ignore[arg-type]


async def asked(house: House) -> tuple[TaskRecord, Talker]:
    """Let the agents come that the run waits for; return who is asked for the first weights."""
    talkers = {agent_id: await visit(house, agent_id) for agent_id in "ab"}
    host = house.daemon.runs.find("r")
    assert host
    await until(lambda: host.machine.tasks)
    [task] = host.machine.tasks.values()
    for agent_id, talker in talkers.items():
        await talker.say(Poll())
        if agent_id != task.agent_id:
            assert isinstance(await answer(talker), Nothing)
            await talker.link.close(1000, "polled")
    return task, talkers[task.agent_id]


def test_who_polls_is_told_what_it_would_wait_for(play: Play) -> None:
    async def story(house: House) -> None:
        talker = await visit(house, kinds=["train"])
        await talker.say(Poll())
        assert (await talker.hear(Nothing)).reason == "it has no function for initialise"

    play(story)


def test_agent_that_hung_up_is_still_here(play: Play) -> None:
    async def story(house: House) -> None:
        await hang_up(house, await visit(house))
        assert house.is_here()
        await visit(house, "b")
        assert house.daemon.door.sessions.keys() == {("r", "b")}

    play(story)


def test_task_that_was_given_before_comes_before_nothing(play: Play) -> None:
    async def story(house: House) -> None:
        task, talker = await asked(house)
        assert isinstance(assign := await answer(talker), Assign)
        assert assign.task_id == task.task_id
        assert isinstance(nothing := await answer(talker), Nothing)
        assert nothing.reason == "making the initial model, round 0"

    play(story)


def test_agent_at_work_is_not_given_its_task_again(play: Play) -> None:
    async def story(house: House) -> None:
        task, talker = await asked(house)
        await hang_up(house, talker)
        talker = await visit(house, task.agent_id, held=[task.task_id])
        await talker.say(Poll())
        assert isinstance(await answer(talker), Nothing)

    play(story)


def test_task_whose_model_was_not_fetched_is_given_again_at_the_next_visit(play: Play) -> None:
    async def story(house: House) -> None:
        task, talker = await asked(house)
        await hang_up(house, talker)
        talker = await visit(house, task.agent_id)
        await talker.say(Poll())
        assert isinstance(assign := await answer(talker), Assign)
        assert assign.task_id == task.task_id

    play(story)


def test_database_in_trouble_does_not_keep_anybody_waiting(play: Play) -> None:
    async def story(house: House) -> None:
        talker = await visit(house)
        host = house.daemon.runs.find("r")
        assert host
        await host.journal.flush()

        def full(*args: object) -> None:
            raise StoreFullError("no room left")

        host.journal._store = SimpleNamespace(commit=full)
        other = await visit(house, "b")  # what comes of it cannot be stored
        for one in (talker, other):
            await one.say(Poll())
            assert (await one.hear(Nothing)).reason == "nothing can be stored at the moment: no room left"

    play(story, stop_s=0.1)


def test_interval_longer_than_a_round_is_refused(play: Play) -> None:
    async def story(house: House) -> None:
        talker = house.knock()
        await talker.say(
            Join(
                digest_algorithms=["blake3"],
                run="r",
                agent_id="a",
                instance_id="1",
                name="a",
                token="join",
                poll_s=600.5,
            )
        )
        refuse = await talker.hear(Refuse)
        assert (refuse.code, refuse.lasting) == ("poll", True)
        assert refuse.reason.endswith("lasts 600 s at most: poll more often, or raise round.deadline_s")
        assert (await closed(talker.link))[0] == 1008

    play(story)


def test_older_process_is_fenced_though_the_newer_one_is_between_two_visits(play: Play) -> None:
    async def story(house: House) -> None:
        await hang_up(house, await visit(house, instance_id="1", start_number=1))
        await hang_up(house, await visit(house, instance_id="2", start_number=2))
        talker = house.knock()
        await talker.say(
            Join(
                digest_algorithms=["blake3"],
                run="r",
                agent_id="a",
                instance_id="1",
                name="a",
                token="join",
                start_number=1,
                poll_s=30,
            )
        )
        refuse = await talker.hear(Refuse)
        assert (refuse.code, refuse.reason) == ("fenced", TAKEN_OVER)
        await visit(house, instance_id="2", start_number=2)

    play(story)
