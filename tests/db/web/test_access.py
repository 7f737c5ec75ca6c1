"""Who may look, and what every answer says to a browser."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.types import Message, Receive, Scope, Send

from fl_main.db import ModelStore
from fl_main.db.web.access import MAX_WAITING, Access, Guard
from fl_main.db.web.app import create_app
from tests.db import building
from tests.db.web.serving import Page, serving

TOKEN = "a word that nobody guesses"
SHOWN = "a%20word+that%20nobody%20guesses"


@pytest.fixture
def locked(store: ModelStore, folder: Path) -> Iterator[Page]:
    """A page behind the prefix /fl that wants a token."""
    building.begin(store)
    with serving(create_app(folder, root_path="/fl", access=Access(TOKEN))) as page:
        yield page


@pytest.mark.parametrize("path", ["/api/runs", "/api/", "/nothing", "/static/nothing.css"])
def test_every_answer_keeps_a_browser_from_mischief(page: Page, path: str) -> None:
    headers = page.ask(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; ")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"]
    assert "server" not in headers


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "LOCALHOST:1", "[::1]:8766", "127.0.0.53"])
def test_names_of_this_machine_are_answered(page: Page, host: str) -> None:
    assert page.ask("/api/runs", Host=host).status == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "", "10.0.0.1"])
def test_name_of_another_site_that_leads_here_is_refused(page: Page, host: str) -> None:
    found = page.ask("/api/runs", Host=host)
    assert found.status in (400, 421)
    assert "hearts" not in found.text


def test_who_shows_no_token_is_told_what_to_do(locked: Page) -> None:
    for path in ("/fl/", "/fl/api/runs", "/fl/static/page.css", "/fl/api/openapi.json", "/fl/api/changes"):
        found = locked.ask(path)
        assert found.status == 401
        assert "needs its token" in found.text
        assert found.headers["www-authenticate"] == "Bearer"


def test_program_shows_the_token_in_a_header(locked: Page) -> None:
    assert locked.get("/fl/api/runs", Authorization=f"Bearer {TOKEN}")[0]["name"] == "hearts"
    assert locked.ask("/fl/api/runs", Authorization=f"Basic {TOKEN}").status == 401


def test_browser_trades_the_token_in_its_address_for_a_cookie(locked: Page) -> None:
    found = locked.ask(f"/fl/api/runs?limit=3&token={SHOWN}")
    assert (found.status, found.headers["location"]) == (303, "./runs?limit=3")
    assert found.headers["cache-control"] == "no-store"
    cookie = found.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=lax", "Path=/fl/"} <= set(cookie.split("; "))
    assert locked.get("/fl/api/runs", Cookie=cookie.split("; ")[0])[0]["name"] == "hearts"


def test_token_behind_a_prefix_without_its_slash_is_traded_for_a_cookie_that_comes_back(locked: Page) -> None:
    found = locked.ask(f"/fl?token={SHOWN}")
    assert found.headers["location"] == "./fl/"  # as a browser takes it: /fl/, below the cookie's path


def test_cookie_of_an_encrypted_page_goes_to_no_other(store: ModelStore, folder: Path) -> None:
    with serving(create_app(folder, access=Access(TOKEN, is_encrypted=True))) as page:
        found = page.ask(f"/?token={SHOWN}")
    assert found.headers["location"] == "./"
    assert "Secure" in found.headers["set-cookie"].split("; ")


def test_cookie_of_a_page_behind_a_server_that_ends_tls_goes_to_no_other(locked: Page) -> None:
    found = locked.ask(f"/fl/?token={SHOWN}", X_Forwarded_Proto="https")
    assert "Secure" in found.headers["set-cookie"].split("; ")
    assert "Secure" not in locked.ask(f"/fl/?token={SHOWN}").headers["set-cookie"].split("; ")


def test_two_pages_of_one_machine_do_not_take_each_others_cookie() -> None:
    assert Access("one").cookie != Access("other").cookie


def test_page_with_a_token_answers_to_any_name(locked: Page) -> None:
    assert locked.ask("/fl/api/runs", Host="fl.example", Authorization=f"Bearer {TOKEN}").status == 200


@pytest.mark.parametrize("prefix", ["", "/fl"])
def test_server_in_front_may_take_the_prefix_off_or_leave_it(locked: Page, prefix: str) -> None:
    shown = {"Authorization": f"Bearer {TOKEN}"}
    assert locked.ask(f"{prefix}/api/runs", **shown).status == 200
    assert locked.ask(f"{prefix}/static/../app.py", **shown).status == 404
    assert locked.ask(f"{prefix}/api/openapi.json", **shown).json["servers"] == [{"url": "/fl"}]


@pytest.mark.parametrize("path", ["/fl/api", "/api"])
def test_server_in_front_is_not_told_by_which_name_it_reaches_the_page(locked: Page, path: str) -> None:
    found = locked.ask(path, Authorization=f"Bearer {TOKEN}")  # nginx puts its prefix before our address
    assert (found.status, found.headers["location"]) == (307, "/fl/api/")


def test_what_a_visitor_says_of_prefixes_is_not_believed(locked: Page) -> None:
    found = locked.ask("/nothing", Authorization=f"Bearer {TOKEN}", X_Forwarded_Prefix="/evil", Forwarded="x")
    assert "/evil" not in found.text


class Waits:
    """The passing of time, and an application that says yes."""

    def __init__(self) -> None:
        self.waited: list[float] = []
        self.are_many = asyncio.Event()
        self.is_over = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.waited.append(seconds)
        if len(self.waited) == MAX_WAITING:
            self.are_many.set()
        await self.is_over.wait()

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})


async def ask(guard: Guard, token: str, address: str = "10.0.0.1") -> int:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    headers = [(b"authorization", f"Bearer {token}".encode("latin-1"))]
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers}
    await guard({**scope, "client": (address, 1)}, receive, send)
    return int(sent[0]["status"])


def test_each_wrong_token_is_answered_later_and_the_right_one_at_once() -> None:
    async def play() -> None:
        waits = Waits()
        waits.is_over.set()
        guard = Guard(waits.app, Access(TOKEN), sleep=waits.sleep, monotonic=lambda: 0.0)
        assert [await ask(guard, "wrong") for _ in range(7)] == [401] * 7
        assert waits.waited == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
        assert await ask(guard, TOKEN) == 200
        assert await ask(guard, "wrong", "10.0.0.2") == 401
        assert waits.waited[7:] == [0.5]

    asyncio.run(play())


def test_a_flood_of_wrong_tokens_takes_no_more_than_some_places() -> None:
    async def play() -> None:
        waits = Waits()
        guard = Guard(waits.app, Access(TOKEN), sleep=waits.sleep, monotonic=lambda: 0.0)
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(ask(guard, "wrong")) for _ in range(MAX_WAITING)]
            await waits.are_many.wait()
            assert await ask(guard, "wrong") == 429
            assert await ask(guard, TOKEN) == 200
            waits.is_over.set()
        assert {task.result() for task in asked} == {401}

    asyncio.run(play())


@pytest.mark.parametrize("token", ["ÿ", "\x00", "x" * 10_000])
def test_strange_tokens_are_wrong_ones(token: str) -> None:
    async def play() -> int:
        waits = Waits()
        waits.is_over.set()
        return await ask(Guard(waits.app, Access(TOKEN), sleep=waits.sleep), token)

    assert asyncio.run(play()) == 401
