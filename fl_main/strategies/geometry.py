"""How the updates of a round lie to each other: scalar products and distances, n x n numbers.

Rules that look at whole updates (Krum, the geometric median, clipping) need nothing else of
them than these numbers: a mean of updates is known by its weights, and so are its distances.

The products are those of a BLAS, which are eight times as fast as sums in a fixed order
(`fl_main.strategies.scalars`), and whose last bits differ from one library, processor or number of
threads to another. So do the weights that follow from them: a fold that is done again gives the
same bits on the same machine with the same settings (`OPENBLAS_NUM_THREADS`), elsewhere the same
model but for rounding.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fl_main.strategies.base import Values

Numbers = NDArray[np.float64]

COLUMNS = 8192  # values of each point that are computed with at a time: 3 MiB of fifty
NARROW = 2048  # of them that are copied: a second buffer of that size would cost more than what is computed
FARTHEST = 1e140  # what is farther off in a value counts as so far: no square of it overflows
CANCELLED = 1e-6  # a squared distance so small beside the points' own squares is taken again


class Geometry:
    """Adds up, block by block, what the positions of n points relative to an origin are.

    Attributes:
        products: Scalar products of each pair of points, float64, shape (n, n).
        squares: Squared distances of each pair; exactly 0 between equal points.
        beyond: Which points have values too far off to compute with (a float64 can be 1e308): a rule
            leaves them out.
    """

    def __init__(self, points: int) -> None:
        self.beyond: NDArray[np.bool_] = np.zeros(points, np.bool_)
        self.products: Numbers = np.zeros((points, points))
        self.squares: Numbers = np.zeros((points, points))

    def take(self, rows: Values, origin: Values | None = None, first: Values | None = None) -> None:
        """Take one block of all points.

        Args:
            rows: One point each, shape (n, length).
            origin: What they are relative to, shape (length,); None for 0.
            first: One more point, before the others, shape (length,); rows has one less then.
        """
        for start in range(0, rows.shape[1], COLUMNS):
            columns = slice(start, start + COLUMNS)
            part = rows[:, columns].astype(np.float64)
            if first is not None:
                part = np.vstack((first[columns], part))
            if origin is not None:
                part -= origin[columns]
            self.beyond |= _bounded(part)
            products = _products(part)
            self.products += products
            self.squares += _squared_distances(part, np.arange(len(part)), products)

    def distances(self, weights: Sequence[float] | Numbers) -> Numbers:
        """Return how far each point is from the sum of all times `weights`, at least 0, which add up to 1.

        From the distances of all pairs, or where that is surer from their products: a point that is
        far off and hardly counts would drown the distances of all others in rounding.
        """
        c, norms = np.asarray(weights), self.norms()
        by_pairs, towards = self.squares @ c, self.products @ c
        spread = c @ by_pairs / 2
        is_surer = (norms + norms @ c) ** 2 < by_pairs + spread  # what each is a difference of
        by_products = np.diagonal(self.products) - 2 * towards + c @ towards
        return _root(np.where(is_surer, by_products, by_pairs - spread))

    def counted(self) -> Numbers:
        """Return 1 for each point that can be computed with, else 0; of all 1 if there is none."""
        is_near = self.beyond if self.beyond.all() else ~self.beyond
        return is_near.astype(np.float64)

    def distances_from(self, weights: Sequence[float] | Numbers) -> Numbers:
        """Return the same for weights that need not add up to 1: to rounding of the points' norms."""
        c, products = np.asarray(weights), self.products
        return _root(np.diagonal(products) - 2 * products @ c + c @ products @ c)

    def norms(self) -> Numbers:
        """Return how far each point is from the origin."""
        return _root(np.diagonal(self.products))

    def cosines(self, weights: Sequence[float] | Numbers) -> Numbers:
        """Return the cosine of each point and the sum of all times `weights`; 0 where one is 0."""
        c = np.asarray(weights)
        lengths = self.norms() * _root(c @ self.products @ c)
        return np.clip(_quotients(self.products @ c, lengths), -1.0, 1.0)

    def cosines_to_mean(self) -> Numbers:
        """Return the cosine of each point and their plain mean."""
        points = len(self.products)
        return self.cosines(np.full(points, 1 / points))


