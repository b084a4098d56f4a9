"""What goes to processes arrives as it was, and its large arrays are not copied."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alhpo.tuning.processes.deferred import Deferred
from alhpo.tuning.processes.packing import LARGE, pack, unpack

DTYPES = [
    *(torch.uint8, torch.bool, torch.int64, torch.float16, torch.bfloat16, torch.float32),
    *(torch.float64, torch.complex64),
]


def arrived(value):
    file, spans = pack(value)
    with file:
        return unpack(file.fileno(), spans), len(spans) - 1


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(0, 5), max_size=3).map(tuple),
    large=st.booleans(),
    transposed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_tensors_arrive_as_they_were(dtype, shape, large, transposed, seed):
    shape = (LARGE + 1, *shape) if large else shape
    generator = torch.Generator().manual_seed(seed)
    value = torch.randint(0, 2, shape, generator=generator).to(dtype)
    value = value.transpose(0, -1) if transposed and value.ndim > 1 else value
    other, _ = arrived({"value": [value]})
    other = other["value"][0]
    assert (other.dtype, other.shape, other.stride()) == (dtype, value.shape, value.stride())
    assert torch.equal(other, value)


def test_large_arrays_lie_in_the_file_once():
    images = torch.arange(LARGE, dtype=torch.int32)
    part, array, small = images[LARGE // 2 :], np.arange(LARGE, dtype=np.float64), torch.ones(3)
    (one, again, half, values, little), aside = arrived([images, images, part, array, small])
    assert aside == 3
    assert one is again
    assert torch.equal(one, images) and torch.equal(half, part) and torch.equal(little, small)
    assert np.array_equal(values, array)
    assert half.untyped_storage().nbytes() == half.nbytes  # no more of it than was asked for


def test_changes_are_private():
    images = torch.zeros(LARGE, dtype=torch.uint8)
    file, spans = pack(images)
    with file:
        one, other = (unpack(file.fileno(), spans) for _ in range(2))
        one += 1
    assert one.sum() == LARGE
    assert other.sum() == images.sum() == 0


def test_functions_of_a_script_arrive_too():
    places = [1, 2]
    function, _ = arrived(lambda x: x + len(places))
    assert function(1) == 3


def test_what_cannot_be_pickled_is_refused():
    with contextlib.closing(x for x in "ab") as generator, pytest.raises(TypeError, match="gener"):
        pack(generator)


class Counted:
    loaded = 0

    def __setstate__(self, state):
        self.__dict__ |= state
        Counted.loaded += 1


def test_a_deferred_value_is_loaded_when_it_is_asked_for():
    value = Counted()
    value.of_its_own = 1
    deferred = Deferred(value)
    assert deferred.value is value
    Counted.loaded = 0
    first, _ = arrived(deferred)
    second, _ = arrived(first)  # as it came
    assert not Counted.loaded
    assert isinstance(second.value, Counted) and second.value is second.value
    third, _ = arrived(second)
    assert third.value.of_its_own == 1
    assert Counted.loaded == 2
