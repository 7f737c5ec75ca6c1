"""Models out of the database: as files that other programs read."""

import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from numpy.lib.format import write_array

from fl_main.errors import StoreError
from fl_main.weights import DType, pieces

from ..faults import translated
from ..runs_and_models import Model


def export_model(
    model: Model, target: Path | str, *, overwrite: bool = False, as_stored: bool = False
) -> Path:
    """Write a model to a file; its suffix says which kind.

    A `.safetensors` file is a copy of the stored one, of the same digest, unless that is a delta
    or encoded.
    An `.npz` file has one entry per array, a `.pt` file is a state dict of PyTorch, which must be
    installed then. The file appears when it is complete.

    Args:
        target: Ends in `.safetensors`, `.npz` or `.pt`.
        overwrite: Whether a file that is there is replaced.
        as_stored: Whether the file's own arrays are written: of a delta the delta, of an encoded model
            the codec's; not the model that they stand for.

    Returns:
        The path that was written.

    Raises:
        StoreError: If the model is not stored, the file exists, or cannot be written.
    """
    target = Path(target)
    if target.suffix not in _WRITERS:
        raise StoreError(f"cannot export to {target}: its name must end in {_KINDS}")
    model.open().close()  # is it there, and of the right size?
    with appearing(target, "export a model", overwrite=overwrite) as part:
        _WRITERS[target.suffix](model, part, as_stored or model.is_plain)
    return target


@contextmanager
def appearing(target: Path, doing: str, *, overwrite: bool) -> Iterator[Path]:
    """Lend the name of a file to be written, which becomes `target` once it is complete.

    Raises:
        StoreError: If target exists and is not to be replaced, or cannot be written.
    """
    if target.exists() and not overwrite:
        raise StoreError(f"{target} exists already; choose another name, or say --force")
    if not target.parent.is_dir():
        raise StoreError(f"cannot {doing}: there is no folder {target.parent}")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    with translated(target, doing):
        try:
            yield part
            part.replace(target)
        except OSError as error:
            if str(part) in (str(error.filename), str(error.filename2)):  # of a copy the first is its source
                error.filename = str(target)
            raise
        finally:
            part.unlink(missing_ok=True)


def _write_safetensors(model: Model, part: Path, as_stored: bool) -> None:
    if as_stored:
        shutil.copyfile(model.path, part)
        return
    with part.open("wb") as file:
        file.write(model.decoded_layout.header)
        file.writelines(pieces(model.weights(), model.decoded_layout))


def _write_npz(model: Model, part: Path, as_stored: bool) -> None:
    layout = model.layout if as_stored else model.decoded_layout
    if bad := next((spec.name for spec in layout.arrays if spec.dtype is DType.BF16), None):
        raise StoreError(f"array {bad!r} is bfloat16, which .npz cannot hold; export to .safetensors")
    # Not numpy.savez: arrays may be called anything, also as its own arguments are.
    with zipfile.ZipFile(part, "w") as archive:
        for name, array in (model.as_stored() if as_stored else model.weights()).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                write_array(entry, array, allow_pickle=False)


def _write_pt(model: Model, part: Path, as_stored: bool) -> None:
    from . import torch_files

    layout = model.layout if as_stored else model.decoded_layout
    torch_files.write(part, model.as_stored() if as_stored else model.weights(), layout)


_WRITERS = {".safetensors": _write_safetensors, ".npz": _write_npz, ".pt": _write_pt}
_KINDS = ".safetensors, .npz or .pt"
