"""What moves is told to whoever listens, and nobody's listening holds anything up."""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fl_main.db import ModelStore
from fl_main.db.web import live
from fl_main.db.web.app import create_app
from tests.db import building
from tests.db.web.serving import Page, serving

Event = tuple[str, Any]


class Listening:
    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self._answer = answer

    def next(self) -> Event | None:
        """The next event as its name and data; None where the page ended."""
        name, data = "message", ""
        while line := self._answer.readline().decode():
            word, _, value = line.rstrip("\n").partition(": ")
            if word == "event":
                name = value
            elif word == "data":
                data = value
            elif not line.strip() and data:
                return name, json.loads(data)
        return None

    def comment(self) -> str:
        while not (line := self._answer.readline().decode()).startswith(":"):
            assert line
        return line


@contextmanager
def listening(page: Page) -> Iterator[Listening]:
    connection = page.connected()
    connection.request("GET", "/api/changes")
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("content-type")) == (200, "text/event-stream; charset=utf-8")
    try:
        yield Listening(answer)
    finally:
        answer.close()
        connection.close()


def seq_of(folder: Path) -> int:
    from fl_main.db import ModelDB

    with ModelDB(folder) as db, db.connect() as connection:
        return int(connection.execute("SELECT max(seq) FROM events").fetchone()[0])


def test_who_comes_is_told_where_each_run_stands_and_then_what_moves(
    page: Page, store: ModelStore, folder: Path
) -> None:
    with listening(page) as first:
        assert first.next() == ("heads", {"run-1": seq_of(folder)})
        building.answer(store, 1, "a", 0.5)
        assert first.next() == ("message", {"run_id": "run-1", "seq": seq_of(folder)})
        with listening(page) as second:
            assert second.next() == ("heads", {"run-1": seq_of(folder)})
            building.answer(store, 1, "b", 0.5)
            assert first.next() == second.next() == ("message", {"run_id": "run-1", "seq": seq_of(folder)})


def test_a_database_that_vanishes_and_comes_back_is_told(store: ModelStore, folder: Path) -> None:
    building.begin(store)
    store.close()
    with serving(create_app(folder)) as page, listening(page) as found:
        assert found.next() == ("heads", {"run-1": seq_of(folder)})
        aside = folder.rename(folder.with_name("aside"))
        said = found.next()
        assert said is not None
        assert (said[0], said[1]["detail"].split(";")[0]) == ("trouble", f"there is no folder {folder}")
        aside.rename(folder)
        assert found.next() == ("heads", {"run-1": seq_of(folder)})


def test_nobody_who_is_silent_for_long_is_taken_for_dead(folder: Path, store: ModelStore) -> None:
    app = create_app(folder)
    app.state.changes = live.Changes(app.state.source, heartbeat_s=0.01)
    with serving(app) as page, listening(page) as found:
        assert found.comment() == ": nothing new\n"


def test_one_listener_too_many_is_told_to_come_again(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_LISTENERS", 1)
    with listening(page) as first:
        assert first.next()
        found = page.ask("/api/changes")
        assert (found.status, found.headers["retry-after"]) == (503, "10")


def test_server_ends_while_somebody_listens(folder: Path, store: ModelStore) -> None:
    ended = threading.Event()
    with serving(create_app(folder)) as page:
        found = page.connected()
        found.request("GET", "/api/changes")
        answer = found.getresponse()
        assert answer.readline() == b"retry: 2000\n"

        def read() -> None:
            answer.read()
            ended.set()

        reader = threading.Thread(target=read)
        reader.start()
    assert ended.wait(20)  # the answer ended in order: reading it raised nothing
    reader.join()
    found.close()


def test_nothing_is_looked_at_while_nobody_listens(page: Page) -> None:
    changes = page.server.app.state.changes
    with listening(page) as first:
        assert first.next()
        assert changes.is_looking
    while changes.is_looking:  # until the server notices that the listener is gone
        page.get("/api/runs")
