"""BatchBALD against enumeration of the joint distribution, and scikit-activeml."""

import itertools

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from digits_passes import digits_passes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from alhpo.base.errors import ConfigurationError
from alhpo.base.types import PoolOutputs
from alhpo.outputs.dropout_passes import TensorPasses
from alhpo.strategies import get_strategy, run_strategy

batchbald = get_strategy("batchbald")


def pool_of(passes):
    if not hasattr(passes, "logits"):
        passes = TensorPasses(torch.as_tensor(passes, dtype=torch.float32))
    n = passes.logits(slice(None)).shape[1]
    return PoolOutputs(torch.arange(n) * 3 + 4, passes=passes)


def query(passes, n, seed=0, **options):
    """Rows, in order of choice, and their scores."""

    def strategy(pool, n, generator):
        return batchbald(pool, n, generator, **options)

    strategy.needs = batchbald.needs
    result = run_strategy(strategy, pool_of(passes), n, np.random.default_rng(seed))
    return [(i - 4) // 3 for i in result.indices], list(result.scores)


def probabilities(logits):
    return scipy.special.softmax(np.asarray(logits, dtype=np.float64), axis=2)


def information(p, rows):
    """I(y of these rows; pass) by enumeration of every configuration of (T, N, C)."""
    entropy = 0.0
    for labels in itertools.product(range(p.shape[2]), repeat=len(rows)):
        each = np.prod([p[:, row, label] for row, label in zip(rows, labels, strict=True)], axis=0)
        entropy += scipy.special.entr(each.mean())
    return entropy - scipy.special.entr(p[:, rows]).sum(axis=(1, 2)).mean()


def greedy(p, n):
    """Algorithm 1: all candidates anew each time."""
    chosen, totals = [], [0.0]
    for _ in range(n):
        free = [row for row in range(p.shape[1]) if row not in chosen]
        values = [information(p, [*chosen, row]) for row in free]
        chosen.append(free[int(np.argmax(values))])
        totals.append(max(values))
    return chosen, np.diff(totals)


@pytest.mark.parametrize("seed", range(6))
def test_equals_enumeration_of_the_joint_distribution(seed):
    draw = np.random.default_rng(seed)
    logits = 2 * draw.normal(size=(draw.integers(2, 7), 9, draw.integers(2, 4)))
    rows, scores = query(logits, 5)
    expected, gains = greedy(probabilities(logits.astype(np.float32)), 5)
    assert rows == expected
    np.testing.assert_allclose(scores, gains, atol=1e-12)


def test_equals_enumeration_on_digits():
    passes = digits_passes(40, 400)[0]
    rows, scores = query(passes, 3)
    p = probabilities(passes.logits(slice(None)))
    best = information_of_each(p)
    assert rows[0] == int(best.argmax())
    few = [rows[0], *(row for row in best.argsort()[::-1][:40] if row != rows[0])]
    expected, gains = greedy(p[:, few], 3)
    assert rows == [few[i] for i in expected]
    np.testing.assert_allclose(scores, gains, atol=1e-6)


def information_of_each(p):
    mean = scipy.stats.entropy(p.mean(axis=0), axis=1)
    return mean - scipy.stats.entropy(p, axis=2).mean(axis=0)


def test_equals_scikit_activeml_while_it_is_exact():
    oracle = pytest.importorskip("skactiveml.pool").batch_bald
    for seed in range(3):
        logits = np.random.default_rng(seed).normal(size=(12, 60, 4))
        p = probabilities(logits.astype(np.float32))
        utilities = oracle(p, 4, n_MC_samples=4**3, random_state=0)
        rows, scores = query(logits, 4)
        assert rows == np.nanargmax(utilities, axis=1).tolist()
        np.testing.assert_allclose(np.cumsum(scores), np.nanmax(utilities, axis=1), atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(
    npst.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(1, 3)),
        elements=st.floats(-8, 8, width=32),
    )
)
def test_what_is_added_never_rises_and_sums_to_the_joint_information(logits):
    n = logits.shape[1]
    rows, scores = query(logits, n, num_samples=3**7)
    assert sorted(rows) == list(range(n))
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(scores))
    assert min(scores) >= 0
    total = information(probabilities(logits), rows)
    assert total <= np.log(len(logits)) + 1e-9
    np.testing.assert_allclose(sum(scores), total, atol=1e-9)


