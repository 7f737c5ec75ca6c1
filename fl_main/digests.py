"""Digests of model files: they name a file, and show whether it is whole.

Each begins with the name of its algorithm. A database has one for good: BLAKE3, which costs less
than half of the processor time, or SHA-256. Layouts, settings and the chain of records are small
and stay with SHA-256.
"""

import hashlib
import re
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from blake3 import blake3

from fl_main.errors import WeightsError

if TYPE_CHECKING:
    from fl_main.weights import Layout


class DigestAlgorithm(StrEnum):
    """What names the model files of a database."""

    BLAKE3 = "blake3"
    SHA256 = "sha256"


ALL = tuple(DigestAlgorithm)
# One thread each: a daemon has many updates at once, and an agent's other core trains.
_NEW: dict[DigestAlgorithm, Callable[[bytes], Any]] = {
    DigestAlgorithm.BLAKE3: blake3,
    DigestAlgorithm.SHA256: hashlib.sha256,
}
_TAGGED = re.compile(r"([a-z0-9]+):[0-9a-f]{64}")  # all of ours have 32 bytes


class Digest(Protocol):
    """A running digest, as hashlib's."""

    @property
    def name(self) -> str:
        """The algorithm."""

    def update(self, data: bytes | bytearray | memoryview, /) -> object:
        """Take more bytes."""

    def hexdigest(self) -> str:
        """Return the digest so far, in hexadecimal digits."""


def new_digest(algorithm: DigestAlgorithm, data: bytes = b"") -> Digest:
    """Return a running digest that has taken some bytes already."""
    digest: Digest = _NEW[algorithm](data)
    return digest


def file_digest(layout: "Layout", algorithm: DigestAlgorithm) -> Digest:
    """Return a running digest over a file of this layout, its header already taken."""
    return new_digest(algorithm, layout.header)


def tagged(digest: Digest) -> str:
    """Return a digest with the name of its algorithm: how files and models are named."""
    return f"{digest.name}:{digest.hexdigest()}"


def algorithm_of(digest: str) -> DigestAlgorithm:
    """Return the algorithm of a tagged digest.

    Raises:
        WeightsError: If it is none that names model files.
    """
    found = _TAGGED.fullmatch(digest)
    if found is None or found[1] not in ALL:
        raise WeightsError(f"{digest[:80]!r} is no digest of a model file ({', '.join(ALL)})")
    return DigestAlgorithm(found[1])
