"""Margin and least confidence against their definitions and scikit-activeml."""

from itertools import pairwise

import mpmath
import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from alhpo.base.types import PoolOutputs
from alhpo.strategies import get_strategy, run_strategy

NAMES = ("margin", "least-confidence")


def query(name, logits, n):
    """Rows, in order of choice, and their scores."""
    logits = torch.as_tensor(logits, dtype=torch.float32)
    pool = PoolOutputs(torch.arange(len(logits)) * 2 + 5, logits=logits)
    result = run_strategy(name, pool, n, np.random.default_rng(0))
    return [(i - 5) // 2 for i in result.indices], list(result.scores)


def definition(name, p):
    """1 − (p₁ − p₂), or 1 − max p, of each row."""
    ordered = np.sort(np.pad(p, ((0, 0), (1, 0))), axis=1)  # one class has p₂ = 0
    return 1 - ordered[:, -1] + (ordered[:, -2] if name == "margin" else 0)


tables = npst.arrays(
    np.float32,
    npst.array_shapes(min_dims=2, max_dims=2, max_side=20),
    elements=st.floats(-100, 100, width=32),
)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(tables)
def test_scores_are_the_definitions_and_ties_go_to_the_lowest_index(name, logits):
    rows, scores = query(name, logits, len(logits))
    expected = definition(name, scipy.special.softmax(logits.astype(np.float64), axis=1))
    np.testing.assert_allclose(scores, expected[rows], rtol=1e-9, atol=1e-12)
    largest = 1 if name == "margin" else 1 - 1 / logits.shape[1]
    assert all(0 <= score <= largest + 1e-12 for score in scores)
    for (row, score), (next_row, next_score) in pairwise(zip(rows, scores, strict=True)):
        assert score >= next_score
        if sorted(logits[row]) == sorted(logits[next_row]):
            assert row < next_row


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(tables, st.randoms(use_true_random=False))
def test_the_order_of_classes_changes_nothing(name, logits, random):
    classes = list(range(logits.shape[1]))
    random.shuffle(classes)
    assert query(name, logits[:, classes], len(logits)) == query(name, logits, len(logits))


@pytest.mark.parametrize(
    ("name", "method"), [("margin", "margin_sampling"), ("least-confidence", "least_confident")]
)
def test_equals_scikit_activeml_on_predictions_of_digits(name, method):
    oracle = pytest.importorskip("skactiveml.pool").uncertainty_scores
    images, labels = load_digits(return_X_y=True)
    logits = LogisticRegression(max_iter=200).fit(images[:100], labels[:100])
    logits = logits.decision_function(images).astype(np.float32)
    rows, scores = query(name, logits, len(logits))
    probabilities = scipy.special.softmax(logits.astype(np.float64), axis=1)
    expected = oracle(probabilities, method=method)
    np.testing.assert_allclose(scores, expected[rows], rtol=1e-9, atol=1e-14)
    certain = expected > 1e-6  # beyond, 1 − p of the oracle rounds
    assert [i for i in rows if certain[i]] == [i for i in np.argsort(-expected) if certain[i]]


@pytest.mark.parametrize("name", NAMES)
def test_confident_predictions_keep_their_order_and_their_digits(name):
    gaps = np.array([10.0, 1e4, 30.0, 800.0, 50.0, 700.0, 2e4])
    logits = np.zeros((len(gaps), 3))
    logits[:, 1] = gaps
    rows, scores = query(name, logits, len(gaps))
    assert rows == np.argsort(gaps).tolist()
    with mpmath.workdps(400):
        rest = [1 / (mpmath.exp(gap) + 2) for gap in sorted(gaps)[:4]]
    times = 3 if name == "margin" else 2
    np.testing.assert_allclose(scores[:4], [float(times * r) for r in rest], rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_extreme_but_finite_logits_and_a_single_class(name):
    top = float(np.finfo(np.float32).max)
    rows, scores = query(name, [[top, -top], [top, top], [-top, -top], [0.0, 5.0]], 4)
    assert rows == [1, 2, 3, 0]
    half = 1.0 if name == "margin" else 0.5
    np.testing.assert_allclose(scores[:2], half, rtol=1e-15)
    assert scores[3] == 0.0
    assert query(name, [[3.0], [1e30]], 2) == ([0, 1], [0.0, 0.0])


def test_margin_and_least_confidence_differ_where_three_classes_compete():
    p = np.array([[0.40, 0.30, 0.30], [0.45, 0.44, 0.11]])
    assert query("least-confidence", np.log(p), 2)[0] == [0, 1]
    assert query("margin", np.log(p), 2)[0] == [1, 0]


def test_two_classes_that_tie_are_no_margin_whatever_the_others_are():
    logits = np.random.default_rng(0).normal(size=(50, 6))
    logits[:, 4] = logits[:, 2] = 5.0
    assert query("margin", logits, 50) == (list(range(50)), [1.0] * 50)


def test_softmax_response_is_least_confidence():
    assert get_strategy("softmax-response") is get_strategy("least-confidence")


@pytest.mark.parametrize("name", NAMES)
def test_pools_larger_than_a_block_are_ranked_as_a_whole(name, monkeypatch):
    logits = np.random.default_rng(1).normal(size=(300, 4))
    whole = query(name, logits, 50)
    monkeypatch.setattr("alhpo.strategies.rows.BLOCK", 28)
    assert query(name, logits, 50) == whole
