"""Memory of a fold by rules that look at all updates at once: `python -m bench.fold_memory [COUNT MB]`.

One takes the median of each value, the other first measures the distance of each pair of updates. It
prints how much the process grew at most by each fold, in MiB, and the seconds that it took.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.rounds.memory import peak_mib
from fl_main.db.files import ModelFiles, StoredFile
from fl_main.digests import DigestAlgorithm
from fl_main.strategies.base import Block, Contribution, Strategy
from fl_main.strategies.fold import Answer, fold
from fl_main.weights import ArraySpec, DType, Layout

ARRAYS = 20
PIECE = 1 << 18  # float32 values written at once


class Median(Strategy):
    """The median of each value (Yin et al. 2018)."""

    stacks = True

    def combine(self, block: Block) -> None:
        """Take the median."""
        block.out[:] = np.median(block.stack(), axis=0)


class Nearest(Strategy):
    """The update with the least squared distances to all others together: Krum without its counts."""

    stacks = True
    passes = 1

    def begin(self, contributions: Sequence[Contribution]) -> None:
        """Forget what was measured before."""
        self._products: NDArray[np.float64] = np.zeros((len(contributions),) * 2)

    def measure(self, number: int, block: Block) -> None:
        """Add up the scalar products of all pairs."""
        rows = block.stack()
        self._products += rows @ rows.T

    def combine(self, block: Block) -> None:
        """Take the nearest one."""
        squares = np.diagonal(self._products)
        distances = squares[:, None] + squares[None, :] - 2 * self._products
        block.out[:] = block.stack()[int(np.argmin(distances.sum(axis=1)))]


def write_updates(files: ModelFiles, layout: Layout, count: int) -> list[str]:
    """Store random updates and return their digests."""
    chance, digests = np.random.default_rng(0), []
    for number in range(count):
        staging = files.stage(str(number), layout)
        for start in range(0, layout.nbytes // 4, PIECE):
            values = chance.standard_normal(min(PIECE, layout.nbytes // 4 - start), dtype=np.float32)
            staging.write(values.view(np.uint8).data)
        digests.append(staging.finish())
        files.place([(str(number), digests[-1])])
    return digests


def folded(strategy: Strategy, files: ModelFiles, layout: Layout, digests: Sequence[str]) -> dict[str, float]:
    """Fold the updates and return what it took."""
    before_mib, start = peak_mib(), time.perf_counter()
    with ExitStack() as opened:
        sources: list[StoredFile] = []
        for digest in digests:
            sources.append(files.open(digest, layout))
            opened.callback(sources[-1].close)
        answers = [
            Answer(Contribution(str(number), 1), {"weights": source}) for number, source in enumerate(sources)
        ]
        sink = files.stage("result", layout)
        opened.callback(sink.close)
        fold(strategy, answers, sources[0], {}, sink, {})
    return {"grew_mib": round(peak_mib() - before_mib, 1), "seconds": round(time.perf_counter() - start, 2)}


def main(updates: str = "50", megabytes: str = "100") -> None:
    """Fold by both rules."""
    values = int(float(megabytes) * 1e6) // 4 // ARRAYS
    layout = Layout(ArraySpec(f"layer{i:02}", DType.F32, (values,)) for i in range(ARRAYS))
    with tempfile.TemporaryDirectory(prefix="fold-memory-") as folder:
        files = ModelFiles(Path(folder), DigestAlgorithm.BLAKE3)
        files.make()
        digests = write_updates(files, layout, int(updates))
        found = {
            type(strategy).__name__: folded(strategy, files, layout, digests)
            for strategy in (Nearest(), Median())
        }
    print(json.dumps({"updates": int(updates), "megabytes": float(megabytes)} | found))


if __name__ == "__main__":
    main(*sys.argv[1:])
