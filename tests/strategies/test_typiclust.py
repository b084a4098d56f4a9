"""TypiClust against the rule written out over a table of all distances."""

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from alhpo.base.types import PoolOutputs
from alhpo.strategies import run_strategy
from alhpo.strategies.clustering import k_means
from alhpo.strategies.rows import Rows
from alhpo.strategies.typiclust import mean_neighbour_distances


def query(features, labeled, n, seed=0):
    pool = PoolOutputs(
        torch.arange(len(features)) + 3,
        features=torch.as_tensor(features),
        labeled_features=torch.as_tensor(labeled),
    )
    result = run_strategy("typiclust", pool, n, np.random.default_rng(seed))
    return [i - 3 for i in result.indices], list(result.scores)


def partition(features, labeled, n, seed=0):
    everything = torch.as_tensor(np.concatenate([labeled, features]))
    k = min(len(labeled) + n, 500, len(everything))
    return k_means(Rows(everything), k, np.random.default_rng(seed)).labels


def brute_force(features, labeled, n, labels):
    """The published rule, with ties decided as documented."""
    x = np.concatenate([labeled, features]).astype(np.float64)
    count = len(labeled)

    def mean_distance(i):
        others = [j for j in range(len(x)) if labels[j] == labels[i] and j != i]
        nearest = sorted(math.dist(x[i], x[j]) for j in others)[:20]
        return np.float32(np.mean(nearest)) if nearest else math.inf

    density = [mean_distance(i) for i in range(len(x))]
    central = np.linalg.norm(x - x.mean(axis=0), axis=1)
    marked = set(range(count))
    chosen = []
    for _ in range(n):
        options = []
        for cluster in set(labels):
            members = [i for i in range(len(x)) if labels[i] == cluster]
            free = [i for i in members if i not in marked]
            if free:
                best = min(free, key=lambda i: (density[i], central[i], i))
                used = sum(i in marked for i in members)
                options.append((len(members) < 5, used, -len(members), density[best], best))
        best = min(options)[-1]
        marked.add(best)
        chosen.append((best - count, 1 / density[best]))
    return chosen


@pytest.mark.parametrize("n_labeled", [0, 1, 12])
@pytest.mark.parametrize("n", [3, 25])
def test_equals_the_rule_on_digits(n, n_labeled):
    images = load_digits().data.astype(np.float32)[:400]
    labeled, features = images[:n_labeled], images[n_labeled:]
    chosen, scores = query(features, labeled, n)
    expected = brute_force(features, labeled, n, partition(features, labeled, n))
    assert chosen == [i for i, _ in expected]
    np.testing.assert_allclose(scores, [score for _, score in expected], rtol=1e-6)


def test_chooses_in_every_uncovered_cluster_before_a_labelled_one():
    draw = np.random.default_rng(0)
    centres = 100 * np.eye(6)
    clusters = [c + draw.normal(size=(20 + 5 * k, 6)) for k, c in enumerate(centres)]
    labeled = np.stack([clusters[5][0], clusters[4][0]]).astype(np.float32)
    features = np.concatenate([*clusters[:4], clusters[4][1:], clusters[5][1:]]).astype(np.float32)
    of = np.repeat(range(6), [20, 25, 30, 35, 39, 44])
    chosen, _ = query(features, labeled, 4)  # 6 clusters of 6
    assert of[chosen].tolist() == [3, 2, 1, 0]


def test_mean_distances_to_neighbours_equal_scikit_learns():
    x = load_digits().data.astype(np.float32)[:300]
    ours = mean_neighbour_distances(
        Rows(torch.as_tensor(x)), np.arange(300), torch.as_tensor(x.mean(axis=0)).double()
    )
    distances, _ = NearestNeighbors(n_neighbors=21).fit(x.astype(np.float64)).kneighbors(x)
    np.testing.assert_allclose(ours, distances[:, 1:].mean(axis=1), rtol=1e-6)


tables = st.tuples(st.integers(1, 14), st.integers(0, 5), st.integers(1, 3)).flatmap(
    lambda shape: st.tuples(
        npst.arrays(np.float32, (shape[0], shape[2]), elements=st.integers(-3, 3)),
        npst.arrays(np.float32, (shape[1], shape[2]), elements=st.integers(-3, 3)),
        st.integers(1, shape[0]),
    )
)


@settings(deadline=None, max_examples=80)
@given(tables)
def test_degenerate_pools_give_distinct_candidates_and_finite_scores(table):
    features, labeled, n = table
    chosen, scores = query(features, labeled, n)
    assert len(set(chosen)) == n
    assert all(math.isfinite(score) and score >= 0 for score in scores)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(-10, 10))
def test_scaled_features_give_the_same_choice(seed, exponent):
    draw, scale = np.random.default_rng(seed), np.float32(2.0**exponent)
    features = draw.normal(size=(60, 4)).astype(np.float32)
    labeled = draw.normal(size=(5, 4)).astype(np.float32)
    chosen, scores = query(features, labeled, 8, seed)
    scaled, typicalities = query(features * scale, labeled * scale, 8, seed)
    assert scaled == chosen
    np.testing.assert_allclose(typicalities, np.array(scores) / scale, rtol=1e-6)


def test_identical_images_are_chosen_in_order_with_the_largest_score():
    chosen, scores = query(np.ones((8, 2), np.float32), np.empty((0, 2), np.float32), 3)
    assert chosen == [0, 1, 2]
    assert scores == [sys.float_info.max] * 3
