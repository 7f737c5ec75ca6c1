"""Figures of the docs that are drawn from code must be current."""

import importlib.util
from pathlib import Path

FIGURES = Path(__file__).parent.parent / "docs" / "figures"


def test_figure_of_the_phases_is_drawn_from_the_table_as_it_stands() -> None:
    spec = importlib.util.spec_from_file_location("rounds_figure", FIGURES / "rounds.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (FIGURES / "rounds.svg").read_text("utf-8") == module.draw(), "run: python docs/figures/rounds.py"
