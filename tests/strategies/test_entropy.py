"""Entropy against SciPy."""

from itertools import pairwise

import mpmath
import numpy as np
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from alhpo.base.types import PoolOutputs
from alhpo.strategies import run_strategy


def query(logits, n):
    logits = torch.as_tensor(logits, dtype=torch.float32)
    pool = PoolOutputs(torch.arange(len(logits)) * 2 + 5, logits=logits)
    return run_strategy("entropy", pool, n, np.random.default_rng(0))


@settings(deadline=None)
@given(
    npst.arrays(
        np.float32,
        npst.array_shapes(min_dims=2, max_dims=2, max_side=20),
        elements=st.floats(-100, 100, width=32),
    )
)
def test_scores_are_scipys_entropies_of_all_candidates(logits):
    result = query(logits, len(logits))
    expected = scipy.stats.entropy(scipy.special.softmax(logits.astype(np.float64), axis=1), axis=1)
    rows = (np.array(result.indices) - 5) // 2
    np.testing.assert_allclose(result.scores, expected[rows], rtol=1e-9, atol=1e-12)
    assert min(result.scores) >= 0
    ranked = list(zip(result.scores, result.indices, strict=True))
    for (score, index), (next_score, next_index) in pairwise(ranked):
        assert score >= next_score
        if sorted(logits[(index - 5) // 2]) == sorted(logits[(next_index - 5) // 2]):
            assert index < next_index, "ties go to the lowest pool index"


def test_uniform_logits_have_log_c_nats_and_one_class_has_none():
    np.testing.assert_allclose(query(np.zeros((1, 8)), 1).scores, np.log(8))
    assert query(np.array([[3.0], [1e30]]), 2).scores == (0.0, 0.0)


def test_rows_that_differ_in_the_order_of_classes_tie():
    row = np.random.default_rng(0).normal(size=11)
    logits = np.stack([np.roll(row, shift) for shift in range(11)] + [10 * row])
    result = query(logits, 11)
    assert result.indices == tuple(range(5, 27, 2))
    assert len(set(result.scores)) == 1


def test_extreme_but_finite_logits_give_numbers():
    top = float(np.finfo(np.float32).max)
    result = query(np.array([[top, -top], [top, top], [-top, -top], [0.0, 5.0]]), 4)
    assert result.indices == (7, 9, 11, 5)
    np.testing.assert_allclose(result.scores[:2], np.log(2))
    assert result.scores[3] == 0.0


def test_confident_predictions_keep_their_order():
    gaps = np.array([10.0, 1e4, 30.0, 800.0, 50.0, 700.0, 2e4])
    logits = np.zeros((len(gaps), 3))
    logits[:, 1] = gaps
    result = query(logits, len(gaps))
    assert [(i - 5) // 2 for i in result.indices] == np.argsort(gaps).tolist()
    for score, gap in zip(result.scores[:4], sorted(gaps), strict=False):
        with mpmath.workdps(400):
            rest = 1 / (mpmath.exp(gap) + 2)
            exact = -2 * rest * mpmath.log(rest) - (1 - 2 * rest) * mpmath.log1p(-2 * rest)
        np.testing.assert_allclose(score, float(exact), rtol=1e-12)


def test_pools_larger_than_a_block_are_ranked_as_a_whole(monkeypatch):
    logits = np.random.default_rng(1).normal(size=(300, 4))
    whole = query(logits, 50)
    monkeypatch.setattr("alhpo.strategies.rows.BLOCK", 28)
    assert query(logits, 50) == whole
