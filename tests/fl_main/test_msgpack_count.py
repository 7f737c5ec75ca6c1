"""The count of a frame's values beside msgpack itself."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_main.msgpack_count import count_values

MOST = 1000

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(st.characters(codec="utf-8"))
    | st.binary(max_size=300)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=300)),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text("abc"), inner, max_size=20),
    max_leaves=30,
)


def counted(value: object) -> int:
    if isinstance(value, list):
        return 1 + sum(map(counted, value))
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(counted, value.values()))
    return 1


@given(values)
def test_every_value_is_counted(value: object) -> None:
    assert count_values(msgpack.packb(value), MOST) == counted(value)


@pytest.mark.parametrize("length", [0, 15, 16, 31, 32, 255, 256, 65535, 65536])
@pytest.mark.parametrize("kind", ["text", "bytes", "extension", "array", "map"])
def test_every_form_of_a_length_is_understood(kind: str, length: int) -> None:
    value, count = {
        "text": ("x" * length, 1),
        "bytes": (bytes(length), 1),
        "extension": (msgpack.ExtType(5, bytes(length)), 1),
        "array": ([None] * length, 1 + length),
        "map": (dict.fromkeys(range(length)), 1 + 2 * length),
    }[kind]
    assert count_values(msgpack.packb(value), 1 << 20) == count


@pytest.mark.parametrize("first", range(256))
def test_what_is_counted_is_what_msgpack_takes(first: int) -> None:
    for frame in (bytes([first]) + bytes(size) for size in range(40)):
        try:
            msgpack.unpackb(frame, strict_map_key=False)
        except (ValueError, msgpack.UnpackException):
            with pytest.raises(ValueError, match="it "):
                count_values(frame, MOST)
        else:
            assert count_values(frame, MOST) >= 1


@given(values, st.data())
def test_half_a_value_and_more_than_one_are_errors(value: object, data: st.DataObject) -> None:
    frame = msgpack.packb(value)
    cut = data.draw(st.integers(0, len(frame) - 1))
    for wrong in (frame[:cut], frame + b"\x00"):
        with pytest.raises(ValueError, match="it "):
            count_values(wrong, MOST)


def test_counting_ends_where_there_are_too_many() -> None:
    assert count_values(b"\xdc\x03\xe8" + b"\x90" * 1000, MOST) > MOST


def test_length_that_no_frame_could_have_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not end"):
        count_values(b"\xdd\xff\xff\xff\xff" * 100, MOST)
