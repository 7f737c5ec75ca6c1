"""The door and the sessions behind it, over links in memory."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from fl_main.aggregator.door import TAKEN_OVER
from fl_main.aggregator.listener import WebSocketListener
from fl_main.aggregator.server import Daemon
from fl_main.aggregator.sessions import MAX_QUEUED
from fl_main.aggregator.uploads import EARLY_PART
from fl_main.db import ModelStore
from fl_main.events import Offered
from fl_main.messages import MAX_FRAME_BYTES, Ask, Join, Leave, Operate, Ping, Pong, Refuse, Reply, Welcome
from fl_main.session import Session, Side
from fl_main.settings import AggregatorSettings, RunSettings
from tests.aggregator.memory_link import MemoryLink, Talker, link_pair, ports

Story = Callable[["House"], Coroutine[Any, Any, None]]


class House:
    """A daemon that listens nowhere: the test brings its links to the door."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.links: list[MemoryLink] = []
        self.served: list[asyncio.Task[None]] = []

    def knock(self) -> Talker:
        mine, theirs = link_pair()
        self.links.append(mine)
        self.served.append(asyncio.create_task(self.daemon.door.serve(theirs)))
        return Talker(mine, Session(Side.CLIENT))

    async def join(self, agent_id: str = "a", **fields: Any) -> Talker:
        talker = self.knock()
        await talker.say(
            Join(
                **{
                    "digest_algorithms": ["blake3"],
                    "run": "r",
                    "agent_id": agent_id,
                    "instance_id": "1",
                    "name": agent_id,
                }
                | fields
            )
        )
        await talker.hear(Welcome)
        return talker

    def is_here(self, agent_id: str = "a") -> bool:
        host = self.daemon.runs.find("r")
        assert host
        member = host.machine.members.get(agent_id)
        return bool(member and member.is_present)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for knows no events
            await asyncio.sleep(0.001)


async def closed(link: MemoryLink) -> tuple[int, str]:
    await until(lambda: link.closed)
    assert link.closed
    return link.closed


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    """Run a story with a daemon of one run."""

    def run(story: Story, **limits: Any) -> None:
        async def main() -> None:
            settings = AggregatorSettings.model_validate({"limits": limits})
            runs = [RunSettings.model_validate({"name": "r"})]
            with ModelStore(tmp_path / "models") as store:
                daemon = Daemon(
                    settings,
                    runs,
                    store,
                    ports(),
                    WebSocketListener(settings),
                    join_token="join",
                    operator_token="operate",
                )
                await daemon.runs.ensure(runs[0])
                house = House(daemon)
                try:
                    async with asyncio.timeout(20):
                        await story(house)
                finally:
                    await daemon.stop()
                    for link in house.links:
                        await link.close()
                    await asyncio.gather(*house.served)

        asyncio.run(main())

    return run


def test_agent_joins_and_leaves(play: Callable[..., None]) -> None:
    async def story(house: House) -> None:
        talker = await house.join(token="join")
        await until(house.is_here)
        await talker.say(Ping())
        await talker.hear(Pong)
        await talker.say(Leave(reason="enough"))
        assert await closed(talker.link) == (1000, "enough")
        await until(lambda: not house.is_here())
        assert house.daemon.door.sessions == {}

    play(story)


def test_agent_that_reads_nothing_is_given_up_whatever_it_says(play: Callable[..., None]) -> None:
    async def story(house: House) -> None:
        async def send(*frames: bytes | str) -> None:
            await asyncio.Event().wait()

        talker = await house.join(token="join")
        await until(house.is_here)
        await asyncio.sleep(0.01)  # what was said at first is sent
        talker.link.other.send = send  # type: ignore[method-assign]
        for _ in range(MAX_QUEUED + 2):
            await talker.say(Ping())
        assert await closed(talker.link) == (1008, "it does not read what it is sent")
        await until(lambda: not house.is_here())

    play(story, ping_interval_s=0.2, ping_timeout_s=10.0)


def test_runs_end_though_a_session_does_not_in_time(play: Callable[..., None]) -> None:
    async def story(house: House) -> None:
        async def close() -> None:
            await asyncio.Event().wait()  # as for a thread that reads a large file

        house.daemon.door.close = close  # type: ignore[method-assign]
        await house.daemon.stop()
        await asyncio.sleep(0)
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("run ")]
        assert len(house.daemon.runs) == 0

    play(story, stop_s=0.1)


