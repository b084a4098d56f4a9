"""Strategies over passes against their definitions, and scikit-activeml."""

import mpmath
import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from digits_passes import digits_passes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from alhpo.base.types import PoolOutputs
from alhpo.outputs.dropout_passes import TensorPasses
from alhpo.strategies import run_strategy

NAMES = ("variation-ratio", "mean-std", "bald", "mc-dropout")


def query(name, passes, n, logits=None):
    """Rows, in order of choice, and their scores."""
    if not hasattr(passes, "logits"):
        passes = TensorPasses(torch.as_tensor(passes, dtype=torch.float32))
    if logits is None:
        logits = passes.logits(slice(None)).mean(dim=0)
    pool = PoolOutputs(
        torch.arange(len(logits)) * 3 + 4, passes=passes, logits=torch.as_tensor(logits)
    )
    result = run_strategy(name, pool, n, np.random.default_rng(0))
    return [(i - 4) // 3 for i in result.indices], list(result.scores)


def probabilities(logits):
    return scipy.special.softmax(np.asarray(logits, dtype=np.float64), axis=2)


def definition(name, logits, predicted):
    """Scores of (T, N, C) logits, and the class each row is predicted to have."""
    p = probabilities(logits)
    if name == "variation-ratio":
        votes = logits.argmax(axis=2)
        return np.array([1 - np.bincount(column).max() / len(p) for column in votes.T])
    if name == "mean-std":
        return p.std(axis=0).mean(axis=1)
    if name == "mc-dropout":
        return p.var(axis=0)[np.arange(p.shape[1]), predicted]
    mean, each = p.mean(axis=0), scipy.stats.entropy(p, axis=2)
    return scipy.stats.entropy(mean, axis=1) - each.mean(axis=0)


tables = npst.arrays(
    np.float32,
    npst.array_shapes(min_dims=3, max_dims=3, max_side=8),
    elements=st.floats(-30, 30, width=32),
    unique=True,  # no ties between classes within a pass
)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=40)
@given(tables)
def test_scores_are_the_definitions_and_in_their_bounds(name, logits):
    passes, n, classes = logits.shape
    mean = logits.mean(axis=0)
    rows, scores = query(name, logits, n, mean)
    expected = definition(name, logits, mean.argmax(axis=1))
    np.testing.assert_allclose(scores, expected[rows], atol=1e-9)
    largest = {
        "variation-ratio": 1 - 1 / min(classes, passes),
        "mean-std": 1 / 2,
        "bald": np.log(min(classes, passes)),
        "mc-dropout": 1 / 4,
    }
    assert all(0 <= score <= largest[name] + 1e-12 for score in scores)
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=40)
@given(tables, st.randoms(use_true_random=False))
def test_the_order_of_classes_and_of_passes_changes_no_score(name, logits, random):
    passes, classes = list(range(logits.shape[0])), list(range(logits.shape[2]))
    random.shuffle(passes)
    random.shuffle(classes)
    mean = logits.mean(axis=0)
    n = logits.shape[1]
    rows, scores = query(name, logits, n, mean)
    again, other = query(name, logits[passes][:, :, classes], n, mean[:, classes])
    before, after = dict(zip(rows, scores, strict=True)), dict(zip(again, other, strict=True))
    for row, score in before.items():
        np.testing.assert_allclose(after[row], score, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(
    npst.arrays(
        np.float32,
        npst.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.floats(-1e4, 1e4, width=32),
    ),
    st.integers(1, 7),
)
def test_passes_that_agree_score_exactly_zero_in_order(name, logits, passes):
    repeated = np.repeat(logits[None], passes, axis=0)
    assert query(name, repeated, len(logits)) == (list(range(len(logits))), [0.0] * len(logits))


@pytest.mark.parametrize("name", NAMES)
def test_scores_on_digits_are_the_definitions(name):
    passes, logits = digits_passes(60)
    rows, scores = query(name, passes, len(logits), logits)
    everything = passes.logits(slice(None)).numpy()
    expected = definition(name, everything, logits.argmax(dim=1).numpy())
    np.testing.assert_allclose(scores, expected[rows], rtol=1e-7, atol=1e-12)
    assert sorted(rows) == list(range(len(logits)))
    assert rows[:50] == np.argsort(-expected.round(10), kind="stable")[:50].tolist()


def test_variation_ratio_equals_scikit_activeml_on_digits():
    oracle = pytest.importorskip("skactiveml.pool").variation_ratios
    passes, logits = digits_passes(60)
    rows, scores = query("variation-ratio", passes, len(logits))
    votes = passes.logits(slice(None)).argmax(dim=2).numpy().T
    expected = oracle(votes)
    np.testing.assert_allclose(scores, expected[rows], atol=1e-15)
    assert len(set(scores)) > 10


@pytest.mark.parametrize("name", NAMES)
def test_equal_candidates_are_chosen_in_order_wherever_they_are(name):
    logits = np.random.default_rng(3).normal(size=(20, 1, 7)).astype(np.float32)
    rows, scores = query(name, np.repeat(logits, 101, axis=1), 101)
    assert rows == list(range(101))
    assert len(set(scores)) == 1


def test_bald_keeps_the_digits_of_small_disagreements():
    gaps = np.array([[30.0, 31.0], [200.0, 201.0], [60.0, 60.5], [600.0, 602.0]])
    logits = np.zeros((2, 4, 2), np.float32)
    logits[:, :, 0] = gaps.T
    rows, scores = query("bald", logits, 4)
    assert rows == [0, 2, 1, 3]
    with mpmath.workdps(700):
        for row, score in zip(rows, scores, strict=True):
            p = [1 / (1 + mpmath.exp(gap)) for gap in gaps[row]]
            entropies = [-q * mpmath.log(q) - (1 - q) * mpmath.log1p(-q) for q in [*p, sum(p) / 2]]
            exact = entropies[2] - (entropies[0] + entropies[1]) / 2
            np.testing.assert_allclose(score, float(exact), rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_saturated_and_extreme_logits_give_numbers(name):
    top = float(np.finfo(np.float32).max)
    logits = np.array([[[top, -top], [1e4, 0], [3, 3]], [[-top, top], [0, 1e4], [3, 3]]])
    rows, scores = query(name, logits, 3, logits[0].astype(np.float32))
    assert rows == [0, 1, 2]
    largest = {"variation-ratio": 0.5, "mean-std": 0.5, "bald": np.log(2), "mc-dropout": 0.25}
    np.testing.assert_allclose(scores, [largest[name], largest[name], 0.0])


def test_mc_dropout_looks_at_the_class_predicted_without_dropout():
    p = np.array([[[0.5, 0.4, 0.1], [0.5, 0.3, 0.2]], [[0.5, 0.1, 0.4], [0.4, 0.4, 0.2]]])
    passes = np.log(p)
    assert query("mc-dropout", passes, 2, np.float32([[9, 0, 0], [9, 0, 0]]))[0] == [1, 0]
    rows, scores = query("mc-dropout", passes, 2, np.float32([[0, 9, 0], [0, 0, 9]]))
    assert rows == [0, 1]
    np.testing.assert_allclose(scores, [0.0225, 0], atol=1e-8)


def test_variation_ratio_is_not_one_minus_the_mean_probability():
    p = np.array([[0.51, 0.49], [0.6, 0.4], [0.55, 0.45]])[:, None]
    assert query("variation-ratio", np.log(p), 1) == ([0], [0.0])


@pytest.mark.parametrize("name", NAMES)
def test_the_pool_is_seen_in_blocks(name, monkeypatch):
    passes, logits = digits_passes(60)
    whole = query(name, passes, 100, logits)
    seen = []

    class Recorded:
        def __len__(self):
            return len(passes)

        def logits(self, rows):
            result = passes.logits(rows)
            seen.append(result.shape[1])
            return result

    monkeypatch.setattr("alhpo.strategies.mc_dropout.BLOCK", 60 * 10 * 100)
    monkeypatch.setattr("alhpo.strategies.mc_dropout.PIECE", 60 * 10 * 7)
    rows, scores = query(name, Recorded(), 100, logits)
    np.testing.assert_allclose(scores, whole[1], rtol=1e-5, atol=1e-7)  # other matrix products
    assert max(seen) == 100
    assert len(logits) <= sum(seen) <= len(logits) + 2  # and one row, to learn how many classes
    assert len(set(rows) & set(whole[0])) > 95
