"""Models that travel packed: the same rounds with fewer bytes, whoever can unpack them."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_main.agent import TrainResult
from fl_main.errors import SettingsError
from fl_main.training import TrainingTask
from fl_main.weights import Array
from tests.system.agents import assert_equal
from tests.system.conftest import StartAgent, StartDaemon
from tests.system.daemons import run_of, until
from tests.system.proxy import Proxy

VALUES = 1 << 20
BYTES = 4 * VALUES
PACKED = BYTES * 3 // 4  # at most: whole numbers below 2¹⁶ leave a byte of each float32 at 0


def first() -> Array:
    return np.random.default_rng(0).integers(1 << 16, size=VALUES).astype(np.float32)


def start_run(start_daemon: StartDaemon, tmp_path: Path, **changes: Any) -> Any:
    np.savez(tmp_path / "initial.npz", w=first())
    return start_daemon(
        run_of(
            initial={"file": str(tmp_path / "initial.npz")},
            end={"rounds": 2},
            compression={"lossless": "zstd"},
            **changes,
        )
    )


def one_more(task: TrainingTask) -> TrainResult:
    return TrainResult({"w": task.weights["w"] + 1}, 1)


def test_bytes_are_saved_both_ways_by_those_who_can_and_the_models_are_the_same(
    start_daemon: StartDaemon, start_agent: StartAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = start_run(start_daemon, tmp_path)
    with Proxy(daemon.url) as new, Proxy(daemon.url) as old:
        packing = start_agent(new.url, 1, one_more, initial_weights=None)
        until(lambda: daemon.host().seats)
        monkeypatch.setattr("fl_main.agent.joining.PACKINGS", ())
        plain = start_agent(old.url, 2, one_more, initial_weights=None)
        final = packing.join()
        assert_equal(plain.join().weights, final.weights)
        assert new.up < 2 * PACKED  # two updates, and
        assert new.down < 3 * PACKED  # three models
        assert 2 * BYTES < old.up < 2 * BYTES + (1 << 20)
        assert 3 * BYTES < old.down < 3 * BYTES + (1 << 20)
    assert_equal(final.weights, {"w": first() + 2})
    assert_equal(final.weights, daemon.db().model("r:final").weights())


@pytest.mark.parametrize("way", ["cut_down", "cut_up"])
def test_packed_transfer_that_is_cut_goes_on_where_it_stopped(
    way: str, start_daemon: StartDaemon, start_agent: StartAgent, tmp_path: Path
) -> None:
    daemon = start_run(start_daemon, tmp_path, round={"min_agents": 1, "min_updates": 1})
    cut: dict[str, Any] = {way: PACKED // 2}
    with Proxy(daemon.url, **cut) as proxy:
        final = start_agent(proxy.url, 1, one_more, initial_weights=None).join()
        assert proxy.cuts == 1
    assert_equal(final.weights, {"w": first() + 2})


def test_daemon_without_the_package_refuses_a_run_that_wants_it(
    start_daemon: StartDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["fl_main.lossless"], "PACKINGS", ())
    with pytest.raises(SettingsError, match=r"^run r: compression\.lossless: .* pip install"):
        start_run(start_daemon, tmp_path)
