"""What strangers do wrong, by where they come from: counted, answered ever more slowly, told of rarely."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from fl_main.ports import Ports

FIRST_S = 0.5  # that the first wrong token is answered later; each further one twice as late
FORGET_S = 600.0
MAX_KEPT = 10_000  # networks; the one that was silent longest is forgotten first


def network_of(peer: str) -> str:
    """Return where a peer `address:port` comes from: an address, of IPv6 the /64 that one site has."""
    host = peer.rpartition(":")[0].strip("[]")
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    return str(address.ipv4_mapped or ip_network((address, 64), strict=False))


class Tally:
    """Counts events by a key, until a key was silent for some minutes.

    Args:
        monotonic: The clock.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._counts: OrderedDict[object, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._counts)

    def count(self, key: object) -> int:
        """Count one more, and return how many there were lately."""
        now = self._monotonic()
        while self._counts and next(iter(self._counts.values()))[1] < now - FORGET_S:
            self._counts.popitem(last=False)
        number = self._counts.pop(key, (0, now))[0] + 1
        self._counts[key] = (number, now)
        if len(self._counts) > MAX_KEPT:
            self._counts.popitem(last=False)
        return number


def is_told(number: int) -> bool:
    """Whether the log says it: of the first, the 10th, the 100th, …: a flood must not fill it."""
    return str(number).rstrip("0") == "1"


class Guesses:
    """Wrong tokens: each further one of a network is answered later.

    Args:
        ports: Clocks.
        longest_s: That an answer takes at most.

    Attributes:
        total: All since the start.
        last_at: Wall time of the last one.
        last_from: Where it came from.
    """

    def __init__(self, ports: Ports, longest_s: float) -> None:
        self.total = 0
        self.last_at: float | None = None
        self.last_from = ""
        self._ports = ports
        self._longest_s = longest_s
        self._tally = Tally(ports.monotonic)
        self._news = asyncio.Event()

    def wrong(self, peer: str) -> tuple[int, float]:
        """Count a wrong token; return how many came from there lately, and how late to answer."""
        self.total += 1
        self.last_at, self.last_from = self._ports.wall_time(), network_of(peer)
        self._news.set()
        number = self._tally.count(self.last_from)
        return number, min(FIRST_S * 2.0 ** min(number - 1, 30), self._longest_s)

    async def news(self) -> None:
        """Wait until there was another one since this was asked last."""
        await self._news.wait()
        self._news.clear()

    def to_wire(self) -> dict[str, Any]:
        """Return what `fl status` says of them."""
        return {"count": self.total, "addresses": len(self._tally), "last_at": self.last_at}
