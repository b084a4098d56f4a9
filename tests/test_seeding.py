"""Random streams are named by their key and touch nothing global."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from alhpo.base.seeding import derive_seed, isolated_torch_rng, numpy_generator, torch_generator
from alhpo.testing.process_state import process_left_alone

PARTS = st.one_of(
    st.integers(-(2**70), 2**70), st.text(st.characters(codec="utf-8", min_codepoint=32))
)
KEYS = st.lists(PARTS, min_size=1, max_size=4).map(tuple)


def signature(key):
    return tuple((type(part).__name__, part) for part in key)


@given(KEYS)
def test_a_seed_fits_every_generator(key):
    seed = derive_seed(*key)
    assert 0 <= seed < 2**63
    assert derive_seed(*key) == seed
    numpy_generator(*key), torch_generator(*key)


@given(KEYS, KEYS)
def test_different_keys_have_different_seeds(one, other):
    same = signature(one) == signature(other)
    assert (derive_seed(*one) == derive_seed(*other)) == same


def test_keys_are_not_confused_with_their_text_or_their_concatenation():
    keys = [(1, 2), (12,), ("1", "2"), ("12",), ("1", 2), (1, "2"), (2, 1), ("", "12"), ("12", "")]
    assert len({derive_seed(*key) for key in keys}) == len(keys)


def test_seeds_are_the_same_in_every_process_and_release():
    """A change here would make every resumed run another run."""
    assert derive_seed(3, "order", 7) == 4335536438963926831


def test_generators_repeat_and_leave_the_process_alone():
    with process_left_alone("making generators"):
        a, b, c = (numpy_generator(*key).random(5) for key in ((0, "x"), (0, "x"), (1, "x")))
        d, e, f = (
            torch.rand(5, generator=torch_generator(*key)) for key in ((0, "x"), (0, "x"), (1, "x"))
        )
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    assert torch.equal(d, e) and not torch.equal(d, f)


def test_isolated_rng_is_named_by_its_key_and_puts_the_global_one_back():
    cpu = torch.device("cpu")

    def draw(*key):
        with isolated_torch_rng(cpu, *key):
            return torch.rand(4)

    with process_left_alone("isolated_torch_rng"):
        first = draw(3, "dropout", 0)
    torch.rand(1)  # moves the global generator
    assert torch.equal(draw(3, "dropout", 0), first)
    assert not torch.equal(draw(3, "dropout", 1), first)


def test_isolated_rng_puts_the_global_one_back_after_an_exception():
    with process_left_alone("isolated_torch_rng"):
        try:
            with isolated_torch_rng(torch.device("cpu"), 1):
                torch.rand(3)
                raise KeyError
        except KeyError:
            pass
