"""The weights of a PyTorch module as named arrays, and back.

Beside its training loop a program needs three calls:

    with Agent(url, run, initial_weights=get_weights(net)) as agent:
        for task in agent.tasks():
            set_weights(net, task.weights)
            ...
            task.submit(get_weights(net), num_examples)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from fl_main.errors import LayoutMismatchError, MissingExtraError, WeightsError
from fl_main.training import NamedArrays
from fl_main.weights import Array, DType, Role, as_arrays, dtype_of

from .fitting import require_fit

try:
    import torch as torch  # explicitly: corrections of modules take it from here
except ModuleNotFoundError as error:
    if error.name != "torch":  # a broken installation has its own story to tell
        raise
    raise MissingExtraError("PyTorch is not installed: pip install 'fl_main[torch]'") from None

__all__ = ["get_weights", "norm_layers", "set_weights"]


def get_weights(module: torch.nn.Module, private: str | Iterable[str] = ()) -> NamedArrays:
    """Return a copy of a module's state, by the names of its `state_dict`.

    Parameters and buffers get their roles. A tensor with several names (tied weights) appears
    once, under the first of them. bfloat16 comes as `ml_dtypes.bfloat16`.

    Args:
        module: On any device that holds values; also what `torch.compile` made of one.
        private: What stays at this site, to be given to `set_weights` too: names of arrays or
            of submodules (`"head"` is everything in it), with shell wildcards (`"*bn*"`).

    Returns:
        New arrays in main memory, the caller's to keep.

    Raises:
        WeightsError: If something in the module cannot be sent, or `private` matches nothing.
        MissingExtraError: If there are bfloat16 tensors and `ml_dtypes` is not installed.
    """
    entries = _entries(module, private)
    return NamedArrays(
        {name: _to_numpy(name, entry.tensor) for name, entry in entries.items()},
        {name: entry.role for name, entry in entries.items()},
    )


def set_weights(
    module: torch.nn.Module, weights: Mapping[str, Any], private: str | Iterable[str] = ()
) -> None:
    """Copy weights into a module, in place: devices, dtypes and `requires_grad` stay.

    Args:
        module: To be changed; nothing is if an error is raised.
        weights: Of the names and shapes of `get_weights`; only read. Floats of another precision
            are converted.
        private: As given to `get_weights`; such arrays may be missing and then stay as they are.

    Raises:
        LayoutMismatchError: If a name, shape or dtype is not the module's.
        WeightsError: If the module has no values yet, or `private` matches nothing.
    """
    entries = _entries(module, private)
    arrays = as_arrays(weights)
    require_fit(
        {name: array.shape for name, array in arrays.items()},
        {name: tuple(entry.tensor.shape) for name, entry in entries.items()},
        "the module",
        optional={name for name, entry in entries.items() if entry.role is Role.PRIVATE},
    )
    for name, array in arrays.items():
        _require_dtype(name, array, entries[name].tensor)
    with torch.no_grad():
        for name, array in arrays.items():
            entries[name].tensor.copy_(tensor_of(array))


def norm_layers(module: torch.nn.Module) -> list[str]:
    """Return the names of a module's normalisation layers: what FedBN keeps `private`.

    Batch, instance, group and layer normalisation; FedBN: Li et al., ICLR 2021 (arXiv:2102.07623).
    """
    kinds = (torch.nn.modules.batchnorm._NormBase, torch.nn.GroupNorm, torch.nn.LayerNorm)
    module = getattr(module, "_orig_mod", module)
    return [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, kinds) and list(layer.parameters())
    ]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor of the module itself, not a copy, and what it is to the aggregation."""

    tensor: torch.Tensor
    role: Role


def _entries(module: torch.nn.Module, private: str | Iterable[str]) -> dict[str, _Entry]:
    """Return the tensors of a module by name, each once."""
    module = getattr(module, "_orig_mod", module)  # torch.compile puts a prefix before every name
    state = module.state_dict(keep_vars=True)
    hidden = _matching(state, private)
    roles = {id(tensor): Role.BUFFER for tensor in module.buffers()}
    roles |= {id(tensor): Role.PARAMETER for tensor in module.parameters()}
    names: dict[int, str] = {}
    entries: dict[str, _Entry] = {}
    for name, tensor in state.items():
        if id(tensor) not in roles:  # made by a hook, or get_extra_state: writing to it changes nothing
            if name not in hidden:
                raise WeightsError(f"{name!r} is no parameter or buffer; name it in private to keep it here")
        elif (first := names.setdefault(id(tensor), name)) == name:
            _require_values(name, tensor)
            entries[name] = _Entry(tensor, Role.PRIVATE if name in hidden else roles[id(tensor)])
        elif (name in hidden) != (first in hidden):
            raise WeightsError(f"{first!r} and {name!r} are one tensor: make both private, or none")
    return entries


def _matching(names: Iterable[str], private: str | Iterable[str]) -> set[str]:
    """Return the names that are meant; a typing error must not send what should stay."""
    found: set[str] = set()
    for pattern in [private] if isinstance(private, str) else private:
        meant = {name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")}
        if not meant:
            raise WeightsError(f"private={pattern!r} matches no array of the module")
        found |= meant
    return found


def _require_values(name: str, tensor: torch.Tensor) -> None:
    if torch.nn.parameter.is_lazy(tensor):
        raise WeightsError(f"{name!r} has no shape yet: run one batch through the module first")
    if tensor.is_meta:
        raise WeightsError(f"{name!r} is on the meta device and has no values: use module.to_empty(device=…)")


def _to_numpy(name: str, tensor: torch.Tensor) -> Array:
    copy = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    try:
        if copy.dtype is torch.bfloat16:
            return np.asarray(copy.view(torch.int16).numpy()).view(_bfloat16())
        return np.asarray(copy.numpy())
    except (TypeError, RuntimeError) as error:  # float8, quantized, sparse
        raise WeightsError(f"{name!r} ({tensor.dtype}) cannot be sent: {error}") from error


def tensor_of(array: Array) -> torch.Tensor:
    """Return a copy as a tensor: torch takes neither read-only nor big-endian nor ml_dtypes arrays."""
    if dtype_of(array) is DType.BF16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _require_dtype(name: str, array: Array, tensor: torch.Tensor) -> None:
    """Let floats become other floats only: an integer from 2.7 would be a silent 2."""
    dtype = dtype_of(array)
    if dtype.is_float and tensor.is_floating_point():
        return
    if dtype is DType.BF16 or torch.from_numpy(np.empty(0, dtype.stored)).dtype is not tensor.dtype:
        raise LayoutMismatchError(f"array {name!r} is {array.dtype}, but in the module it is {tensor.dtype}")


def _bfloat16() -> type:
    try:
        import ml_dtypes
    except ImportError:
        raise MissingExtraError("bfloat16 weights need ml_dtypes: pip install 'fl_main[torch]'") from None
    bfloat16: type = ml_dtypes.bfloat16
    return bfloat16
