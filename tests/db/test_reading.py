"""Models read in pieces are what they are read whole."""

from pathlib import Path

import numpy as np
import pytest

from fl_main.compression import Codec
from fl_main.compression.int8 import Int8
from fl_main.compression.top_k import TopK
from fl_main.compression.words import in_words
from fl_main.db import ModelDB, ModelStore
from fl_main.db.reading import opened, opened_as_stored, opened_decoded
from fl_main.deltas import subtract
from fl_main.errors import StoreDamagedError
from fl_main.sources import Held, Source
from fl_main.store import ModelKind, StoredPayload
from fl_main.weights import Array, Layout, Role, pack
from tests.db.building import RUN, agent, model, update

ml_dtypes = pytest.importorskip("ml_dtypes")


def arrays(seed: int) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    return {
        "wide": random.normal(size=(5, 7)),
        "w": random.normal(size=300).astype(np.float32),
        "half": random.normal(size=33).astype(np.float16),
        "brain": random.normal(size=21).astype(ml_dtypes.bfloat16),
        "mean": random.normal(size=9).astype(np.float32),
        "count": random.integers(0, 99, 3),
        "mask": random.integers(0, 2, 11).astype(bool),
    }


BASE = arrays(1)
LOCAL = {**arrays(2), "half": BASE["half"]}  # one array did not change
LAYOUT = Layout.of(BASE, {"mean": Role.BUFFER})


def stored(store: ModelStore, name: str, data: bytes, layout: Layout) -> StoredPayload:
    staging = store.stage(name, layout)
    staging.write(data)
    return StoredPayload("weights", staging.finish(), layout.nbytes, layout, name)


@pytest.fixture(params=[None, Int8(64), TopK(0.25)], ids=["plain", "int8", "top-k"])
def db(folder: Path, request: pytest.FixtureRequest) -> ModelDB:
    """A model `base`, and a delta on it, `local`, encoded or not."""
    codec: Codec | None = request.param
    delta = subtract(BASE, LOCAL, LAYOUT)
    if codec is None:
        layout, data = LAYOUT, bytes(pack(delta, LAYOUT))
    else:
        signal = codec.signal(Held(LOCAL, LAYOUT), Held(BASE, LAYOUT))
        layout, data = codec.layout(LAYOUT), b"".join(codec.encode(signal, np.random.default_rng(3)))
    with ModelStore(folder) as store:
        base = model("base", stored(store, "base", bytes(pack(BASE, LAYOUT)), LAYOUT), 0, ModelKind.GLOBAL)
        local = model(
            "local",
            stored(store, "local", data, layout),
            agent_id="a",
            parents=(("base", None),),
            form="delta",
            codec=in_words(codec),
        )
        store.commit([RUN, agent("a"), base, local], 1.0)
    return ModelDB(folder)


def read(source: Source, step: int) -> bytes:
    data = bytearray(source.layout.nbytes)
    for start in range(0, len(data), step):
        source.read_into(start, memoryview(data)[start : start + step])
    return bytes(data)


@pytest.mark.parametrize("step", [1 << 20, 64, 13])  # 13: reads begin and end within values
def test_a_model_is_what_weights_says(db: ModelDB, step: int) -> None:
    local = db.model("local")
    with opened(local) as source:
        assert source.layout == LAYOUT
        assert read(source, step) == bytes(pack(local.weights(), LAYOUT))
    with opened_decoded(local) as source:
        assert read(source, step) == bytes(pack(local.decoded(), LAYOUT))
    with opened_as_stored(local) as source:
        assert source.layout == local.layout
        assert read(source, step) == bytes(pack(local.as_stored(), local.layout))


def test_histograms_and_differences_are_of_what_weights_says(db: ModelDB) -> None:
    base, local = db.model("base"), db.model("local")
    weights = local.weights()
    for entry in local.histograms(bins=7):
        values = weights[entry.name].astype(np.float64).ravel()
        assert (entry.least, entry.largest) == (values.min(), values.max())
        assert entry.counts == np.histogram(values, entry.edges)[0].tolist()
    for found in base.difference(local):
        change = (weights[found.name].astype(np.float64) - BASE[found.name].astype(np.float64)).ravel()
        assert found.l2 == pytest.approx(float(np.linalg.norm(change)))
        assert found.changed == np.count_nonzero(change)


def test_distances_are_of_what_codecs_decode_to(folder: Path, db: ModelDB) -> None:
    """Of two updates one is `local`; the other, a plain delta of nothing, is as far from their mean."""
    db.close()
    still = subtract(BASE, BASE, LAYOUT)
    with ModelStore(folder) as store:
        payload = stored(store, "still", bytes(pack(still, LAYOUT)), LAYOUT)
        other = model("still", payload, agent_id="b", parents=(("base", None),), form="delta")
        updates = [
            update(f"t{name}", name, model_id=model_id, counted_in=1)
            for name, model_id in (("a", "local"), ("b", "still"))
        ]
        store.commit([agent("b"), other, *updates], 2.0)
    with ModelDB(folder) as again:
        found = again.run().heat()
        added = again.model("local").decoded()
    trained = [spec.name for spec in LAYOUT.arrays if spec.is_trained]
    norm = np.linalg.norm(np.concatenate([added[name].astype(np.float64).ravel() for name in trained]))
    assert found.missing == {}
    assert [line[0] for line in found.values] == pytest.approx([norm / 2, norm / 2])


def test_a_codec_that_does_not_fit_is_damage(folder: Path, db: ModelDB) -> None:
    db.close()
    with ModelStore(folder) as store:
        payload = stored(store, "odd", bytes(pack(BASE, LAYOUT)), LAYOUT)
        odd = model("odd", payload, parents=(("base", None),), codec=in_words(Int8(64)))
        store.commit([odd], 2.0)
    with (
        ModelDB(folder) as opened_again,
        pytest.raises(StoreDamagedError, match="model odd is not what its codec int8"),
        opened(opened_again.model("odd")),
    ):
        pass


def test_a_delta_on_another_layout_is_damage(folder: Path) -> None:
    other = Layout.of({"w": BASE["w"]})
    with ModelStore(folder) as store:
        base = model("base", stored(store, "base", bytes(pack(BASE, other)), other), 0, ModelKind.GLOBAL)
        delta = stored(store, "local", bytes(pack(BASE, LAYOUT)), LAYOUT)
        store.commit([RUN, base, model("local", delta, parents=(("base", None),), form="delta")], 1.0)
    with (
        ModelDB(folder) as db,
        pytest.raises(StoreDamagedError, match="local is a delta of another layout"),
        opened(db.model("local")),
    ):
        pass
