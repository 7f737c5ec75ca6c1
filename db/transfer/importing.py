"""A model from a file of another program, as a run of its own that others can begin from.

The run holds that one model, as the initial model of its round 0, and is over: nothing is trained in it.
Files are read array by array, and nothing in them is run.
"""

import secrets
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from sqlite3 import Connection
from tokenize import TokenError
from typing import IO

import numpy as np
from numpy.lib import format as npy

from fl_main.digests import DigestAlgorithm
from fl_main.errors import SettingsError, StoreError, WeightsError
from fl_main.printable import first_line
from fl_main.settings import DatabaseSettings, RunSettings
from fl_main.settings.files import parse_run
from fl_main.store import (
    EventRecord,
    ModelKind,
    ModelRecord,
    Phase,
    RoundRecord,
    RunRecord,
    RunStatus,
    StoredPayload,
)
from fl_main.weights import PIECE_BYTES, Array, ArraySpec, Layout, Role, as_arrays, dtype_of, pieces

from .. import sqlite
from ..faults import translated
from ..store import ModelStore
from ..upkeep.writing import SecondWriter

_MAX_HEADER_BYTES = 100 << 20  # what safetensors itself allows
_ID_BYTES = 12

# What zipfile and NumPy raise where a file is damaged, encrypted, or made to mislead them.
_OF_NPZ = (zipfile.BadZipFile, zlib.error, struct.error, TokenError, RuntimeError, LookupError, TypeError)

Bytes = Iterable[memoryview | bytes]


@dataclass(frozen=True, slots=True)
class Imported:
    """What was made of a file.

    Attributes:
        size: Bytes of the model's arrays.
    """

    run_id: str
    run: str
    model_id: str
    arrays: int
    size: int


@dataclass(frozen=True, slots=True)
class _Found:
    """What is in a file: its arrays in the order of a layout, each in pieces."""

    specs: list[ArraySpec]
    read: Callable[[ArraySpec], Bytes]


def import_model(
    folder: Path | str,
    file: Path | str,
    run: str,
    *,
    buffers: Iterable[str] = (),
    new: bool = False,
    actor: str = "",
) -> Imported:
    """Store a model as the initial model of a new run that is over.

    Args:
        folder: Of the database; an aggregator may have it open.
        file: Ends in `.safetensors`, `.npz` or `.pt` (a state dict; needs PyTorch).
        run: Name of the run to be made.
        buffers: Patterns of names of arrays that are buffers (`*running_mean`), besides those of which
            the file says so.
        new: Whether a database is made if there is none.
        actor: Who does it, for the history.

    Raises:
        StoreError: If the file cannot be read or is no model, there is a run of this name, or it cannot
            be stored; nothing is then.
    """
    file, patterns = Path(file), tuple(buffers)
    settings = _settings(run, file.name)
    run_id = secrets.token_hex(_ID_BYTES)
    with writing(folder, DigestAlgorithm.BLAKE3 if new else None) as store:
        payload = _staged(store, file, f"{run_id}.initial", patterns)
        model_id = f"{run_id[:16]}.initial"
        details = {"file": file.name, "digest": payload.digest}
        record = replace(
            RunRecord.begun(run_id, settings),
            status=RunStatus.STOPPED,
            phase=Phase.ENDED,
            model_id=model_id,
            reason=f"imported from {file.name}",
        )
        try:
            with store.changing("import a model") as change:
                require_free_name(change.connection, run, run_id)
                change.add(
                    [
                        replace(record, model_id=None),
                        EventRecord(run_id, "run_imported", actor=actor, details=details),
                        ModelRecord(model_id, run_id, 0, ModelKind.INITIAL, payload),
                        RoundRecord(run_id, 0, "done", model_id=model_id),
                        record,
                    ]
                )
        except BaseException:
            store.unstage([run_id])
            raise
    return Imported(run_id, run, model_id, len(payload.layout.arrays), payload.size)


def writing(folder: Path | str, new: DigestAlgorithm | None) -> SecondWriter:
    """Open a database to write to it.

    Args:
        new: What its digests are to be if there is none and one is to be made; None: none is.
    """
    if not Path(folder, sqlite.FILE).exists():
        if new is None:
            missing = f"{folder} has no model database in it ({sqlite.FILE} is missing)"
            raise StoreError(f"{missing}; say --new to have one made")
        ModelStore(folder, DatabaseSettings.model_validate({"digest": str(new)})).close()
    return SecondWriter(folder)


def _settings(run: str, file: str) -> RunSettings:
    try:
        return parse_run({"name": run, "purpose": f"holds the model of {file}"}, "the run to be made")
    except SettingsError as error:
        raise StoreError(str(error)) from error


def require_free_name(connection: Connection, run: str, run_id: str) -> None:
    """Check that no other run than the one of an id has a name.

    Raises:
        StoreError: If one has.
    """
    query = "SELECT run_id FROM runs WHERE name = ? AND run_id <> ?"
    if (found := connection.execute(query, (run, run_id)).fetchone()) is not None:
        raise StoreError(
            f"there is a run {run!r} in this database (id {found[0]}); give another name (--run)"
        )


