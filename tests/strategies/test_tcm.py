"""TCM is TypiClust up to K labels a class, then margin sampling."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alhpo.base.errors import ConfigurationError
from alhpo.base.types import PoolOutputs
from alhpo.strategies import get_strategy, run_strategy


def pool(n_labeled, classes, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return PoolOutputs(
        torch.arange(40) + 5,
        logits=torch.randn(40, classes, generator=draw),
        features=torch.randn(40, 6, generator=draw),
        labeled_features=torch.randn(n_labeled, 6, generator=draw),
    )


def query(name, outputs, n, seed):
    return run_strategy(name, outputs, n, np.random.default_rng(seed))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 30), st.integers(1, 8), st.integers(1, 6), st.integers(1, 40))
def test_the_number_of_labels_decides(n_labeled, classes, labels_per_class, n):
    outputs = pool(n_labeled, classes)
    name = "typiclust" if n_labeled < labels_per_class * classes else "margin"
    mine = query(f"tcm:{labels_per_class}", outputs, n, 3)
    assert mine == query(name, outputs, n, 3)


@pytest.mark.parametrize(
    ("n_labeled", "other"), [(0, "typiclust"), (19, "typiclust"), (20, "margin")]
)
def test_plain_tcm_changes_at_four_labels_a_class(n_labeled, other):
    outputs = pool(n_labeled, 5)
    assert query("tcm", outputs, 8, 0) == query(other, outputs, 8, 0)
    assert query("typiclust", outputs, 8, 0) != query("margin", outputs, 8, 0)


@pytest.mark.parametrize("text", ["", "0", "-1", "2.5", "many", "nan"])
def test_labels_per_class_that_are_not_whole_numbers_are_refused(text):
    with pytest.raises(ConfigurationError, match=f"'tcm:{text}'.*whole number from 1"):
        get_strategy(f"tcm:{text}")
