"""The records of four hospitals, prepared as the Fed-Heart-Disease benchmark does (FLamby, NeurIPS 2022).

Dropped: the columns slope, ca and thal, and then rows with a missing value. The label is whether
there is any heart disease. Chest pain (cp) and restecg become one column per level but the first.
Each hospital's rows are split 66 to 34 %, stratified, always in the same way, and standardised by
its own training rows; for the pooled model by all training rows together.
"""

import csv
import hashlib
import os
import urllib.request
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split

SOURCE = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease/"
FILES = {  # of each hospital, with its SHA-256
    "cleveland": "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8",
    "hungarian": "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796",
    "switzerland": "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314",
    "va": "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f",
}
DROPPED = (10, 11, 12)  # slope, ca, thal
CATEGORIES = (2, 6)  # cp, restecg
LABEL = 13
TRAIN, SPLIT_SEED = 0.66, 43


class Records(NamedTuple):
    features: np.ndarray  # one row of 13 numbers for each patient
    labels: np.ndarray  # 1 for a patient with heart disease, else 0


class Hospital(NamedTuple):
    train: Records
    test: Records


class DataError(Exception):
    """The records are not those that are meant, or cannot be had."""


class UnreachableError(DataError):
    """The archive does not answer, as without a network."""


def default_folder() -> Path:
    """Return where downloads are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fl_main" / "heart_disease"


def fetch(folder: Path) -> None:
    """Download what is missing in a folder, and check the digest of each file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, digest in FILES.items():
        file = folder / f"processed.{name}.data"
        if not file.exists():
            _download(SOURCE + file.name, file, digest)
        _check(file, file, digest, "delete it, and try again")


def _download(url: str, file: Path, digest: str) -> None:
    part = file.with_name(f"{file.name}.part")
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            part.write_bytes(answer.read(1 << 20))
    except OSError as error:
        raise UnreachableError(
            f"{url}: {error}: is there a network? Or give a folder that has the files: --data FOLDER"
        ) from error
    _check(part, url, digest, f"look into {part}")
    part.replace(file)


def _check(file: Path, source: object, digest: str, advice: str) -> None:
    """Refuse a file of another digest."""
    if (found := hashlib.sha256(file.read_bytes()).hexdigest()) != digest:
        raise DataError(f"{source} has the SHA-256 {found[:12]}…, not {digest[:12]}…: {advice}")


def hospitals(folder: Path) -> dict[str, Hospital]:
    """Return each hospital's records, standardised by its own training records."""
    return {name: _standardised(own, own.train) for name, own in _split(folder).items()}


def pooled(folder: Path) -> Hospital:
    """Return the records of all in one place, standardised by all training records."""
    whole = _joined(list(_split(folder).values()))
    return _standardised(whole, whole.train)


def _joined(parts: list[Hospital]) -> Hospital:
    def join(records: list[Records]) -> Records:
        features, labels = zip(*records, strict=True)
        return Records(np.concatenate(features), np.concatenate(labels))

    return Hospital(join([part.train for part in parts]), join([part.test for part in parts]))


def _split(folder: Path) -> dict[str, Hospital]:
    rows = {name: _rows(folder / f"processed.{name}.data") for name in FILES}
    levels = {
        column: np.unique(np.concatenate([r[:, column] for r in rows.values()])) for column in CATEGORIES
    }
    found = {}
    for name, own in rows.items():
        features, labels = _features(own, levels), (own[:, LABEL] > 0).astype(float)
        counts = [int((labels == label).sum()) for label in (0, 1)]
        chosen = train_test_split(
            np.arange(len(own)),
            test_size=1 - TRAIN,
            train_size=TRAIN,
            random_state=SPLIT_SEED,
            stratify=labels if min(counts) > 2 else None,
        )
        # In the order of the file, whatever the order of the draw.
        train, test = (Records(features[index], labels[index]) for index in map(np.sort, chosen))
        found[name] = Hospital(train, test)
    return found


def _rows(file: Path) -> np.ndarray:
    kept = [column for column in range(LABEL + 1) if column not in DROPPED]
    with open(file, newline="") as lines:
        rows = [row for row in csv.reader(lines) if row and "?" not in (row[column] for column in kept)]
    table = np.full((len(rows), LABEL + 1), np.nan)
    table[:, kept] = [[float(row[column]) for column in kept] for row in rows]
    return table


def _features(rows: np.ndarray, levels: dict[int, np.ndarray]) -> np.ndarray:
    plain = [c for c in range(LABEL) if c not in DROPPED and c not in CATEGORIES]
    encoded = [(rows[:, [column]] == levels[column][1:]).astype(float) for column in CATEGORIES]
    return np.concatenate([rows[:, plain], *encoded], axis=1)


def _standardised(records: Hospital, by: Records) -> Hospital:
    mean, deviation = by.features.mean(axis=0), by.features.std(axis=0, ddof=1) + 1e-9
    return Hospital(*(Records((part.features - mean) / deviation, part.labels) for part in records))