def _staged(store: SecondWriter, file: Path, name: str, buffers: tuple[str, ...]) -> StoredPayload:
    with translated(file, "read a model"), _opened(file) as found:
        try:
            layout = Layout(_with_roles(spec, buffers) for spec in found.specs)
            staging = store.stage(name, layout)
            try:
                for spec in layout.arrays:
                    for piece in found.read(spec):
                        staging.write(piece)
                digest = staging.finish()
            except BaseException:
                staging.discard()
                raise
        except WeightsError as error:
            raise StoreError(f"{file}: {error}") from error
    return StoredPayload("weights", digest, layout.nbytes, layout, name)


def _with_roles(spec: ArraySpec, buffers: tuple[str, ...]) -> ArraySpec:
    is_buffer = any(fnmatchcase(spec.name, pattern) for pattern in buffers)
    return replace(spec, role=Role.BUFFER) if is_buffer else spec


def require_model_file(file: Path) -> None:
    """Check that a file's name is that of a model.

    Raises:
        StoreError: If it is not.
    """
    if file.suffix not in _READERS:
        raise StoreError(f"cannot import {file}: its name must end in {' or '.join(_READERS)}")


@contextmanager
def _opened(file: Path) -> Iterator[_Found]:
    require_model_file(file)
    try:
        with _READERS[file.suffix](file) as found:
            if not found.specs:
                raise StoreError(f"{file} has no arrays in it")
            yield found
    except (WeightsError, ValueError, EOFError, *_OF_NPZ) as error:
        raise StoreError(f"{file} cannot be read: {first_line(error)}") from error


@contextmanager
def _safetensors(file: Path) -> Iterator[_Found]:
    with file.open("rb") as opened:
        size = file.stat().st_size
        length = int.from_bytes(opened.read(8), "little")
        if length > min(size, _MAX_HEADER_BYTES):
            raise WeightsError("its header is longer than the file, or than any")
        layout = Layout.from_header(opened.read(length))
        if 8 + length + layout.nbytes != size:
            raise WeightsError("the file is cut off, or too long")

        def read(spec: ArraySpec) -> Bytes:
            opened.seek(8 + length + layout.offsets[spec.name])
            left = spec.nbytes
            while left:
                piece = opened.read(min(PIECE_BYTES, left))
                if not piece:
                    raise WeightsError("the file became shorter while it was read")
                left -= len(piece)
                yield piece

        yield _Found(list(layout.arrays), read)


@contextmanager
def _npz(file: Path) -> Iterator[_Found]:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        require_plain(archive)
        found: list[ArraySpec] = []
        for name, entry in entries.items():
            with archive.open(entry) as opened:
                found.append(_npy_spec(name, opened, entry.file_size)[0])

        def read(spec: ArraySpec) -> Bytes:
            entry = entries[spec.name]
            with archive.open(entry) as opened:
                if _npy_spec(spec.name, opened, entry.file_size)[1]:
                    yield from iter(lambda: opened.read(PIECE_BYTES), b"")
                    return
            with archive.open(entry) as opened:
                array: Array = npy.read_array(opened, allow_pickle=False)
            yield from pieces({spec.name: array}, Layout([spec]))

        yield _Found(found, read)


def require_plain(archive: zipfile.ZipFile) -> None:
    """Check that nothing in a ZIP file is packed by what few programs know, and none of ours uses.

    Raises:
        ValueError: If something is.
    """
    for entry in archive.infolist():
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{entry.filename[:100]!r} in it is packed in an unknown way")


def _npy_spec(name: str, opened: IO[bytes], size: int) -> tuple[ArraySpec, bool]:
    """Return what an entry says of itself, once that fits its size, and whether it lies as ours do."""
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(opened)
    if version not in readers:
        raise WeightsError(f"array {name!r} is of version {version} of the .npy format")
    shape, is_fortran, dtype = readers[version](opened)
    if dtype.hasobject:
        raise WeightsError(f"array {name!r} holds Python objects, not numbers")
    spec = ArraySpec(name, dtype_of(np.empty(0, dtype)), tuple(map(int, shape)))
    if opened.tell() + spec.nbytes != size:
        raise WeightsError(f"array {name!r} is not as large as it says")
    return spec, not is_fortran and dtype.newbyteorder("<") == dtype


@contextmanager
def _pt(file: Path) -> Iterator[_Found]:
    from . import torch_files

    arrays, roles = torch_files.read(file)
    arrays = as_arrays(arrays)
    layout = Layout.of(arrays, roles)
    yield _Found(list(layout.arrays), lambda spec: pieces({spec.name: arrays[spec.name]}, Layout([spec])))


_READERS = {".safetensors": _safetensors, ".npz": _npz, ".pt": _pt}
