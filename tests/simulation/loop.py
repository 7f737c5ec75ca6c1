"""An event loop in virtual time: nothing is waited for, the clock jumps to what comes next."""

import asyncio
import selectors

TURN_S = 1e-6  # that a turn of the loop takes at least: no clock stands still
MAX_TURNS = 1_000_000  # of one simulation, be it a crowd that comes and goes: more never ends


class NeverEndsError(Exception):
    """The simulation goes round and round, or waits for something that nothing will bring."""


class _NoNetwork(selectors.SelectSelector):
    """A selector that never waits: it lets the clock jump."""

    now = 0.0
    turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += 1
        if timeout is None:
            raise NeverEndsError("everybody waits, and nothing will ever happen")
        if self.turns > MAX_TURNS:
            raise NeverEndsError(f"{self.turns} turns of the loop are more than any simulation takes")
        self.now += max(TURN_S, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs callbacks in an order that follows from their times alone."""

    def __init__(self) -> None:
        self._virtual = _NoNetwork()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual.now

    def go_on(self) -> None:
        """Count the turns anew, after an end that was none."""
        self._virtual.turns = 0

    def _write_to_self(self) -> None:
        """There is nothing to wake up: whoever calls is in the loop's own thread."""
