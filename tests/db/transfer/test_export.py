"""Models as files for other programs."""

import resource
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fl_main.db import ModelDB, ModelStore, export_model
from fl_main.errors import MissingExtraError, StoreError
from fl_main.store import StoredPayload
from fl_main.weights import Array, Layout, pack
from tests.db.building import answer_delta, begin, model, train, weights


def stored(folder: Path, arrays: dict[str, Array]) -> ModelDB:
    layout = Layout.of(arrays)
    with ModelStore(folder) as store:
        begin(store)
        staging = store.stage("x", layout)
        staging.write(bytes(pack(arrays, layout)))
        payload = StoredPayload("weights", staging.finish(), layout.nbytes, layout, "x")
        store.commit([model("odd", payload)], 110.0)
    return ModelDB(folder)


@pytest.fixture
def db(folder: Path) -> ModelDB:
    with ModelStore(folder) as store:
        train(store)
    return ModelDB(folder)


def test_safetensors_is_the_stored_file(db: ModelDB, tmp_path: Path) -> None:
    found = db.model("m1a")
    target = export_model(found, tmp_path / "out.safetensors")
    assert target.read_bytes() == found.path.read_bytes()
    np.testing.assert_array_equal(load_file(target)["bias"], weights(1.0)["bias"])


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_delta_is_exported_as_the_local_model_unless_said_otherwise(
    folder: Path, tmp_path: Path, suffix: str
) -> None:
    with ModelStore(folder) as store:
        train(store)
        answer_delta(store, "t", "a", 2.0, base="g1")
    found = ModelDB(folder).model("d-t")
    whole = export_model(found, tmp_path / f"whole{suffix}")
    delta = export_model(found, tmp_path / f"delta{suffix}", as_stored=True)
    read = load_file if suffix == ".safetensors" else np.load
    for name, array in weights(2.0).items():
        np.testing.assert_array_equal(read(whole)[name], array)
        np.testing.assert_array_equal(read(delta)[name], array - weights(0.5)[name])
    if suffix == ".safetensors":
        assert delta.read_bytes() == found.path.read_bytes()


def test_npz_has_one_entry_per_array(db: ModelDB, tmp_path: Path) -> None:
    with np.load(export_model(db.model("m1a"), tmp_path / "out.npz"), allow_pickle=False) as loaded:
        assert set(loaded) == set(weights(1.0))
        np.testing.assert_array_equal(loaded["layer/w"], weights(1.0)["layer/w"])


def test_npz_takes_any_name_and_shape(folder: Path, tmp_path: Path) -> None:
    arrays: dict[str, Array] = {
        "file": np.arange(3),
        "allow_pickle": np.array(2.5),
        "größe/α": np.zeros((0, 2), np.float32),
    }
    with np.load(export_model(stored(folder, arrays).model("odd"), tmp_path / "out.npz")) as loaded:
        assert set(loaded) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(loaded[name], array)


def test_bfloat16_is_not_for_npz(folder: Path, tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    found = stored(folder, {"w": np.zeros(2, ml_dtypes.bfloat16)}).model("odd")
    with pytest.raises(StoreError, match=r"array 'w' is bfloat16.*export to \.safetensors"):
        export_model(found, tmp_path / "out.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models"]
    export_model(found, tmp_path / "out.safetensors")


def test_a_file_that_is_there_is_kept_unless_said_otherwise(db: ModelDB, tmp_path: Path) -> None:
    target = tmp_path / "out.npz"
    target.write_text("precious")
    with pytest.raises(StoreError, match="exists already"):
        export_model(db.model("g1"), target)
    assert target.read_text() == "precious"
    export_model(db.model("g1"), target, overwrite=True)
    assert target.read_bytes()[:2] == b"PK"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("out.bin", r"must end in \.safetensors, \.npz or \.pt"),
        ("none/out.npz", "cannot export a model: there is no folder .*none$"),
    ],
)
def test_where_it_cannot_be_written_is_told(db: ModelDB, tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(StoreError, match=words):
        export_model(db.model("g1"), tmp_path / name)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_disk_that_takes_no_more_names_the_target(db: ModelDB, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"out{suffix}"
    found = db.model("g1")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))  # Python ignores SIGXFSZ
    try:
        with pytest.raises(StoreError) as caught:
            export_model(found, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(caught.value) == f"cannot export a model in {target}: File too large"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models"]


def test_without_pytorch_a_line_says_what_to_do(
    db: ModelDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "fl_main.db.transfer.torch_files", raising=False)
    with pytest.raises(MissingExtraError, match=r"^a \.pt file needs PyTorch, .*pip install"):
        export_model(db.model("g1"), tmp_path / "out.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models"]
