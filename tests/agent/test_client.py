"""The agent's side of the conversation, with the other side played by the test."""

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from fl_main.agent.exchange import AgentState, Work
from fl_main.agent.outgoing import Outgoing
from fl_main.codec import encode
from fl_main.errors import ConnectionFailedError, FencedError, FLError, RefusedError
from fl_main.messages import (
    Assign,
    Cancel,
    Chunk,
    Counted,
    Decline,
    Fetch,
    Join,
    Leave,
    Message,
    Offer,
    Ping,
    Pong,
    Refuse,
    RunEnded,
    Send,
    Sending,
    Verdict,
)
from tests.agent.world import DATA, LAYOUT, TASK, WEIGHTS, WELCOME, World, cut_transfer, payload, work_of


def test_ping_is_answered(play: Callable[..., None]) -> None:
    async def story(world: World) -> None:
        talker = await world.connected()
        await talker.say(Ping())
        await talker.hear(Pong)

    play(story)


def test_model_is_fetched_and_handed_out_read_only(play: Callable[..., None]) -> None:
    async def story(world: World) -> None:
        work = await work_of(world, await world.connected())
        np.testing.assert_array_equal(work.arrays["weights"]["w"], WEIGHTS["w"])
        assert not work.arrays["weights"]["w"].flags.writeable
        assert world.client.state is AgentState.WORKING

    play(story)


def test_model_that_the_agent_holds_is_not_fetched_again(play: Callable[..., None]) -> None:
    async def story(world: World) -> None:
        talker = await world.connected()
        await work_of(world, talker)
        await talker.say(RunEnded(status="finished", round_id=1, final=payload()))
        assert (await world.client.next_work()).weights["w"].size == 1000  # type: ignore[union-attr]

    play(story)


def test_transfer_goes_on_where_it_stopped_on_the_next_connection(play: Callable[..., None]) -> None:
    async def story(world: World) -> None:
        assign = await cut_transfer(await world.connected())
        talker = await world.connected()
        assert world.join.held == []  # it has no model yet: the task may be given to it again
        await talker.say(assign)
        fetch = await talker.hear(Fetch)
        assert fetch.offset == 800
        await talker.say(Sending(transfer=fetch.digest, offset=800, size=len(DATA)))
        await talker.say(Chunk(transfer=fetch.digest, offset=800, data=DATA[800:]))
        assert isinstance(await world.client.next_work(), Work)

    play(story)


def test_model_whose_digest_is_wrong_is_asked_for_again_and_then_given_up(play: Callable[..., None]) -> None:
    async def story(world: World) -> None:
        talker = await world.connected()
        await talker.say(Assign(task_id=TASK, kind="train", round_id=1, payloads=[payload()]))
        for _ in range(3):
            fetch = await talker.hear(Fetch)
            assert fetch.offset == 0
            await talker.say(Sending(transfer=fetch.digest, offset=0, size=len(DATA)))
            await talker.say(Chunk(transfer=fetch.digest, offset=0, data=bytes(len(DATA))))
        await world.connected()
        assert talker.link.closed == (1002, "a model whose bytes do not match its digest")

    play(story)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"\xc1", "a frame of 1 bytes is not msgpack"),
        ("text", "text frames are not part of this protocol"),
        (
            encode(Join(run="r", agent_id="a", instance_id="1", name="a")),
            "'join' in a session that is joined",
        ),
        (encode(Chunk(transfer="x", offset=0, data=b"1")), "'x' was not asked for"),
        (encode(Sending(transfer="x", offset=0, size=1)), "'x' was not asked for"),
        (
            encode(Send(task_id=TASK, channel="weights", offset=0, credit=1)),
            f"an update of task {TASK} was not offered",
        ),
    ],
)
def test_aggregator_that_breaks_the_protocol_is_told_and_dialled_again(
    frame: bytes, reason: str, play: Callable[..., None]
) -> None:
    async def story(world: World) -> None:
        talker = await world.connected()
        await talker.link.send(frame)
        await world.connected()
        assert talker.link.closed
        assert talker.link.closed[1].startswith(reason)

    play(story)


def test_updates_are_named_by_the_algorithm_that_the_aggregator_says(play: Callable[..., None]) -> None:
    async def story(world: World) -> None:
        for digest in ("blake3", "sha256"):
            talker = await world.connected(welcome=False)
            assert world.join.digest_algorithms == ["blake3", "sha256"]
            await talker.say(WELCOME.model_copy(update={"digest_algorithm": digest}))
            await talker.say(Ping())
            await talker.hear(Pong)
            entry = world.folder.put(TASK, 5, None, {}, {"weights": Outgoing.of(WEIGHTS, LAYOUT)}, None, 0.0)
            assert entry.payloads[0].digest.startswith(f"{digest}:")
            await talker.link.close(1006, "cut")

    play(story)


