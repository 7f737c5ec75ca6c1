"""An update that cannot be used is refused by name, kept as facts, and holds up nobody."""

import contextlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from fl_main.agent import Agent, Task, TrainResult, UpdateRejectedError, WeightsError
from fl_main.aggregator.sessions import MAX_STRANGE_OFFERS
from fl_main.messages import Chunk, Counted, Join, Refuse, Send, Verdict
from fl_main.weights import Layout, pack
from tests.system.agents import assert_equal
from tests.system.conftest import StartAgent, StartDaemon
from tests.system.daemons import DaemonThread, run_of, until
from tests.system.peers import Peer, offer_of, small, upload


@pytest.fixture
def daemon(start_daemon: StartDaemon, tmp_path: Path) -> DaemonThread:
    """One round for two; it can be done by one."""
    np.savez(tmp_path / "initial.npz", **small())
    return start_daemon(
        run_of(
            initial={"file": str(tmp_path / "initial.npz")},
            end={"rounds": 1},
            round={"min_updates": 1, "rejoin_s": 0.0},
        )
    )


def honest(task: Task) -> TrainResult:
    return TrainResult({"w": task.weights["w"] + 1}, 5)


W = np.arange(4, dtype=np.float32)


@pytest.mark.parametrize(
    ("weights", "num_examples", "reason"),
    [
        ({"w": W * np.float32("nan")}, 1, "array 'w' has values that are NaN or infinite"),
        ({"w": W + np.float32("inf")}, 1, "array 'w' has values that are NaN or infinite"),
        ({"w": W}, 0, "num_examples is 0; it must be at least 1"),
        ({"w": W}, -5, "num_examples is -5; it must be at least 1"),
        ({"w": W}, 10**13, "num_examples is 10000000000000; it can be at most 1000000000000"),
        (
            {"w": W[:3]},
            1,
            "array 'w' is F32 [3] (parameter), but in the run's model it is F32 [4]",
        ),
        (
            {"w": W.astype(np.float64)},
            1,
            "array 'w' is F64 [4] (parameter), but in the run's model it is",
        ),
        ({"v": W}, 1, "array 'w' of the run's model is missing (1 missing in all)"),
        ({"w": W, "v": W}, 1, "array 'v' is not part of the run's model (1 too many in all)"),
    ],
)
def test_update_is_rejected_with_the_reason_and_the_round_goes_on(
    weights: dict[str, Any],
    num_examples: int,
    reason: str,
    daemon: DaemonThread,
    start_agent: StartAgent,
    tmp_path: Path,
) -> None:
    with Agent(daemon.url, "r", "bad", state_folder=tmp_path / "bad", progress=False) as agent:
        other = start_agent(daemon.url, "good", honest, initial_weights=None)
        tasks = agent.tasks()
        task = next(tasks)
        with pytest.raises(UpdateRejectedError) as raised:
            task.submit(weights, num_examples)
        assert str(raised.value).startswith(reason)
        assert raised.value.task_id == task.task_id
        assert next(tasks, None) is None
        assert agent.final
    assert_equal(other.join().weights, agent.final.weights)
    assert_equal(agent.final.weights, {"w": W + 1})
    stored = {update.task_id: update for update in daemon.db().run("r").updates()}
    found = stored[task.task_id]
    assert (found.verdict, found.num_examples, found.model_id) == ("rejected", num_examples, None)
    assert found.reason.startswith(reason)
    assert not list((tmp_path / "bad" / "outbox").iterdir())
    assert not [file for file in (daemon.folder / "models" / ".staging").rglob("*") if file.is_file()]


@pytest.mark.parametrize(
    ("weights", "num_examples", "metrics"),
    [
        ({"w": ["a"]}, 1, {}),
        ({"w": W}, 1, {"loss": "high"}),
        ({"w": W}, 1, {"loss": np.zeros(2)}),
        ({1: W}, 1, {}),
    ],
)
def test_what_is_no_update_at_all_is_not_sent_and_the_task_stays_open(
    weights: Any,
    num_examples: int,
    metrics: Any,
    daemon: DaemonThread,
    start_agent: StartAgent,
    tmp_path: Path,
) -> None:
    with Agent(daemon.url, "r", "bad", state_folder=tmp_path / "bad", progress=False) as agent:
        other = start_agent(daemon.url, "good", honest, initial_weights=None)
        task = next(agent.tasks())
        with pytest.raises(WeightsError):
            task.submit(weights, num_examples, metrics)
        assert task.submit({"w": W}, 1).verdict == "accepted"  # type: ignore[union-attr]
        other.join()


def test_metric_that_is_not_finite_is_flagged_and_the_update_counts(
    daemon: DaemonThread, start_agent: StartAgent
) -> None:
    def train(task: Task) -> TrainResult:
        return TrainResult(task.weights, 1, {"loss": math.inf, "accuracy": 1})

    agents = [start_agent(daemon.url, number, train, initial_weights=None) for number in (1, 2)]
    assert [agent.join().status for agent in agents] == ["finished"] * 2
    run = daemon.db().run("r")
    assert [event.details["metric"] for event in run.events("metric_not_finite")] == ["loss"]
    assert all(update.counted_in == 1 for update in run.updates())


# --- over the wire -----------------------------------------------------------------------


