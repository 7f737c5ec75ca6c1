"""Encoded updates that cannot be decoded are refused by name, and agents that know no codecs are told so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_main.agent import Agent, Invitation, RefusedError
from fl_main.compression import chance_of
from fl_main.compression.quantized import CODES, SCALES
from fl_main.compression.top_k import PLACES, VALUES
from fl_main.compression.words import from_words
from fl_main.digests import DigestAlgorithm, file_digest, tagged
from fl_main.messages import Chunk, Join, Message, Offer, Payload, Refuse, Send, Verdict
from fl_main.sources import Held
from fl_main.training import TrainingTask, TrainResult
from fl_main.weights import Array, Layout, pack, views
from tests.system.conftest import StartAgent, StartDaemon
from tests.system.daemons import DaemonThread, run_of
from tests.system.peers import Peer

SIZE = 100
MODEL = {"w": np.linspace(-1, 1, SIZE, dtype=np.float32)}
CODECS = ["float16", "bfloat16", "int8", "qsgd", "top-k", "random-k"]

Harm = Callable[[dict[str, Array]], None]


def started(start_daemon: StartDaemon, tmp_path: Path, **compression: Any) -> DaemonThread:
    """One round for two; it can be done by one."""
    np.savez(tmp_path / "initial.npz", **MODEL)  # type: ignore[arg-type]
    return start_daemon(
        run_of(
            initial={"file": str(tmp_path / "initial.npz")},
            end={"rounds": 1},
            round={"min_updates": 1, "rejoin_s": 0.0},
            compression=compression,
        )
    )


def honest(task: TrainingTask) -> TrainResult:
    return TrainResult({"w": task.weights["w"] + 1}, 5)


def encoded(words: str) -> tuple[dict[str, Array], Layout]:
    """Return what a right update travels as."""
    codec, layout = from_words(words), Layout.of(MODEL)
    assert codec is not None
    base = Held({"w": np.zeros(SIZE, np.float32)}, layout)
    data = b"".join(map(bytes, codec.encode(codec.signal(Held(MODEL, layout), base), chance_of(1))))
    return views(codec.layout(layout), bytearray(data), writable=True), codec.layout(layout)


def put(name: str, place: int, value: float) -> Harm:
    def harm(arrays: dict[str, Array]) -> None:
        arrays[name][place] = value

    return harm


def turned_round(arrays: dict[str, Array]) -> None:
    arrays[PLACES][:] = arrays[PLACES][::-1].copy()


def send(peer: Peer, arrays: dict[str, Array], layout: Layout) -> Verdict:
    """Offer arrays as the answer to the task that a peer was given, and send them."""
    data = bytes(pack(arrays, layout))
    digest = file_digest(layout, DigestAlgorithm.BLAKE3)
    digest.update(data)
    payload = Payload(layout=layout.digest, digest=tagged(digest), size=layout.nbytes, rows=layout.to_wire())
    task = peer.assigned()
    peer.say(Offer(task_id=task.task_id, payloads=[payload], num_examples=1))
    answer = peer.hear(Message)
    while not isinstance(answer, Send | Verdict):
        answer = peer.hear(Message)
    if isinstance(answer, Send):
        peer.say(Chunk(transfer=f"{task.task_id}/weights", offset=0, data=data))
        answer = peer.hear(Verdict)
    assert isinstance(answer, Verdict)
    return answer


@pytest.mark.parametrize(
    ("words", "harm", "reason"),
    [
        ("top-k fraction=0.1", put(PLACES, -1, SIZE), "has places beyond the 100 values"),
        ("top-k fraction=0.1", put(PLACES, 1, 0), "has places that do not ascend"),
        ("top-k fraction=0.1", turned_round, "has places that do not ascend"),
        ("top-k fraction=0.1", put(VALUES, 0, np.nan), "has values that are NaN or infinite"),
        ("int8 block=16", put(SCALES, 0, np.nan), "has values that are NaN or infinite"),
        ("int8 block=16", put(SCALES, 0, -1.0), "has scales that are negative or too large"),
        ("int8 block=16", put(SCALES, 0, 3e38), "has scales that are negative or too large"),
        ("int8 block=16", put(CODES, 0, -128), "has codes beyond 127"),
        ("float16", put("w", 0, np.inf), "has values that are NaN or infinite"),
    ],
)
def test_encoded_update_with_wrong_contents_is_rejected_and_the_round_goes_on(
    words: str,
    harm: Harm,
    reason: str,
    start_daemon: StartDaemon,
    start_agent: StartAgent,
    tmp_path: Path,
) -> None:
    name, *options = words.split()
    compression = {"codec": name, **dict(option.split("=") for option in options)}
    daemon = started(start_daemon, tmp_path, **compression)
    with Peer(daemon.url).join(codecs=CODECS) as peer:
        other = start_agent(daemon.url, "good", honest, initial_weights=None)
        arrays, layout = encoded(words)
        harm(arrays)
        answer = send(peer, arrays, layout)
    assert answer.verdict == "rejected"
    assert reason in answer.reason
    assert other.join().status == "finished"


@pytest.mark.parametrize("words", ["top-k fraction=0.2", "int8 block=16", "float16"])
def test_update_in_another_layout_than_the_codecs_is_rejected(
    words: str, start_daemon: StartDaemon, start_agent: StartAgent, tmp_path: Path
) -> None:
    daemon = started(start_daemon, tmp_path, codec="top-k", fraction=0.1)
    with Peer(daemon.url).join(codecs=CODECS) as peer:
        other = start_agent(daemon.url, "good", honest, initial_weights=None)
        answer = send(peer, *encoded(words))
    assert answer.verdict == "rejected"
    assert answer.reason.startswith("this run's updates are encoded by top-k: array")
    assert other.join().status == "finished"


@pytest.mark.parametrize(
    ("compression", "reason"),
    [
        ({"codec": "int8"}, "must send its updates by the codec int8"),
        ({"codec": "float16", "download": "int8"}, "must take its models by the codec int8"),
    ],
)
def test_agent_that_does_not_know_the_codec_is_refused_for_good(
    compression: dict[str, Any], reason: str, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = started(start_daemon, tmp_path, **compression)
    with Peer(daemon.url) as peer:
        join = {"run": "r", "agent_id": "a", "instance_id": "1", "name": "a", "software": "fl_main 0.0.9"}
        peer.say(Join(**join, digest_algorithms=["blake3"], codecs=["float16"]))  # type: ignore[arg-type]
        refusal = peer.hear(Refuse)
    assert (refusal.code, refusal.lasting) == ("codec", True)
    assert reason in refusal.reason
    assert refusal.reason.endswith("this agent (fl_main 0.0.9) does not know: upgrade fl_main at its site")


def test_policy_of_a_site_sees_how_weights_travel(start_daemon: StartDaemon, tmp_path: Path) -> None:
    seen: list[Invitation] = []

    def policy(subject: object) -> str:
        assert isinstance(subject, Invitation)
        seen.append(subject)
        return "not with codecs"

    daemon = started(start_daemon, tmp_path, codec="top-k", fraction=0.1, download="float16")
    agent = Agent(daemon.url, "r", "a", state_folder=tmp_path / "a", progress=False, policy=policy)
    with pytest.raises(RefusedError, match="not with codecs"), agent:
        next(agent.tasks())
    [invitation] = seen
    assert (invitation.form, invitation.codec) == ("delta", "top-k fraction=0.1")
    assert (invitation.feeds_back, invitation.download) == (True, "float16")