def test_aggregator_with_unknown_digests_breaks_the_protocol(play: Callable[..., None]) -> None:
    async def story(world: World) -> None:
        talker = await world.connected(welcome=False)
        await talker.say(WELCOME.model_copy(update={"digest_algorithm": "md5"}))
        await world.connected()
        assert talker.link.closed == (
            1002,
            "model files named by 'md5' digests, which this agent cannot compute",
        )

    play(story)


def test_description_of_a_model_that_cannot_be_is_an_error_of_the_aggregator(
    play: Callable[..., None],
) -> None:
    async def story(world: World) -> None:
        talker = await world.connected(welcome=False)
        await talker.say(WELCOME.model_copy(update={"rows": [("w", "X9", [1], "parameter")]}))
        with pytest.raises(FLError):
            await world.client.next_work()

    play(story)


def test_finished_update_is_offered_on_every_connection_until_it_is_answered(
    play: Callable[..., None],
) -> None:
    async def story(world: World) -> None:
        talker = await world.connected()
        await work_of(world, talker)
        entry = world.folder.put(TASK, 5, None, {}, {"weights": Outgoing.of(WEIGHTS, LAYOUT)}, None, 0.0)
        answer = asyncio.create_task(world.client.hand_in(entry))
        await talker.hear(Offer)
        await talker.link.close(1006, "cut")
        talker = await world.connected()
        assert world.join.held == [TASK]
        offer = await talker.hear(Offer)
        assert (offer.task_id, offer.num_examples, offer.payloads[0].rows) == (TASK, 5, None)
        await talker.say(Send(task_id=TASK, channel="weights", offset=4000, credit=6000))
        assert (await talker.hear(Chunk)).data == DATA[4000:6000]
        await talker.say(Verdict(task_id=TASK, verdict="accepted"))
        assert (await answer).verdict == "accepted"
        assert world.folder.entries() == []
        await talker.link.close(1006, "cut")
        await world.connected()
        assert world.join.held == []

    play(story)


def test_task_that_is_ready_is_held_and_not_taken_twice(play: Callable[..., None]) -> None:
    async def story(world: World) -> None:
        talker = await world.connected()
        assign = Assign(task_id=TASK, kind="train", round_id=1)
        await talker.say(assign)
        await talker.say(assign)
        await talker.say(Ping())
        await talker.hear(Pong)
        await talker.link.close(1006, "cut")
        talker = await world.connected()
        assert world.join.held == [TASK]
        await talker.say(assign)
        assert isinstance(await world.client.next_work(), Work)
        assert not world.client._inbox.has_next

    play(story)


def test_task_is_for_the_next_who_asks_if_the_first_gives_up(play: Callable[..., None]) -> None:
    async def story(world: World) -> None:
        talker = await world.connected()
        outbox, is_reached = world.client._outbox, asyncio.Event()
        settled = outbox.settled

        async def hanging(*args: object) -> None:  # as on a full disk
            is_reached.set()
            await asyncio.sleep(60)

        outbox.settled = hanging  # type: ignore[method-assign, assignment]
        await talker.say(Assign(task_id=TASK, kind="train", round_id=1))
        asking = asyncio.create_task(world.client.next_work())
        await is_reached.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        outbox.settled = settled  # type: ignore[method-assign]
        work = await world.client.next_work()
        assert isinstance(work, Work)
        assert work.assign.task_id == TASK

    play(story)


def test_cancelled_task_is_given_back_unless_the_program_has_it(play: Callable[..., None]) -> None:
    async def story(world: World) -> None:
        talker = await world.connected()
        await talker.say(Assign(task_id=TASK, kind="train", round_id=1))
        await talker.say(Cancel(task_id=TASK, reason="its round is over"))
        assert (await talker.hear(Decline)).code == "lost"
        await talker.say(Assign(task_id="b" * 24, kind="train", round_id=2))
        work = await world.client.next_work()
        assert isinstance(work, Work)
        assert work.assign.round_id == 2
        await talker.say(Cancel(task_id="b" * 24, reason="its round is over"))
        await talker.say(Ping())
        assert isinstance(await talker.hear(Decline | Pong), Pong)  # type: ignore[arg-type]

    play(story)


