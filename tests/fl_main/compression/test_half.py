"""float16 and bfloat16."""

import ml_dtypes
import numpy as np
import pytest

from fl_main.compression.half import BFloat16, Float16
from fl_main.errors import WeightsError
from fl_main.weights import Array, DType, Layout, Role
from tests.fl_main.compression.arrays import encoded, held, there_and_back

HALVES = [Float16(), BFloat16()]
each_half = pytest.mark.parametrize("codec", HALVES, ids=lambda codec: codec.name)


def test_bfloat16_rounds_half_to_even() -> None:
    # Between 1 and 2 its step is 1/128. 1 + 1/256 lies between 1 (an even last bit) and 1 + 1/128 (odd),
    # 1 + 3/256 between the odd one and 1 + 2/128; a little more than half goes up.
    values = np.array([1 + 1 / 256, 1 + 3 / 256, 1 + 1 / 256 + 2**-20, -1 - 1 / 256], np.float32)
    assert there_and_back(BFloat16(), {"w": values})["w"].tolist() == [1, 1 + 2 / 128, 1 + 1 / 128, -1]


def test_float16_rounds_half_to_even() -> None:
    # Between 1 and 2 its step is 1/1024.
    values = np.array([1 + 1 / 2048, 1 + 3 / 2048, 1 + 1 / 2048 + 2**-20], np.float32)
    assert there_and_back(Float16(), {"w": values})["w"].tolist() == [1, 1 + 2 / 1024, 1 + 1 / 1024]


def test_a_value_that_float16_does_not_have_is_an_error_that_names_array_and_value() -> None:
    # 65519 rounds to 65504, float16's largest; 65520 is half a step further and would be infinite.
    assert there_and_back(Float16(), {"w": np.array([65519], "f4")})["w"].tolist() == [65504]
    with pytest.raises(WeightsError, match=r"array 'w' has the value -65520, too large for float16: take"):
        there_and_back(Float16(), {"b": np.zeros(3, np.float32), "w": np.array([1, -65520], "f4")})
    assert there_and_back(BFloat16(), {"w": np.array([65536], "f4")})["w"].tolist() == [65536]


@each_half
def test_arrays_keep_names_and_shapes_and_narrow_ones_stay_as_they_are(codec: Float16 | BFloat16) -> None:
    arrays: dict[str, Array] = {
        "wide": np.array([[0.5], [2.0]]),
        "plain": np.array([1, 2, 3], "f4"),
        "half": np.array([0.1], "f2"),
        "brain": np.array([0.1], ml_dtypes.bfloat16),
        "count": np.array(7),
        "mean": np.array([0.1], "f4"),
    }
    roles = {"mean": Role.BUFFER, "count": Role.BUFFER}
    stored = encoded(codec, codec.signal(held(arrays, roles)))
    assert {spec.name: (spec.dtype, spec.shape, spec.role) for spec in stored.layout.arrays} == {
        "wide": (codec.dtype, (2, 1), Role.PARAMETER),
        "plain": (codec.dtype, (3,), Role.PARAMETER),
        "half": (DType.F16, (1,), Role.PARAMETER),
        "brain": (DType.BF16, (1,), Role.PARAMETER),
        "count": (DType.I64, (), Role.BUFFER),
        "mean": (DType.F32, (1,), Role.BUFFER),
    }
    back = there_and_back(codec, arrays, roles)
    assert Layout.of(back, roles) == Layout.of(arrays, roles)
    assert all(np.array_equal(back[name], arrays[name]) for name in arrays)  # all of these fit
