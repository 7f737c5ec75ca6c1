"""Payloads of free layout: bytes of any length, for strategies that take them."""

from typing import Any

import numpy as np
import pytest

from fl_main.agent import TrainResult
from fl_main.errors import SettingsError
from fl_main.settings import RunSettings
from fl_main.strategies import strategy_of
from fl_main.training import TrainingTask
from tests.system.conftest import StartAgent, StartDaemon
from tests.system.daemons import run_of


def as_weights(text: bytes) -> dict[str, Any]:
    return {"payload": np.frombuffer(text, np.uint8)}


def text_of(weights: Any) -> bytes:
    return bytes(weights["payload"].tobytes())


def tree(number: int) -> Any:
    def train(task: TrainingTask) -> TrainResult:
        return TrainResult(as_weights(b"tree%d" % number * number * task.round_id), num_examples=number)

    return train


def test_bytes_of_any_length_go_through_the_whole_system(
    start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    strategy = "tests.system.bagging:Bagging"
    daemon = start_daemon(run_of(payload="free", strategy=strategy, end={"rounds": 2}, evaluate={"every": 0}))
    agents = [start_agent(daemon.url, n, tree(n), initial_weights=as_weights(b"stump")) for n in (1, 2)]
    for agent in agents:
        assert text_of(agent.join().weights) == b"tree1tree1|tree2tree2tree2tree2"
    final = daemon.db().run("r").final
    assert final is not None
    assert text_of(final.weights()) == b"tree1tree1|tree2tree2tree2tree2"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"payload": "free"}, "payload: free: the strategy fedavg combines arrays, not bytes"),
        (
            {"strategy": "tests.system.momentum:Fresh", "mode": "semi-sync"},
            "mode: semi-sync: the strategy tests.system.momentum:Fresh is not valid in it: it throws away "
            "what others learned meanwhile; give mode: sync, or another strategy",
        ),
    ],
)
def test_strategy_that_does_not_go_with_other_settings_is_refused(
    settings: dict[str, Any], line: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        strategy_of(RunSettings(name="r", **settings))
    assert str(caught.value) == line
