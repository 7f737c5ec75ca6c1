"""Processes that are killed and started again: the daemon, the sites, an operator's commands."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import psutil

from tests.system.daemons import ROOT, environment

PATIENCE_S = 20.0


class Supervised:
    """A program that is started again whenever it is gone, as a service manager does it.

    Args:
        name: For the story.
        log: Where its output goes.
        args: Of the Python interpreter.

    Attributes:
        starts: How often it was started.
        next_start_at: Not before this (monotonic seconds).
    """

    def __init__(self, name: str, log: Path, *args: str | Path) -> None:
        self.name = name
        self.log = log
        self.starts = 0
        self.next_start_at = 0.0
        self.is_frozen = False
        self._args = args
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it must not be running."""
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self.starts += 1
        with open(self.log, "ab") as file:
            self._process = _started(self._args, file)

    @property
    def is_running(self) -> bool:
        """Whether it lives; a frozen process does."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def output(self) -> str:
        """What it said since it was last started."""
        if not self.log.exists():
            return ""
        with open(self.log, "rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def ended(self) -> int | None:
        """Return its exit code if it ended by itself; once, then None."""
        process = self._process
        if process is None or (code := process.poll()) is None:
            return None
        self._process = None
        return code

    def freeze(self) -> None:
        """Stop it where it is, until `thaw` or `kill`."""
        if self._process and self.is_running:
            self._process.send_signal(signal.SIGSTOP)
            self.is_frozen = True
            _until_stopped(self._process.pid)

    def thaw(self) -> None:
        """Let it go on."""
        self.is_frozen = False
        if self._process and self.is_running:
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a power cut does, frozen or not."""
        process, self._process, self.is_frozen = self._process, None, False
        if process is not None:
            process.kill()
            process.wait(PATIENCE_S)

    def terminate(self) -> None:
        """Ask it to stop in order."""
        if self._process and self.is_running:
            self._process.send_signal(signal.SIGTERM)


class DaemonUnderFire(Supervised):
    """The daemon.

    Attributes:
        is_stopping: Whether it was told to stop.
        rss_bytes: The most memory that it was seen to use; `open_files`: the most files.
    """

    def __init__(self, log: Path, settings: Path) -> None:
        super().__init__("daemon", log, "-m", "fl_main.aggregator", "--settings", settings)
        self.is_stopping = False
        self.rss_bytes = self.open_files = 0

    def start(self) -> None:
        self.is_stopping = False
        super().start()

    def terminate(self) -> None:
        self.is_stopping = True
        super().terminate()

    @property
    def is_listening(self) -> bool:
        return self.is_running and re.search(r" listening url=", self.output) is not None

    def measure(self) -> None:
        """Look at its memory and files."""
        try:
            process = psutil.Process(self.pid)
            self.rss_bytes = max(self.rss_bytes, process.memory_info().rss)
            self.open_files = max(self.open_files, process.num_fds())
        except psutil.Error:  # it ended meanwhile
            pass


class Order:
    """An operator's command, given again until the daemon took it."""

    def __init__(self, url: str, database: Path, *args: str | Path) -> None:
        self.text = " ".join(map(str, args[:2]))
        self._args = ("-m", "fl_main", *args, "--url", url, "--database", database)
        self._process: subprocess.Popen[bytes] | None = None

    def is_done(self) -> bool:
        """Look after it; whether the daemon did what it says."""
        if self._process is None:
            self._process = _started(self._args, subprocess.PIPE)
        if self._process.poll() is None:
            return False
        output = self._process.communicate()[0].decode(errors="replace")
        is_done = self._process.returncode == 0 or "exists already" in output
        self._process = None
        return is_done

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


def _started(args: tuple[str | Path, ...], output: "IO[bytes] | int") -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, *map(str, args)],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _until_stopped(pid: int) -> None:
    """Wait until every thread of a process stands still."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        states = []
        for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
            try:
                states.append(thread.read_text().rpartition(")")[2].split()[0])
            except OSError:  # the thread ended
                continue
        if all(state in "TtZX" for state in states):
            return
        time.sleep(0.0001)
