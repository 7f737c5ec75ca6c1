"""The notebook, run from top to bottom as a reader would."""

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "examples" / "notebook"
NOTEBOOK = FOLDER / "federated_notebook.ipynb"

Outputs = dict[str, list[dict[str, Any]]]


def outputs_of(notebook: Path) -> Outputs:
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    return {cell["id"]: cell["outputs"] for cell in cells if cell["cell_type"] == "code"}


def text_of(outputs: Outputs) -> str:
    return "".join("".join(output.get("text", "")) for cell in outputs.values() for output in cell)


def check(outputs: Outputs) -> None:
    kinds = {(o["output_type"], o.get("name")) for cell in outputs.values() for o in cell}
    assert kinds == {("stream", "stdout"), ("display_data", None)}, "errors or warnings among the outputs"
    text = text_of(outputs)
    assert "clinic-0: this agent was closed" in text  # replaced by its successor
    assert "the run finished after 15 rounds" in text
    scores = {name: float(score) for name, score in re.findall(r"^(\S+) +([01]\.\d{3})$", text, re.M)}
    assert scores.keys() == {"federated", "pooled", "clinic-0", "clinic-1", "clinic-2"}
    assert scores["federated"] > 0.9
    assert scores["federated"] > max(scores[f"clinic-{i}"] for i in range(3))


def test_the_committed_outputs_are_whole_and_tell_nothing_about_the_machine() -> None:
    outputs = outputs_of(NOTEBOOK)
    check(outputs)
    assert not re.findall(r"(?<![\w/:])/(?:home|root|tmp|usr|Users|var|work)/", NOTEBOOK.read_text("utf-8"))
    [plot] = [o["data"]["image/png"] for o in outputs["plot"] if "image/png" in o.get("data", {})]
    assert len(base64.b64decode(plot)) < 60_000


def test_no_cell_is_committed_unexecuted_or_out_of_order() -> None:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    counts = [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.extras
@pytest.mark.timeout(240)
def test_it_runs_from_top_to_bottom(tmp_path: Path) -> None:
    out = tmp_path / "out.ipynb"
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    env = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "FL_STATE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, FOLDER / "build.py", out], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    check(outputs_of(out))
    assert [path.name for path in tmp_path.iterdir() if path != temporary] == ["out.ipynb"]
    left = [path for path in temporary.iterdir() if (path / "models").exists()]
    assert not left, "the notebook did not clean up"
