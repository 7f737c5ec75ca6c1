"""Weights as arrays, their layouts, and the files that others can open."""

import json
import math
import random
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load, save

from fl_main.errors import LayoutMismatchError, WeightsError
from fl_main.weights import (
    Array,
    ArraySpec,
    DType,
    FiniteCheck,
    Layout,
    Role,
    as_arrays,
    pack,
    pieces,
    views,
)

BFLOAT16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
NATIVE = [np.dtype(name) for name in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")]
ALL = [*NATIVE, BFLOAT16]

names = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda name: name != "__metadata__")
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


def some_array(dtype: np.dtype[Any], shape: tuple[int, ...], seed: int) -> Array:
    size = math.prod(shape)
    noise = np.random.default_rng(seed)
    if dtype.kind == "b":
        return np.asarray(noise.integers(0, 2, size) == 1).reshape(shape)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return noise.integers(limits.min, limits.max, size, dtype, endpoint=True).reshape(shape)
    return noise.normal(size=size).astype(dtype).reshape(shape)


def odd_memory(array: Array, how: str) -> Array:
    """Return an equal array that lies in memory in another way."""
    if how == "fortran":
        return np.asfortranarray(array) if array.ndim else array
    if how == "strided" and array.ndim:
        wide = np.repeat(array, 2, axis=0)
        return wide[::2]
    if how == "big-endian" and array.dtype != BFLOAT16:
        return array.astype(array.dtype.newbyteorder(">"))
    if how == "read-only":
        array = array.copy()
        array.flags.writeable = False
    return array


@st.composite
def models(draw: st.DrawFn, dtypes: list[np.dtype[Any]] | None = None) -> dict[str, Array]:
    model: dict[str, Array] = {}
    for name in draw(st.lists(names, unique=True, max_size=5)):
        array = some_array(draw(st.sampled_from(dtypes or ALL)), draw(shapes), draw(st.integers(0, 999)))
        memory = draw(st.sampled_from(["plain", "fortran", "strided", "big-endian", "read-only"]))
        model[name] = odd_memory(array, memory)
    return model


def file_of(model: dict[str, Array]) -> bytes:
    layout = Layout.of(model)
    return layout.header + pack(model, layout)


def header_text(file: bytes) -> bytes:
    return file[8 : 8 + int.from_bytes(file[:8], "little")]


@given(models())
def test_views_of_the_packed_buffer_are_the_arrays(model: dict[str, Array]) -> None:
    layout = Layout.of(model)
    found = views(layout, bytes(pack(model, layout)))
    assert found.keys() == model.keys()
    for name, array in model.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].shape == array.shape
        assert not found[name].flags.writeable


@given(models(NATIVE))
def test_safetensors_opens_our_file_with_equal_arrays(model: dict[str, Array]) -> None:
    found = load(file_of(model))
    assert found.keys() == model.keys()
    for name, array in model.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype.newbyteorder("=")
        assert found[name].shape == array.shape


def test_safetensors_reads_the_type_and_bits_of_our_bfloat16() -> None:
    safetensors = pytest.importorskip("safetensors")
    model = {"w": np.array([1.0, -2.5, 3e38], BFLOAT16)}
    [(name, entry)] = safetensors.deserialize(file_of(model))
    assert (name, entry["dtype"], entry["shape"]) == ("w", "BF16", [3])
    assert bytes(entry["data"]) == model["w"].tobytes()


@given(models(NATIVE))
def test_files_written_by_safetensors_are_read(model: dict[str, Array]) -> None:
    plain = {name: np.array(array, array.dtype.newbyteorder("="), order="C") for name, array in model.items()}
    file = save(plain)
    layout = Layout.from_header(header_text(file))
    found = views(layout, file[-layout.nbytes :] if layout.nbytes else b"")
    assert found.keys() == model.keys()
    for name, array in model.items():
        np.testing.assert_array_equal(found[name], array)


@given(models(), st.randoms(use_true_random=False))
def test_equal_models_have_equal_files_whatever_their_order(
    model: dict[str, Array], rng: random.Random
) -> None:
    order = list(model)
    rng.shuffle(order)
    shuffled = {name: model[name] for name in order}
    assert Layout.of(shuffled).digest == Layout.of(model).digest
    assert file_of(shuffled) == file_of(model)


