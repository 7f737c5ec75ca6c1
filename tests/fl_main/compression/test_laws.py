"""The laws of `fl_main.compression.base`, for every codec."""

import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_main.compression import (
    CODECS,
    DOWNLOADS,
    Check,
    Codec,
    chance_of,
    download_codec_of,
    left_of,
    quantized,
    update_codec_of,
    vector,
)
from fl_main.compression import base as base_module
from fl_main.compression.half import BFloat16, Float16
from fl_main.compression.int8 import Int8
from fl_main.compression.qsgd import Qsgd
from fl_main.compression.random_k import RandomK
from fl_main.compression.top_k import TopK
from fl_main.errors import WeightsError
from fl_main.settings import CompressionSettings
from fl_main.weights import Array, Layout, Role
from tests.fl_main.compression.arrays import arrays_of, encoded, held, left, there_and_back
from tests.fl_main.strategies.arrays import Memory, memory

BLOCK = 16
TRIED: dict[str, Codec] = {
    "float16": Float16(),
    "bfloat16": BFloat16(),
    "int8": Int8(BLOCK),
    "int8 nearest": Int8(BLOCK, "nearest"),
    "qsgd": Qsgd(BLOCK, 127),
    "qsgd packed": Qsgd(BLOCK, 7),
    "qsgd ternary": Qsgd(BLOCK, 1),
    "top-k": TopK(0.3),
    "top-k of all": TopK(1.0),
    "random-k": RandomK(0.3, error_feedback=False),
    "random-k unscaled": RandomK(0.3, error_feedback=True),
}
each_codec = pytest.mark.parametrize("codec", TRIED.values(), ids=TRIED)

FLOATS: list[np.dtype[Any]] = [np.dtype("f8"), np.dtype("f4"), np.dtype("f2"), np.dtype(ml_dtypes.bfloat16)]
OTHERS: list[np.dtype[Any]] = [np.dtype("i8"), np.dtype("u1"), np.dtype("?"), np.dtype("f4")]
some = settings(max_examples=25)  # of each codec, and there are many
shapes = st.sampled_from([(), (0,), (1,), (5,), (3, 7), (2, 0, 2), (40,)])


@st.composite
def models(draw: st.DrawFn) -> tuple[dict[str, Array], dict[str, Role]]:
    """Parameters of all float types, buffers and integers, of any shape, in any order."""
    arrays: dict[str, Array] = {}
    roles = {}
    chance = np.random.default_rng(draw(st.integers(0, 99)))
    for number, (shape, dtype) in enumerate(draw(st.lists(st.tuples(shapes, st.sampled_from(FLOATS))))):
        values = chance.normal(scale=draw(st.sampled_from([1e-6, 1, 30])), size=shape)
        arrays[f"{number % 3}.w{number}"] = np.asarray(values).astype(dtype)
    for number, (shape, dtype) in enumerate(
        draw(st.lists(st.tuples(shapes, st.sampled_from(OTHERS)), max_size=3))
    ):
        name = f"{number}.buffer"
        arrays[name] = np.asarray(chance.integers(0, 2, shape)).astype(dtype)
        roles[name] = Role.BUFFER
    return arrays, roles


def large(seed: int = 0) -> dict[str, Array]:
    """Arrays of three types that need several stretches, and end in the middle of a block."""
    chance = np.random.default_rng(seed)
    return {
        "a": chance.normal(size=150_001).astype(np.float32),
        "b": chance.normal(size=(7, 3)).astype(np.float32),
        "c": chance.normal(size=70_000).astype(np.float16),
        "d": chance.normal(size=99_999),
        "n": np.arange(3),
    }


def flat(arrays: dict[str, Array]) -> Array:
    """All float parameters in one, as float64."""
    layout = Layout.of(arrays)
    return np.concatenate(
        [np.zeros(0), *(arrays[s.name].ravel().astype("f8") for s in layout.arrays if s.is_trained)]
    )


def test_every_codec_of_the_settings_is_held_to_the_laws() -> None:
    tried = {codec.name for codec in TRIED.values()}
    assert set(CODECS) == tried
    assert {codec.name for codec in DOWNLOADS.values()} == set(DOWNLOADS) <= tried


@pytest.mark.parametrize("name", CODECS)
def test_settings_make_their_codec(name: Any) -> None:
    codec = update_codec_of(CompressionSettings(codec=name))
    assert codec is not None
    assert codec.name == name
    assert update_codec_of(CompressionSettings()) is None


