"""Who has which records: four hospitals, each with its own part of a real data set.

The Wisconsin breast cancer data (W. Wolberg, O. Mangasarian, N. Street, W. Street 1995, UCI;
scikit-learn carries them): 569 patients, 30 features of cell nuclei in an image each, and
whether the tumour was malignant (label 0) or benign (label 1).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# The part of all malignant and of all benign records that a hospital has: sizes and labels are
# skewed, as they are in reality. An oncology centre sees other patients than a screening unit.
SHARES = {
    "lakeview": (0.08, 0.12),
    "northgate": (0.22, 0.18),
    "riverside": (0.58, 0.14),
    "st-mary": (0.12, 0.56),
}
TEST_PART = 0.30  # of all records: in no hospital, only for the comparison at the end
HELD_OUT_PART = 0.20  # of a hospital's records: it measures models on them and never trains on them


@dataclass(frozen=True)
class Records:
    """Features, one row for each patient, and labels: 0 malignant, 1 benign."""

    features: NDArray[np.float64]
    labels: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Hospital:
    """What one hospital has."""

    train: Records
    held_out: Records


def split(seed: int) -> tuple[dict[str, Hospital], Records]:
    """Deal out all records: to hospitals by name, and a common test set."""
    from sklearn.datasets import load_breast_cancer  # here, since an agent does without it

    features, labels = load_breast_cancer(return_X_y=True)
    rng = np.random.default_rng(seed)
    names = list(SHARES)
    dealt: dict[str, list[NDArray[np.int64]]] = {name: [] for name in ["test", *names]}
    for label in (0, 1):  # one label after the other: every part gets some of both
        rows = rng.permutation(np.flatnonzero(labels == label))
        test, rest = np.split(rows, [round(TEST_PART * len(rows))])
        dealt["test"].append(test)
        cuts = np.cumsum([SHARES[name][label] for name in names])[:-1]
        for name, own in zip(names, np.split(rest, np.rint(cuts * len(rest)).astype(int)), strict=True):
            dealt[name].append(own)

    def records(parts: list[NDArray[np.int64]]) -> Records:
        rows = rng.permutation(np.concatenate(parts))
        return Records(features[rows], labels[rows].astype(np.float64))

    def hospital(parts: list[NDArray[np.int64]]) -> Hospital:
        cuts = [round(HELD_OUT_PART * len(rows)) for rows in parts]  # of each label
        return Hospital(
            train=records([rows[cut:] for rows, cut in zip(parts, cuts, strict=True)]),
            held_out=records([rows[:cut] for rows, cut in zip(parts, cuts, strict=True)]),
        )

    return {name: hospital(dealt[name]) for name in names}, records(dealt["test"])


def pooled(hospitals: dict[str, Hospital]) -> Records:
    """Put all training records in one place: what no agent can do, and federation avoids."""
    parts = [hospital.train for hospital in hospitals.values()]
    return Records(
        np.concatenate([part.features for part in parts]), np.concatenate([part.labels for part in parts])
    )


def save(path: Path, hospital: Hospital) -> None:
    """Write a hospital's records to a file of its own."""
    np.savez_compressed(
        path,
        features=hospital.train.features,
        labels=hospital.train.labels,
        held_out_features=hospital.held_out.features,
        held_out_labels=hospital.held_out.labels,
    )


def load(path: Path) -> Hospital:
    """Read a hospital's records."""
    with np.load(path, allow_pickle=False) as file:
        return Hospital(
            Records(file["features"], file["labels"]),
            Records(file["held_out_features"], file["held_out_labels"]),
        )
