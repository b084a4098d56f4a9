"""Core-set against a brute-force loop and scikit-activeml."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from alhpo.strategies import run_strategy
from alhpo.types import PoolOutputs


def query(features, labeled, n):
    pool = PoolOutputs(
        torch.arange(len(features)) + 3,
        features=torch.as_tensor(features),
        labeled_features=torch.as_tensor(labeled),
    )
    result = run_strategy("coreset", pool, n, np.random.default_rng(0))
    return [i - 3 for i in result.indices], list(result.scores)


def brute_force(features, labeled, n):
    """Pick by pick from the definition, all distances anew each time, with plain Python sums."""
    centres = [list(map(float, row)) for row in labeled]
    chosen, scores = [], []
    for _ in range(n):
        best, farthest = None, -1.0
        for i, row in enumerate(features):
            if i in chosen:
                continue
            distances = [math.dist(map(float, row), c) for c in centres]
            distance = min(distances, default=math.inf)
            if distance > farthest:
                best, farthest = i, distance
        chosen.append(best)
        scores.append(farthest)
        centres.append(list(map(float, features[best])))
    return chosen, scores


# Small integers: float64 distances of equal points are equal, so ties are exact in both.
tables = st.tuples(st.integers(1, 12), st.integers(0, 6), st.integers(1, 4)).flatmap(
    lambda shape: st.tuples(
        npst.arrays(np.float32, (shape[0], shape[2]), elements=st.integers(-3, 3)),
        npst.arrays(np.float32, (shape[1], shape[2]), elements=st.integers(-3, 3)),
        st.integers(1, shape[0]),
    )
)


@settings(deadline=None, max_examples=200)
@given(tables)
def test_equals_brute_force_with_ties_and_duplicates(table):
    features, labeled, n = table
    chosen, scores = query(features, labeled, n)
    expected, distances = brute_force(features, labeled, n)
    assert chosen == expected
    np.testing.assert_allclose(scores, distances, rtol=1e-12)
    assert scores == sorted(scores, reverse=True)


def test_distances_to_a_labelled_and_to_a_chosen_image_can_tie():
    features = np.array([[1, 0], [3, 2], [2, 0]], np.float32)  # √5 from labelled; first; √5 from it
    assert query(features, np.array([[-1, -1]], np.float32), 2)[0] == [1, 0]


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_equals_brute_force_on_real_numbers_far_from_the_origin(offset):
    draw = np.random.default_rng(0)
    features, labeled = draw.normal(size=(60, 5)) + offset, draw.normal(size=(8, 5)) + offset
    chosen, scores = query(features, labeled, 30)
    expected, distances = brute_force(features, labeled, 30)
    assert chosen == expected
    np.testing.assert_allclose(scores, distances, rtol=1e-9)


def test_equals_scikit_activeml_on_tie_free_integer_coordinates():
    pool = pytest.importorskip("skactiveml.pool")
    for seed in range(3):
        draw = np.random.default_rng(seed)
        everything = draw.integers(-100_000, 100_000, size=(90, 3)).astype(np.float64)
        labels = np.full(90, np.nan)
        labeled = np.sort(draw.choice(90, 7, replace=False))
        labels[labeled] = draw.integers(0, 3, 7)
        candidates = np.flatnonzero(np.isnan(labels))
        expected, utilities = pool.CoreSet(random_state=0).query(
            everything, labels, batch_size=20, return_utilities=True
        )
        chosen, scores = query(everything[candidates], everything[labeled], 20)
        assert candidates[chosen].tolist() == expected.tolist()
        np.testing.assert_allclose(scores, utilities[np.arange(20), expected], rtol=1e-12)


def test_without_labels_the_first_choice_is_the_lowest_index_at_infinity():
    features = np.array([[1.0], [0.0], [9.0]], dtype=np.float32)
    assert query(features, np.empty((0, 1), dtype=np.float32), 3) == ([0, 2, 1], [math.inf, 8, 1])


def test_duplicates_of_labelled_images_are_zero_away_and_come_last_in_order():
    draw = np.random.default_rng(2)
    labeled = (1000 + draw.normal(size=(5, 64))).astype(np.float32)
    features = np.concatenate([labeled, labeled[:2] + 1, labeled])
    chosen, scores = query(features, labeled, len(features))
    assert set(chosen[:2]) == {5, 6}
    assert chosen[2:] == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
    assert scores[2:] == [0.0] * 10


def test_more_labels_and_candidates_than_fit_a_block(monkeypatch):
    draw = np.random.default_rng(3)
    features, labeled = draw.normal(size=(50, 4)), draw.normal(size=(23, 4))
    whole = query(features, labeled, 20)
    monkeypatch.setattr("alhpo.strategies.rows._BLOCK", 64)
    monkeypatch.setattr("alhpo.strategies.rows._CENTRES", 5)
    chosen, scores = query(features, labeled, 20)
    assert chosen == whole[0]
    np.testing.assert_allclose(scores, whole[1], rtol=1e-12)
