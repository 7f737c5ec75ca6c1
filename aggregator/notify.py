"""Telling systemd how the daemon is: ready, what it waits for, alive, stopping.

The protocol of sd_notify(3): datagrams of `NAME=value` lines to the socket in `NOTIFY_SOCKET`.
Written here, as the one package that does only this in Python (`sdnotify`) had its last release
in 2017; the others bind a C library that every site would need.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from types import TracebackType

from fl_main.plan import rounds_wanted
from fl_main.printable import printable
from fl_main.why.runs import find_run

from .host import RunHost
from .server import Daemon

logger = logging.getLogger("fl_main.aggregator")

STATUS_EVERY_S = 5.0
SEND_PATIENCE_S = 1.0  # with a service manager that does not read, where it must hear something
WRITER_PATIENCE_S = 30.0  # a lock of another process takes 10 s, then the writer goes on to the next thing
STOP_MARGIN_S = 10.0  # beyond limits.stop_s, for the last connections and the database
MAX_RUNS = 3  # that the status line tells of
MAX_STATUS = 1000  # characters; systemd drops a datagram of more than 4096 bytes


class Notifier:
    """Tells systemd about a daemon that is up, for as long as the context lasts.

    Entered, it says that the daemon is ready; left, that it stops. In between it tells what the
    runs wait for and, where the unit has a watchdog, that the daemon is alive: that the event
    loop turns and the database's thread does one thing after the other. A database that cannot be
    written for now (a full disk, a lock) is trouble, not a hang: each try ends by an error, and a
    restart would not mend it. Who hangs in one of them is stuck all the same. Without systemd,
    nothing happens.

    Args:
        daemon: What is told about.
        writer_busy_s: Returns for how long the database's thread has been at one thing.
        stop_s: How long its ordered stop may take.
        environ: Where systemd says how it is reached.
        writer_patience_s: How long the database's thread may be busy with one thing.
    """

    def __init__(
        self,
        daemon: Daemon,
        writer_busy_s: Callable[[], float],
        stop_s: float,
        environ: Mapping[str, str] = os.environ,
        writer_patience_s: float = WRITER_PATIENCE_S,
    ) -> None:
        self._daemon = daemon
        self._writer_busy_s = writer_busy_s
        self._stop_us = _microseconds(stop_s + STOP_MARGIN_S)
        self._writer_patience_s = writer_patience_s
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._watchdog_s = _watchdog_s(environ)
        self._task: asyncio.Task[None] | None = None
        self._was_stuck = self._was_unheard = False

    async def __aenter__(self) -> None:
        if self._address:
            self._send("READY=1", self._status(), patience_s=SEND_PATIENCE_S)
            self._task = asyncio.create_task(self._report(), name="notify")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
        # From here on the watchdog bounds the stop, too.
        limits = [f"{name}={self._stop_us}" for name in ("EXTEND_TIMEOUT_USEC", "WATCHDOG_USEC")]
        stopping = ("STOPPING=1", "STATUS=stopping", *(limits if self._watchdog_s else limits[:1]))
        self._send(*stopping, patience_s=SEND_PATIENCE_S)

    async def _report(self) -> None:
        period_s = min(STATUS_EVERY_S, (self._watchdog_s or STATUS_EVERY_S) / 2)
        while True:
            await asyncio.sleep(period_s)
            stuck_s = self._stuck_s()
            self._say_stuck(stuck_s)
            if self._watchdog_s and not stuck_s:
                self._send("WATCHDOG=1")
            self._send(self._status(stuck_s))

    def _stuck_s(self) -> float:
        """Return for how long the database's thread has been at one thing, 0 while that is not too long."""
        busy_s = self._writer_busy_s()
        return busy_s if busy_s > self._writer_patience_s else 0.0

    def _say_stuck(self, stuck_s: float) -> None:
        if stuck_s and not self._was_stuck:
            logger.error("the database's thread has not answered for %.0f s; its disk may hang", stuck_s)
        self._was_stuck = bool(stuck_s)

    def _status(self, stuck_s: float = 0.0) -> str:
        line = f"the database's thread has not answered for {stuck_s:.0f} s"
        if not stuck_s:
            try:
                line = status_line(self._daemon)
            except Exception as error:  # the pulses must not end by a bug in a sentence
                logger.exception("there is no status line")
                line = f"unknown: {type(error).__name__}"
        # Agents name themselves as they like: no line break of theirs may become an assignment.
        return "STATUS=" + printable(line)[:MAX_STATUS]

    def _send(self, *assignments: str, patience_s: float = 0.0) -> None:
        """Tell something; what comes again soon does not wait, with the event loop, for who does not read."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.connect(self._address)  # only so does the end know when the other has room again
                end.settimeout(patience_s)
                end.send("\n".join(assignments).encode())
        except OSError as error:
            if not self._was_unheard:
                logger.warning("systemd cannot be told %s: %s", assignments[0], error.strerror or error)
            self._was_unheard = True
        else:
            self._was_unheard = False


def status_line(daemon: Daemon) -> str:
    """Return in one line what the runs wait for, and before that what keeps them from being stored."""
    if trouble := daemon.runs.trouble:
        return f"nothing can be stored: {trouble}"
    under_way = [host for host in daemon.runs if not host.run.status.is_over]
    more = len(under_way) - MAX_RUNS
    return "; ".join(
        [
            f"{len(daemon.door.sessions)} agents, {len(under_way)} of {len(daemon.runs)} runs under way",
            *(_of_run(host) for host in under_way[:MAX_RUNS]),
            *([f"and {more} more"] if more > 0 else []),
        ]
    )


def _of_run(host: RunHost) -> str:
    waiting = find_run(host.view()).what
    wanted = rounds_wanted(host.run, host.settings)
    return f"{host.run.name}: {host.run.rounds_done} of {wanted} rounds, {waiting}"


def _address(name: str) -> str:
    """Return where the service manager listens, empty if nowhere; `@` stands for an abstract socket."""
    if name.startswith("@"):
        return "\0" + name[1:]
    if name and not name.startswith("/"):
        logger.warning("NOTIFY_SOCKET=%s is neither a path nor abstract; nobody is told anything", name)
        return ""
    return name


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """Return within how many seconds the service manager wants to hear of us, if it does."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None  # meant for another process
    period = environ.get("WATCHDOG_USEC", "")
    return int(period) / 1e6 if period.isdecimal() and int(period) else None


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
