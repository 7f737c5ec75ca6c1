"""A page over the store of a test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra web: pip install -e '.[web]'")

from fl_main.db import ModelStore
from fl_main.db.web.app import create_app
from tests.db import building
from tests.db.web.serving import Page, serving


@pytest.fixture
def page(store: ModelStore, folder: Path) -> Iterator[Page]:
    """A page over a database with one run of two agents, whose round 1 is under way."""
    building.begin(store)
    building.ask(store, 1, "initial")
    with serving(create_app(folder)) as found:
        yield found