def test_agent_that_cannot_compute_the_digests_of_the_database_is_refused(play: Callable[..., None]) -> None:
    async def story(house: House) -> None:
        talker = house.knock()
        software = "fl_main 0.0.9"
        await talker.say(
            Join(run="r", agent_id="a", instance_id="1", name="a", token="join", software=software)
        )
        refuse = await talker.hear(Refuse)
        assert (refuse.code, refuse.lasting) == ("digest", True)
        assert refuse.reason == (
            "model files are named by blake3 digests here, and fl_main 0.0.9 cannot compute them: "
            "install a newer fl_main"
        )

    play(story)


@pytest.mark.parametrize("token", ["", "joi", "join ", "operate", "j\u00f6in"])
def test_join_token_is_compared_whole(token: str, play: Callable[..., None]) -> None:
    async def story(house: House) -> None:
        talker = house.knock()
        await talker.say(
            Join(digest_algorithms=["blake3"], run="r", agent_id="a", instance_id="1", name="a", token=token)
        )
        assert (await talker.hear(Refuse)).code == "bad_token"
        assert (await closed(talker.link))[0] == 1008

    play(story)


def test_operator_is_not_let_in_with_the_join_token(play: Callable[..., None]) -> None:
    async def story(house: House) -> None:
        talker = house.knock()
        await talker.say(Operate(token="join"))
        assert (await talker.hear(Refuse)).code == "bad_token"

    play(story)


def test_peer_that_is_refused_may_have_hung_up(play: Callable[..., None]) -> None:
    async def story(house: House) -> None:
        talker = house.knock()
        await asyncio.gather(talker.say(Operate(token="wrong")), talker.link.close())
        await house.served[0]  # raises what nobody caught

    play(story)


def test_reply_that_no_frame_holds_is_an_error_in_one_line(play: Callable[..., None]) -> None:
    async def story(house: House) -> None:
        async def status(actor: str, ask: Ask) -> dict[str, Any]:
            return {"agents": "x" * MAX_FRAME_BYTES}

        house.daemon.door._carry_out = status
        talker = house.knock()
        await talker.say(Operate(token="operate"))
        await talker.say(Ask(number=1, order="status"))
        assert "at most 4194304 can be sent" in (await talker.hear(Reply)).error

    play(story)


def test_orders_are_answered_in_order(play: Callable[..., None]) -> None:
    async def story(house: House) -> None:
        talker = house.knock()
        await talker.say(Operate(token="operate", actor="ada"))
        await talker.say(Ask(number=1, order="pause", run="r"))
        await talker.say(Ask(number=2, order="stop", run="nowhere"))
        assert (await talker.hear(Reply)).content["status"] == "paused"
        assert (await talker.hear(Reply)).error == "there is no run 'nowhere' (runs: r)"

    play(story)


def test_run_that_two_operators_create_at_once_is_one(play: Callable[..., None]) -> None:
    async def story(house: House) -> None:
        settings = RunSettings.model_validate({"name": "new"})
        creating = [house.daemon.runs.create(settings, "me") for _ in range(2)]
        first, second = await asyncio.gather(*creating, return_exceptions=True)
        assert house.daemon.runs.find("new") is first
        assert str(second) == "run 'new' exists already; choose another name"

    play(story)


def test_silence_at_the_door_is_ended(play: Callable[..., None]) -> None:
    async def story(house: House) -> None:
        assert await closed(house.knock().link) == (1008, "no word within 0.05 s")

    play(story, join_s=0.05)


def test_silent_agent_is_asked_and_then_taken_for_gone(play: Callable[..., None]) -> None:
    async def story(house: House) -> None:
        talker = await house.join(token="join")
        await talker.hear(Ping)
        assert await closed(talker.link) == (1001, "no byte for 0.2 s")
        await until(lambda: not house.is_here())

    play(story, ping_interval_s=0.05, ping_timeout_s=0.2)


def test_agent_that_answers_pings_stays(play: Callable[..., None]) -> None:
    async def story(house: House) -> None:
        talker = await house.join(token="join")
        for _ in range(8):
            await talker.hear(Ping)
            await talker.say(Pong())
        assert house.is_here()

    play(story, ping_interval_s=0.05, ping_timeout_s=0.2)


