"""The image example as a user runs it: a daemon and agents, each a process."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fl_main.db import ModelDB

pytestmark = [pytest.mark.extras, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLE = ROOT / "examples" / "image_classification"
ENV = os.environ | {"PYTHONPATH": str(ROOT)}
RECORD_BYTES = 3073


def example(*args: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(EXAMPLE / "main.py"), *map(str, args)]
    return subprocess.run(command, env=ENV, capture_output=True, text=True)


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example's `images` module, imported as its programs do."""
    monkeypatch.syspath_prepend(EXAMPLE)
    import images  # type: ignore[import-not-found]

    yield images
    sys.modules.pop("images", None)


def write_cifar10(folder: Path, records: int = 40) -> None:
    """Files of the binary version's format; the record's number is its first red pixel."""
    for name in [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]:
        batch = np.full((records, RECORD_BYTES), 200, np.uint8)
        batch[:, 0] = np.arange(records) % 10
        batch[:, 1] = np.arange(records)
        batch.tofile(folder / name)


# --- the one command ---------------------------------------------------------------------


def test_one_command_shows_the_rounds_and_a_comparison(tmp_path: Path) -> None:
    done = example("--rounds", "6", "--folder", tmp_path / "run", "--label-skew", "5")
    assert (done.returncode, done.stderr) == (0, "")
    rounds = re.findall(r"^ +([1-6]) +\d\.\d{4} +\d\.\d{4} +[01]\.\d{4} +\d+ +\d+\.\d\d$", done.stdout, re.M)
    assert rounds == list("123456")
    scores = {
        name: float(x) for name, x in re.findall(r"^(federated|pooled) +([01]\.\d{4})", done.stdout, re.M)
    }
    assert scores["federated"] > 0.5  # chance is 0.1
    assert scores["pooled"] > 0.9
    with ModelDB(tmp_path / "run" / "models") as db:
        run = db.run("image-classification")
        assert run.status == "finished"
        assert {agent.name for agent in run.agents()} == {"agent-0", "agent-1", "agent-2"}
        assert [entry.accepted for entry in run.rounds() if entry.round_id] == [3] * 6


def test_cifar10_is_read_from_a_folder(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    done = example("--cifar10", tmp_path, "--rounds", "1", "--agents", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "agent-1:    80 images, by label [" in done.stdout
    assert "On the same 40 test images" in done.stdout


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["--agents", "1"], 2, "--agents must be at least 2"),
        (["--rounds", "0"], 2, "--rounds at least 1"),
        (["--cifar10", "nowhere"], 1, "error: nowhere: there is no test_batch.bin; "),
        (["--folder", "tests"], 1, "error: tests is not empty; name another --folder"),
        (["--agents", "60", "--label-skew", "0.01"], 1, "larger --label-skew, or fewer agents"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(args: list[str], code: int, text: str) -> None:
    command = [sys.executable, str(EXAMPLE / "main.py"), *args]
    done = subprocess.run(command, env=ENV, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code
    assert text in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


# --- who has what ------------------------------------------------------------------------


@pytest.mark.parametrize("label_skew", [0.0, 1.0])
def test_every_training_image_has_one_owner(images: ModuleType, label_skew: float) -> None:
    everything, test = images.load(None, 0)
    assert len(everything) + len(test) == 1797
    owned = [half for agent in range(4) for half in images.part(everything, agent, 4, label_skew, seed=1)]
    assert sum(len(half) for half in owned) == len(everything)
    assert sum(int(half.pixels.sum()) for half in owned) == int(everything.pixels.sum())


def test_a_small_alpha_skews_the_labels(images: ModuleType) -> None:
    everything, _ = images.load(None, 0)

    def largest_share(label_skew: float) -> float:
        counts = np.bincount(images.part(everything, 0, 3, label_skew, seed=1)[0].labels, minlength=10)
        return float(counts.max() / counts.sum())

    assert largest_share(0.0) < 0.15
    assert largest_share(100.0) < 0.15
    assert largest_share(0.2) > 0.2


def test_a_batch_of_cifar10_is_labels_and_planes_of_colour(images: ModuleType, tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    train, test = images.load(tmp_path, 0)
    assert tuple(train.pixels.shape) == (200, 3, 32, 32)
    assert test.labels.tolist() == [number % 10 for number in range(40)]
    assert test.pixels[:, 0, 0, 0].tolist() == list(range(40))
    assert test.pixels[5, 0, 0, 1:3].tolist() == [200, 200]


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x04pickled", bytes(3072), b"\x0a" + bytes(3072)],
    ids=["empty", "pickle", "short", "label 10"],
)
def test_a_file_of_another_format_is_refused(images: ModuleType, tmp_path: Path, content: bytes) -> None:
    write_cifar10(tmp_path)
    (tmp_path / "data_batch_3.bin").write_bytes(content)
    with pytest.raises(
        images.DataError, match=r"data_batch_3\.bin: not a batch of CIFAR-10's binary version"
    ):
        images.load(tmp_path, 0)
