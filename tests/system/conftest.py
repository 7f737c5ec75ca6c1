"""Daemons and agents that are gone when the test is over."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.system.agents import AgentThread, site
from tests.system.daemons import DaemonProcess, DaemonThread, Process

StartDaemon = Callable[..., DaemonThread]
StartProcess = Callable[..., DaemonProcess]
StartAgent = Callable[..., AgentThread]
StartPython = Callable[..., Process]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what a test opened, the last first."""
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def unused_tcp_port() -> int:
    """A port where nothing listens at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def start_daemon(tmp_path: Path, stack: ExitStack) -> StartDaemon:
    """Start a daemon in a thread: `start_daemon(run_of(…), …, limits={…})`."""

    def start(*runs: dict[str, Any], folder: str = "models", **settings: Any) -> DaemonThread:
        return stack.enter_context(DaemonThread(tmp_path / folder, list(runs), **settings))

    return start


@pytest.fixture
def start_process(tmp_path: Path, stack: ExitStack) -> StartProcess:
    """Start a daemon in a process; it is killed if the test does not end it."""

    def start(*runs: dict[str, Any], options: tuple[str, ...] = (), **settings: Any) -> DaemonProcess:
        process = DaemonProcess(tmp_path, list(runs), *options, **settings)
        stack.callback(process.kill)
        return process

    return start


@pytest.fixture
def start_python(tmp_path: Path, stack: ExitStack) -> StartPython:
    """Start a Python program: `start_python("a.log", "agent.py", …)`."""

    def start(log: str, *args: str | Path, **env: str) -> Process:
        process = Process(tmp_path / log, *args, **env)
        stack.callback(process.kill)
        return process

    return start


@pytest.fixture
def start_agent(tmp_path: Path, stack: ExitStack) -> StartAgent:
    """Start an agent in a thread: `start_agent(url, 1)` is `site1` with its training."""

    def start(url: str, who: int | str, train: Any = None, **options: Any) -> AgentThread:
        name = f"site{who}" if isinstance(who, int) else who
        train = train or site(who if isinstance(who, int) else 1)
        folder = options.pop("state_folder", tmp_path / "state" / name)
        agent = AgentThread(url, name, folder, train, **options)
        stack.callback(agent.close)
        return agent

    return start
