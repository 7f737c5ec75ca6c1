"""Arrays that a run does not train: they never leave the agents, and all must begin with the same ones.

`compression.arrays` of a run's settings says by shell wildcards which arrays are trained together
and travel; all others are frozen. With low-rank adapters (Hu et al. 2021, arXiv:2106.09685) those
are the pretrained weights: every site loads the same checkpoint, and says its digest when it joins.
"""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import numpy as np

from fl_main.digests import DigestAlgorithm, file_digest, tagged
from fl_main.errors import WeightsError
from fl_main.messages import Frozen
from fl_main.weights import Array, Layout, Weights, pieces

V = TypeVar("V")

SHOWN = 5  # names in an error


def divided(arrays: Mapping[str, V], patterns: Sequence[str]) -> tuple[dict[str, V], dict[str, V]]:
    """Return what is trained of some arrays, and what is frozen.

    Args:
        arrays: Anything by array name.
        patterns: Shell wildcards, case-sensitive; a name that one of them matches is trained.

    Raises:
        WeightsError: If nothing is trained.
    """
    trained = {name: value for name, value in arrays.items() if is_trained(name, patterns)}
    if not trained:
        raise WeightsError(f"no array matches {arrays_setting(patterns)}; the model has {_some(arrays)}")
    return trained, {name: value for name, value in arrays.items() if name not in trained}


def is_trained(name: str, patterns: Iterable[str]) -> bool:
    """Whether an array travels, by its name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def arrays_setting(patterns: Sequence[str]) -> str:
    """Return the setting as errors say it."""
    return f"compression.arrays ({', '.join(map(repr, patterns))})"


def _some(arrays: Mapping[str, object]) -> str:
    names = ", ".join(repr(name) for name in list(arrays)[:SHOWN])
    more = len(arrays) - SHOWN
    return f"{names} and {more} more" if more > 0 else names or "no arrays"


def facts_of(arrays: Weights) -> Frozen:
    """Return what is said of frozen arrays; roles do not count, as they are not trained.

    The digest is the SHA-256 of the `.safetensors` file that would hold them.
    """
    layout = Layout.of(arrays)
    digest = file_digest(layout, DigestAlgorithm.SHA256)  # the one that every agent can compute
    for piece in pieces(arrays, layout):
        digest.update(piece)
    return Frozen(digest=tagged(digest), layout=layout.digest, arrays=len(layout.arrays), size=layout.nbytes)


def difference(wanted: Frozen, found: Frozen) -> str:
    """Say how an agent's frozen arrays differ from the run's, and what to do; empty if they do not."""
    if found.digest == wanted.digest:
        return ""
    if found.layout != wanted.layout:
        return (
            f"its {found.arrays} frozen arrays of {found.size} bytes have other names, shapes or types than "
            f"the run's {wanted.arrays} of {wanted.size} bytes: give every agent the same model"
        )
    return (
        f"its {found.arrays} frozen arrays have other values than the run's: "
        "load the same pretrained checkpoint at every site"
    )


class FrozenArrays:
    """An agent's own copy of the arrays that its run does not train.

    Args:
        arrays: They; copied.

    Attributes:
        arrays: The copies, read-only.
    """

    def __init__(self, arrays: Weights) -> None:
        self.arrays: dict[str, Array] = {}
        for name, array in arrays.items():
            self.arrays[name] = np.array(array)
            self.arrays[name].flags.writeable = False

    def merged(self, trained: Mapping[str, Array]) -> dict[str, Array]:
        """Return the whole model."""
        return {**self.arrays, **trained}

    def without(self, values: Mapping[str, V]) -> dict[str, V]:
        """Return what may travel of a whole model, or of the trained part alone."""
        return {name: value for name, value in values.items() if name not in self.arrays}

    def first_changed(self, values: Mapping[str, Any]) -> str | None:
        """Return the name of the first array that a program gave back with other values, or None."""
        given = (name for name in self.arrays if name in values)
        return next((name for name in given if not np.array_equal(self.arrays[name], values[name])), None)
