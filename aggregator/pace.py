"""Rates: so many per second after a burst; whoever is beyond that is told how long to wait."""

KEPT_S = 60.0  # how long a turn is kept for somebody who is late for it, and how far ahead there are any
SLACK_S = 0.05  # clocks differ: whoever comes so much early is not sent away once more


class Pace:
    """Lets so many pass per second, and a number of them at once after a rest.

    Args:
        per_s: In the long run.
        burst: At once.
    """

    def __init__(self, per_s: float, burst: float) -> None:
        self._step_s = 1.0 / per_s
        self._burst_s = burst / per_s
        self._next = float("-inf")

    def ahead_s(self, now: float) -> float:
        """Return how far ahead the next free turn is; 0 if one is free now."""
        return max(0.0, self._next - now)

    def wait_s(self, now: float) -> float:
        """Take the next turn, and return in how many seconds it is; 0: now."""
        turn = max(self._next, now - self._burst_s + self._step_s)
        self._next = turn + self._step_s
        return max(0.0, turn - now)


class Turns:
    """Spreads a crowd that comes at once: everybody is told a turn, which is kept for them.

    Args:
        per_s: How many may pass per second; as many may come at once after a second of rest.
    """

    def __init__(self, per_s: float) -> None:
        self._pace = Pace(per_s, max(1.0, per_s))
        self._turns: dict[object, float] = {}

    def __len__(self) -> int:
        return len(self._turns)

    def wait_s(self, who: object, now: float) -> float:
        """Return 0 if somebody may pass now, else the seconds after which to come again."""
        self._forget(now - KEPT_S)
        turn = self._turns.pop(who, None)
        if turn is None:
            if self._pace.ahead_s(now) >= KEPT_S:  # the line is long enough: no turn is kept for more
                return KEPT_S
            turn = now + self._pace.wait_s(now)
        if turn <= now + SLACK_S:
            return 0.0
        self._turns[who] = turn
        return turn - now

    def _forget(self, before: float) -> None:
        """Forget the turns of those who did not come; the first in the line stand first, more or less."""
        while self._turns and next(iter(self._turns.values())) < before:
            del self._turns[next(iter(self._turns))]
