"""When an agent dials: after trouble with growing pauses, or once per interval if it does not stay."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from fl_main.ports import Ports

SHORTEST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0  # between two tries to connect
LONGEST_RETRY_S = 3600.0  # whatever the aggregator asks for: people may have set it right meanwhile
LOOKS = 8  # in one interval: how soon a laptop notices that it slept
JITTER = 0.1  # of an interval, by which a visit may be early: many agents do not all come at once


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a conversation ended, or did not begin.

    Attributes:
        retry_s: Seconds after which the aggregator wants to be asked again, if it said so.
    """

    reason: str
    retry_s: float | None = None


class Retries:
    """Pauses between two tries to connect: growing, or as the aggregator asks.

    Args:
        chance: A random number from 0 to 1.
    """

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._wait_s = SHORTEST_WAIT_S

    def begin_anew(self) -> None:
        """Forget that there was trouble."""
        self._wait_s = SHORTEST_WAIT_S

    def pause_s(self, trouble: Trouble) -> float:
        """Return after how many seconds to try again."""
        if trouble.retry_s is not None:  # others were told the same: come after it, not at once
            asked_s = min(max(trouble.retry_s, SHORTEST_WAIT_S), LONGEST_RETRY_S)
            return asked_s * (1 + self._chance() / 2)
        wait_s, self._wait_s = self._wait_s, min(self._wait_s * 2, LONGEST_WAIT_S)
        return wait_s * (1 + self._chance()) / 2


class Visits:
    """How an agent that does not stay connected comes and goes.

    Args:
        ports: Clocks and chance.
        every_s: Seconds between two visits at most; None for an agent that stays.

    Attributes:
        asking: Says `Poll`; kept until that is answered.
        is_over: Whether the agent hung up, or is about to, because there is nothing to do.
        is_pausing: Whether it waits for its next visit.
    """

    def __init__(self, ports: Ports, every_s: float | None) -> None:
        self.asking: asyncio.Task[None] | None = None
        self.is_over = self.is_pausing = False
        self._ports = ports
        self._every_s = every_s
        self._wake = asyncio.Event()

    @property
    def may_ask(self) -> bool:
        """Whether it is an agent that polls, and has not done so."""
        return self._every_s is not None and self.asking is None and not self.is_over

    def begin(self) -> None:
        """A new connection is there."""
        self.asking, self.is_over = None, False

    def end(self) -> None:
        """There is nothing to do; what comes up from here on makes the next visit come at once."""
        self.is_over = True
        self._wake.clear()

    def wake(self) -> None:
        """There is something to say."""
        self._wake.set()

    async def wait(self) -> None:
        """Wait until something is to be said."""
        await self._wake.wait()

    async def pause(self) -> None:
        """Wait until the next visit is due, or something is to be said."""
        length_s = (self._every_s or 0.0) * (1 - JITTER * self._ports.chance())
        due_at = self._ports.wall_time() + length_s
        self.is_pausing = True
        try:
            # While a machine sleeps, wall time goes on, the loop's clock on most does not.
            for _ in range(LOOKS):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(length_s / LOOKS):
                        await self._wake.wait()
                if self._wake.is_set() or self._ports.wall_time() >= due_at:
                    return
        finally:
            self.is_pausing = False
