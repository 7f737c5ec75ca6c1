"""A finished update waits for its disk, is offered until it is judged, and its state for its count."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_main.agent import outbox as outbox_module
from fl_main.agent.outbox import Outbox
from fl_main.agent.outgoing import Outgoing
from fl_main.agent.state_folder import OutboxEntry, StateFolder
from fl_main.digests import DigestAlgorithm, new_digest, tagged
from fl_main.errors import RefusedError, RemoteProtocolError, StateFolderError, StateFolderFullError
from fl_main.messages import Send, Verdict
from fl_main.weights import Array, Layout, pack
from tests.aggregator.memory_link import ports

WEIGHTS: dict[str, Array] = {"w": np.arange(6, dtype=np.float32)}
LAYOUT = Layout.of(WEIGHTS)
TASK = "a" * 24


class Scene:
    """An outbox on a real folder."""

    def __init__(self, path: Path) -> None:
        self.folder = StateFolder(path)
        self.troubles: list[str] = []
        self.outbox = Outbox(self.folder, ports(), self.troubles.append)

    def write(self, task_id: str = TASK, state: int = 1) -> OutboxEntry:
        kept: dict[str, Array] = {"count": np.array(state)}
        return self.folder.put(task_id, 5, None, {}, {"weights": Outgoing.of(WEIGHTS, LAYOUT)}, kept, 0.0)


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.setattr(outbox_module, "DISK_RETRY_S", 0.0)

    def run(story: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            scene = Scene(tmp_path / "state")
            try:
                async with asyncio.timeout(20):
                    await story(scene)
            finally:
                scene.outbox.stop_sending()
                scene.folder.close()

        asyncio.run(main())

    return run


def test_update_waits_in_memory_while_there_is_no_room(play: Callable[..., None]) -> None:
    async def story(scene: Scene) -> None:
        tries = iter([StateFolderFullError("no room"), StateFolderFullError("no room"), None])

        def write() -> OutboxEntry:
            if error := next(tries):
                raise error
            return scene.write()

        entry = await scene.outbox.store(write)
        assert entry.task_id == TASK
        assert scene.troubles == ["no room"] * 2

    play(story)


def test_update_from_earlier_is_offered_under_the_digest_that_the_aggregator_wants(
    play: Callable[..., None],
) -> None:
    async def story(scene: Scene) -> None:
        await scene.outbox.follow(DigestAlgorithm.SHA256)  # of an aggregator that knows no other
        scene.outbox.put(scene.write())
        file = LAYOUT.header + pack(WEIGHTS, LAYOUT)
        for algorithm in (DigestAlgorithm.SHA256, DigestAlgorithm.BLAKE3):
            await scene.outbox.follow(algorithm)
            [offer] = scene.outbox.offers({LAYOUT.digest})
            assert offer.payloads[0].digest == tagged(new_digest(algorithm, file))

    play(story)


def test_disk_that_may_not_be_written_is_an_error_at_once(play: Callable[..., None]) -> None:
    async def story(scene: Scene) -> None:
        def write() -> OutboxEntry:
            raise StateFolderError("no permission")

        with pytest.raises(StateFolderError, match="no permission"):
            await scene.outbox.store(write)

    play(story)


def test_update_is_offered_until_it_is_judged(play: Callable[..., None]) -> None:
    async def story(scene: Scene) -> None:
        verdict = scene.outbox.put(scene.write())
        for _ in range(2):  # on every connection
            [offer] = scene.outbox.offers({LAYOUT.digest})
            assert (offer.task_id, offer.payloads[0].rows) == (TASK, None)
        [stranger] = scene.outbox.offers(())
        assert stranger.payloads[0].rows is not None
        scene.outbox.judged(Verdict(task_id=TASK, verdict="accepted"))
        assert (await verdict).verdict == "accepted"
        assert scene.outbox.offers(()) == []
        assert TASK not in scene.outbox

    play(story)


def test_update_that_was_not_offered_is_not_sent(play: Callable[..., None]) -> None:
    async def story(scene: Scene) -> None:
        async def send_framed(framed: memoryview) -> None:
            raise AssertionError

        with pytest.raises(RemoteProtocolError, match="was not offered"):
            scene.outbox.send(Send(task_id=TASK, channel="weights", offset=0, credit=9), send_framed)

    play(story)


def test_whoever_waits_for_a_verdict_is_told_that_none_comes(play: Callable[..., None]) -> None:
    async def story(scene: Scene) -> None:
        verdict = scene.outbox.put(scene.write())
        scene.outbox.fail(RefusedError("the agent was closed", "closed"))
        with pytest.raises(RefusedError, match="was closed"):
            await verdict

    play(story)


def test_what_was_kept_before_a_rollback_is_forgotten_once(play: Callable[..., None]) -> None:
    async def story(scene: Scene) -> None:
        scene.outbox.put(scene.write(state=7))
        scene.outbox.judged(Verdict(task_id=TASK, verdict="accepted"))
        scene.outbox.promote([TASK])
        await scene.outbox.settled("run", 0)
        assert scene.folder.state()["count"] == 7
        await scene.outbox.settled("run", 1)
        assert scene.folder.state() == {}
        scene.outbox.promote([TASK])  # said again after a reconnection
        scene.outbox.put(scene.write(state=8))
        scene.outbox.judged(Verdict(task_id=TASK, verdict="accepted"))
        scene.outbox.promote([TASK])
        await scene.outbox.settled("run", 1)
        assert scene.folder.state()["count"] == 8

    play(story)


def test_next_task_waits_until_the_disk_takes_what_was_kept(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(scene: Scene) -> None:
        scene.outbox.put(scene.write(state=7))
        scene.outbox.judged(Verdict(task_id=TASK, verdict="accepted"))
        promote, tries = scene.folder.promote_state, iter([True, True, False])

        def sometimes(task_id: str) -> None:
            if next(tries):
                raise StateFolderFullError("no room")
            promote(task_id)

        monkeypatch.setattr(scene.folder, "promote_state", sometimes)
        assert isinstance(scene.outbox.promote([TASK]), StateFolderFullError)
        assert scene.folder.state() == {}
        await scene.outbox.settled("run", 0)
        assert scene.folder.state()["count"] == 7

    play(story)
