"""Models of other programs become runs that others can begin from."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from fl_main.db import ModelDB, ModelStore, export_model, verify_database
from fl_main.db.transfer.importing import import_model
from fl_main.errors import StoreError
from fl_main.store import ModelKind, Phase, RunStatus
from fl_main.weights import Array, Role
from tests.db.building import train, weights

ARRAYS: dict[str, Array] = {
    "layer/w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bias": np.array([0.5, -1.0]),
    "steps": np.array(7, np.int64),
    "mask": np.array([True, False]),
    "none": np.zeros((0, 2), np.float16),
}


@pytest.fixture
def trained(folder: Path) -> Path:
    with ModelStore(folder) as store:
        train(store, rounds=1)
    return folder


def save_npz(arrays: dict[str, Array], path: Path) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]


def save_small_npz(arrays: dict[str, Array], path: Path) -> None:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("suffix", "save"),
    [(".safetensors", save_file), (".npz", save_npz), (".npz", save_small_npz)],
    ids=["safetensors", "npz", "compressed npz"],
)
def test_a_model_is_the_initial_model_of_a_run_that_is_over(
    trained: Path, tmp_path: Path, suffix: str, save: Callable[..., None]
) -> None:
    file = tmp_path / f"mine{suffix}"
    save(ARRAYS, file)
    found = import_model(trained, file, "lungs", actor="ann")
    assert (found.run, found.arrays, found.size) == ("lungs", 5, 24 + 16 + 8 + 2)
    with ModelDB(trained) as db:
        run, model = db.run("lungs"), db.model("lungs:last")
        assert (run.status, run.phase) == (RunStatus.STOPPED, Phase.ENDED)
        assert run.facts.reason == f"imported from mine{suffix}"
        assert (model.kind, model.round_id, model.model_id) == (ModelKind.INITIAL, 0, found.model_id)
        assert db.model("lungs:0").model_id == db.model("lungs:final").model_id == found.model_id
        assert model.weights().keys() == ARRAYS.keys()
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(model.weights()[name], array)
            assert model.weights()[name].dtype == array.dtype
        (event,) = run.events("run_imported")
        assert (event.actor, event.details) == ("ann", {"digest": model.digest, "file": file.name})
    assert verify_database(trained) == []


def test_equal_models_of_different_files_are_one_file(trained: Path, tmp_path: Path) -> None:
    save_file(ARRAYS, tmp_path / "a.safetensors")
    save_npz(ARRAYS, tmp_path / "b.npz")
    for name, file in (("one", "a.safetensors"), ("two", "b.npz")):
        import_model(trained, tmp_path / file, name)
    with ModelDB(trained) as db:
        assert db.model("one:last").path == db.model("two:last").path


def test_what_was_exported_comes_back_with_its_digest(trained: Path, tmp_path: Path) -> None:
    with ModelDB(trained) as db:
        export_model(db.model("g1"), tmp_path / "g1.safetensors")
        import_model(trained, tmp_path / "g1.safetensors", "again")
        assert db.model("again:last").digest == db.model("g1").digest


def test_a_daemon_may_have_the_database_open(trained: Path, tmp_path: Path) -> None:
    save_file(ARRAYS, tmp_path / "a.safetensors")
    with ModelStore(trained) as store:
        found = import_model(trained, tmp_path / "a.safetensors", "lungs")
        assert store.find_model(found.model_id) is not None
    with ModelStore(trained) as store:
        assert [one.run.name for one in store.snapshots()] == ["hearts", "lungs"]


def test_any_memory_order_and_byte_order_is_read(trained: Path, tmp_path: Path) -> None:
    arrays = {"f": np.asfortranarray(ARRAYS["layer/w"]), "b": ARRAYS["bias"].astype(">f8")}
    save_npz(arrays, tmp_path / "a.npz")
    import_model(trained, tmp_path / "a.npz", "lungs")
    with ModelDB(trained) as db:
        found = db.model("lungs:last").weights()
    np.testing.assert_array_equal(found["f"], ARRAYS["layer/w"])
    np.testing.assert_array_equal(found["b"], ARRAYS["bias"])


def test_buffers_are_told_by_name(trained: Path, tmp_path: Path) -> None:
    save_file({"w": np.ones(2), "bn.running_mean": np.ones(2)}, tmp_path / "a.safetensors")
    import_model(trained, tmp_path / "a.safetensors", "lungs", buffers=["*running_*"])
    with ModelDB(trained) as db:
        roles = {spec.name: spec.role for spec in db.model("lungs:last").layout.arrays}
    assert roles == {"w": Role.PARAMETER, "bn.running_mean": Role.BUFFER}


def npy(header: dict[str, Any], data: bytes) -> bytes:
    text = repr(header).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def zipped(path: Path, **entries: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(f"{name}.npy", data)


def huge(path: Path) -> None:
    zipped(path, w=npy({"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)}, b"\0" * 8))


def objects(path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    zipped(path, w=buffer.getvalue())


def complexes(path: Path) -> None:
    np.savez(path, w=np.zeros(2, np.complex128))


def cut(path: Path) -> None:
    save_file(ARRAYS, path)
    path.write_bytes(path.read_bytes()[:-1])


def header(text: str) -> bytes:
    """An .npy file that describes itself so."""
    data = text.encode("latin-1") + b"\n"
    return b"\x93NUMPY\1\0" + len(data).to_bytes(2, "little") + data


def damaged(path: Path) -> None:
    np.savez_compressed(path, w=np.arange(1000.0))
    data = bytearray(path.read_bytes())
    start = 30 + sum(struct.unpack("<HH", data[26:30]))  # of what is packed
    data[start] = 0xFF
    path.write_bytes(data)


def encrypted(path: Path) -> None:
    np.savez(path, w=np.arange(9.0))
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.find(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)


def packed_otherwise(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("w.npy", b"x" * 99)


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("a.npz", damaged, "cannot be read: "),
        ("a.npz", encrypted, "cannot be read: .* encrypted"),
        ("a.npz", packed_otherwise, "'w.npy' in it is packed in an unknown way"),
        ("a.npz", lambda path: zipped(path, w=header("-" * 4000 + "1")), "cannot be read: "),
        ("a.npz", lambda path: zipped(path, w=header("(" * 3000)), "cannot be read: "),
        ("a.npz", lambda path: zipped(path, w=header("{[]: 1}")), "cannot be read: "),
        ("a.npz", lambda path: zipped(path, w=header(" " * 20000)), "cannot be read: Header info length"),
        ("a.npz", huge, "array 'w' is not as large as it says"),
        ("a.npz", objects, "array 'w' holds Python objects, not numbers"),
        ("a.npz", complexes, "arrays of dtype complex128 cannot be sent"),
        ("a.npz", lambda path: zipped(path), "has no arrays in it"),
        ("a.npz", lambda path: zipped(path, w=b"what is this?"), "magic string is not correct"),
        ("a.npz", lambda path: path.write_bytes(b"x" * 99), "not a zip file"),
        ("a.safetensors", cut, "the file is cut off, or too long"),
        ("a.safetensors", lambda path: path.write_bytes(b"x" * 99), "header is longer than the file"),
        ("a.safetensors", lambda path: path.write_bytes(b""), "not a safetensors header"),
        ("a.safetensors", lambda path: save_file({}, path), "has no arrays in it"),
        ("a.txt", lambda path: path.write_text("?"), r"must end in \.safetensors or \.npz or \.pt"),
    ],
)
def test_what_is_no_model_is_refused_and_leaves_nothing(
    trained: Path, tmp_path: Path, name: str, make: Callable[[Path], object], words: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(StoreError, match=words) as caught:
        import_model(trained, tmp_path / name, "lungs")
    assert "\n" not in str(caught.value)
    with ModelDB(trained) as db:
        assert [run.name for run in db.runs()] == ["hearts"]
    assert list((trained / "models" / ".staging").iterdir()) == []


def test_a_name_that_is_taken_is_refused(trained: Path, tmp_path: Path) -> None:
    save_file(weights(1.0), tmp_path / "a.safetensors")
    with pytest.raises(StoreError, match=r"there is a run 'hearts' in this database .*give another name"):
        import_model(trained, tmp_path / "a.safetensors", "hearts")
    with pytest.raises(
        StoreError, match=r"^the run to be made: name: '' is not allowed: must be text of 1 to 100 letters"
    ):
        import_model(trained, tmp_path / "a.safetensors", "")
    assert verify_database(trained) == []
    assert list((trained / "models" / ".staging").iterdir()) == []


def test_a_database_is_made_if_said_so(tmp_path: Path) -> None:
    save_file(weights(1.0), tmp_path / "a.safetensors")
    import_model(tmp_path / "new", tmp_path / "a.safetensors", "lungs", new=True)
    import_model(tmp_path / "new", tmp_path / "a.safetensors", "hearts", new=True)
    with ModelDB(tmp_path / "new") as db:
        assert [run.name for run in db.runs()] == ["lungs", "hearts"]
    assert verify_database(tmp_path / "new") == []


def test_without_a_database_nothing_is_made(tmp_path: Path) -> None:
    save_file(weights(1.0), tmp_path / "a.safetensors")
    with pytest.raises(StoreError, match="has no model database in it"):
        import_model(tmp_path / "nothing", tmp_path / "a.safetensors", "lungs")
    assert not (tmp_path / "nothing").exists()
