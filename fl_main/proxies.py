"""The proxy on the way to an aggregator, as the environment names it, and what its refusals mean.

It is read as curl does, for `ws://` the variables of `http://` and for `wss://` those of `https://`:

    ws://    ws_proxy, http_proxy, all_proxy
    wss://   wss_proxy, https_proxy, all_proxy
    no_proxy hosts, domains and networks that are reached without

in lower or upper case; where none is set, macOS and Windows are asked for their settings. This
machine itself is never reached through a proxy, as in Go: a proxy elsewhere has a localhost of its own.
"""

import importlib.util
import ipaddress
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from websockets.exceptions import InvalidProxyMessage, InvalidProxyStatus, ProxyError

from fl_main.errors import ConnectionFailedError

SCHEMES = ("http", "https", "socks5h", "socks5", "socks4a", "socks4")
NO_TUNNELS = (400, 404, 405, 501)  # what web servers and gateways answer to CONNECT


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, which its text names without the credentials.

    Attributes:
        url: Where it is, with the credentials: never to be shown.
        source: What named it: an environment variable, or the system.
    """

    url: str = field(repr=False)
    source: str

    def __str__(self) -> str:
        return f"the proxy {place_of(self.url)} (from {self.source})"

    @property
    def has_credentials(self) -> bool:
        """Whether a user name and a password belong to it."""
        return urlsplit(self.url).username is not None


def place_of(url: str) -> str:
    """Return host and port of an address, without the credentials that may be in it."""
    return urlsplit(url).netloc.rpartition("@")[2]


def find_proxy(url: str) -> Proxy | None:
    """Return the proxy that leads to an aggregator, or None if the way is direct.

    Raises:
        ConnectionFailedError: If a variable names a proxy that is none, or one that cannot be used.
    """
    place = urlsplit(url)
    if _is_direct(place):
        return None
    known = getproxies()
    for name in ("wss", "https", "all", "socks") if place.scheme == "wss" else ("ws", "http", "all", "socks"):
        if address := known.get(name):
            return _checked(name, address)
    return None


def _is_direct(place: SplitResult) -> bool:
    host = place.hostname or ""
    if host == "localhost" or host.endswith(".localhost") or proxy_bypass(place_of(place.geturl())):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or any(address in network for network in _excepted_networks())


def _excepted_networks() -> Iterator[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    for name in getproxies().get("no", "").split(","):
        if "/" in name:
            try:
                yield ipaddress.ip_network(name.strip(), strict=False)
            except ValueError:
                continue


def _checked(name: str, address: str) -> Proxy:
    source = _source(name)
    proxy = Proxy(_complete(name, address), source)
    if not _is_address(proxy.url):
        raise ConnectionFailedError(  # which part is wrong is not said: it may be one of a password
            f"{source} is no address of a proxy like http://user:password@host:port; "
            "special characters in a password are percent-encoded",
            lasting=True,
        )
    if proxy.url.startswith("socks") and not importlib.util.find_spec("python_socks"):
        text = f"{proxy} speaks SOCKS, which needs one more package: pip install 'python-socks[asyncio]'"
        raise ConnectionFailedError(_or_without(text), lasting=True)
    return proxy


def _source(name: str) -> str:
    wanted = f"{name}_proxy"
    # The lower-case name first, as it counts first.
    variables = sorted((variable for variable in os.environ if variable.lower() == wanted), reverse=True)
    return next((variable for variable in variables if os.environ[variable]), "the system's settings")


def _complete(name: str, address: str) -> str:
    """Return an address with the scheme that is meant."""
    scheme, rest = address.split("://", 1) if "://" in address else ("http", address)
    if scheme == "socks" or (name, scheme) == ("socks", "http"):
        scheme = "socks5h"
    return f"{scheme}://{rest}"


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        has_port = parts.port != 0
    except ValueError:
        return False
    is_plain = parts.path in ("", "/") and not parts.query and not parts.fragment
    has_both = (parts.username is None) == (parts.password is None)
    return parts.scheme in SCHEMES and bool(parts.hostname) and has_port and is_plain and has_both


def explain_proxy(error: BaseException, place: str, proxy: Proxy) -> ConnectionFailedError | None:
    """Return what a proxy's failure means, in one line that says what to do; None if it was not the proxy's.

    Args:
        error: What a try to connect raised.
        place: Host and port of the aggregator.
        proxy: That was used.
    """
    if isinstance(error, InvalidProxyStatus):
        return _explain_status(error, place, proxy)
    if isinstance(error, InvalidProxyMessage):
        return ConnectionFailedError(
            _or_without(f"{proxy} does not answer as an HTTP proxy does; correct its address")
        )
    if isinstance(error, ProxyError):
        return ConnectionFailedError(f"{proxy} does not connect to {place}: {error.__cause__ or error}")
    if isinstance(error, socket.gaierror):
        return ConnectionFailedError(_or_without(f"{proxy} has an unknown address; correct it"))
    if isinstance(error, ConnectionRefusedError) or "Connect call failed" in str(error):
        return ConnectionFailedError(_or_without(f"nothing listens at {proxy}; correct its address"))
    return None


def _explain_status(error: InvalidProxyStatus, place: str, proxy: Proxy) -> ConnectionFailedError:
    status = error.response.status_code
    answer = f"(HTTP {status})"
    if status == 407:
        return ConnectionFailedError(_wants(error, proxy), lasting=True)
    if status in NO_TUNNELS:
        text = f"{proxy} opens no tunnels {answer}; correct its address"
    elif 400 <= status < 500:
        text = f"{proxy} forbids the way to {place} {answer}; ask who runs it to allow CONNECT to {place}"
    elif status >= 500:
        text = f"{proxy} cannot reach {place} {answer}; check the url and that the aggregator runs"
        return ConnectionFailedError(text)
    else:
        text = f"{proxy} answers something else {answer}; open a web page: perhaps it wants a login"
        return ConnectionFailedError(_or_without(text))
    return ConnectionFailedError(_or_without(text), lasting=True)


def _wants(error: InvalidProxyStatus, proxy: Proxy) -> str:
    """Return what a proxy wants that asks for credentials."""
    offers = [offer.split()[0] for offer in error.response.headers.get_all("Proxy-Authenticate") if offer]
    if offers and "basic" not in map(str.lower, offers):
        text = f"{proxy} wants a login by {' or '.join(offers)}, and only Basic is spoken here"
        return _or_without(f"{text}; ask who runs it for Basic or an exception, or put a local proxy between")
    if proxy.has_credentials:
        return f"{proxy} does not take the user name and password that are in its address; correct them"
    return _or_without(f"{proxy} wants a user name and a password: http://user:password@host:port")


def _or_without(text: str) -> str:
    return f"{text}, or put the aggregator's host into NO_PROXY if none is needed"
