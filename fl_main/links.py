"""WebSocket connections as links: dialling out, and the same class for both ends.

This is the one module of the core that touches the network. It is here because agents and
operators dial alike; the protocol, the rounds and the strategies do not import it.
"""

import asyncio
import logging
import socket
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidStatus,
    InvalidURI,
    NegotiationError,
)
from websockets.typing import Subprotocol

from fl_main.errors import ConnectionFailedError
from fl_main.messages import MAX_FRAME_BYTES, SUBPROTOCOL, Chunk
from fl_main.ports import LinkClosedError
from fl_main.proxies import Proxy, explain_proxy, find_proxy, place_of
from fl_main.wire import Wire

logger = logging.getLogger("fl_main.links")

CLOSE_S = 2.0  # for the other end to answer a close

# By the verify_code of OpenSSL (X509_V_ERR_…); of any other the authority is unknown.
_OTHER_NAME = "the url must have a name or address that is in it"
_OTHER_TIME = "have it renewed, or correct this machine's clock"
_CERTIFICATE_REMEDIES = {9: _OTHER_TIME, 10: _OTHER_TIME, 62: _OTHER_NAME, 64: _OTHER_NAME}


class DialledWire(Wire, ClientConnection):
    """The dialling end."""


class WebSocketLink:
    """A `fl_main.ports.Link` over a WebSocket connection of either end."""

    def __init__(self, connection: Wire) -> None:
        self._connection = connection

    @property
    def bytes_received(self) -> int:
        """See `Link`."""
        return self._connection.bytes_received

    @property
    def peer(self) -> str:
        """See `Link`."""
        address: Any = self._connection.remote_address
        return f"{address[0]}:{address[1]}" if address else "?"

    async def send(self, *frames: bytes) -> None:
        """See `Link`."""
        try:
            await self._connection.send_frames(frames)
        except ConnectionClosed as closed:
            raise _link_closed(closed) from closed

    async def send_framed(self, framed: memoryview) -> None:
        """See `Link`."""
        try:
            await self._connection.send_framed(framed)
        except ConnectionClosed as closed:
            raise _link_closed(closed) from closed

    async def receive(self) -> bytes | str | Chunk:
        """See `Link`."""
        try:
            return await self._connection.next()
        except ConnectionClosed as closed:
            raise _link_closed(closed) from closed

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """See `Link`."""
        try:
            async with asyncio.timeout(CLOSE_S + 1.0):  # a deaf peer holds up even the close
                await self._connection.close(code, short(reason))
        except TimeoutError:
            pass
        finally:
            self._connection.transport.abort()


async def dial(url: str, *, ca_file: Path | None = None, timeout_s: float = 10.0) -> WebSocketLink:
    """Open a link to an aggregator, through the environment's proxy if there is one.

    Args:
        url: `ws://host:port/path`, or `wss://…` with TLS.
        ca_file: Certificate authority to trust instead of the system's.
        timeout_s: For the whole handshake.

    Raises:
        ConnectionFailedError: With the cause and a remedy in one line.
    """
    _check(url)
    proxy = find_proxy(url)
    try:
        connection = await connect(
            url,
            proxy=proxy.url if proxy else None,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            compression=None,
            max_size=MAX_FRAME_BYTES,
            ping_interval=None,  # liveness is ours: by bytes moved
            open_timeout=timeout_s,
            close_timeout=CLOSE_S,
            create_connection=DialledWire,
            ssl=_tls(url, ca_file),
        )
    except (OSError, InvalidHandshake, InvalidURI, EOFError) as error:
        raise explain(error, url, proxy, ca_file) from error
    assert isinstance(connection, Wire)
    link = WebSocketLink(connection)
    if connection.subprotocol != SUBPROTOCOL:  # before a token is told to a server that is not ours
        await link.close(1002, f"not {SUBPROTOCOL}")
        raise ConnectionFailedError(
            f"{place_of(url)} is a WebSocket server, but no fl_main aggregator; check the url", lasting=True
        )
    if proxy:
        logger.info("connected to %s through %s", place_of(url), proxy)
    return link


def _check(url: str) -> None:
    try:
        urlsplit(url).port  # noqa: B018 - raises
    except ValueError:
        raise ConnectionFailedError(f"{url!r} is not an address like ws://host:8765", lasting=True) from None


def _tls(url: str, ca_file: Path | None) -> ssl.SSLContext | None:
    if not url.startswith("wss:"):
        return None
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConnectionFailedError(f"ca_file {ca_file}: {error}; give a PEM file", lasting=True) from error


