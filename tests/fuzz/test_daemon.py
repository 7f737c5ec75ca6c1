"""The short form of the fuzzing of a daemon's port, over real sockets."""

import asyncio
from pathlib import Path

import pytest

from fuzz import daemon
from tests.system.daemons import DaemonProcess


def test_daemon_serves_everybody_else_whatever_hostile_peers_send(tmp_path: Path) -> None:
    facts = asyncio.run(daemon.fuzz(600, 1, tmp_path))
    assert facts["inputs"] >= 600
    assert facts["rounds"] == 2
    kinds = {outcome.partition(":")[0] for outcome in facts["outcomes"]}
    assert kinds == {"http", "handshake", "frames", "agent", "operator"}


def test_traceback_in_the_log_is_found(tmp_path: Path) -> None:
    process = DaemonProcess(tmp_path, daemon.RUNS).started()
    try:
        watch = daemon.Watch(process, tmp_path / "honest")
        asyncio.run(watch.look())
        with open(process.log, "a", encoding="utf-8") as log:
            log.write("Traceback (most recent call last):\n  somewhere\n")
        with pytest.raises(AssertionError, match="somewhere"):
            asyncio.run(watch.look())
    finally:
        process.kill()
