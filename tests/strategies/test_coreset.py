"""Core-set against a brute-force loop and scikit-activeml."""

import math

import numpy as np
import pytest
import scipy.spatial.distance
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from alhpo.base.types import PoolOutputs
from alhpo.strategies import run_strategy


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
        if math.isinf(farthest):  # no labels: the score is the largest distance from this choice
            farthest = max(
                math.dist(map(float, row), map(float, features[best])) for row in features
            )
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


def test_without_labels_the_first_choice_is_the_lowest_index_with_the_largest_distance_from_it():
    features = np.array([[1.0], [0.0], [9.0]], dtype=np.float32)
    assert query(features, np.empty((0, 1), dtype=np.float32), 3) == ([0, 2, 1], [8, 8, 1])
    assert query(features, np.empty((0, 1), dtype=np.float32), 1) == ([0], [8])
    assert query(features[:1], np.empty((0, 1), dtype=np.float32), 1) == ([0], [0])


def test_duplicates_of_labelled_images_are_zero_away_and_come_last_in_order():
    draw = np.random.default_rng(2)
    labeled = (1000 + draw.normal(size=(5, 64))).astype(np.float32)
    features = np.concatenate([labeled, labeled[:2] + 1, labeled])
    chosen, scores = query(features, labeled, len(features))
    assert set(chosen[:2]) == {5, 6}
    assert chosen[2:] == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
    assert scores[2:] == [0.0] * 10


def explicit(features, labeled, n):
    """The same loop over a full table of float64 distances."""
    features, labeled = features.astype(np.float64), labeled.astype(np.float64)
    table = scipy.spatial.distance.cdist(features, np.concatenate([labeled, features]))
    nearest = table[:, : len(labeled)].min(axis=1)
    chosen, scores = [], []
    for _ in range(n):
        chosen.append(int(nearest.argmax()))
        scores.append(float(nearest[chosen[-1]]))
        nearest = np.minimum(nearest, table[:, len(labeled) + chosen[-1]])
    return chosen, scores


def relu_clusters(seed, n, width, offset=0.0, scale=1.0):
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(8, width))
    values = centres[draw.integers(8, size=n)] + draw.normal(size=(n, width))
    return (scale * np.maximum(values, 0) + offset).astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "offset, scale",
    [(0, 1), (1000, 1), (1e6, 1), (0, 1e-25), (0, 1e25)],
    ids=["plain", "offset", "rounded to 1/16", "squares underflow", "squares overflow"],
)
def test_picks_from_float32_are_those_of_a_float64_table(seed, offset, scale):
    everything = relu_clusters(seed, 1500, 96, offset, scale)
    features, labeled = everything[:1300], everything[1300:]
    chosen, scores = query(features, labeled, 200)
    expected, distances = explicit(features, labeled, 200)
    assert chosen == expected
    np.testing.assert_allclose(scores, distances, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_of_the_same_numbers_give_the_same(dtype):
    everything = torch.as_tensor(relu_clusters(5, 300, 12)).to(dtype)
    single = everything.float()
    expected = query(single[:250], single[250:], 40)
    assert query(everything[:250], everything[250:], 40) == expected


def test_a_lower_precision_of_products_changes_nothing():
    everything = relu_clusters(6, 400, 24)
    expected = query(everything[:350], everything[350:], 60)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert query(everything[:350], everything[350:], 60) == expected
    finally:
        torch.set_float32_matmul_precision(before)


def unambiguous(features, labeled, n):
    """Whether no two candidates are equally far when one of them is picked."""
    nearest = scipy.spatial.distance.cdist(features, labeled).min(axis=1)
    for _ in range(n):
        second, first = np.sort(nearest)[-2:]
        if first - second <= 1e-9 * first:
            return False
        picked = features[[nearest.argmax()]]
        nearest = np.minimum(nearest, scipy.spatial.distance.cdist(features, picked)[:, 0])
    return True


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(-20, 20))
@example(1174, 0)
def test_scaled_features_scale_the_scores_and_moved_rows_move_the_picks(seed, exponent):
    everything = relu_clusters(seed, 70, 5)
    features, labeled = everything[:60], everything[60:]
    chosen, scores = query(features, labeled, 15)
    scaled = query(features * np.float32(2.0**exponent), labeled * np.float32(2.0**exponent), 15)
    assert scaled == (chosen, [score * 2.0**exponent for score in scores])
    order = np.random.default_rng(seed).permutation(60)
    moved, same = query(features[order], labeled[::-1].copy(), 15)
    if unambiguous(features, labeled, 15):
        assert order[moved].tolist() == chosen
        assert same == scores


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6))
def test_a_second_copy_of_every_row_is_only_chosen_when_nothing_else_is_left(seed):
    everything = relu_clusters(seed, 30, 4)
    features, labeled = everything[:25], everything[25:]
    chosen, scores = query(features, labeled, 25)
    apart = sum(score > 0 for score in scores)
    twice, both = query(np.concatenate([features, features]), labeled, 50)
    assert twice[:apart] == chosen[:apart]
    assert both[:apart] == scores[:apart]
    assert both[apart:] == [0.0] * (50 - apart)
    assert twice[apart:] == sorted(set(range(50)) - set(twice[:apart]))


def test_equal_labelled_images_that_are_all_nearest_take_a_bounded_number_of_pairs():
    features = relu_clusters(7, 200, 16)
    labeled = np.repeat(relu_clusters(8, 2, 16), 40, axis=0)
    assert query(features, labeled, 30) == query(features, labeled[[0, 40]], 30)


def test_more_labels_and_candidates_than_fit_a_block(monkeypatch):
    draw = np.random.default_rng(3)
    features, labeled = draw.normal(size=(50, 4)), draw.normal(size=(23, 4))
    whole = query(features, labeled, 20)
    monkeypatch.setattr("alhpo.strategies.rows.BLOCK", 64)
    chosen, scores = query(features, labeled, 20)
    assert chosen == whole[0]
    np.testing.assert_allclose(scores, whole[1], rtol=1e-12)
