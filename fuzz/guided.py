"""Give a target of this process many inputs: chosen by coverage where atheris is, else blindly.

    python -m fuzz.guided TARGET INPUTS SEED

Prints one line of JSON at the end. libFuzzer ends the process for an input that takes more than
TOO_SLOW_S or TOO_LARGE_MB, and prints it.
"""

import collections
import contextlib
import json
import os
import resource
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from random import Random

if find_spec("atheris"):
    import atheris
else:
    atheris = None

# The code under test is imported here first, so that atheris sees its branches.
with atheris.instrument_imports(include=["fl_main"]) if atheris else contextlib.nullcontext():
    from fuzz.targets import TARGETS, Target

TOO_SLOW_S = 10
TOO_LARGE_MB = 1024
FIRST_INPUTS = 300  # the corpus to begin with


class Judge:
    """Checks inputs, counts the outcomes, and ends the process after the last one."""

    def __init__(self, target: Target, inputs: int) -> None:
        self._target = target
        self._inputs = inputs
        self._seen = 0
        self._slowest_s = 0.0
        self._outcomes: collections.Counter[str] = collections.Counter()
        self._begun = time.monotonic()
        self._memory_mb = _most_memory_mb()

    def __call__(self, data: bytes) -> None:
        """Check one input."""
        begun = time.perf_counter()
        self._outcomes[self._target.check(data)] += 1
        self._slowest_s = max(self._slowest_s, time.perf_counter() - begun)
        self._seen += 1
        if self._seen == self._inputs:
            self._end()

    def _end(self) -> None:
        facts = {
            "engine": f"atheris {_version()}" if atheris else "random",
            "inputs": self._seen,
            "seconds": time.monotonic() - self._begun,
            "slowest_s": self._slowest_s,
            "memory_mb": [self._memory_mb, _most_memory_mb()],
            "outcomes": dict(self._outcomes.most_common()),
        }
        print(json.dumps(facts), flush=True)
        os._exit(0)  # libFuzzer knows no other end than its own


def _version() -> str:
    from importlib.metadata import version

    return version("atheris")


def _most_memory_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def blindly(target: Target, judge: Judge, rng: Random) -> None:
    """Make inputs at random until the judge ends the process."""
    while True:
        data = target.make(rng)
        judge(data)
        judge(target.change(rng, data))


def by_coverage(target: Target, judge: Judge, seed: int) -> None:
    """Let libFuzzer choose among inputs made, changed and mutated until the judge ends the process."""
    rng = Random(seed)

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        rng = Random(seed)
        what = rng.random()
        if what < 0.4:
            return target.make(rng)[:max_size]
        if what < 0.7:
            return target.change(rng, data)[:max_size]
        mutated: bytes = atheris.Mutate(data, max_size)
        return mutated

    with tempfile.TemporaryDirectory() as folder:
        for number in range(FIRST_INPUTS):
            Path(folder, str(number)).write_bytes(target.make(rng))
        options = [f"-seed={seed}", f"-timeout={TOO_SLOW_S}", f"-rss_limit_mb={TOO_LARGE_MB}"]
        options += [
            f"-max_len={target.largest}",
            "-verbosity=0",
            f"-artifact_prefix={tempfile.gettempdir()}/fuzz-",
        ]
        atheris.Setup([sys.argv[0], *options, folder], judge, custom_mutator=mutator)
        atheris.Fuzz()


def main(name: str, inputs: int, seed: int) -> None:
    """Fuzz one target."""
    target = TARGETS[name]
    judge = Judge(target, inputs)
    if atheris:
        by_coverage(target, judge, seed)
    else:
        blindly(target, judge, Random(seed))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
