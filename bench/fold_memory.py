"""Memory of a fold by strategies that combine updates: `python -m bench.fold_memory [COUNT MB]`.

Each folds in a process of its own, the same stored updates of random values. It prints how much that
process grew at most, in MiB, and the processor seconds that it took.
"""

import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from bench.rounds.memory import peak_mib
from fl_main.db.files import ModelFiles, StoredFile
from fl_main.digests import DigestAlgorithm
from fl_main.strategies import make_strategy
from fl_main.strategies.base import Contribution
from fl_main.strategies.fold import Answer, fold, state_layout
from fl_main.weights import ArraySpec, DType, Layout

ARRAYS = 20
PIECE = 1 << 18  # float32 values written at once
RULES: dict[str, dict[str, Any]] = {  # and the options that each is measured with
    "fedavg": {},
    "fedbuff": {},
    "fedasync": {},
    "median": {},
    "trimmed_mean": {},
    "geometric_median": {},
    "krum": {},
    "multi_krum": {},
    "bulyan": {},
    "centred_clipping": {},
    "fltrust": {"root": "0"},
}


def layout_of(megabytes: float) -> Layout:
    """Return the layout of a model of float32 values."""
    values = int(megabytes * 1e6) // 4 // ARRAYS
    return Layout(ArraySpec(f"layer{i:02}", DType.F32, (values,)) for i in range(ARRAYS))


def files_in(folder: Path) -> ModelFiles:
    """Return the folder's model files."""
    return ModelFiles(folder, DigestAlgorithm.BLAKE3)


def write_updates(folder: Path, layout: Layout, count: int) -> list[str]:
    """Store random updates and return their digests."""
    files, chance, digests = files_in(folder), np.random.default_rng(0), []
    files.make()
    for number in range(count):
        staging = files.stage(str(number), layout)
        for start in range(0, layout.nbytes // 4, PIECE):
            values = chance.standard_normal(min(PIECE, layout.nbytes // 4 - start), dtype=np.float32)
            staging.write(values.view(np.uint8).data)
        digests.append(staging.finish())
        files.place([(str(number), digests[-1])])
    return digests


def folded(name: str, folder: Path, megabytes: float, digests: Sequence[str]) -> dict[str, float]:
    """Fold the updates by one strategy and return what it took."""
    strategy, layout, files = (
        make_strategy(name, RULES[name]),
        layout_of(megabytes),
        files_in(folder),
    )
    before_mib, start = peak_mib(), time.process_time()
    with ExitStack() as opened:
        sources: list[StoredFile] = []
        for digest in digests:
            sources.append(files.open(digest, layout))
            opened.callback(sources[-1].close)
        answers = [
            Answer(Contribution(str(number), 1), {"weights": source}, sources[0])
            for number, source in enumerate(sources)
        ]
        sink = files.stage(f"{name}.weights", layout)
        after = {kept: files.stage(f"{name}.{kept}", state_layout(layout)) for kept in strategy.state}
        for staging in (sink, *after.values()):
            opened.callback(staging.discard)
        fold(strategy, answers, sources[0], {}, sink, after)
    took_s = time.process_time() - start
    return {"grew_mib": round(peak_mib() - before_mib, 1), "seconds": round(took_s, 2)}


def measured(updates: int, megabytes: float, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return what a fold by each strategy took."""
    fresh = multiprocessing.get_context("spawn")  # a process that had no fold before
    with tempfile.TemporaryDirectory(prefix="fold-memory-") as place:
        folder = Path(place)
        digests = write_updates(folder, layout_of(megabytes), updates)
        with ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1) as pool:
            found = [pool.submit(folded, name, folder, megabytes, digests) for name in names]
            return {name: one.result() for name, one in zip(names, found, strict=True)}


def main(updates: str = "50", megabytes: str = "20") -> None:
    """Fold by every rule."""
    found = measured(int(updates), float(megabytes), list(RULES))
    print(json.dumps({"updates": int(updates), "megabytes": float(megabytes), "rules": found}, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
