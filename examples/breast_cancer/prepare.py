"""What must be there before the first process starts, all in one folder.

hospitals/NAME.npz     the records of one hospital; only its own agent reads them
agents/NAME/           that agent's identity and outbox
initial.npz            the model that round 1 starts from
aggregator.yaml        settings of the daemon
run.yaml               settings of the run
models/                the model database, made by the daemon
logs/NAME.log          what each process says
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import data
import model
import numpy as np
import yaml
from filelock import FileLock, Timeout
from processes import DemoError

RUN = "breast-cancer"
MARKER = "made-by-the-demo.txt"
MARKER_TEXT = "Made by examples/breast_cancer/main.py, which deletes its files here and makes them anew.\n"


@contextmanager
def fresh_folder(folder: Path) -> Iterator[None]:
    """Empty the folder of what an earlier demo left, and keep other demos out meanwhile."""
    if folder.exists() and not folder.is_dir():
        raise DemoError(f"{folder} is a file; name a folder with --folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise DemoError(f"{folder} has files that this demo did not make; name another one with --folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text(MARKER_TEXT)
    try:
        with FileLock(folder / ".lock", timeout=0):
            for name in ("hospitals", "agents", "models", "logs"):
                shutil.rmtree(folder / name, ignore_errors=True)
                (folder / name).mkdir()
            yield
    except Timeout:
        raise DemoError(f"another demo runs in {folder}; name another folder with --folder") from None


def prepare(folder: Path, hospitals: Mapping[str, data.Hospital], rounds: int, seed: int, port: int) -> None:
    """Write everything but the model database and the logs."""
    for name, hospital in hospitals.items():
        data.save(folder / "hospitals" / f"{name}.npz", hospital)
    num_features = hospitals[name].train.features.shape[1]
    np.savez(folder / "initial.npz", **model.initial_weights(num_features, seed))
    _write_yaml(folder / "run.yaml", _run_settings(rounds, seed, len(hospitals)))
    _write_yaml(
        folder / "aggregator.yaml",
        {
            "listen": {"port": port},
            "database": {"folder": str(folder / "models")},
            "runs": ["run.yaml"],
        },
    )


def _run_settings(rounds: int, seed: int, agents: int) -> dict[str, Any]:
    return {
        "name": RUN,
        "purpose": "Tell malignant from benign tumours, without any record leaving its hospital",
        "seed": seed,
        "statistics": True,  # begin with sums over all hospitals: they standardise the features
        "initial": {"file": "initial.npz"},
        "round": {"min_agents": agents, "min_updates": agents, "deadline_s": 60.0},
        "end": {"rounds": rounds},
        "config": model.CONFIG,
    }


def _write_yaml(path: Path, settings: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