def test_agent_is_a_stranger_until_it_is_welcome(play: Callable[..., None]) -> None:
    async def story(house: House) -> None:
        stranger = house.knock()
        await stranger.say(
            Join(
                digest_algorithms=["blake3"],
                run="nowhere",
                agent_id="a",
                instance_id="1",
                name="a",
                token="join",
            )
        )
        await stranger.hear(Refuse)
        assert not stranger.link.other.is_trusted
        assert (await house.join(token="join")).link.other.is_trusted

    play(story)


def test_grant_comes_back_if_what_follows_is_on_its_way_already(play: Callable[..., None]) -> None:
    async def story(house: House) -> None:
        await house.join(token="join")
        agent = house.daemon.door.sessions["r", "a"]
        budget, task_id = agent._shared.budget, "a" * 24
        most = budget.total // EARLY_PART
        assert budget.take_early(most)
        agent._uploads[task_id] = None  # type: ignore[assignment] # as after an offer that was not followed
        agent._expect(Offered(task_id, "a", 1), most)
        del agent._uploads[task_id]
        assert budget.take_early(most)

    play(story)


def test_crowd_is_told_when_its_turn_is(play: Callable[..., None]) -> None:
    async def story(house: House) -> None:
        await house.join("a", token="join")
        await house.join("c", token="join")
        second = house.knock()
        await second.say(
            Join(digest_algorithms=["blake3"], run="r", agent_id="b", instance_id="1", name="b", token="join")
        )
        refuse = await second.hear(Refuse)
        assert (refuse.code, refuse.lasting) == ("busy", False)
        assert 0 < refuse.retry_s <= 0.5
        assert house.daemon.door.refusals == {}
        await asyncio.sleep(refuse.retry_s)
        await house.join("b", token="join")

    play(story, joins_per_s=2.0)


def test_agent_beyond_the_limit_is_told_to_come_again_but_not_who_is_here(play: Callable[..., None]) -> None:
    async def story(house: House) -> None:
        await house.join("a", token="join")
        second = house.knock()
        await second.say(
            Join(digest_algorithms=["blake3"], run="r", agent_id="b", instance_id="1", name="b", token="join")
        )
        refuse = await second.hear(Refuse)
        assert (refuse.code, refuse.retry_s) == ("full", 10.0)
        await house.join("a", token="join")  # its connection broke, and we have not noticed

    play(story, agents=1)


def test_newer_instance_fences_the_older_one(play: Callable[..., None]) -> None:
    async def story(house: House) -> None:
        older = await house.join(token="join", start_number=1)
        newer = await house.join(token="join", instance_id="2", start_number=2)
        assert (await older.hear(Refuse)).code == "fenced"
        assert await closed(older.link) == (1008, "replaced by a newer connection")
        again = house.knock()
        await again.say(
            Join(
                digest_algorithms=["blake3"],
                run="r",
                agent_id="a",
                instance_id="1",
                name="a",
                token="join",
                start_number=1,
            )
        )
        assert (await again.hear(Refuse)).reason == TAKEN_OVER
        await newer.say(Ping())
        await newer.hear(Pong)
        assert house.is_here()

    play(story)


def test_many_connections_of_one_identity_leave_one(play: Callable[..., None]) -> None:
    async def story(house: House) -> None:
        async def join(number: int) -> Talker:
            return await house.join(token="join", instance_id=str(number), start_number=number)

        talkers = await asyncio.gather(*(join(number) for number in range(8)), return_exceptions=True)
        await until(lambda: len(house.daemon.door.sessions) == 1)
        assert house.is_here()
        alive = [t for t in talkers if isinstance(t, Talker) and t.link.closed is None]
        assert len(alive) == 1
        await until(lambda: not house.daemon.door._entering)

    play(story)


def test_stopping_daemon_tells_everybody(play: Callable[..., None]) -> None:
    async def story(house: House) -> None:
        talkers = [await house.join(str(number), token="join") for number in range(3)]
        await until(lambda: len(house.daemon.door.sessions) == 3)
        await house.daemon.stop()
        for talker in talkers:
            assert await closed(talker.link) == (1001, "the aggregator is stopping")

    play(story)
