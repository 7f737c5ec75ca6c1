"""Models as state dicts of PyTorch, which runs nothing that is in a file."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_main.db import ModelDB, ModelStore, export_model, verify_database
from fl_main.db.transfer.importing import import_model
from fl_main.errors import StoreError
from fl_main.store import StoredPayload
from fl_main.weights import Layout, Role, pack
from tests.db.building import begin, model, train

pytestmark = pytest.mark.extras
if find_spec("torch"):  # without it pytest must be able to collect, and to deselect, these tests
    import torch

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def net() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))


@pytest.fixture
def stored(folder: Path, net: Any) -> Path:
    """The net's own arrays, with their roles, as a model of a run."""
    from fl_main.agent.torch import get_weights

    weights = get_weights(net)
    roles = {name: Role.BUFFER for name in weights if "running" in name or "tracked" in name}
    layout = Layout.of(weights, roles)
    with ModelStore(folder) as store:
        begin(store)
        staging = store.stage("net", layout)
        staging.write(bytes(pack(weights, layout)))
        payload = StoredPayload("weights", staging.finish(), layout.nbytes, layout, "net")
        store.commit([model("net", payload)], 110.0)
    return folder


def test_a_module_loads_what_was_exported(stored: Path, net: Any, tmp_path: Path) -> None:
    with ModelDB(stored) as db:
        file = export_model(db.model("net"), tmp_path / "net.pt")
    state = torch.load(file, weights_only=True)
    other = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    other.load_state_dict(state)
    for name, tensor in net.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
        assert other.state_dict()[name].dtype == tensor.dtype


def test_what_was_exported_comes_back_with_its_roles(stored: Path, tmp_path: Path) -> None:
    with ModelDB(stored) as db:
        file = export_model(db.model("net"), tmp_path / "net.pt")
        import_model(stored, file, "again")
        assert db.model("again:last").digest == db.model("net").digest
        roles = {spec.name: spec.role for spec in db.model("again:last").layout.arrays}
    assert roles["1.running_mean"] is Role.BUFFER
    assert roles["1.weight"] is Role.PARAMETER
    assert verify_database(stored) == []


def test_a_state_dict_of_another_program_is_read(stored: Path, net: Any, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "net.pt")
    import_model(stored, tmp_path / "net.pt", "mine", buffers=["*running*", "*tracked"])
    with ModelDB(stored) as db:
        assert db.model("mine:last").digest == db.model("net").digest


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64", "int32", "uint8", "bool"])
def test_types_are_kept(stored: Path, tmp_path: Path, dtype: str) -> None:
    state = {"w": torch.tensor([[0, 1], [1, 0]]).to(getattr(torch, dtype)), "s": torch.tensor(2.5)}
    torch.save(state, tmp_path / "w.pt")
    import_model(stored, tmp_path / "w.pt", "mine")
    with ModelDB(stored) as db:
        file = export_model(db.model("mine:last"), tmp_path / "back.pt")
    back = torch.load(file, weights_only=True)
    assert back["w"].dtype == state["w"].dtype
    assert torch.equal(back["w"], state["w"])
    assert back["s"].shape == ()


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch /tmp/should-not-be-here",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"w": Evil()}, "is no file of tensors alone"),
        ({"state_dict": {"w": 1}}, "'state_dict' is no tensor; save module.state_dict"),
        ([1, 2], "is no state dict"),
        ({1: 2}, "is no state dict"),
        ({}, "has no arrays in it"),
    ],
)
def test_what_is_no_state_dict_is_refused(stored: Path, tmp_path: Path, content: Any, words: str) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(StoreError, match=words) as caught:
        import_model(stored, tmp_path / "x.pt", "mine")
    assert "\n" not in str(caught.value)
    assert not Path("/tmp/should-not-be-here").exists()


@pytest.mark.parametrize("kind", ["sparse", "float8"])
def test_a_tensor_that_is_no_array_of_ours_is_named(stored: Path, tmp_path: Path, kind: str) -> None:
    plain = torch.eye(2)
    torch.save(
        {"w": plain.to_sparse() if kind == "sparse" else plain.to(torch.float8_e5m2)}, tmp_path / "x.pt"
    )
    with pytest.raises(StoreError, match="'w' cannot be an array"):
        import_model(stored, tmp_path / "x.pt", "new")


@pytest.mark.parametrize("data", [b"", b"what is this?", b".", b"\x80\2.", b"PK\3\4" + b"x" * 50])
def test_what_is_no_file_of_pytorch_is_refused(stored: Path, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(StoreError, match=r"x\.pt (is no file of tensors alone|cannot be read)"):
        import_model(stored, tmp_path / "x.pt", "mine")


def test_pytorch_is_loaded_only_for_its_files(folder: Path, tmp_path: Path) -> None:
    with ModelStore(folder) as store:
        train(store)
    code = (
        "import sys\n"
        "from fl_main.db import ModelDB, export_model\n"
        f"export_model(ModelDB({str(folder)!r}).model('g1'), {str(tmp_path / 'x.npz')!r})\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    assert np.load(tmp_path / "x.npz")