class Sightings:
    """Evidence of rules of single values, which see each block once: their result is made then."""

    def __init__(self, updates: int) -> None:
        self._squares, self._dots, self._distances = (np.zeros(updates) for _ in range(3))
        self._mean = 0.0  # squared norm of the mean

    def take(self, rows: Values, base: Values, out: Values) -> None:
        """Take one block of all local models, the model before and the one that came of them."""
        for start in range(0, rows.shape[1], COLUMNS):
            columns = slice(start, start + COLUMNS)
            part = rows[:, columns].astype(np.float64)
            deltas = part - base[columns]
            _bounded(deltas)
            mean = deltas.mean(axis=0)
            self._squares += np.einsum("ij,ij->i", deltas, deltas)
            self._dots += deltas @ mean
            self._mean += float(mean @ mean)
            part -= out[columns]
            _bounded(part)
            self._distances += np.einsum("ij,ij->i", part, part)

    def notes(self) -> list[dict[str, float]]:
        """Return each update's distance to the result, and its cosine to the mean."""
        cosines = _quotients(self._dots, np.sqrt(self._squares) * np.sqrt(self._mean))
        return as_notes(distance=np.sqrt(self._distances), cosine=np.clip(cosines, -1.0, 1.0))


def as_notes(**columns: Sequence[float] | Numbers) -> list[dict[str, float]]:
    """Return one mapping per update from one sequence per fact."""
    return [
        {name: float(value) for name, value in zip(columns, values, strict=True)}
        for values in zip(*columns.values(), strict=True)
    ]


def cancelled(found: Numbers, sums: Numbers) -> NDArray[np.bool_]:
    """Return which pairs' squared distance is lost in that of their squares, each once, shape (n, n).

    Not those of points that are 0 both: stretches that no agent changed are many, and exact.

    Args:
        found: Squared distances, shape (n, n).
        sums: Of each pair's squares, shape (n, n).
    """
    return np.triu((found <= CANCELLED * sums) & (sums > 0), 1)


def _products(points: Numbers) -> Numbers:
    """Return the scalar products of each pair, the same both ways, whatever order a library sums in."""
    products = points @ points.T
    found: Numbers = np.triu(products) + np.triu(products, 1).T
    return found


def _squared_distances(points: Numbers, members: NDArray[np.intp], products: Numbers) -> Numbers:
    """Return |a|² + |b|² - 2ab of each pair of members; where that cancels, relative to one of them.

    So equal points are exactly 0 apart: the one that they are relative to is 0, and so are they.
    """
    squares = np.diagonal(products)
    sums = squares[:, None] + squares[None, :]
    found: Numbers = sums - 2 * products
    np.fill_diagonal(found, 0.0)
    lost = cancelled(found, sums)
    while lost.any():
        first = int(lost.any(axis=1).argmax())
        crowd = np.append(first, np.flatnonzero(lost[first]))
        among = members[crowd]
        found[np.ix_(crowd, crowd)] = _squared_distances(points, among, _products_beside(points, among))
        lost[np.ix_(crowd, crowd)] = False
    return found


def _products_beside(points: Numbers, members: NDArray[np.intp]) -> Numbers:
    """Return the scalar products of members relative to the first of them."""
    found: Numbers = np.zeros((len(members), len(members)))
    for start in range(0, points.shape[1], NARROW):
        columns = slice(start, start + NARROW)
        part = points[members, columns]
        part -= points[members[0], columns]
        found += _products(part)
    return found


def _bounded(part: Numbers) -> NDArray[np.bool_]:
    """Bring values to FARTHEST, and return which rows had some that were farther off; shape (n, length)."""
    if part.min(initial=0.0) >= -FARTHEST and part.max(initial=0.0) <= FARTHEST:
        return np.zeros(len(part), np.bool_)
    is_beyond: NDArray[np.bool_] = np.greater(np.abs(part).max(axis=1), FARTHEST)
    np.clip(part, -FARTHEST, FARTHEST, out=part)
    return is_beyond


def _root(squares: Numbers) -> Numbers:
    return np.sqrt(np.maximum(squares, 0.0))  # rounding may leave less than nothing


def _quotients(dividends: Numbers, divisors: Numbers) -> Numbers:
    return np.divide(dividends, divisors, out=np.zeros_like(dividends), where=divisors > 0)
