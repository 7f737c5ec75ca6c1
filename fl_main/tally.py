"""Counts of what strangers do, by where they come from."""

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network

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
