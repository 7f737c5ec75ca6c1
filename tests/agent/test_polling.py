"""An agent that does not stay connected, with the other side played by the test."""

import asyncio
import logging
import math
from collections.abc import Callable

import pytest

from fl_main.agent import Agent
from fl_main.agent.exchange import AgentState, Ending, Work
from fl_main.agent.outgoing import Outgoing
from fl_main.errors import ConnectionFailedError, SettingsError
from fl_main.messages import (
    Assign,
    Cancel,
    Chunk,
    Decline,
    Fetch,
    Leave,
    Message,
    Nothing,
    Offer,
    Ping,
    Poll,
    Pong,
    RunEnded,
    Sending,
    Verdict,
)
from fl_main.ports import LinkClosedError
from tests.agent.world import DATA, LAYOUT, TASK, WEIGHTS, World, cut_transfer, payload
from tests.aggregator.memory_link import Talker

Play = Callable[..., None]

SOON_S = 0.001
NEVER_S = 1e6  # in a test: what comes before it came for another reason


def hand_in(world: World) -> "asyncio.Task[Verdict]":
    entry = world.folder.put(TASK, 5, None, {}, {"weights": Outgoing.of(WEIGHTS, LAYOUT)}, None, 0.0)
    return asyncio.create_task(world.client.hand_in(entry))


async def judged(talker: Talker) -> None:
    await talker.hear(Offer)
    await talker.say(Verdict(task_id=TASK, verdict="accepted"))


async def at_work(world: World) -> Talker:
    """Give the client a task; return where it waits for the answer to its next poll."""
    talker = await world.connected()
    await talker.hear(Poll)
    await talker.say(Assign(task_id=TASK, kind="train", round_id=1, payloads=[payload()]))
    await talker.say(Nothing(reason="training, round 1"))  # it has something to do all the same
    await fetched(talker)
    assert isinstance(await world.client.next_work(), Work)
    await talker.hear(Poll)
    return talker


async def fetched(talker: Talker) -> None:
    fetch = await talker.hear(Fetch)
    await talker.say(Sending(transfer=fetch.digest, offset=0, size=len(DATA)))
    await talker.say(Chunk(transfer=fetch.digest, offset=0, data=DATA))


def test_agent_says_how_often_it_looks_in_and_comes_again(play: Play) -> None:
    async def story(world: World) -> None:
        for _ in range(3):
            await world.polled()
            assert world.join.poll_s == SOON_S

    play(story, poll_s=SOON_S)


def test_agent_between_two_visits_says_what_it_waits_for(play: Play) -> None:
    async def story(world: World) -> None:
        await world.polled("2 of 3 agents are here")
        assert world.client.state is AgentState.WAITING
        assert world.client.line == "waiting for a task; looks in every 90 s: 2 of 3 agents are here"

    play(story, poll_s=90)


