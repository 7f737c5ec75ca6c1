"""Who contributed what to a value that a group reaches together: two answers of game theory.

A game is given by `value(coalition)`, which says what each part of the players reaches alone; that of
nobody counts, too.
"""

import math
from collections.abc import Callable, Collection, Sequence
from itertools import combinations

Value = Callable[[frozenset[str]], float]

MOST_PLAYERS = 8  # of `shapley`: 2^8 coalitions are each a model to be made and measured


def leave_one_out(players: Collection[str], value: Value) -> dict[str, float]:
    """Return v(N) − v(N − {i}) for each player i: what is lost without it, the others being there.

    Of two players who bring the same, neither may seem to bring anything.
    """
    everybody = frozenset(players)
    return {player: value(everybody) - value(everybody - {player}) for player in players}


def shapley(players: Sequence[str], value: Value) -> dict[str, float]:
    """Return the Shapley value of each player: what it adds, on average over all orders of joining.

    φ_i = Σ_{S ⊆ N − {i}} |S|! (n − |S| − 1)! / n! · (v(S ∪ {i}) − v(S)), exactly, with one value for each
    coalition (Shapley 1953, "A Value for n-Person Games"). It is the only division of v(N) − v(∅) that
    leaves nothing over, gives equal players the same and nothing to who never adds anything, and adds up
    over games.

    Args:
        players: At most `MOST_PLAYERS`.
    """
    values = {
        frozenset(group): value(frozenset(group))
        for size in range(len(players) + 1)
        for group in combinations(players, size)
    }
    return {player: _average_gain(player, players, values) for player in players}


def _average_gain(player: str, players: Sequence[str], values: dict[frozenset[str], float]) -> float:
    others = [other for other in players if other != player]
    gains = []
    for size in range(len(players)):
        part = 1 / (len(players) * math.comb(len(others), size))
        for group in combinations(others, size):
            without = frozenset(group)
            gains.append(part * (values[without | {player}] - values[without]))
    return math.fsum(gains)
