"""A fresh store for each test of the model database."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fl_main.db import ModelStore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def store(folder: Path) -> Iterator[ModelStore]:
    with ModelStore(folder) as opened:
        yield opened