def test_nothing_more_is_fetched_for_a_cancelled_task(play: Callable[..., None]) -> None:
    async def story(world: World) -> None:
        talker = await world.connected()
        control = payload().model_copy(update={"channel": "control", "digest": f"blake3:{'0' * 64}"})
        await talker.say(Assign(task_id=TASK, kind="train", round_id=1, payloads=[payload(), control]))
        fetch = await talker.hear(Fetch)
        await talker.say(Cancel(task_id=TASK, reason="its round is over"))
        await talker.hear(Decline)
        await talker.say(Sending(transfer=fetch.digest, offset=0, size=len(DATA)))
        await talker.say(Chunk(transfer=fetch.digest, offset=0, data=DATA))
        for _ in range(3):
            await talker.say(Ping())
            assert isinstance(await talker.hear(Fetch | Pong), Pong)  # type: ignore[arg-type]

    play(story)


def test_cancelled_task_says_nothing_of_rollbacks(play: Callable[..., None]) -> None:
    async def story(world: World) -> None:
        talker = await world.connected()
        outbox, heard = world.client._outbox, []
        settled = outbox.settled

        async def noting(run_id: str, rollbacks: int) -> None:
            heard.append(rollbacks)
            await settled(run_id, rollbacks)

        outbox.settled = noting  # type: ignore[method-assign]
        await talker.say(Assign(task_id=TASK, kind="train", round_id=1, rollbacks=0))
        await talker.say(Cancel(task_id=TASK, reason="the run was rolled back to round 0"))
        await talker.hear(Decline)
        await talker.say(Assign(task_id="b" * 24, kind="train", round_id=2, rollbacks=1))
        assert isinstance(await world.client.next_work(), Work)
        assert heard == [1]  # one of before would have it forget what it keeps once more

    play(story)


def test_unknown_kind_of_task_is_declined(play: Callable[..., None]) -> None:
    async def story(world: World) -> None:
        talker = await world.connected()
        await talker.say(Assign(task_id=TASK, kind="dance", round_id=1))
        decline = await talker.hear(Decline)
        assert (decline.code, decline.reason) == ("unsupported", "this agent does not do dance")

    play(story)


def test_what_was_said_without_a_connection_is_said_later(play: Callable[..., None]) -> None:
    async def story(world: World) -> None:
        await world.client.decline(TASK, "skipped", "no time")
        talker = await world.connected()
        assert (await talker.hear(Decline)).reason == "no time"

    play(story)


def test_states_become_current_in_the_order_of_their_rounds(play: Callable[..., None]) -> None:
    async def story(world: World) -> None:
        for number, task_id in enumerate(("f" * 24, "a" * 24)):
            world.folder.put(task_id, 1, None, {}, {}, {"s": np.array(number)}, 0.0)
            world.folder.drop(task_id, keep_state=True)
        talker = await world.connected(welcome=False)
        assert world.join.uncounted == ["a" * 24, "f" * 24]
        assert world.join.held == []  # should the database have lost them, they are to be done again
        await talker.say(WELCOME.model_copy(update={"counted": {"a" * 24: 2, "f" * 24: 1}}))
        await talker.say(Ping())
        await talker.hear(Pong)
        assert world.folder.state()["s"] == 1
        await talker.say(Counted(task_id="b" * 24, round_id=3))

    play(story)


def test_fenced_agent_stops(play: Callable[..., None]) -> None:
    async def story(world: World) -> None:
        talker = await world.connected()
        await talker.say(Refuse(code="fenced", reason="a newer one is here"))
        with pytest.raises(FencedError, match="a newer one is here"):
            await world.client.next_work()
        await world.running
        assert world.dialled.empty()
        assert world.client.state is AgentState.ENDED

    play(story)


def test_refusal_for_now_is_no_end(play: Callable[..., None]) -> None:
    async def story(world: World) -> None:
        lines: list[str] = []
        world.client._on_change = lambda: lines.append(world.client.line)
        talker = await world.connected(welcome=False)
        await talker.say(Refuse(code="full", reason="full", lasting=False, retry_s=0.01))
        await world.connected()
        assert lines[0] == "full; trying again in 1 s"

    play(story)


def test_who_waits_for_an_answer_hears_of_the_refusal(play: Callable[..., None]) -> None:
    async def story(world: World) -> None:
        talker = await world.connected()
        await work_of(world, talker)
        entry = world.folder.put(TASK, 5, None, {}, {}, None, 0.0)
        answer = asyncio.create_task(world.client.hand_in(entry))
        await talker.hear(Offer)
        await talker.say(Refuse(code="layout", reason="another model"))
        with pytest.raises(RefusedError, match="another model"):
            await answer
        with pytest.raises(RefusedError, match="another model"):
            await world.client.next_work()

    play(story)


