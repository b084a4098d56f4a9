"""Centroids against k-means of explicitly normalised rows."""

import numpy as np
import pytest
import torch
from cluster_choices import nearest_to_centres
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.datasets import load_digits

from alhpo.base.types import PoolOutputs
from alhpo.strategies import run_strategy
from alhpo.strategies.clustering import k_means
from alhpo.strategies.rows import Rows


def query(features, n, seed=0, name="centroids"):
    pool = PoolOutputs(torch.arange(len(features)) + 7, features=torch.as_tensor(features))
    result = run_strategy(name, pool, n, np.random.default_rng(seed))
    return [i - 7 for i in result.indices], list(result.scores)


def unit(features):
    norms = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    return (features / np.where(norms > 0, norms, 1)).astype(np.float32)


@pytest.mark.parametrize("n", [1, 2, 30])
def test_chooses_the_nearest_to_each_centre_of_unit_rows(n):
    noise = np.random.default_rng(0).normal(size=(400, 64))
    features = (load_digits().data[:400] + 0.01 * noise).astype(np.float32)
    x = unit(features).astype(np.float64)
    labels = k_means(Rows(torch.as_tensor(unit(features))), n, np.random.default_rng(0)).labels
    expected = nearest_to_centres(x, labels, n)
    chosen, scores = query(features, n)
    assert chosen == [i for _, i in expected]
    assert scores == [-size for size, _ in expected]


tables = st.tuples(st.integers(1, 14), st.integers(1, 3)).flatmap(
    lambda shape: st.tuples(
        npst.arrays(np.float32, shape, elements=st.integers(-3, 3)),
        npst.arrays(np.int64, shape[0], elements=st.integers(-20, 20)),
        st.integers(1, shape[0]),
        st.integers(0, 1000),
    )
)


@settings(deadline=None, max_examples=100)
@given(tables)
def test_lengths_of_rows_do_not_matter(table):
    features, exponents, n, seed = table
    chosen, scores = query(features, n, seed)
    assert sorted(set(chosen)) == sorted(chosen)
    assert sum(scores) == len(features)
    longer = np.ldexp(features, exponents[:, None]).astype(np.float32)
    assert query(longer, n, seed) == (chosen, scores)


def test_rows_in_one_direction_and_zeros_are_chosen_in_order_after_one_of_each():
    features = np.array([[2.0, 2], [0, 0], [1, 1], [4, 4], [0, 0]], np.float32)
    chosen, scores = query(features, 5)
    assert chosen == [0, 1, 2, 3, 4]
    assert scores == [3, 2, 0, 0, 0]
