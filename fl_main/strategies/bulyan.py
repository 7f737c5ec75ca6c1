"""Bulyan: updates picked by Krum, and of their values those near the median.

Source: El Mhamdi, Guerraoui, Rouault: The Hidden Vulnerability of Distributed Learning in
Byzantium, ICML 2018 (arXiv:1802.07927), section 4.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from fl_main.strategies.base import Block, Contribution, Strategy, Values
from fl_main.strategies.fedavg import fold_mean, running_shares
from fl_main.strategies.geometry import COLUMNS, Geometry, Numbers, Sightings
from fl_main.strategies.krum import krum_scores, ranked
from fl_main.strategies.median import mean_of_rows
from fl_main.strategies.options import whole


class Bulyan(Strategy):
    """x_j ← mean of the θ - 2f values nearest to the median of y_i,j over θ = n - 2f picks of Krum.

    Krum picks one update after the other, each among those that are left. Where fewer than f + 3 are
    left, the nearest one is what counts.

    Use it where faulty updates may be near the others and yet wrong in a few values, which Krum lets
    pass. It needs many updates, and leaves most of each value out. Every update that is picked counts
    once, whatever its examples. Running statistics go the same way; integers and booleans are medians
    over all updates.

    Bears: f of n ≥ 4 f + 3.

    Cost: one pass to measure n × n distances, one to sort the values of θ updates; nothing more on
    the wire.

    Args:
        f: How many updates may be faulty, at least 0.
    """

    passes = 1
    stacks = True
    takes_buffers = True
    one_each = True
    measures = ("distance", "score", "kept", "cosine")

    def __init__(self, f: int = 1) -> None:
        self._f = whole("f", f, 0)
        self.min_updates = 4 * self._f + 3
        self.why_least = f"f = {self._f} faulty ones are borne by n ≥ 4f + 3"

    def bears(self, updates: int) -> int:  # noqa: D102 - see Strategy
        return self._f if updates >= self.min_updates else 0

    def begin(self, contributions: Sequence[Contribution]) -> None:  # noqa: D102 - see Strategy
        self._seen = Geometry(len(contributions))
        self._found = Sightings(len(contributions))

    def measure(self, number: int, block: Block) -> None:  # noqa: D102 - see Strategy
        self._seen.take(block.stack(), block.base)

    def combine(self, block: Block) -> None:  # noqa: D102 - see Strategy
        rows = block.stack()
        self._reduce(rows, block.out)
        self._found.take(rows, block.base, block.out)

    def combine_buffer(self, block: Block) -> None:  # noqa: D102 - see Strategy
        self._reduce(block.stack(), block.out)

    def _reduce(self, rows: Values, out: Values) -> None:
        for start in range(0, out.size, COLUMNS):  # so few that the picks of each fit the cache
            columns = slice(start, start + COLUMNS)
            mean_near_median(np.sort(rows[self._picks, columns], axis=0), 2 * self._f, out[columns])

    @cached_property
    def _picks(self) -> list[int]:
        """The θ updates that Krum picks, in the order of the updates."""
        return sorted(repeated_krum(self._seen.squares, self._f))

    def notes(self) -> Sequence[Mapping[str, float]]:  # noqa: D102 - see Strategy
        scores, picks = krum_scores(self._seen.squares, self._f), self._picks
        return [
            {**note, "score": float(score), "kept": float(place in picks)}
            for place, (note, score) in enumerate(zip(self._found.notes(), scores, strict=True))
        ]


def repeated_krum(squares: Numbers, f: int) -> list[int]:
    """Return the n - 2f points that Krum picks one after the other, each among those that are left.

    Distances are sorted once: whoever is picked is then taken out of the others' rows.

    Args:
        squares: Squared distance of each pair, shape (n, n).
        f: How many may be faulty.
    """
    left, picked = np.arange(len(squares)), list[int]()
    order = np.argsort(np.where(np.eye(len(squares), dtype=bool), -1.0, squares), axis=1)
    others = order[:, 1:].astype(np.int32)  # of each point, the nearest first: half the bytes to move
    nearest = np.take_along_axis(squares, order, axis=1)[:, 1:]
    while len(left) > 2 * f:
        scores = nearest[:, : max(1, len(left) - f - 2)].sum(axis=1)
        best = ranked(scores, nearest.sum(axis=1))[0]
        picked.append(int(left[best]))
        stays = others != left[best]
        stays[best] = False
        left = np.delete(left, best)
        shape = len(left), max(0, len(left) - 1)
        others, nearest = others[stays].reshape(shape), nearest[stays].reshape(shape)
    return picked


def mean_near_median(ordered: Values, dropped: int, out: Values) -> None:
    """Write the mean of the values nearest to the median to out, in each place.

    They are neighbours: what is farthest from the median is the first or the last of those left.

    Args:
        ordered: Values of each place in order, shape (values, length).
        dropped: How many of them are left out.
        out: Takes the mean, shape (length,).
    """
    count, places = len(ordered), np.arange(out.size)
    mean_of_rows(ordered[(count - 1) // 2 : count // 2 + 1].copy(), out)  # the median
    median, first = out.copy(), np.zeros(out.size, np.intp)
    for left in range(count, count - dropped, -1):
        low, high = ordered[first, places], ordered[first + left - 1, places]
        first += np.abs(low - median) > np.abs(high - median)
    kept = (ordered[first + place, places] for place in range(count - dropped))
    fold_mean(kept, running_shares([1.0] * (count - dropped)), out)