def test_one_choice_is_balds():
    passes = digits_passes(40, 400)[0]
    bald = run_strategy("bald", pool_of(passes), 5, np.random.default_rng(0))
    rows, scores = query(passes, 1)
    assert rows == [(bald.indices[0] - 4) // 3]
    assert scores == [bald.scores[0]]


def test_sampled_configurations_estimate_the_joint_information():
    logits = np.random.default_rng(5).normal(size=(6, 9, 3)).astype(np.float32)
    exact = information(probabilities(logits), range(9))
    totals = [sum(query(logits, 9, seed=seed, num_samples=30)[1]) for seed in range(40)]
    assert len(set(totals)) > 30
    np.testing.assert_allclose(np.mean(totals), exact, rtol=0.03)
    fine = [sum(query(logits, 9, seed=seed, num_samples=3000)[1]) for seed in range(4)]
    np.testing.assert_allclose(fine, exact, rtol=0.02)
    assert np.std(fine) < np.std(totals) / 3


def test_sampling_chooses_batches_as_good_as_enumeration():
    logits = 1.5 * np.random.default_rng(6).normal(size=(5, 12, 3)).astype(np.float32)
    p = probabilities(logits)
    exact = information(p, query(logits, 6, num_samples=3**6)[0])
    for seed in range(3):
        rows, _ = query(logits, 6, seed=seed, num_samples=200)
        assert information(p, rows) > 0.97 * exact


@pytest.mark.parametrize("num_samples", [20, 100_000])
def test_skipping_candidates_by_their_bounds_changes_no_exact_choice(num_samples, monkeypatch):
    logits = np.random.default_rng(7).normal(size=(8, 200, 3)).astype(np.float32)
    monkeypatch.setattr("alhpo.strategies.batchbald.CANDIDATES", 1)
    one_by_one = query(logits, 8, num_samples=num_samples)
    monkeypatch.setattr("alhpo.strategies.batchbald.CANDIDATES", 1000)
    everything = query(logits, 8, num_samples=num_samples)
    exact = 8 if num_samples == 100_000 else 3  # choices made from at most 20 configurations
    assert one_by_one[0][:exact] == everything[0][:exact]
    np.testing.assert_allclose(one_by_one[1][:exact], everything[1][:exact], atol=1e-12)


def test_a_batch_is_not_the_same_candidate_many_times():
    draw = np.random.default_rng(8)
    different = 1.5 * draw.normal(size=(20, 6, 4))
    same = np.repeat(4 * draw.normal(size=(20, 1, 4)), 10, axis=1)  # of more information each
    logits = np.concatenate([same, different], axis=1)
    bald = run_strategy("bald", pool_of(logits), 6, np.random.default_rng(0))
    assert all((i - 4) // 3 < 10 for i in bald.indices)
    rows, _ = query(logits, 6)
    assert sum(row < 10 for row in rows) <= 3
    assert rows[0] == 0


def test_passes_that_agree_leave_the_order_of_the_pool():
    logits = np.repeat(np.random.default_rng(9).normal(size=(1, 30, 5)), 7, axis=0)
    assert query(logits, 30) == (list(range(30)), [0.0] * 30)


def test_no_pass_left_to_doubt():
    logits = np.zeros((3, 40, 3), np.float32)
    logits[[0, 1, 2], :, [0, 1, 2]] = 1e4  # any label tells which pass it was
    rows, scores = query(logits, 40, num_samples=5)
    assert rows == list(range(40))
    np.testing.assert_allclose(scores, [np.log(3)] + [0.0] * 39, atol=1e-12)


def test_nothing_is_drawn_while_configurations_are_enumerated():
    logits = np.random.default_rng(10).normal(size=(4, 20, 3)).astype(np.float32)
    generator = np.random.default_rng(0)
    before = generator.bit_generator.state
    run_strategy("batchbald", pool_of(logits), 5, generator)
    assert generator.bit_generator.state == before
    run_strategy("batchbald", pool_of(logits), 12, generator)
    assert generator.bit_generator.state != before


@pytest.mark.parametrize("num_samples", [0, -1])
def test_refuses_no_samples(num_samples):
    with pytest.raises(
        ConfigurationError, match=f"num_samples of batchbald is {num_samples}; expected"
    ):
        query(np.zeros((2, 3, 2)), 1, num_samples=num_samples)


@pytest.mark.slow
def test_a_hundred_of_thousands():
    draw = np.random.default_rng(11)
    shared, each = draw.normal(size=(1, 3000, 10)), draw.normal(size=(100, 3000, 10))
    rows, scores = query(2 * shared + 0.3 * each, 100)
    assert len(set(rows)) == 100
    assert 0 < sum(scores) < np.log(100) * 1.05
    assert min(scores) > 0
