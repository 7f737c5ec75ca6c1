"""PyTorch's state dicts as files: written and read without running what is in them.

Imported only by whoever asks for a `.pt` file: PyTorch takes seconds to load.
"""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fl_main.errors import MissingExtraError, StoreError
from fl_main.printable import first_line
from fl_main.weights import Array, DType, Layout, Role

try:
    import torch
except ImportError as error:
    raise MissingExtraError(
        'a .pt file needs PyTorch, which is not installed: pip install "fl_main[torch]", '
        "or use .safetensors, which PyTorch's programs read with safetensors.torch"
    ) from error

_OURS = "fl_main"  # in `_metadata`, which PyTorch keeps by the names of modules


def write(path: Path, arrays: Mapping[str, Array], layout: Layout) -> None:
    """Write arrays as a state dict that `torch.load(…, weights_only=True)` reads.

    Which of them are buffers stands in its `_metadata`; modules take no notice of it.
    """
    state: OrderedDict[str, Any] = OrderedDict()
    for spec in layout.arrays:
        state[spec.name] = _tensor(arrays[spec.name], spec.dtype)
    buffers = [spec.name for spec in layout.arrays if spec.role is Role.BUFFER]
    state._metadata = OrderedDict({"": {"version": 1}, _OURS: {"buffers": buffers}})  # type: ignore[attr-defined]
    torch.save(state, path)


def _tensor(array: Array, dtype: DType) -> Any:
    if dtype is DType.BF16:
        return torch.from_numpy(np.array(array.view(np.uint16))).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))  # a copy that is contiguous and may be written to


def read(path: Path) -> tuple[dict[str, Array], dict[str, Role]]:
    """Return the arrays of a state dict, and the roles of those that it says are buffers.

    Raises:
        StoreError: If it holds anything else than tensors by name, or some that are no arrays.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what is no file of PyTorch's may make its reader stumble in any way
        raise StoreError(f"{path} is no file of tensors alone: {first_line(error)}") from error
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise StoreError(f"{path} is no state dict: save module.state_dict(), not the module")
    if bad := next((name for name, value in state.items() if not isinstance(value, torch.Tensor)), None):
        raise StoreError(f"{path} is no state dict: {bad!r} is no tensor; save module.state_dict() alone")
    arrays: dict[str, Array] = {}
    for name, tensor in state.items():
        try:
            arrays[name] = _array(tensor)
        except (TypeError, RuntimeError) as error:  # sparse, quantized, of a type that NumPy lacks
            raise StoreError(f"{path}: {name!r} cannot be an array: {first_line(error)}") from error
    return arrays, {name: Role.BUFFER for name in _buffers(state) if name in arrays}


def _array(tensor: Any) -> Array:
    tensor = tensor.detach().contiguous()
    if tensor.dtype is torch.bfloat16:
        import ml_dtypes  # of the extra `torch`

        bits: Array = tensor.view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    found: Array = tensor.numpy()
    return found


def _buffers(state: Any) -> list[str]:
    """Return what `write` noted; a file of other programs says nothing of it."""
    try:
        names = state._metadata[_OURS]["buffers"]
        return [str(name) for name in names]
    except (AttributeError, KeyError, TypeError):
        return []