@pytest.mark.parametrize("name", DOWNLOADS)
def test_settings_make_the_codec_of_downloads_which_leaves_nothing_to_chance(name: Any) -> None:
    codec = download_codec_of(CompressionSettings(download=name))
    assert codec is not None
    assert codec.name == name
    model = large()
    once, again = (there_and_back(codec, model, seed=seed) for seed in (1, 2))
    assert all(np.array_equal(once[name], again[name]) for name in model)
    assert download_codec_of(CompressionSettings()) is None


@each_codec
@some
@given(model=models())
def test_what_is_encoded_is_of_the_layout_that_was_said(
    codec: Codec, model: tuple[dict[str, Array], dict[str, Role]]
) -> None:
    source = held(*model)
    layout = codec.layout(source.layout)
    data = b"".join(codec.encode(codec.signal(source), chance_of(1)))
    assert len(data) == layout.nbytes
    assert data == b"".join(codec.encode(codec.signal(source), chance_of(1)))
    assert Layout.from_wire(layout.to_wire()) == layout
    assert Layout.from_header(layout.header[8:]) == layout


@each_codec
@some
@given(model=models())
def test_zeros_stay_zeros_and_what_is_no_float_parameter_stays_as_it_is(
    codec: Codec, model: tuple[dict[str, Array], dict[str, Role]]
) -> None:
    arrays, roles = model
    zeros = {name: array if name in roles else np.zeros_like(array) for name, array in arrays.items()}
    back = there_and_back(codec, zeros, roles)
    assert Layout.of(back, roles) == Layout.of(arrays, roles)
    for name, array in zeros.items():
        assert back[name].tobytes() == array.tobytes()


@each_codec
@some
@given(model=models(), data=st.data())
def test_one_read_gives_the_same_bits_as_many(
    codec: Codec, model: tuple[dict[str, Array], dict[str, Role]], data: st.DataObject
) -> None:
    source = held(*model)
    stored = encoded(codec, codec.signal(source))
    whole = bytearray(source.layout.nbytes)
    codec.decoded(stored, source.layout).read_into(0, memoryview(whole))
    decoded = codec.decoded(stored, source.layout)
    for _ in range(5):  # in any order, and beginning and ending within values
        start = data.draw(st.integers(0, len(whole)))
        part = bytearray(data.draw(st.integers(0, len(whole) - start)))
        decoded.read_into(start, memoryview(part))
        assert part == whole[start : start + len(part)]


@each_codec
def test_a_model_of_many_stretches_is_read_as_one(codec: Codec) -> None:
    source = held(large())
    stored = encoded(codec, codec.signal(source))
    whole = bytearray(source.layout.nbytes)
    codec.decoded(stored, source.layout).read_into(0, memoryview(whole))
    decoded = codec.decoded(stored, source.layout)
    for step in (524_288, 99_991):  # as a fold reads, and as nobody does; twice from the beginning
        parts = []
        for start in range(0, len(whole), step):
            parts.append(bytearray(min(step, len(whole) - start)))
            decoded.read_into(start, memoryview(parts[-1]))
        assert b"".join(parts) == whole


@each_codec
def test_stretches_do_not_matter(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    source = held(large())
    whole = b"".join(codec.encode(codec.signal(source), chance_of(1)))
    for module in (vector, base_module, quantized):
        monkeypatch.setattr(module, "STRETCH", 1000)
    assert b"".join(codec.encode(codec.signal(source), chance_of(1))) == whole


@each_codec
@some
@given(model=models(), width=st.integers(1, 9))
def test_what_is_honest_passes_the_check_however_it_is_cut(
    codec: Codec, model: tuple[dict[str, Array], dict[str, Role]], width: int
) -> None:
    source = held(*model)
    stored = encoded(codec, codec.signal(source))
    check = Check(codec, source.layout)
    step = 8 * width
    for start in range(0, len(stored.data), step):
        assert check.first_wrong(start, stored.data[start : start + step]) is None


@each_codec
@some
@given(model=models(), changes=st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=9))))
def test_whatever_comes_is_read_within_bounds_and_what_passes_the_check_is_finite(
    codec: Codec, model: tuple[dict[str, Array], dict[str, Role]], changes: list[tuple[int, bytes]]
) -> None:
    source = held(*model)
    stored = encoded(codec, codec.signal(source))
    for place, new in changes:
        if stored.data:
            place %= len(stored.data)
            stored.data[place : place + len(new)] = new[: len(stored.data) - place]
    back = arrays_of(codec.decoded(Memory(stored.layout, stored.data), source.layout))
    if Check(codec, source.layout).first_wrong(0, stored.data) is None:
        assert all(np.isfinite(array.astype("f8")).all() for array in back.values())


