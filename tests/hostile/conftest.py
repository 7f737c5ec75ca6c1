"""Scenes for attacks; see `tests.hostile.scene`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.hostile.scene import HONEST, Scene
from tests.system.conftest import (
    StartAgent,
    StartProcess,
    StartPython,
    stack,
    start_agent,
    start_process,
    start_python,
)
from tests.system.daemons import run_of

__all__ = ["scene", "stack", "start_agent", "start_process", "start_python"]

# Fixtures have the names of the imported ones they ask for.


@pytest.fixture
def scene(
    start_process: StartProcess, start_agent: StartAgent, start_python: StartPython, tmp_path: Path
) -> Callable[..., Scene]:
    """Set a scene: `scene(join_s=0.5, …)` with limits.

    Beside them, `values` of the model of run `r`, `settings` of the daemon, `options` of the honest agent.
    """

    def set_up(
        values: int = 4,
        settings: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        **limits: Any,
    ) -> Scene:
        np.savez(tmp_path / "initial.npz", w=np.zeros(values, np.float32))
        crowd = run_of(
            initial={"file": str(tmp_path / "initial.npz")}, round={"min_agents": 10**6, "min_updates": 2}
        )
        daemon = start_process(HONEST, crowd, limits=limits, **settings or {}).started()
        return Scene(daemon, start_agent, start_python, options or {})

    return set_up