@given(models())
def test_a_layout_survives_the_wire_and_the_header(model: dict[str, Array]) -> None:
    layout = Layout.of(model, dict.fromkeys(list(model)[:2], Role.BUFFER))
    assert Layout.from_wire(json.loads(json.dumps(layout.to_wire()))) == layout
    read = Layout.from_header(layout.header[8:])
    assert read == layout
    assert read.digest == layout.digest
    assert len(layout.header) % 8 == 0


def test_large_arrays_come_in_pieces_that_add_up() -> None:
    model = {"w": np.arange(300_000, dtype=">f8"), "b": np.arange(7, dtype=np.int8)}
    layout = Layout.of(model)
    found = [bytes(piece) for piece in pieces(model, layout)]
    assert [len(piece) for piece in found] == [1 << 20, 1 << 20, 2_400_000 - (2 << 20), 7]
    assert b"".join(found) == np.arange(300_000, dtype="<f8").tobytes() + bytes(range(7))


def test_writable_views_change_the_buffer() -> None:
    model = {"w": np.zeros(2)}
    layout = Layout.of(model)
    buffer = pack(model, layout)
    views(layout, buffer, writable=True)["w"][1] = 5.0
    assert views(layout, buffer)["w"].tolist() == [0.0, 5.0]


# --- what cannot be a model --------------------------------------------------------------


@pytest.mark.parametrize("name", ["__metadata__", "\ud800", "w\udfff"])
def test_names_that_no_file_can_hold_are_refused(name: str) -> None:
    with pytest.raises(WeightsError):
        Layout.of({name: np.zeros(1)})


@pytest.mark.parametrize(
    "array",
    [np.zeros(1, complex), np.array(["text"]), np.array([None]), np.zeros(1, "M8[s]"), np.zeros(1, "f4,i4")],
)
def test_dtypes_that_no_file_can_hold_are_refused(array: Array) -> None:
    with pytest.raises(WeightsError, match="cannot be sent"):
        Layout.of({"w": array})


def test_a_role_for_no_array_is_refused() -> None:
    with pytest.raises(WeightsError, match="'v'"):
        Layout.of({"w": np.zeros(1)}, {"v": Role.BUFFER})


@pytest.mark.parametrize("value", [[[1.0], [2.0, 3.0]]])
def test_ragged_lists_are_no_arrays(value: object) -> None:
    with pytest.raises(WeightsError, match="'w' is not an array"):
        as_arrays({"w": value})


@pytest.mark.parametrize("value", [[np.zeros(2)], None])
def test_weights_without_names_are_refused(value: object) -> None:
    with pytest.raises(WeightsError, match=f"arrays by name, .*, not {type(value).__name__}"):
        as_arrays(value)  # type: ignore[arg-type]


def test_names_must_be_text() -> None:
    with pytest.raises(WeightsError, match="text"):
        as_arrays({1: 2.0})  # type: ignore[dict-item]


def test_lists_and_numbers_become_arrays() -> None:
    assert Layout.of(as_arrays({"a": [1.0, 2.0], "b": 3})).to_wire() == [
        ("a", "F64", [2], "parameter"),
        ("b", "I64", [], "parameter"),
    ]


GARBAGE: list[Any] = [
    None,
    5,
    "text",
    [1],
    [["w", "F32", [1]]],
    [["w", "F32", [1], "parameter", 0]],
    [["w", "F31", [1], "parameter"]],
    [["w", "F32", [1], "owner"]],
    [["w", "F32", [-1], "parameter"]],
    [["w", "F32", [1.5], "parameter"]],
    [["w", "F32", [True], "parameter"]],
    [["w", "F32", "12", "parameter"]],
    [["w", "F32", [math.inf], "parameter"]],
    [["w", "F32", 3, "parameter"]],
    [[1, "F32", [1], "parameter"]],
    [["w", "F32", [1 << 40, 1 << 40], "parameter"]],
    [["w", "F32", [0, 1 << 70], "parameter"]],
    [["w", "F32", [1] * 33, "parameter"]],
    [["__metadata__", "F32", [1], "parameter"]],
    [["w", "F32", [1], "parameter"], ["w", "F32", [1], "parameter"]],
    [["v", "F32", [1], "parameter"], ["w", "F64", [1], "parameter"]],
    [["v", "F32", [2], "parameter"], ["w", "F64", [1], "parameter"]],
]