@each_codec
@some
@given(seed=st.integers(0, 99), size=st.integers(1, 60))
def test_what_was_sent_and_what_is_left_are_all_there_was(codec: Codec, seed: int, size: int) -> None:
    chance = np.random.default_rng(seed)
    base: dict[str, Array] = {"w": chance.normal(size=size).astype(np.float32), "v": chance.normal(size=3)}
    steps = 4
    sent, wanted = np.zeros(size + 3), np.zeros(size + 3)
    kept: Memory | None = None
    largest = 0.0
    for step in range(steps):
        local = {
            name: array + chance.normal(size=array.shape).astype(array.dtype) for name, array in base.items()
        }
        signal = codec.signal(held(local), held(base), kept)
        stored = encoded(codec, signal, seed=step)
        sent += flat(arrays_of(codec.decoded(stored, Layout.of(base))))
        wanted += flat(local) - flat(base)
        kept = left(codec, signal, stored)
        largest = max(largest, np.abs(flat(kept.arrays)).max(), np.abs(wanted).max())
    assert kept is not None
    assert np.abs(sent + flat(kept.arrays) - wanted).max() <= steps * 4 * 2**-23 * (largest + 1)


@each_codec
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_an_error_that_names_the_array(codec: Codec, bad: float) -> None:
    arrays = {"good": np.ones(3, np.float32), "odd": np.array([1, bad, 1], np.float32)}
    with pytest.raises(WeightsError, match=r"array 'odd' has values that are NaN or infinite: no codec"):
        encoded(codec, codec.signal(held(arrays)))


@each_codec
def test_a_difference_that_overflows_is_an_error(codec: Codec) -> None:
    local, base = ({"w": np.array([sign * 3e38], np.float32)} for sign in (1, -1))
    with pytest.raises(WeightsError, match=r"array 'w' has values that are NaN or infinite"):
        encoded(codec, codec.signal(held(local), held(base)))


@pytest.mark.parametrize("codec", [TRIED["int8"], TRIED["top-k"], TRIED["random-k"]], ids=lambda c: c.name)
def test_an_array_of_a_name_that_the_codec_needs_is_an_error(codec: Codec) -> None:
    name = codec.arrays(vector.Vector(Layout([]), codec.takes))[0].name
    model = Layout.of({name: np.arange(3)})
    with pytest.raises(WeightsError, match=f"array '{name}': the codec {codec.name} needs this name; rename"):
        codec.layout(model)
    codec.layout(Layout.of({name: np.ones(3)}))  # an array that it takes is gone from what travels


@each_codec
def test_chance_follows_from_the_seed_alone_and_is_not_that_of_training(codec: Codec) -> None:
    first, again = chance_of(5), chance_of(5)
    assert first.random() == again.random() != np.random.default_rng(5).random()


@each_codec
def test_a_model_without_arrays_is_one_too(codec: Codec) -> None:
    data = encoded(codec, codec.signal(memory({}))).data
    assert len(data) == (8 if codec.name == "random-k" else 0)  # the number that places would follow from
    assert there_and_back(codec, {}) == {}


def peak_bytes(codec: Codec, size: int) -> int:
    """Return the memory that encoding, decoding and what is left take at most, beside what they are given."""
    local, base = (held({"w": np.zeros(size, np.float32)}) for _ in range(2))
    stored = encoded(codec, codec.signal(local, base))
    signal = codec.signal(local, base)
    buffer = memoryview(bytearray(1 << 19))
    tracemalloc.start()
    for _ in codec.encode(signal, chance_of(1)):
        pass
    decoded = codec.decoded(stored, local.layout)
    for start in range(0, local.layout.nbytes, len(buffer)):
        decoded.read_into(start, buffer)
    for _ in left_of(codec, signal, stored):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@each_codec
def test_memory_does_not_grow_with_the_model(codec: Codec) -> None:
    small, large = (peak_bytes(codec, size) for size in (1 << 19, 1 << 21))
    grown = (1 << 23) - (1 << 21)  # bytes that the model has more
    assert large < small + 0.03 * grown + (1 << 18)  # a scale for each 16 values, at 4 bytes, and its place
