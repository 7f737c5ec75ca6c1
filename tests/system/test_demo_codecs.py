"""The demo of the four hospitals with codecs: its settings and two more lines, by `fl run create`."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from fl_main.db import ModelDB
from tests.system.conftest import StartProcess, StartPython
from tests.system.daemons import ROOT, environment, fl, write_yaml

EXAMPLE = ROOT / "examples" / "breast_cancer"
HOSPITALS = ("lakeview", "northgate", "riverside", "st-mary")
ROUNDS = 12
PREPARE = f"""
from pathlib import Path
import data
from prepare import prepare
folder = Path.cwd()
Path("hospitals").mkdir()
prepare(folder, data.split(0)[0], {ROUNDS}, 0, 0)
"""


def trained(
    compression: dict[str, Any], folder: Path, start_process: StartProcess, start_python: StartPython
) -> ModelDB:
    """Let the demo's hospitals train with its settings and a section of compression."""
    folder.mkdir()
    env = environment(PYTHONPATH=f"{ROOT}:{EXAMPLE}")
    subprocess.run([sys.executable, "-c", PREPARE], cwd=folder, env=env, check=True)
    run = yaml.safe_load((folder / "run.yaml").read_text()) | {"compression": compression}
    daemon = start_process().started()
    created = fl(
        *("run", "create", write_yaml(folder / "run.yaml", run)),
        *("--url", daemon.url, "--database", daemon.models),
    )
    assert created.returncode == 0, created.stderr
    agents = [
        start_python(
            f"{name}.log",
            *(EXAMPLE / "hospital.py", "--url", daemon.url, "--data", folder / "hospitals" / f"{name}.npz"),
            *("--run", run["name"], "--state-folder", folder / "agents" / name),
        )
        for name in HOSPITALS
    ]
    for agent in agents:
        agent.ended()
    return ModelDB(daemon.models)


COMPRESSIONS: dict[str, dict[str, Any]] = {
    "float16": {"codec": "float16", "download": "float16"},
    "int8": {"codec": "int8", "download": "int8"},
    "top-k": {"codec": "top-k", "fraction": 0.1, "download": "float16"},
}


@pytest.mark.parametrize("codec", COMPRESSIONS)
def test_hospitals_train_with_codecs(
    codec: str, tmp_path: Path, start_process: StartProcess, start_python: StartPython
) -> None:
    """What they learn is another matter (docs/compression.md): this model's weights differ in scale."""
    with trained(COMPRESSIONS[codec], tmp_path / "demo", start_process, start_python) as db:
        run = db.run("breast-cancer")
        last = run.rounds()[-1]
        assert (run.status, last.round_id, last.accepted) == ("finished", ROUNDS, len(HOSPITALS))
        assert last.size < last.plain_size / 3
        assert last.codec.startswith(codec)
        assert codec != "float16" or last.evaluate["accuracy"].value > 0.94
