"""Operating-system processes that belong together: started, watched, and ended in order."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

PATIENCE_S = 60.0  # without any news, a process is taken for stuck
LEAVE_S, STOP_S = 5.0, 15.0  # for agents to leave, for the daemon to stop


class DemoError(Exception):
    """Something fell short; its text says what."""


class Processes:
    """Processes with a log file each; leaving the context ends them, the first one last.

    Ctrl-C, SIGTERM and a closed terminal only set a flag while processes run (`check` raises
    KeyboardInterrupt then): an exception in the middle of starting one would leave it behind.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._is_interrupted = False

    def __enter__(self) -> "Processes":
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        self._handlers = {number: signal.signal(number, self._interrupt) for number in signals}
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self._stop()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._is_interrupted:  # a second time: at once
            for process in self._running.values():
                process.kill()
        self._is_interrupted = True

    def start(self, name: str, *args: str | Path) -> None:
        """Start a Python program."""
        # Variables such as FL_RUN_SEED would change the settings that this demo writes.
        env = {key: value for key, value in os.environ.items() if not key.startswith("FL_")}
        with open(self.log_of(name), "wb") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-u", *args],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,  # Ctrl-C in the terminal reaches us alone: we say in which order
            )

    def log_of(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def wait_for(self, name: str, pattern: str) -> str:
        """Return what a pattern finds in a process's log, as soon as it is there."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if found := re.search(pattern, self.log_of(name).read_text(errors="replace")):
                return found[1]
            if name in self.check():
                raise self.failure(name, "ended too early")
            time.sleep(0.02)
        raise self.failure(name, f"did not start within {PATIENCE_S:.0f} s")

    def check(self) -> list[str]:
        """Return the processes that ended well; raise if one did not, or if somebody wants to stop."""
        if self._is_interrupted:
            raise KeyboardInterrupt
        codes = {name: process.poll() for name, process in self._running.items()}
        for name, code in codes.items():
            if code:
                raise self.failure(name, f"ended with {_in_words(code)}")
        return [name for name, code in codes.items() if code == 0]

    def failure(self, name: str, what: str) -> DemoError:
        """Return an error that says what a process did, and what it said last."""
        text, log = f"{name} {what}", self.log_of(name)
        lines = log.read_text(errors="replace").splitlines()[-8:]
        first = f"{text}; the last lines of {log}:" if lines else f"{text}; {log} is empty"
        return DemoError("\n    ".join([first, *lines]))

    def finish(self) -> None:
        """Let agents end by themselves, then end the daemon; raise if one of them does it badly."""
        daemon, *agents = self._running
        end = time.monotonic() + PATIENCE_S
        while working := set(agents) - set(self.check()):
            if time.monotonic() > end:
                raise self.failure(working.pop(), f"still runs {PATIENCE_S:.0f} s after the end of the run")
            time.sleep(0.02)
        self._running[daemon].terminate()
        _wait(self._running[daemon], STOP_S)
        self.check()

    def _stop(self) -> None:
        """End what still runs: the agents may say goodbye, then the daemon may store everything."""
        first, rest = list(self._running.values())[:1], list(self._running.values())[1:]
        for group, number, limit_s in ((rest, signal.SIGINT, LEAVE_S), (first, signal.SIGTERM, STOP_S)):
            for process in group:
                if process.poll() is None:
                    process.send_signal(number)
            for process in group:
                _wait(process, limit_s)


def _wait(process: "subprocess.Popen[bytes]", limit_s: float) -> None:
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _in_words(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