def test_lasting_failure_before_the_first_join_ends_the_agent_later_ones_do_not(
    play: Callable[..., None],
) -> None:
    async def story(world: World) -> None:
        talker = await world.connected()
        world.refusals += [ConnectionFailedError("wrong path", lasting=True)] * 2
        await talker.link.close(1006, "cut")
        await world.connected()  # the aggregator may have been set up anew meanwhile

    async def end(world: World) -> None:
        world.refusals.append(ConnectionFailedError("wrong path", lasting=True))
        with pytest.raises(ConnectionFailedError, match="wrong path"):
            await world.client.next_work()

    play(story)
    play(end)


def test_goodbye_is_said(play: Callable[..., None]) -> None:
    async def story(world: World) -> None:
        talker = await world.connected()
        await talker.say(Ping())
        await talker.hear(Pong)
        await world.client.leave("enough")
        assert (await talker.hear(Leave)).reason == "enough"

    play(story)


def test_model_that_follows_its_task_is_not_asked_for(play: Callable[..., None]) -> None:
    async def story(world: World) -> None:
        talker = await world.connected()
        assert world.join.follows
        model = payload().model_copy(update={"follows": True})
        await talker.say(Assign(task_id=TASK, kind="train", round_id=1, payloads=[model]))
        await talker.say(Sending(transfer=model.digest, offset=0, size=len(DATA)))
        await talker.say(Chunk(transfer=model.digest, offset=0, data=DATA))
        work = await world.client.next_work()
        assert isinstance(work, Work)
        np.testing.assert_array_equal(work.arrays["weights"]["w"], WEIGHTS["w"])
        await talker.say(Ping())
        assert isinstance(await talker.hear(Message), Pong)  # nothing else was said before

    play(story)


def test_model_that_follows_and_is_cut_is_asked_for_on_the_next_connection(play: Callable[..., None]) -> None:
    async def story(world: World) -> None:
        talker = await world.connected()
        model = payload().model_copy(update={"follows": True})
        await talker.say(Assign(task_id=TASK, kind="train", round_id=1, payloads=[model]))
        await talker.say(Sending(transfer=model.digest, offset=0, size=len(DATA)))
        await talker.say(Chunk(transfer=model.digest, offset=0, data=DATA[:800]))
        await talker.say(Ping())
        await talker.hear(Pong)
        await talker.link.close(1006, "cut")
        talker = await world.connected()
        await talker.say(Assign(task_id=TASK, kind="train", round_id=1, payloads=[payload()]))
        assert (await talker.hear(Fetch)).offset == 800

    play(story)


def test_agent_with_a_policy_is_asked_before_models_come(play: Callable[..., None]) -> None:
    async def story(world: World) -> None:
        await world.connected()
        assert not world.join.follows

    play(story, policy=lambda subject: True)


@pytest.mark.parametrize(("credit", "follows"), [(len(DATA), True), (len(DATA) - 8, False), (0, False)])
def test_update_follows_its_offer_where_there_is_room_for_it(
    credit: int, follows: bool, play: Callable[..., None]
) -> None:
    async def story(world: World) -> None:
        talker = await world.connected()
        assign = Assign(task_id=TASK, kind="train", round_id=1, credit=credit)
        await talker.say(assign)
        await world.client.next_work()
        entry = world.folder.put(TASK, 1, None, {}, {"weights": Outgoing.of(WEIGHTS, LAYOUT)}, None, 0.0)
        handed_in = asyncio.create_task(world.client.hand_in(entry))
        offer = await talker.hear(Offer)
        assert [payload.follows for payload in offer.payloads] == [follows]
        if not follows:
            await talker.say(Send(task_id=TASK, channel="weights", offset=0, credit=len(DATA)))
        chunk = await talker.hear(Chunk)
        assert (chunk.transfer, chunk.offset, bytes(chunk.data)) == (f"{TASK}/weights", 0, DATA)
        await talker.say(Verdict(task_id=TASK, verdict="accepted"))
        assert (await handed_in).verdict == "accepted"

    play(story)


def test_update_waits_to_be_asked_for_on_another_connection_than_its_task_came_on(
    play: Callable[..., None],
) -> None:
    async def story(world: World) -> None:
        talker = await world.connected()
        await talker.say(Assign(task_id=TASK, kind="train", round_id=1, credit=len(DATA)))
        await world.client.next_work()
        await talker.link.close(1006, "cut")
        talker = await world.connected()
        entry = world.folder.put(TASK, 1, None, {}, {"weights": Outgoing.of(WEIGHTS, LAYOUT)}, None, 0.0)
        handed_in = asyncio.create_task(world.client.hand_in(entry))
        assert not (await talker.hear(Offer)).payloads[0].follows
        handed_in.cancel()

    play(story)
