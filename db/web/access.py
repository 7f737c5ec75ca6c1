"""Who may look: the token, the Host header, the headers that keep a browser from mischief."""

import asyncio
import hashlib
import hmac
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fl_main.tally import Tally, network_of

FIRST_S = 0.5  # that the first wrong token is answered later; each further one twice as late
LONGEST_S = 10.0
MAX_WAITING = 100  # wrong tokens that are answered late at once; more are not even looked at

_OWN_HOST = re.compile(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?", re.IGNORECASE)

SECURITY = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Access:
    """What a visitor must show.

    Attributes:
        token: What it must know; empty: nothing, but it must come to an address of this machine
            itself, so that no page of another site can have a browser fetch from here.
        is_encrypted: Whether browsers reach the page by TLS: then they keep the token for that only.
    """

    token: str = ""
    is_encrypted: bool = False

    @property
    def cookie(self) -> str:
        """The name of the cookie: of its own for each token, since ports share their cookies."""
        return "fl_" + hashlib.sha256(self.token.encode()).hexdigest()[:12]

    def knows(self, token: str) -> bool:
        """Whether a token is the right one; takes as long for any."""
        return hmac.compare_digest(token.encode(), self.token.encode())


class Guard:
    """Lets in who may look, and sends every answer with the headers of `SECURITY`.

    Args:
        app: What it stands before.
        access: Who may look.
        root_path: The path prefix, e.g. `/fl`; requests may come with it or without.
        sleep: Lets time pass.
        monotonic: The clock.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        root_path: str = "",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._access = access
        self._root_path = root_path
        self._sleep = sleep
        self._wrong = Tally(monotonic)
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = self._placed(scope)

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store" if self._access.token else "no-cache")
                if "Location" in headers:
                    headers["Location"] = _here(headers["Location"])
            await send(message)

        answer = await self._turned_away(scope)
        await (answer or self._app)(scope, receive, send_safely)

    def _placed(self, scope: Scope) -> Scope:
        """Let a path begin with the prefix, whether or not the server in front took it off."""
        root, path = self._root_path, scope["path"]
        if root and path != root and not path.startswith(root + "/"):
            path = root + path
        return {**scope, "root_path": root, "path": path}

    async def _turned_away(self, scope: Scope) -> Response | None:
        """Return the answer to who must not be let in, or must come once more; None: come in."""
        headers = Headers(scope=scope)
        if not self._access.token:
            return self._of_host(headers.get("host", ""))
        queries = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in queries if name == "token"]
        if given:
            if self._access.knows(given[-1]):
                return self._exchanged(scope, [pair for pair in queries if pair[0] != "token"])
            return await self._late(scope)
        token = self._shown(headers)
        if token and self._access.knows(token):
            return None
        return await self._late(scope) if token else _refusal(401, NEEDED)

    def _of_host(self, host: str) -> Response | None:
        if _OWN_HOST.fullmatch(host):
            return None
        text = "this page answers to localhost and 127.0.0.1 only; for other names start it with --token-file"
        return PlainTextResponse(text + "\n", 421)

    def _shown(self, headers: Headers) -> str:
        """Return the token that a program or a browser shows."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return token.strip()
        return cookie_parser(headers.get("cookie", "")).get(self._access.cookie, "")

    def _exchanged(self, scope: Scope, queries: list[tuple[str, str]]) -> Response:
        """Give a browser its cookie, and send it on to the same place without the token in the address."""
        last = quote(scope["path"].rpartition("/")[2])
        if scope["path"] == self._root_path:  # without its slash it has no part in the cookie
            last += "/"
        where = f"./{last}" + (f"?{urlencode(queries)}" if queries else "")
        answer = Response(status_code=303, headers={"Location": where, "Cache-Control": "no-store"})
        # What stands before us may end TLS; who claims so without it harms nobody but himself.
        is_encrypted = Headers(scope=scope).get("x-forwarded-proto") == "https" or self._access.is_encrypted
        answer.set_cookie(
            self._access.cookie,
            self._access.token,
            path=f"{self._root_path}/",
            secure=is_encrypted,
            httponly=True,
            # Strict would keep it from who follows a link of a mail or a wiki, also from the very request
            # that this answer sends on. Nothing here changes anything, and no other site can read an answer.
            samesite="lax",
        )
        return answer

    async def _late(self, scope: Scope) -> Response:
        """Answer a wrong token, the later the more of them came from there."""
        client = scope.get("client") or ("", 0)
        number = self._wrong.count(network_of(f"[{client[0]}]:{client[1]}"))
        if self._waiting >= MAX_WAITING:
            return _refusal(429, "too many wrong tokens came lately; try again later")
        self._waiting += 1
        try:
            await self._sleep(min(FIRST_S * 2.0 ** min(number - 1, 30), LONGEST_S))
        finally:
            self._waiting -= 1
        return _refusal(401, "the token is not the one of this page")


def _here(location: str) -> str:
    """Return a place of ours without scheme and host: a server in front has others."""
    _, host, path, query, _ = urlsplit(location)
    path = "/" + path.lstrip("/") if host else path  # two slashes would begin a host
    return path + (f"?{query}" if query else "")


NEEDED = (
    "this page needs its token: open the address that it printed when it started, "
    "or send the header Authorization: Bearer TOKEN"
)


def _refusal(status: int, message: str) -> Response:
    return PlainTextResponse(
        message + "\n", status, {"WWW-Authenticate": "Bearer"} if status == 401 else None
    )
