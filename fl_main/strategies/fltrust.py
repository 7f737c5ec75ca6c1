"""FLTrust: updates are trusted as far as they point where a trusted agent's does.

Source: Cao, Fang, Liu, Gong: FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping,
NDSS 2021 (arXiv:2012.13995), Algorithm 2, equations 1 to 4.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import islice

import numpy as np

from fl_main.errors import SettingsError, UpdateRejectedError
from fl_main.strategies.base import Block, Contribution, Strategy
from fl_main.strategies.geometry import Geometry, Numbers, as_notes

NOTHING = 1e-30  # of ‖g_0‖: what is shorter points nowhere, and what it is multiplied by may be no float32


class FLTrust(Strategy):
    """x ← x + Σ TS_i (‖g_0‖ / ‖g_i‖) g_i / Σ TS_i with TS_i = max(0, cos(g_i, g_0)), g_i = y_i - x.

    g_0 is the update of the agent `root`; it measures the others and is not part of the mean. In the
    paper the server trains on a small clean data set; here an agent does, whom the operator trusts,
    as an aggregator runs no model code. Where no other update is trusted, g_0 itself is what is taken.

    Use it where one site is beyond doubt, and its data are of the kind that the others have. A round
    in which it does not answer fails. The trust is in who joins under that name: give tokens to those
    only whom you know. Every update counts once, whatever its examples. Running statistics, integers and
    booleans are those of the trusted update: it measures the parameters of the others only.

    Bears: all but the trusted one, n - 1 of n.

    Cost: one pass to measure n × n scalar products, one to take the sum; nothing more on the wire.

    Args:
        root: Name of the trusted agent.
    """

    wants = "deltas"
    passes = 1
    stacks = True
    takes_buffers = True
    modes = ("sync",)
    why_not = "it compares updates with the trusted one, which late ones did not start from the base of"
    measures = ("distance", "root_cosine", "kept", "cosine")
    min_updates = 2
    why_least = "the trusted one and another"
    exceptions: Mapping[str, str] = {"equal": "it takes a step from the model that is there"}

    def __init__(self, root: str = "root") -> None:
        if type(root) is not str or not root:
            raise SettingsError(f"strategy_options.root: {root!r} is not the name of an agent")
        self._root = root
        self.requires = (root,)

    def bears(self, updates: int) -> int:  # noqa: D102 - see Strategy
        return updates - 1

    def begin(self, contributions: Sequence[Contribution]) -> None:  # noqa: D102 - see Strategy
        names = [update.agent for update in contributions]
        if self._root not in names:
            raise UpdateRejectedError(
                f"the trusted agent {self._root!r} sent no update, or another one has its name"
            )
        self._place = names.index(self._root)
        self._seen = Geometry(len(names))

    def measure(self, number: int, block: Block) -> None:  # noqa: D102 - see Strategy
        self._seen.take(block.stack())

    @cached_property
    def _root_cosines(self) -> Numbers:
        unit = np.zeros(len(self._seen.products))
        unit[self._place] = 1.0
        return self._seen.cosines(unit)

    @cached_property
    def _trust(self) -> Numbers:
        """Each update's part of the trust in all."""
        norms = self._seen.norms()
        trust = np.maximum(0.0, self._root_cosines) * self._seen.counted()
        trust[norms <= NOTHING * norms[self._place]] = 0.0
        trust[self._place] = 0.0
        if not trust.any():
            trust[self._place] = 1.0
        trust /= trust.sum()
        return trust

    @cached_property
    def _factors(self) -> list[float]:
        """What each update is multiplied by: its part of the trust, and to the norm of g_0."""
        norms = self._seen.norms()
        scales = np.divide(norms[self._place], norms, out=np.zeros_like(norms), where=norms > 0)
        factors: list[float] = (self._trust * scales).tolist()
        return factors

    def shares(self) -> Sequence[float]:  # noqa: D102 - see Strategy
        shares: list[float] = self._trust.tolist()
        return shares

    def combine(self, block: Block) -> None:  # noqa: D102 - see Strategy
        out = block.out
        out[:] = block.base
        for delta, factor in zip(block.updates(), self._factors, strict=True):
            if factor:
                delta *= out.dtype.type(factor)
                out += delta

    def combine_buffer(self, block: Block) -> None:  # noqa: D102 - see Strategy
        block.out[:] = next(islice(block.updates(), self._place, None))  # nothing says whose others are right

    def integers_of(self) -> Sequence[int]:  # noqa: D102 - see Strategy
        return [self._place]

    def notes(self) -> Sequence[Mapping[str, float]]:  # noqa: D102 - see Strategy
        return as_notes(
            distance=self._seen.distances_from(self._factors),
            root_cosine=self._root_cosines,
            kept=[float(share > 0) for share in self._trust],
            cosine=self._seen.cosines_to_mean(),
        )
