"""Gaussian noise on the global model.

Source: Sun, Kairouz, Suresh, McMahan: Can You Really Backdoor Federated Learning?, 2019
(arXiv:1911.07963), section 4, "(weak) differential privacy"; the bits are those of Philox (Salmon,
Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fl_main.errors import SettingsError
from fl_main.strategies.base import Block, Contribution, Strategy
from fl_main.strategies.options import positive

CHUNK = 4096  # values drawn from one counter: of a block, at most two are drawn in vain


class Noise(Strategy):
    """x ← x + N(0, σ² I), on the parameters of each global model that is published.

    Use it behind `norm_bound`, to wear down what a few agents plant in the model (Sun et al. 2019).
    It makes the model worse, the more so the fewer agents there are. It is no privacy that anybody
    has accounted for: nothing here says what ε it amounts to.

    Cost: no pass; about 17 ns of a processor per value.

    Args:
        std: σ, the standard deviation, more than 0.
        seed: A whole number from which the noise follows, so that a run can be repeated: for tests
            only, as whoever knows it can take the noise off again. None: from the operating
            system's entropy, anew for each fold.
    """

    step = "noise"
    modes = ("sync", "semi-sync", "async")
    exceptions: Mapping[str, str] = dict.fromkeys(
        ("unchanged", "equal", "scale"), "noise is added, of one size whatever the updates are"
    )

    def __init__(self, std: float, seed: int | None = None) -> None:
        self._std = positive("std", std)
        if seed is not None and (type(seed) is not int or not 0 <= seed < 2**63):
            raise SettingsError(
                f"strategy_options.seed: {seed!r} is not a whole number from 0 to 2**63 - 1, nor null"
            )
        self._seed = seed
        self.is_random = seed is None
        self._key: NDArray[np.unsignedinteger] = np.zeros(2, np.uint64)

    def begin(self, contributions: Sequence[Contribution]) -> None:  # noqa: D102 - see Strategy
        self._key = np.random.SeedSequence(self._seed).generate_state(2, np.uint64)

    def combine(self, block: Block) -> None:  # noqa: D102 - see Strategy
        out = block.out
        first = block.place // CHUNK * CHUNK
        for start in range(first, block.place + out.size, CHUNK):
            values = self._chunk(start // CHUNK, block.version)
            begin, end = max(start, block.place), min(start + CHUNK, block.place + out.size)
            out[begin - block.place : end - block.place] += values[begin - start : end - start].astype(
                out.dtype
            )

    def _chunk(self, number: int, version: int) -> NDArray[np.float64]:
        """Return the noise of one chunk of one global model: the same wherever blocks are cut."""
        counter = np.array([0, number, version, 0], np.uint64)  # drawing counts up the first
        chance = np.random.Generator(np.random.Philox(key=self._key, counter=counter))
        return chance.normal(0.0, self._std, CHUNK)
