"""What systemd is told of a daemon: over a socket of the test, from real threads and a real lock."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from threading import Event

import pytest

from fl_main.aggregator.notify import Notifier, status_line
from fl_main.db import sqlite
from fl_main.messages import Join
from tests.system.conftest import StartDaemon
from tests.system.daemons import PATIENCE_S, DaemonThread, run_of, until
from tests.system.locks import locked
from tests.system.manager import Manager, is_pulse, status
from tests.system.peers import Peer

WATCHDOG = {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": str(os.getpid())}


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with closing(Manager(str(tmp_path / "notify"), **WATCHDOG)) as manager:
        yield manager


def notifier_of(daemon: DaemonThread, environ: dict[str, str], **options: float) -> Notifier:
    aggregator = daemon.aggregator
    return Notifier(aggregator.daemon, aggregator.writer_busy_s, 3.0, environ, **options)


@contextmanager
def told(daemon: DaemonThread, manager: Manager, **options: float) -> Iterator[None]:
    notifier = notifier_of(daemon, manager.environ, **options)
    daemon.call(notifier.__aenter__())
    try:
        yield
    finally:
        daemon.call(notifier.__aexit__(None, None, None))


def hang(held: Event, release: Event) -> None:
    held.set()
    release.wait(PATIENCE_S)


async def work(daemon: DaemonThread, held: Event, release: Event) -> None:
    await daemon.aggregator._writer.run(hang, held, release)


@contextmanager
def busy_writer(daemon: DaemonThread) -> Iterator[None]:
    """Let the database's thread hang."""
    release, held = Event(), Event()
    future = asyncio.run_coroutine_threadsafe(work(daemon, held, release), daemon._loop)
    assert held.wait(PATIENCE_S)
    try:
        yield
    finally:
        release.set()
        future.result(PATIENCE_S)


@contextmanager
def busy_loop(daemon: DaemonThread) -> Iterator[None]:
    """Let the event loop hang, as a function that never returns would."""
    release, held = Event(), Event()
    daemon._loop.call_soon_threadsafe(hang, held, release)
    assert held.wait(PATIENCE_S)
    try:
        yield
    finally:
        release.set()


# --- the protocol ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_ready_is_the_first_and_stopping_the_last_word(
    kind: str, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    address = str(tmp_path / "notify") if kind == "path" else f"\0fl-test-{os.getpid()}-{tmp_path.name}"
    with closing(Manager(address)) as manager:
        with told(start_daemon(run_of()), manager):
            ready = manager.hear(lambda datagram: True)
        first, second = ready.splitlines()
        assert first == "READY=1"
        assert second.startswith("STATUS=0 agents, 1 of 1 runs under way; r: 0 of 3 rounds, ")
        last = manager.hear(lambda datagram: True)
        assert last == "STOPPING=1\nSTATUS=stopping\nEXTEND_TIMEOUT_USEC=13000000"


def test_watchdog_bounds_the_stop_too(start_daemon: StartDaemon, manager: Manager) -> None:
    with told(start_daemon(), manager):
        pass
    last = manager.hear(lambda datagram: "STOPPING" in datagram)
    assert last.splitlines()[2:] == ["EXTEND_TIMEOUT_USEC=13000000", "WATCHDOG_USEC=13000000"]


