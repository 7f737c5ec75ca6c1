"""The application as a whole: what it answers where something is wrong, and beside somebody who writes."""

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from fastapi import HTTPException

from fl_main.db import ModelStore
from fl_main.db.web.access import SECURITY
from fl_main.db.web.app import create_app
from fl_main.db.web.bounds import AT_ONCE, KEPT, WAITING, Heavy
from tests.db import building
from tests.db.web.serving import Page, serving

PLACES = ["/", "/api/runs", "/api/heads", "/runs/hearts", "/api/runs/hearts/rounds", "/models/hearts:best"]


@pytest.fixture
def bare(folder: Path) -> Iterator[Page]:
    """A page over a folder that is not there yet."""
    with serving(create_app(folder)) as page:
        yield page


def assert_told(page: Page, place: str, status: int, words: str) -> None:
    """One clear line, to programs and to people, and nothing of how it came about."""
    found = page.ask(place)
    assert found.status == status, (place, found.text)
    assert words in (found.json["detail"] if place.startswith("/api/") else found.text), (place, found.text)
    assert "Traceback" not in found.text
    if place.startswith("/api/"):
        assert len(found.json["detail"].splitlines()) == 1


def test_unknown_run_is_told_with_those_that_there_are(page: Page) -> None:
    detail = page.get("/api/runs/lungs/rounds", 404)["detail"]
    assert detail.startswith("there is no run 'lungs'; the runs in ")
    assert detail.endswith("are: hearts")


def test_unknown_place_is_told_as_json_to_programs(page: Page) -> None:
    assert page.get("/api/nothing", 404)["detail"] == "there is no /api/nothing; /api/ lists what there is"
    assert page.ask("/nothing").headers["content-type"].startswith("text/html")


def test_a_database_that_is_not_there_yet_is_shown_once_it_is(bare: Page, folder: Path) -> None:
    for place in PLACES[1:]:
        assert_told(bare, place, 503, "there is no folder")
    with ModelStore(folder) as store:
        assert bare.get("/api/runs") == []
        building.train(store)
        assert bare.get("/api/runs")[0]["name"] == "hearts"


def test_a_database_that_vanishes_or_is_replaced_is_noticed(bare: Page, folder: Path) -> None:
    with ModelStore(folder) as store:
        building.train(store)
    assert len(bare.get("/api/runs")) == 1
    folder.rename(folder.with_name("aside"))
    for place in PLACES[1:]:
        assert_told(bare, place, 503, "there is no folder")
    with ModelStore(folder):
        assert bare.get("/api/runs") == []


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "is empty"), (b"no database at all " * 100, "is not a model database")]
)
def test_a_file_that_is_no_database_is_told(bare: Page, folder: Path, content: bytes, words: str) -> None:
    folder.mkdir()
    (folder / "fl.db").write_bytes(content)
    for place in PLACES[1:]:
        assert_told(bare, place, 503, words)


def test_a_damaged_database_is_told(bare: Page, folder: Path) -> None:
    with ModelStore(folder) as store:
        building.train(store)
    file = folder / "fl.db"
    whole = file.read_bytes()
    file.write_bytes(whole[:8192] + bytes(len(whole) - 8192))
    for place in PLACES:
        found = bare.ask(place)
        assert found.status in (500, 503), (place, found.text)
        assert "Traceback" not in found.text


def test_a_row_that_says_nonsense_is_told(bare: Page, folder: Path) -> None:
    with ModelStore(folder) as store:
        building.train(store)
    with building.tampering(folder) as connection:
        connection.execute("UPDATE runs SET settings = 'nonsense'")
    assert_told(bare, "/api/runs", 500, "`fl db verify` tells")
    assert_told(bare, "/", 500, "`fl db verify` tells")
    for place in ("/", "/api/runs"):
        headers = bare.ask(place).headers
        assert SECURITY.items() <= {name.title(): value for name, value in headers.items()}.items()
        assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(("version", "words"), [(1, "version 1"), (99, "version 99")])
def test_a_database_of_another_version_is_told(bare: Page, folder: Path, version: int, words: str) -> None:
    ModelStore(folder).close()
    with closing(sqlite3.connect(folder / "fl.db")) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (str(version),))
        connection.commit()
    for place in PLACES[1:]:
        assert_told(bare, place, 503, words)


def test_a_missing_model_file_is_told(bare: Page, folder: Path) -> None:
    with ModelStore(folder) as store:
        building.train(store)
    for file in folder.glob("models/*/*.safetensors"):
        file.unlink()
    assert_told(bare, "/api/models/g1/arrays", 503, "is missing")


def test_many_ask_while_somebody_writes(page: Page, store: ModelStore) -> None:
    """Every answer is whole and of one state of the database."""
    is_over = threading.Event()

    def write() -> None:
        base = "initial"
        for number in range(1, 30):
            if number > 1:
                building.ask(store, number, base)
            found = [building.answer(store, number, name, number / 8) for name in "ab"]
            base = building.publish(store, number, found, 1 / number)
        is_over.set()

    def look() -> int:
        asked = 0
        while not is_over.is_set() or not asked:
            run = page.get("/api/runs/hearts")
            rounds = page.get("/api/runs/hearts/rounds")
            assert sum(entry["status"] == "done" for entry in rounds) > run["facts"]["rounds_done"]
            assert page.get("/api/runs/hearts/updates")
            asked += 1
        return asked

    with ThreadPoolExecutor(8) as threads:
        looking = [threads.submit(look) for _ in range(6)]
        threads.submit(write).result()
        assert all(found.result() for found in looking)
    assert page.get("/api/runs/hearts")["facts"]["rounds_done"] == 29


def test_what_never_changes_is_worked_out_once_and_few_at_a_time() -> None:
    heavy = Heavy()
    worked: list[int] = []
    at_work, met = [0], threading.Barrier(AT_ONCE)

    def work(number: int) -> int:
        at_work[0] += 1
        assert at_work[0] <= AT_ONCE
        met.wait(20)  # as many as may are at work at once
        at_work[0] -= 1
        worked.append(number)
        return number

    number = AT_ONCE + WAITING  # a multiple of AT_ONCE, so that each meets another
    with ThreadPoolExecutor(number) as threads:
        found = list(threads.map(lambda each: heavy.once(each, lambda: work(each)), range(number)))
    assert found == sorted(worked) == list(range(number))
    assert heavy.once(0, lambda: -1) == 0
    for number in range(KEPT + 1):
        heavy.once(("more", number), lambda: 0)
    assert heavy.once(0, lambda: -1) == -1  # it was let go


def test_too_many_who_want_much_are_told_to_come_again() -> None:
    heavy, may_end = Heavy(), threading.Event()
    started = threading.Semaphore(0)

    def work() -> None:
        started.release()
        assert may_end.wait(20)

    with ThreadPoolExecutor(AT_ONCE + WAITING) as threads:
        asked = [threads.submit(heavy.now, work) for _ in range(AT_ONCE + WAITING)]
        for _ in range(AT_ONCE):
            assert started.acquire(timeout=20)
        while heavy.asking < AT_ONCE + WAITING:
            pass  # until those that wait have their places, too
        with pytest.raises(HTTPException, match="ask again later"):
            heavy.now(work)
        may_end.set()
        for each in asked:
            each.result()
    assert heavy.asking == 0
