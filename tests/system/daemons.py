"""Daemons for tests: one in a process of its own, one in a thread, both on a free port."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from fl_main.aggregator import Aggregator
from fl_main.aggregator.host import RunHost
from fl_main.db import ModelDB
from fl_main.settings import AggregatorSettings, RunSettings
from fl_main.why import waiting_for

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 20.0  # for what takes well under a second on an idle machine

QUICK: dict[str, Any] = {
    "name": "r",
    "evaluate": {"every": 0},
    "end": {"rounds": 3},
    "round": {"min_agents": 2, "min_updates": 2, "deadline_s": 60.0},
}


def run_of(**changes: Any) -> dict[str, Any]:
    """Settings of a run of three rounds with two agents; sections are merged."""
    merged = {key: dict(value) if isinstance(value, dict) else value for key, value in QUICK.items()}
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] |= value
        else:
            merged[key] = value
    return merged


def until(condition: Callable[[], T], what: str = "", patience_s: float = PATIENCE_S) -> T:
    """Wait until a condition holds, and return its value."""
    end = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {patience_s:g} s in vain {what}"
        time.sleep(0.005)
    return found


def environment(**more: str) -> dict[str, str]:
    """The environment without settings of ours, whatever the developer's shell has."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FL_")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", **more}


def write_yaml(path: Path, content: Mapping[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(dict(content)), "utf-8")
    return path


def fl(*args: str | Path, cwd: Path | None = None, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run `fl …` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "fl_main", *map(str, args)],
        cwd=cwd or ROOT,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


class Process:
    """A process of ours whose log can be waited for."""

    def __init__(self, log: Path, *args: str | Path, **env: str) -> None:
        self.log = log
        with open(log, "ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, *map(str, args)],
                cwd=ROOT,
                env=environment(**env),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def text(self) -> str:
        return self.log.read_text("utf-8", errors="replace")

    def seen(self, pattern: str) -> "re.Match[str]":
        """Wait until the log has a line with a pattern."""

        def look() -> "re.Match[str] | None":
            found = re.search(pattern, self.text)
            assert found or self.is_running, f"ended with {self._process.returncode}:\n{self.text}"
            return found

        try:
            found = until(look, f"for {pattern!r}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text}") from None
        assert found
        return found

    def ended(self, code: int = 0) -> str:
        """Wait for its end, check that it was a good one, and return the log."""
        assert self._process.wait(PATIENCE_S) == code, self.text
        assert "Traceback" not in self.text, self.text
        return self.text

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut does."""
        self._process.kill()
        self._process.wait(PATIENCE_S)


class DaemonProcess(Process):
    """`python -m fl_main.aggregator` with a settings file of its own.

    Attributes:
        url: Where it listens.
        models: Its database folder.
    """

    def __init__(
        self, folder: Path, runs: list[dict[str, Any]], *options: str, port: int = 0, **settings: Any
    ) -> None:
        self.folder = folder
        self.models = folder / "models"
        listen = {"port": port} | settings.pop("listen", {})
        database = {"folder": str(self.models)} | settings.pop("database", {})
        files = [str(write_yaml(folder / f"{run['name']}.yaml", run)) for run in runs]
        self.settings = write_yaml(
            folder / "aggregator.yaml",
            {"listen": listen, "database": database, "runs": files, **settings},
        )
        super().__init__(
            folder / "daemon.log", "-m", "fl_main.aggregator", "--settings", self.settings, *options
        )

    def started(self) -> "DaemonProcess":
        """Wait until it listens."""
        self.url = self.seen(r"listening url=(\S+)")[1]
        return self

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2].partition("/")[0])

    def stop(self, number: signal.Signals = signal.SIGINT) -> str:
        """End it in order."""
        self.signal(number)
        log = self.ended()
        assert "stopped" in log
        return log


class DaemonThread:
    """An `Aggregator` on an event loop in a thread.

    Attributes:
        url: Where it listens.
        folder: Its database folder.
    """

    def __init__(
        self, folder: Path, runs: list[dict[str, Any]], *, insecure: bool = False, **settings: Any
    ) -> None:
        self.folder = folder
        listen = {"port": 0} | settings.pop("listen", {})
        self._settings = AggregatorSettings.model_validate(
            {"listen": listen, "database": {"folder": folder}, **settings}
        )
        self._runs = [RunSettings.model_validate(run) for run in runs]
        self._insecure = insecure
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="daemon", daemon=True)

    def __enter__(self) -> "DaemonThread":
        self._thread.start()
        try:
            self.call(self._start())
        except BaseException:
            self._end()
            raise
        return self

    async def _start(self) -> None:
        self.aggregator = Aggregator(self._settings, self._runs, insecure=self._insecure)
        await self.aggregator.start()
        self.url = self.aggregator.url

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop in order; may be called twice."""
        if self._loop.is_closed():
            return
        try:
            self.call(self.aggregator.stop())
        finally:
            self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        left = asyncio.all_tasks(self._loop)
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        assert not [task for task in left if not task.done()], left

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the daemon's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2].partition("/")[0])

    def host(self, run: str = "r") -> RunHost:
        found = self.aggregator.daemon.runs.find(run)
        assert found
        return found

    def waiting_for(self, run: str = "r") -> str:
        """What the run waits for, as `fl status` says it."""
        return waiting_for(self.host(run).view())

    def db(self) -> ModelDB:
        """The database, to look into."""
        return ModelDB(self.folder)
