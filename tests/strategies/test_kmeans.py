"""k-means against Lloyd's algorithm from its definition and scikit-learn."""

import numpy as np
import pytest
import sklearn.cluster
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.datasets import load_digits

from alhpo.base.types import PoolOutputs
from alhpo.strategies import clustering, run_strategy
from alhpo.strategies.clustering import k_means, lloyd, seeds
from alhpo.strategies.rows import Rows


def as_rows(values):
    return Rows(torch.as_tensor(np.asarray(values, dtype=np.float32)))


@pytest.fixture(scope="module")
def digits():
    return load_digits().data.astype(np.float32)


def query(features, n, seed=0):
    pool = PoolOutputs(torch.arange(len(features)) + 7, features=torch.as_tensor(features))
    result = run_strategy("kmeans", pool, n, np.random.default_rng(seed))
    return [i - 7 for i in result.indices], list(result.scores)


def brute_force_lloyd(x, centres):
    """Until nothing changes, in float64, with all distances in one table; no empty clusters."""
    x, labels = x.astype(np.float64), None
    while True:
        new = ((x[:, None] - centres[None]) ** 2).sum(axis=2).argmin(axis=1)
        if labels is not None and (new == labels).all():
            return labels, centres
        labels = new
        centres = np.stack([x[labels == k].mean(axis=0) for k in range(len(centres))])


@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize("k", [1, 2, 10])
def test_lloyd_equals_the_definition(digits, k, offset):
    x = digits[:500] + offset
    start = x[np.random.default_rng(k).choice(500, k, replace=False)]
    ours = lloyd(as_rows(x), torch.as_tensor(start), tolerance=0.0, iterations=300)
    labels, centres = brute_force_lloyd(x, start.astype(np.float64))
    assert ours.labels.tolist() == labels.tolist()
    np.testing.assert_allclose(ours.centres, centres, rtol=1e-9, atol=1e-9)
    own = np.sqrt(((x.astype(np.float64) - centres[labels]) ** 2).sum(axis=1))
    np.testing.assert_allclose(ours.distances, own, rtol=1e-9)
    assert ours.sizes.tolist() == np.bincount(labels, minlength=k).tolist()


@pytest.mark.parametrize("k", [3, 20, 60])
def test_lloyd_equals_scikit_learn_from_the_same_centres(digits, k):
    noise = np.random.default_rng(0).normal(size=digits.shape)
    digits = (digits + 0.01 * noise).astype(np.float32)  # whole numbers have ties
    start = digits[np.random.default_rng(k).choice(len(digits), k, replace=False)]
    ours = lloyd(as_rows(digits), torch.as_tensor(start), tolerance=0.0, iterations=300)
    theirs = sklearn.cluster.KMeans(
        k, init=start.astype(np.float64), n_init=1, tol=0.0, max_iter=300
    ).fit(digits.astype(np.float64))
    assert ours.labels.tolist() == theirs.labels_.tolist()
    np.testing.assert_allclose(ours.inertia, theirs.inertia_, rtol=1e-9)


def test_an_empty_cluster_takes_the_row_farthest_from_its_centre():
    x = np.array([[0.0], [1], [2], [50], [10], [11]])
    start = torch.tensor([[0.0], [10.5], [1000.0]])  # the third wins no row at first
    ours = lloyd(as_rows(x), start)
    assert ours.labels.tolist() == [0, 0, 0, 2, 1, 1]
    theirs = sklearn.cluster.KMeans(3, init=start.numpy(), n_init=1, tol=0).fit(x)
    assert ours.labels.tolist() == theirs.labels_.tolist()


tables = st.tuples(st.integers(1, 14), st.integers(1, 3)).flatmap(
    lambda shape: st.tuples(
        npst.arrays(np.float32, shape, elements=st.integers(-3, 3)),
        st.integers(1, shape[0]),
        st.integers(0, 1000),
    )
)


@settings(deadline=None, max_examples=150)
@given(tables)
def test_one_candidate_per_cluster_with_ties_duplicates_and_too_few_distinct_rows(table):
    features, n, seed = table
    chosen, scores = query(features, n, seed)
    assert len(set(chosen)) == n
    distinct = len(np.unique(features, axis=0))
    filled = sum(score > 0 for score in scores)
    assert filled == min(n, distinct)
    assert sum(scores) == len(features)
    assert scores == sorted(scores, reverse=True)
    clusters = k_means(as_rows(features), n, np.random.default_rng(seed))
    for candidate, score in zip(chosen[:filled], scores, strict=False):
        members = np.flatnonzero(clusters.labels == clusters.labels[candidate])
        assert len(members) == score
        to_mean = np.linalg.norm(features[members] - features[members].mean(axis=0), axis=1)
        assert to_mean[members.tolist().index(candidate)] <= to_mean.min() + 1e-6
    assert len(set(clusters.labels[chosen[:filled]])) == filled
    assert chosen[filled:] == sorted(set(range(len(features))) - set(chosen[:filled]))[: n - filled]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(-10, 10))
def test_scaled_features_give_the_same_choice(seed, exponent):
    features = np.random.default_rng(seed).normal(size=(80, 4)).astype(np.float32)
    assert query(features, 6, seed) == query(features * np.float32(2.0**exponent), 6, seed)


def test_seeds_are_distinct_and_drawn_in_proportion_to_the_squared_distance():
    x = np.array([[0.0], [0.0], [3.0], [4.0]])
    firsts, seconds = np.zeros(4), np.zeros(4)
    generator, rows = np.random.default_rng(0), as_rows(x)
    for _ in range(3000):
        first, second = seeds(rows, 2, generator)
        firsts[first] += 1
        if first < 2:
            seconds[second] += 1
    np.testing.assert_allclose(firsts / 3000, 0.25, atol=0.04)
    np.testing.assert_allclose(seconds / seconds.sum(), [0, 0, 9 / 25, 16 / 25], atol=0.04)
    assert sorted(seeds(rows, 4, generator)) == [0, 1, 2, 3]


def test_clusters_are_as_good_as_scikit_learns(digits):
    ours = [k_means(as_rows(digits), 10, np.random.default_rng(s)).inertia for s in range(5)]
    theirs = [
        sklearn.cluster.KMeans(10, n_init=1, random_state=s).fit(digits).inertia_ for s in range(5)
    ]
    assert np.median(ours) < 1.02 * np.median(theirs)


def test_large_pools_start_from_a_sample_and_end_as_well(digits, monkeypatch):
    whole = k_means(as_rows(digits), 10, np.random.default_rng(0))
    monkeypatch.setattr(clustering, "SAMPLE", 300)
    sampled = k_means(as_rows(digits), 10, np.random.default_rng(0))
    assert len(sampled.labels) == len(digits)
    assert sampled.inertia < 1.05 * whole.inertia
    assert sampled.iterations < whole.iterations


def test_identical_rows_are_chosen_in_order():
    assert query(np.ones((6, 3), np.float32), 4)[0] == [0, 1, 2, 3]


def test_blocks_do_not_change_the_clusters(digits, monkeypatch):
    whole = k_means(as_rows(digits), 10, np.random.default_rng(0))
    monkeypatch.setattr("alhpo.strategies.rows.BLOCK", 5000)
    blocks = k_means(as_rows(digits), 10, np.random.default_rng(0))
    assert blocks.labels.tolist() == whole.labels.tolist()
