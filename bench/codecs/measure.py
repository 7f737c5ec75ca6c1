"""Encode and decode a model with every codec, and train with it."""

import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np

from bench.codecs.cases import CASES, POOLED
from bench.codecs.record import Cost, Record, Training, begun
from bench.codecs.tasks import TASKS
from fl_main.compression import Codec, chance_of, update_codec_of
from fl_main.settings import RunSettings
from fl_main.sources import Held, Packed, Source
from fl_main.weights import Array, Layout

ARRAYS, ARRAY_SIZE, TURNS = 20, 320_000, 5  # 25 MB, as the benchmark of rounds has them
BLOCK_BYTES = 512 << 10  # as a fold reads


def measure(seeds: int, tell: Callable[[str], None] = print) -> Record:
    """Return what every codec costs, and what comes of training with it."""
    record = begun()
    record.costs = list(costs())
    for task_name, task in TASKS.items():
        for case, compression in CASES.items():
            outcomes = [task.federated(seed, compression) for seed in range(seeds)]
            record.trainings += [Training(task_name, case, seed, one) for seed, one in enumerate(outcomes)]
            tell(f"{task_name}: {case}: accuracy {statistics.median(one.accuracy for one in outcomes):.3f}")
        pooled = [task.pooled(seed) for seed in range(seeds)]
        record.trainings += [Training(task_name, POOLED, seed, one) for seed, one in enumerate(pooled)]
    return record


def costs(array_size: int = ARRAY_SIZE) -> Iterator[Cost]:
    """Yield what an update takes: times as multiples of copying it, in the same turn."""
    base, step = _model(0, array_size), _model(1, array_size)
    local = {name: array + np.float32(0.01) * step[name] for name, array in base.items()}
    layout = Layout.of(base)
    for case, compression in CASES.items():
        settings = RunSettings.model_validate({"name": "codecs", "compression": compression})
        codec = update_codec_of(settings.compression)
        if codec is None or "download" in compression:
            continue
        origin = Held(base, layout) if settings.form == "delta" else None
        turns = [_turn(codec, Held(local, layout), origin) for _ in range(TURNS)]
        encode, decode = (statistics.median(turn[place] for turn in turns) for place in (0, 1))
        yield Cost(case, codec.layout(layout).nbytes / layout.nbytes, encode, decode)


def _turn(codec: Codec, local: Held, origin: Held | None) -> tuple[float, float]:
    """Return how many copies of the model encoding and decoding take."""
    pieces: list[bytes] = []
    signal = codec.signal(local, origin)
    copied = _cpu_s(lambda: _read(local))
    encoded = _cpu_s(lambda: pieces.extend(map(bytes, codec.encode(signal, chance_of(0)))))
    stored = Packed(codec.layout(local.layout), b"".join(pieces))
    decoded = _cpu_s(lambda: _read(codec.decoded(stored, local.layout)))
    return encoded / copied, decoded / copied


def _read(source: Source) -> None:
    """Read all of a source through one buffer."""
    buffer = memoryview(bytearray(BLOCK_BYTES))
    for offset in range(0, source.layout.nbytes, BLOCK_BYTES):
        source.read_into(offset, buffer[: source.layout.nbytes - offset])


def _cpu_s(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _model(seed: int, size: int) -> dict[str, Array]:
    chance = np.random.default_rng(seed)
    return {f"layer-{number:02}": chance.normal(size=size).astype(np.float32) for number in range(ARRAYS)}