def explain(
    error: BaseException, url: str, proxy: Proxy | None = None, ca_file: Path | None = None
) -> ConnectionFailedError:
    """Return why an aggregator cannot be reached, in one line that says what to do.

    Args:
        error: What the try to connect raised.
        url: Of the aggregator.
        proxy: On the way to it: people forget that one is set.
        ca_file: Certificate authority that was trusted instead of the system's.
    """
    if proxy is None:
        return _explain(error, url, ca_file)
    if found := explain_proxy(error, place_of(url), proxy):
        return found
    found = _explain(error, url, ca_file)
    return ConnectionFailedError(f"{found}; the way leads through {proxy}", lasting=found.lasting)


def _explain(error: BaseException, url: str, ca_file: Path | None) -> ConnectionFailedError:
    place = place_of(url)
    if isinstance(error, InvalidStatus):
        return _explain_status(error, place, urlsplit(url).path or "/")
    if isinstance(error, InvalidURI):
        return _explain_address(error.uri, url)
    if isinstance(error, ssl.SSLCertVerificationError):
        remedy = _CERTIFICATE_REMEDIES.get(error.verify_code, _authority(ca_file))
        text = f"the certificate of {place} is not trusted ({error.verify_message}); {remedy}"
        return ConnectionFailedError(text, lasting=True)
    if isinstance(error, ssl.SSLError):
        return ConnectionFailedError(f"{place} does not speak TLS; use ws:// or its TLS port", lasting=True)
    if isinstance(error, InvalidMessage | EOFError | ConnectionResetError):
        port, scheme = ("a plain port", "ws") if url.startswith("wss:") else ("a TLS port", "wss")
        text = (
            f"{place} does not answer as an aggregator does; if it is {port}, the url begins with {scheme}://"
        )
        return ConnectionFailedError(text)
    if isinstance(error, NegotiationError):
        return ConnectionFailedError(f"{place} does not speak {SUBPROTOCOL}: {error}", lasting=True)
    if isinstance(error, socket.gaierror):
        return ConnectionFailedError(f"the address {place} is unknown; check the url and the network")
    if isinstance(error, ConnectionRefusedError) or "Connect call failed" in str(error):
        return ConnectionFailedError(f"nothing listens at {place}; start the aggregator or correct the url")
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return ConnectionFailedError(f"{place} did not answer in time; check the address and firewalls")
    return ConnectionFailedError(f"cannot reach {place}: {error}")


def _authority(ca_file: Path | None) -> str:
    if ca_file is None:
        return "give its authority as ca_file"
    return f"ca_file {ca_file} is not its authority, give that one"


def _explain_address(refused: str, url: str) -> ConnectionFailedError:
    place = place_of(url)
    if place and refused != url:  # a web server in front leads elsewhere
        better = refused.replace("http", "ws", 1)
        return ConnectionFailedError(f"{place} redirects to {refused}; give {better} as url", lasting=True)
    shown = url.replace(urlsplit(url).netloc, place) if place else url
    return ConnectionFailedError(f"{shown!r} is not an address like ws://host:8765", lasting=True)


def _explain_status(error: InvalidStatus, place: str, path: str) -> ConnectionFailedError:
    status, body = error.response.status_code, error.response.body or b""
    text = bytes(body).decode(errors="replace").strip().partition("\n")[0][:300]
    if "fl_main" in text:
        return ConnectionFailedError(f"{place}: {text}", lasting=True)
    if status in (426, 505) or "did not receive a valid HTTP request" in text:  # says the daemon behind it
        return ConnectionFailedError(
            f"{place} passes on no WebSockets (HTTP {status}): the web server there needs "
            "proxy_http_version 1.1 and the headers Upgrade and Connection",
            lasting=True,
        )
    if status >= 500:
        why = ": the aggregator behind it cannot be reached" if status in (502, 504) else ""
        return ConnectionFailedError(f"{place} answered HTTP {status}{why}; it may come back")
    return ConnectionFailedError(
        f"{place} answered HTTP {status} at {path}: no fl_main aggregator is there; check the url",
        lasting=True,
    )


def _link_closed(closed: ConnectionClosed) -> LinkClosedError:
    frame = closed.rcvd or closed.sent
    return LinkClosedError(frame.code if frame else 1006, frame.reason if frame else "connection lost")


def short(reason: str) -> str:
    """Cut a reason to what a WebSocket close frame holds: 123 bytes."""
    return reason.encode()[:120].decode(errors="ignore")
