"""What strangers do wrong, by where they come from: counted, answered ever more slowly, told of rarely."""

import asyncio
from typing import Any

from fl_main.ports import Ports
from fl_main.tally import Tally, network_of

FIRST_S = 0.5  # that the first wrong token is answered later; each further one twice as late


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
