"""How many values a msgpack frame has, counted before memory is taken for any of them.

An empty list is one byte on the wire and 64 in memory, and an array may say that it has four
billion entries. The msgpack library bounds each array by the frame's length, but not all of
them together.
"""

# By the first byte of a value ("Formats" in the msgpack specification): how many bytes it takes,
# at least, and how many values are in it, at least; then how many bytes say its length, and how
# many values one more of it brings (none: one more byte).
_FORMS: dict[int, tuple[int, int, int, int]] = {
    **dict.fromkeys([*range(0x80), *range(0xE0, 0x100)], (1, 0, 0, 0)),  # small integers
    **dict.fromkeys([0xC0, 0xC2, 0xC3], (1, 0, 0, 0)),  # nil, false, true
    **{0xCA: (5, 0, 0, 0), 0xCB: (9, 0, 0, 0)},  # floats
    **{0xCC + power: (1 + 2**power, 0, 0, 0) for power in range(4)},  # unsigned integers
    **{0xD0 + power: (1 + 2**power, 0, 0, 0) for power in range(4)},  # signed integers
    **{0xD4 + power: (2 + 2**power, 0, 0, 0) for power in range(5)},  # extensions of a fixed length
    **{0xA0 + length: (1 + length, 0, 0, 0) for length in range(32)},  # short text
    **{0xD9: (2, 0, 1, 0), 0xDA: (3, 0, 2, 0), 0xDB: (5, 0, 4, 0)},  # text
    **{0xC4: (2, 0, 1, 0), 0xC5: (3, 0, 2, 0), 0xC6: (5, 0, 4, 0)},  # bytes
    **{0xC7: (3, 0, 1, 0), 0xC8: (4, 0, 2, 0), 0xC9: (6, 0, 4, 0)},  # extensions
    **{0x90 + length: (1, length, 0, 0) for length in range(16)},  # short arrays
    **{0xDC: (3, 0, 2, 1), 0xDD: (5, 0, 4, 1)},  # arrays
    **{0x80 + length: (1, 2 * length, 0, 0) for length in range(16)},  # short maps
    **{0xDE: (3, 0, 2, 2), 0xDF: (5, 0, 4, 2)},  # maps
}


def count_values(frame: bytes, most: int) -> int:
    """Return how many values a frame has; of more than `most`, some number above it.

    Raises:
        ValueError: If the frame is not exactly one whole value.
    """
    place = seen = 0
    due = 1  # the frame's own value, and those that are said to be in the ones seen
    try:
        while seen < due <= most:
            size, inside, width, each = _FORMS[frame[place]]
            if width:
                length = int.from_bytes(frame[place + 1 : place + 1 + width])
                size, inside = (size, each * length) if each else (size + length, 0)
            place, due, seen = place + size, due + inside, seen + 1
    except (IndexError, KeyError):
        raise ValueError("it is cut off, or not msgpack") from None
    if due > len(frame) or (due <= most and place != len(frame)):
        raise ValueError("it does not end where its value does")
    return due
