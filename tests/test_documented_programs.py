"""Programs of the documentation run as they stand: the Python blocks of a page are one program."""

import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
BLOCK = re.compile(r"(<!-- extras -->\n)?```python\n(.*?)```", re.DOTALL)


def run_page(name: str, *, with_extras: bool) -> dict[str, Any]:
    """Run a page's program, and return its names; blocks marked `extras` only if asked for."""
    names: dict[str, Any] = {}
    blocks = BLOCK.findall((DOCS / name).read_text("utf-8"))
    assert blocks, f"{name} has no program"
    for needs_extras, block in blocks:
        if with_extras or not needs_extras:
            exec(compile(block, name, "exec"), names)  # noqa: S102 - it is ours
    return names


def test_the_program_of_corrections_finds_the_optimum_with_scaffold() -> None:
    names = run_page("corrections.md", with_extras=False)
    np = names["np"]
    # The mean of the sites' objectives is least squares over all of them: they are of one size.
    inputs = np.concatenate([inputs for inputs, _ in names["sites"].values()])
    targets = np.concatenate([targets for _, targets in names["sites"].values()])
    columns = np.column_stack([inputs, np.ones(len(inputs))])
    best = np.linalg.lstsq(columns, targets, rcond=None)[0]

    def distance(run: Any) -> float:
        return float(np.linalg.norm(np.concatenate([run.weights["slope"], run.weights["offset"]]) - best))

    assert distance(names["scaffold"]) < 1e-3
    assert distance(names["fedavg"]) > 0.1


def test_the_program_of_personalization_is_better_at_each_site_than_one_model_for_all() -> None:
    names = run_page("personalization.md", with_extras=False)
    both, private = names["both"].metrics[-1], names["private"].metrics[-1]
    assert set(names["private"].weights) == {"slope"}
    assert private["evaluate_loss"] < 1e-4
    assert both["evaluate_personal_loss"] < both["evaluate_loss"] / 10


@pytest.mark.extras
def test_the_programs_with_pytorch_run() -> None:
    assert run_page("corrections.md", with_extras=True)["trained"].rounds == 10
    kept = run_page("personalization.md", with_extras=True)["batch_norm"].weights
    assert set(kept) == {"0.weight", "0.bias", "3.weight", "3.bias"}