def test_update_of_a_task_that_never_was_is_rejected_and_written_down(daemon: DaemonThread) -> None:
    with Peer(daemon.url).join() as peer:
        peer.say(offer_of("0" * 24, small()))
        answer = peer.hear(Verdict)
    assert (answer.verdict, answer.reason) == ("rejected", "there was never such a task for this agent")
    found = until(lambda: daemon.db().run("r").updates())
    assert [(update.round_id, update.verdict) for update in found] == [(-1, "rejected")]


def test_update_of_another_agents_task_is_rejected(daemon: DaemonThread) -> None:
    with Peer(daemon.url).join("a") as first, Peer(daemon.url).join("b") as second:
        task_id = first.assigned().task_id
        second.assigned()
        second.say(offer_of(task_id, small()))
        assert second.hear(Verdict).reason == "there was never such a task for this agent"
        upload(first, offer_of(task_id, small()), small())
        assert first.hear(Verdict).verdict == "accepted"


def test_same_update_sent_twice_counts_once(daemon: DaemonThread) -> None:
    with Peer(daemon.url).join("a") as first, Peer(daemon.url).join("b") as second:
        task_id = first.assigned().task_id
        offer = offer_of(task_id, small(), num_examples=5)
        upload(first, offer, small())
        assert first.hear(Verdict).verdict == "accepted"
        for _ in range(3):
            first.say(offer)
            assert first.hear(Verdict).verdict == "accepted"
        upload(second, offer_of(second.assigned().task_id, small()), small())
        assert first.hear(Counted).round_id == 1
    stored = daemon.db().run("r").updates()
    assert [(update.agent_id, update.num_examples, update.counted_in) for update in stored] == [
        ("a", 5, 1),
        ("b", 1, 1),
    ]


def test_second_different_update_for_a_task_is_rejected_and_the_first_stands(daemon: DaemonThread) -> None:
    with Peer(daemon.url).join("a") as first, Peer(daemon.url).join("b") as second:
        task_id = first.assigned().task_id
        upload(first, offer_of(task_id, small()), small())
        assert first.hear(Verdict).verdict == "accepted"
        first.say(offer_of(task_id, {"w": W + 1}))
        answer = first.hear(Verdict)
        assert (answer.verdict, answer.reason) == (
            "rejected",
            "its task was already answered with another update",
        )
        upload(second, offer_of(second.assigned().task_id, small()), small())
        assert first.hear(Counted).task_id == task_id
    with daemon.db() as db:
        assert_equal(db.model("r:final").weights(), small())


def test_ever_new_updates_for_an_answered_task_end_the_session(daemon: DaemonThread) -> None:
    with Peer(daemon.url).join("a") as first, Peer(daemon.url).join("b"):
        task_id = first.assigned().task_id
        upload(first, offer_of(task_id, small()), small())
        assert first.hear(Verdict).verdict == "accepted"
        with contextlib.suppress(ConnectionClosed):
            for number in range(1, 3 * MAX_STRANGE_OFFERS):
                first.say(offer_of(task_id, {"w": W + number}))
                assert first.hear(Verdict).verdict == "rejected"
        code, reason = first.closed()
    assert (code, "answered with another update" in reason) == (1008, True)
    assert len(list(daemon.db().run("r").updates())) == 1 + MAX_STRANGE_OFFERS


def test_update_that_is_not_what_its_digest_says_is_asked_for_again_and_then_rejected(
    daemon: DaemonThread,
) -> None:
    with Peer(daemon.url).join("a") as peer, Peer(daemon.url).join("b"):
        task_id = peer.assigned().task_id
        peer.say(offer_of(task_id, small()))
        wrong = bytes(pack({"w": W + 1}, Layout.of(small())))
        for _ in range(3):
            assert peer.hear(Send).offset == 0
            peer.say(Chunk(transfer=f"{task_id}/weights", offset=0, data=wrong))
        answer = peer.hear(Verdict)
    assert (answer.verdict, answer.reason) == ("rejected", "its bytes do not match its digest, after 3 tries")


def test_late_update_gets_a_receipt_that_says_so(
    start_daemon: StartDaemon, start_agent: StartAgent, tmp_path: Path
) -> None:
    daemon = start_daemon(run_of(end={"rounds": 1}, round={"min_updates": 1, "quorum": 0.5}))
    with Agent(daemon.url, "r", "late", state_folder=tmp_path / "late", progress=False) as agent:
        other = start_agent(daemon.url, 1)
        tasks = agent.tasks()
        task = next(tasks)
        other.join()
        receipt = task.submit(task.weights, 1)
        assert receipt
        assert (receipt.verdict, receipt.reason) == ("discarded", "the run is finished")
        assert next(tasks, None) is None


def test_name_that_is_longer_than_a_reason_may_be_is_cut_and_holds_up_nobody(
    daemon: DaemonThread, start_agent: StartAgent
) -> None:
    long = {"x" * 3000: W, "w": W}
    with Peer(daemon.url) as peer, Peer(daemon.url) as stranger:
        peer.join()
        other = start_agent(daemon.url, "good", honest, initial_weights=None)
        peer.say(offer_of(peer.assigned().task_id, long))
        verdict = peer.hear(Verdict)
        rows = Layout.of(long).to_wire()
        stranger.say(
            Join(digest_algorithms=["blake3"], run="r", agent_id="b", instance_id="1", name="b", rows=rows)
        )
        refuse = stranger.hear(Refuse)
        other.join()
    assert (verdict.verdict, verdict.reason[:10], len(verdict.reason)) == ("rejected", "array 'xxx", 2000)
    assert (refuse.code, refuse.reason) == ("layout", verdict.reason)
