"""Digests of model files: the same from pieces as from the whole file, and known by their names."""

import hashlib

import numpy as np
import pytest
from blake3 import blake3

from fl_main.digests import DigestAlgorithm, algorithm_of, file_digest, new_digest, tagged
from fl_main.errors import WeightsError
from fl_main.weights import Layout, pack, pieces

MODEL = {"w": np.arange(3.0), "n": np.array([1, 2, 3], np.int8)}
LAYOUT = Layout.of(MODEL)
FILE = LAYOUT.header + pack(MODEL, LAYOUT)


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        (DigestAlgorithm.BLAKE3, "blake3:" + blake3(FILE).hexdigest()),
        (DigestAlgorithm.SHA256, "sha256:" + hashlib.sha256(FILE).hexdigest()),
    ],
)
def test_the_file_digest_is_that_of_the_whole_file(algorithm: DigestAlgorithm, expected: str) -> None:
    digest = file_digest(LAYOUT, algorithm)
    for piece in pieces(MODEL, LAYOUT):
        digest.update(piece)
    assert tagged(digest) == expected
    assert algorithm_of(expected) is algorithm


def test_blake3_is_that_of_its_authors() -> None:
    """From the test vectors of BLAKE3: no input."""
    known = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert tagged(new_digest(DigestAlgorithm.BLAKE3)) == f"blake3:{known}"


@pytest.mark.parametrize(
    "text", ["", "0" * 64, "sha256:", "md5:" + "0" * 64, "blake3:" + "0" * 63, "blake3:" + "G" * 64]
)
def test_what_is_no_digest_of_a_model_file_is_told(text: str) -> None:
    with pytest.raises(WeightsError, match=r"no digest of a model file \(blake3, sha256\)"):
        algorithm_of(text)