@pytest.mark.parametrize(
    "environ", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}]
)
def test_nobody_gets_pulses_who_did_not_ask(
    environ: dict[str, str], start_daemon: StartDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl_main.aggregator.notify.STATUS_EVERY_S", 0.01)
    with closing(Manager(str(tmp_path / "notify"), **environ)) as manager, told(start_daemon(), manager):
        for _ in range(5):
            assert not is_pulse(manager.hear(lambda datagram: True))


def test_without_a_service_manager_nothing_happens(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(run_of())
    notifier = notifier_of(daemon, {})
    daemon.call(notifier.__aenter__())
    assert notifier._task is None
    daemon.call(notifier.__aexit__(None, None, None))


def test_service_manager_that_is_gone_is_a_warning_once(
    start_daemon: StartDaemon, manager: Manager, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with told(start_daemon(run_of()), manager):
        manager.hear(is_pulse)
        manager.close()
        until(lambda: caplog.records)
        (tmp_path / "notify").unlink()
        with closing(Manager(str(tmp_path / "notify"))) as again:
            again.hear(is_pulse)
            again.hear(is_pulse)
    warnings = [record.message for record in caplog.records if "systemd" in record.message]
    assert warnings[0].startswith("systemd cannot be told ")
    assert warnings[0].endswith(": Connection refused")
    assert len(warnings) <= 2  # the other one: the second manager was gone before the last word


def test_service_manager_that_does_not_read_is_not_waited_for(
    start_daemon: StartDaemon, manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    with told(start_daemon(run_of()), manager):
        until(lambda: caplog.records)  # its queue is full
        [warning] = [record.message for record in caplog.records if "systemd" in record.message]
        assert warning.startswith("systemd cannot be told ")
        assert "timed out" not in warning
        manager.drain()
        manager.hear(is_pulse)


def test_address_of_another_kind_is_a_warning(
    start_daemon: StartDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = start_daemon()
    notifier = notifier_of(daemon, {"NOTIFY_SOCKET": "vsock:2:1234"})
    daemon.call(notifier.__aenter__())
    daemon.call(notifier.__aexit__(None, None, None))
    assert "NOTIFY_SOCKET=vsock:2:1234 is neither a path nor abstract" in caplog.text


# --- what is said ------------------------------------------------------------------------


def test_status_tells_what_is_waited_for(start_daemon: StartDaemon, manager: Manager) -> None:
    daemon = start_daemon(run_of())
    with told(daemon, manager), Peer(daemon.url).join(kinds=["train"]):
        manager.hear(status("1 agents, 1 of 1 runs under way; r: 0 of 3 rounds"))


def test_status_tells_of_the_first_runs_only(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*(run_of(name=f"r{number}") for number in range(5)))
    line = status_line(daemon.aggregator.daemon)
    assert line.startswith("0 agents, 5 of 5 runs under way; r0: 0 of 3 rounds, ")
    assert line.endswith("; and 2 more")


def test_agent_cannot_speak_to_systemd_by_its_name(start_daemon: StartDaemon, manager: Manager) -> None:
    daemon = start_daemon(run_of())
    with told(daemon, manager), Peer(daemon.url) as peer:
        peer.say(
            Join(
                digest_algorithms=["blake3"],
                run="r",
                agent_id="a",
                instance_id="1",
                name="x\nMAINPID=1",
                kinds=["initialise"],
            )
        )
        heard = manager.hear(status("x\\nMAINPID=1"))
    assert "\n" not in heard


# --- the watchdog ------------------------------------------------------------------------


def test_pulses_come_while_the_daemon_is_well(start_daemon: StartDaemon, manager: Manager) -> None:
    with told(start_daemon(run_of()), manager):
        for _ in range(5):
            manager.hear(is_pulse)


def test_pulses_end_while_the_event_loop_hangs(start_daemon: StartDaemon, manager: Manager) -> None:
    daemon = start_daemon(run_of())
    with told(daemon, manager):
        manager.hear(is_pulse)
        with busy_loop(daemon):
            manager.drain()
            with pytest.raises(TimeoutError):
                manager.hear(lambda datagram: True, patience_s=0.5)
        manager.hear(is_pulse)


def test_pulses_end_while_the_databases_thread_hangs(
    start_daemon: StartDaemon, manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = start_daemon(run_of())
    with told(daemon, manager, writer_patience_s=0.2):
        with busy_writer(daemon):
            manager.hear(status("the database's thread has not answered for "))
            for _ in range(3):
                assert status("has not answered")(manager.hear(lambda datagram: True))
        manager.hear(is_pulse)
        manager.hear(status("an agent that offers an initial model"))
    assert caplog.text.count("the database's thread has not answered") == 1


def test_database_that_cannot_be_written_is_trouble_and_no_hang(
    start_daemon: StartDaemon, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_S", 0.1)
    names = [f"r{number}" for number in range(12)]  # together they wait for the lock longer than patience
    daemon = start_daemon(*(run_of(name=name) for name in names))
    with told(daemon, manager, writer_patience_s=0.6), ExitStack() as peers:
        with locked(daemon.folder):
            for name in names:
                peers.enter_context(Peer(daemon.url)).join(run=name)
            manager.hear(status("nothing can be stored: cannot store records: another process is writing"))
            manager.drain()
            heard = [manager.hear(lambda datagram: True) for _ in range(40)]
            assert sum(map(is_pulse, heard)) == 20
        manager.hear(status("0 of 3 rounds"))
        manager.hear(is_pulse)


@pytest.mark.parametrize("what", ["records", "model sha256:00 for a"])
def test_trouble_is_no_excuse_for_a_thread_that_hangs(
    what: str, start_daemon: StartDaemon, manager: Manager
) -> None:
    daemon = start_daemon(run_of())
    [host] = daemon.aggregator.daemon.runs
    with told(daemon, manager, writer_patience_s=0.2):
        daemon._loop.call_soon_threadsafe(host.journal.set_trouble, what, "the disk is full")
        manager.hear(status("nothing can be stored: the disk is full"))
        with busy_writer(daemon):
            manager.hear(status("the database's thread has not answered for "))
            assert not is_pulse(manager.hear(lambda datagram: True))
        manager.hear(is_pulse)