@pytest.mark.parametrize("rows", GARBAGE)
def test_what_is_no_layout_is_refused(rows: Any) -> None:
    with pytest.raises(WeightsError):
        Layout.from_wire(rows)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
rows = st.lists(st.lists(json_values | st.sampled_from(["F32", "BOOL", "parameter", "w"]), max_size=5))


@given(rows)
def test_any_rows_are_a_layout_or_a_weights_error(wire: Any) -> None:
    try:
        layout = Layout.from_wire(wire)
    except WeightsError:
        return
    assert layout.to_wire() == wire


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=3), st.binary(max_size=20))
def test_any_header_is_a_layout_or_a_weights_error(entries: Any, garbage: bytes) -> None:
    for text in (json.dumps(entries).encode(), garbage, b"[" * 100_000, b'{"w": {"data_offsets": [1e999]}}'):
        try:
            Layout.from_header(text)
        except WeightsError:
            continue
        assert entries.keys() <= {"__metadata__"}


@pytest.mark.parametrize(
    "offsets", [[[8, 16], [16, 24]], [[0, 8], [16, 24]], [[0, 8], [8, 24]], [[0, 8], [0, 8]]]
)
def test_a_header_with_holes_or_overlaps_is_refused(offsets: list[list[int]]) -> None:
    entries = {
        name: {"dtype": "F64", "shape": [1], "data_offsets": place}
        for name, place in zip("ab", offsets, strict=True)
    }
    with pytest.raises(WeightsError, match="holes"):
        Layout.from_header(json.dumps(entries).encode())


def test_an_empty_array_may_share_its_place_with_the_next_one() -> None:
    entries = {
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]},
    }
    layout = Layout.from_header(json.dumps(entries).encode())
    assert layout.offsets == {"a": 0, "b": 0}


# --- differences and roles ---------------------------------------------------------------

RUN = Layout([ArraySpec("w", DType.F32, (2, 3)), ArraySpec("n", DType.I64, (), Role.BUFFER)])


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"w": np.zeros((2, 3), "f4")}, "array 'n' of the run's model is missing"),
        (
            {"w": np.zeros((2, 3), "f4"), "n": np.zeros((), "i8"), "v": np.zeros(1)},
            "array 'v' is not part of the run's model",
        ),
        (
            {"w": np.zeros((3, 2), "f4"), "n": np.zeros((), "i8")},
            r"array 'w' is F32 \[3, 2\] \(parameter\), but in the run's model it is F32 \[2, 3\]",
        ),
        ({"w": np.zeros((2, 3)), "n": np.zeros((), "i8")}, "array 'w' is F64"),
    ],
)
def test_the_first_difference_is_said_in_words(weights: dict[str, Array], words: str) -> None:
    with pytest.raises(LayoutMismatchError, match=words):
        RUN.require(weights)


def test_weights_of_the_layout_pass_in_any_order() -> None:
    RUN.require({"w": np.zeros((2, 3), "f4"), "n": np.array(7)})
    foreign = Layout([ArraySpec("b", DType.F32, (1,)), ArraySpec("a", DType.F32, (1,))], ordered=True)
    foreign.require({"a": np.zeros(1, "f4"), "b": np.zeros(1, "f4")})


def test_another_order_is_another_layout() -> None:
    arrays = [ArraySpec("b", DType.F32, (1,)), ArraySpec("a", DType.F32, (1,))]
    with pytest.raises(LayoutMismatchError, match="another order"):
        Layout(arrays).require_same(Layout(arrays, ordered=True))


def test_another_role_is_another_layout() -> None:
    other = Layout([ArraySpec("w", DType.F32, (2, 3)), ArraySpec("n", DType.I64, ())])
    with pytest.raises(LayoutMismatchError, match="buffer"):
        RUN.require_same(other)