def test_hanging_up_is_no_trouble(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    async def story(world: World) -> None:
        states: set[str] = set()
        world.client._on_change = lambda: states.add(world.client.state)
        for _ in range(3):
            await world.polled()
        assert states == {AgentState.WAITING}

    with caplog.at_level(logging.INFO):
        play(story, poll_s=SOON_S)
    assert [record.message for record in caplog.records] == ["joined run=r round=0"]


def test_agent_that_stays_does_not_poll(play: Play) -> None:
    async def story(world: World) -> None:
        talker = await world.connected()
        await talker.say(Nothing(reason="you did not ask"))
        await talker.say(Ping())
        assert isinstance(await talker.hear(Message), Pong)

    play(story)


# --- tasks -------------------------------------------------------------------------------


def test_agent_hangs_up_once_it_has_the_model_and_looks_in_while_it_works(play: Play) -> None:
    async def story(world: World) -> None:
        talker = await at_work(world)
        await world.sent_away(talker)
        assert world.client.line == "working on a task; next look in 0.001 s"
        await world.polled()
        assert world.join.held == [TASK]
        assert world.client.state is AgentState.WORKING

    play(story, poll_s=SOON_S)


def test_update_that_is_handed_in_does_not_wait_for_the_next_visit(play: Play) -> None:
    async def story(world: World) -> None:
        talker = await at_work(world)
        await world.sent_away(talker)
        answer = hand_in(world)
        talker = await world.connected()
        assert world.join.held == [TASK]
        await judged(talker)
        assert (await answer).verdict == "accepted"
        await talker.hear(Poll)  # the next task may be there already
        await world.sent_away(talker)
        assert world.client.state is AgentState.WAITING

    play(story, poll_s=NEVER_S)


def test_agent_stays_as_long_as_its_offer_is_not_answered(play: Play) -> None:
    async def story(world: World) -> None:
        talker = await at_work(world)
        answer = hand_in(world)
        await talker.hear(Offer)
        await talker.say(Nothing(reason="it was asked before the offer"))
        await talker.say(Ping())
        assert isinstance(await talker.hear(Message), Pong)
        await talker.say(Verdict(task_id=TASK, verdict="accepted"))
        assert (await answer).verdict == "accepted"
        await talker.hear(Poll)

    play(story, poll_s=NEVER_S)


def test_task_that_is_declined_between_two_visits_is_given_back_at_once(play: Play) -> None:
    async def story(world: World) -> None:
        talker = await at_work(world)
        await world.sent_away(talker)
        await world.client.decline(TASK, "skipped", "no time")
        talker = await world.connected()
        assert world.join.held == []
        assert (await talker.hear(Decline)).reason == "no time"
        await talker.hear(Poll)

    play(story, poll_s=NEVER_S)


def test_what_is_said_of_a_cancelled_task_goes_before_the_next_question(play: Play) -> None:
    async def story(world: World) -> None:
        talker = await world.connected()
        await talker.hear(Poll)
        await talker.say(Assign(task_id=TASK, kind="train", round_id=1))
        await talker.say(Cancel(task_id=TASK, reason="its round is over"))
        await talker.say(Nothing(reason="nothing to do"))
        assert (await talker.hear(Decline)).code == "lost"
        await talker.hear(Poll)

    play(story, poll_s=NEVER_S)


def test_run_that_ended_is_heard_of_at_a_visit_and_is_the_last_one(play: Play) -> None:
    async def story(world: World) -> None:
        talker = await world.connected()
        await talker.hear(Poll)
        await talker.say(RunEnded(status="finished", round_id=1, final=payload()))
        await talker.say(Nothing(reason="the run is finished"))
        await fetched(talker)
        ending = await world.client.next_work()
        assert isinstance(ending, Ending)
        assert ending.weights["w"].size == 1000
        await talker.hear(Poll)
        await world.sent_away(talker)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(world.connected(), 10 * SOON_S)

    play(story, poll_s=SOON_S)


def test_update_that_was_trained_beyond_the_end_of_the_run_is_handed_in(play: Play) -> None:
    async def story(world: World) -> None:
        talker = await at_work(world)
        await talker.say(RunEnded(status="finished", round_id=1, final=None))
        await talker.say(Nothing(reason="the run is finished"))
        assert isinstance(await world.client.next_work(), Ending)
        await talker.hear(Poll)
        await world.sent_away(talker)
        answer = hand_in(world)
        talker = await world.connected()
        await talker.hear(Offer)
        await talker.say(Verdict(task_id=TASK, verdict="discarded", reason="the run is finished"))
        assert (await answer).verdict == "discarded"

    play(story, poll_s=NEVER_S)


# --- trouble -----------------------------------------------------------------------------


def test_transfer_that_is_cut_is_gone_on_with_at_once(play: Play) -> None:
    async def story(world: World) -> None:
        assign = await cut_transfer(await world.connected())
        talker = await world.connected()
        await talker.say(assign)
        assert (await talker.hear(Fetch)).offset == 800

    play(story, poll_s=NEVER_S)


def test_aggregator_that_is_away_at_a_visit_is_tried_again_as_always(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(world: World) -> None:
        talker = await at_work(world)
        world.refusals += [ConnectionFailedError("nothing listens there")] * 2
        await world.sent_away(talker)
        answer = hand_in(world)
        await judged(await world.connected())
        assert (await answer).verdict == "accepted"

    play(story, poll_s=NEVER_S)
    assert [r.message for r in caplog.records if r.levelno == logging.WARNING] == [
        "nothing listens there; trying again until it works"
    ]


def test_connection_that_ends_before_the_answer_is_followed_by_another(play: Play) -> None:
    async def story(world: World) -> None:
        talker = await world.connected()
        await talker.hear(Poll)
        await talker.link.close(1001, "the aggregator is stopping")
        await world.polled()

    play(story, poll_s=NEVER_S)


# --- leaving -----------------------------------------------------------------------------


def test_agent_that_leaves_between_two_visits_comes_to_say_so(play: Play) -> None:
    async def story(world: World) -> None:
        await world.polled()
        goodbye = asyncio.create_task(world.client.leave("enough"))
        talker = await world.connected()
        assert (await talker.hear(Leave)).reason == "enough"
        await goodbye
        await world.running
        assert world.dialled.empty()

    play(story, poll_s=NEVER_S)


def test_agent_whose_aggregator_is_away_leaves_without_a_word(play: Play) -> None:
    async def story(world: World) -> None:
        await world.polled()
        world.refusals.append(ConnectionFailedError("nothing listens there"))
        await world.client.leave("enough")
        await world.running

    play(story, poll_s=NEVER_S)


def test_agent_that_leaves_while_it_is_there_says_so_there(play: Play) -> None:
    async def story(world: World) -> None:
        talker = await world.connected()
        await talker.hear(Poll)
        await world.client.leave("enough")
        assert (await talker.hear(Leave)).reason == "enough"
        with pytest.raises(LinkClosedError, match="enough"):
            await talker.hear(Message)

    play(story, poll_s=NEVER_S)


# --- settings ----------------------------------------------------------------------------


@pytest.mark.parametrize("poll_s", [0, -1.0, math.inf, math.nan])
def test_interval_must_be_one(poll_s: float) -> None:
    with pytest.raises(SettingsError, match=f"^poll_s: {poll_s} is not a number of seconds above 0$"):
        Agent("ws://127.0.0.1:1", "r", connection="poll", poll_s=poll_s)


def test_connection_must_be_of_a_kind() -> None:
    with pytest.raises(SettingsError, match="connection: 'pol' is neither stay nor poll"):
        Agent("ws://127.0.0.1:1", "r", connection="pol")  # type: ignore[arg-type]


def test_token_that_is_no_text_is_refused_and_not_shown() -> None:
    with pytest.raises(SettingsError, match=r"^token: Input should be a valid string$") as refused:
        Agent("ws://127.0.0.1:1", "r", token=271828)  # type: ignore[arg-type]
    assert "271828" not in str(refused.value)


def test_durability_must_be_of_a_kind() -> None:
    with pytest.raises(SettingsError, match="durability: 'Power' is neither process nor power"):
        Agent("ws://127.0.0.1:1", "r", durability="Power")  # type: ignore[arg-type]
