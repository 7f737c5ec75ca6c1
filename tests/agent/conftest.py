"""Agents are tested against a real daemon in a thread, or against one that the test plays."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.agent.world import Story, World
from tests.system.conftest import stack, start_agent, start_daemon, start_python, unused_tcp_port

__all__ = ["play", "stack", "start_agent", "start_daemon", "start_python", "unused_tcp_port"]


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    """Run a story with a client."""

    def run(story: Story, **options: Any) -> None:
        async def main() -> None:
            world = World(tmp_path / "state", **options)
            try:
                async with asyncio.timeout(20):
                    await story(world)
            finally:
                await world.end()

        asyncio.run(main())

    return run