def test_private_arrays_do_not_leave_the_agent() -> None:
    model = {"head": np.ones(2), "body": np.full(2, 3.0)}
    full = Layout.of(model, {"head": Role.PRIVATE})
    sent = full.without_private()
    assert [spec.name for spec in sent.arrays] == ["body"]
    assert pack(model, sent) == np.full(2, 3.0).tobytes()


def test_neighbours_of_one_type_and_role_are_one_segment() -> None:
    layout = Layout.of(
        {"a": np.zeros(2), "b": np.zeros(3), "mean": np.zeros(1), "n": np.zeros(4, "f4")},
        {"mean": Role.BUFFER},
    )
    found = [(s.dtype, s.role, s.offset, s.size) for s in layout.segments]
    assert found == [
        (DType.F64, Role.BUFFER, 0, 1),
        (DType.F64, Role.PARAMETER, 8, 5),
        (DType.F32, Role.PARAMETER, 48, 4),
    ]


def test_free_payloads_are_bytes_of_any_length() -> None:
    layout = Layout.free(5)
    assert (layout.nbytes, layout.to_wire()) == (5, [("payload", "U8", [5], "buffer")])


# --- finite values -----------------------------------------------------------------------


def test_a_bad_value_in_an_array_without_a_name_is_found_too() -> None:
    model = {"": np.array([math.nan])}
    assert FiniteCheck(Layout.of(model)).first_bad(0, model[""].tobytes())


@pytest.mark.parametrize("dtype", [np.dtype("f8"), np.dtype("f4"), np.dtype("f2"), BFLOAT16])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_value_is_found_and_its_array_named(dtype: np.dtype[Any], bad: float) -> None:
    model = {"a": np.zeros(3, dtype), "b": np.zeros(2, dtype), "n": np.full(2, 255, np.uint8)}
    layout = Layout.of(model)
    assert FiniteCheck(layout).first_bad(0, pack(model, layout)) is None
    model["b"][1] = bad
    assert FiniteCheck(layout).first_bad(0, pack(model, layout)) == "b"


@given(models(), st.integers(1, 5), st.data())
def test_a_buffer_checked_in_pieces_is_judged_as_the_whole(
    model: dict[str, Array], step: int, data: st.DataObject
) -> None:
    layout = Layout.of(model)
    buffer = bytearray(pack(model, layout))
    if buffer and data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(buffer) - 1)) // 8 * 8
        buffer[place : place + 8] = b"\xff" * len(buffer[place : place + 8])  # NaN in every float type
    check = FiniteCheck(layout)
    whole = check.first_bad(0, buffer)
    found = [check.first_bad(at, buffer[at : at + 8 * step]) for at in range(0, len(buffer), 8 * step)]
    assert next((name for name in found if name), None) == whole


def test_width_of_the_numbers_at_a_byte_is_known_whatever_lies_beside_it() -> None:
    layout = Layout.of(
        {
            "a": np.zeros(3, np.float64),
            "b": np.zeros(2, np.float32),
            "c": np.zeros(1, np.int32),
            "d": np.zeros(0, np.float16),
            "e": np.zeros(5, np.bool_),
        }
    )
    assert [layout.width_at(place) for place in (0, 23, 24, 32, 35, 36, 40)] == [8, 8, 4, 4, 4, 1, 1]
    assert layout.width_at(41) == 1  # behind the last byte
    assert Layout.free(100).width_at(50) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_values_whose_sum_is_too_large_are_finite_all_the_same(dtype: type) -> None:
    model: dict[str, Array] = {"w": np.full(4, np.finfo(dtype).max, dtype), "v": np.zeros(4, dtype)}
    layout = Layout.of(model)
    assert FiniteCheck(layout).first_bad(0, pack(model, layout)) is None
    for bad in (np.nan, np.inf, -np.inf):
        model["w"][2] = bad
        assert FiniteCheck(layout).first_bad(0, pack(model, layout)) == "w"
    model["w"][:] = [np.inf, -np.inf, np.inf, 0]
    assert FiniteCheck(layout).first_bad(0, pack(model, layout)) == "w"
