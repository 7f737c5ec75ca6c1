"""Figures of the docs that are drawn from code must be current."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FIGURES, BENCH = ROOT / "docs" / "figures", ROOT / "bench"


def loaded(file: Path) -> Any:
    """Return a program that is no part of a package."""
    spec = importlib.util.spec_from_file_location(f"program_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_figure_of_the_phases_is_drawn_from_the_table_as_it_stands() -> None:
    module = loaded(FIGURES / "rounds.py")
    assert (FIGURES / "rounds.svg").read_text("utf-8") == module.draw(), "run: python docs/figures/rounds.py"


def test_async_reaches_the_target_of_the_figure_several_times_sooner() -> None:
    modes = loaded(BENCH / "modes.py")
    sync = modes.run(modes.MODES["sync, all 50"], seed=0, horizon_s=1500.0)
    buffered = modes.run(modes.MODES["async (FedBuff), K = 10"], seed=0, horizon_s=300.0)
    reached_s = buffered.reached_s(0.8)
    assert reached_s is not None
    assert (sync.reached_s(0.8) or 1500.0) > 3 * reached_s
    assert buffered.effort["idle"] == 0
    assert sync.effort["idle"] > sync.effort["busy"]
