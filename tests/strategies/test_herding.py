"""MaxHerding and UHerding against their definitions."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.datasets import load_digits

from alhpo.base.errors import ConfigurationError
from alhpo.base.types import PoolOutputs
from alhpo.strategies import kernel_coverage, kernel_sums, run_strategy


def pool_of(features, labeled, **outputs):
    return PoolOutputs(
        torch.arange(len(features)) * 2 + 3,
        features=torch.as_tensor(features),
        labeled_features=torch.as_tensor(labeled),
        **outputs,
    )


def query(name, pool, n):
    result = run_strategy(name, pool, n, np.random.default_rng(0))
    return [(i - 3) // 2 for i in result.indices], list(result.scores), result.state


def unit(rows):
    """Rows of length 1, rounded as they came, as the strategies compare them; in float64."""
    given = np.asarray(rows)
    rows = given.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(norms > 0, norms, 1)).astype(given.dtype).astype(np.float64)


def kernel(a, b, sigma):
    return np.exp(-((a[:, None] - b[None]) ** 2).sum(axis=2) / sigma**2)


def brute_force(features, labeled, n, sigma=1.0, weights=None):
    """Step by step from the definition, each from scratch, with sums in sorted order."""
    z, known = unit(features), unit(labeled).reshape(-1, np.shape(features)[1])
    u = np.ones(len(z)) if weights is None else np.asarray(weights, np.float64)
    chosen, gains = [], []
    for _ in range(n):
        centres = np.concatenate([known, z[chosen]])
        m = kernel(z, centres, sigma).max(axis=1) if len(centres) else np.zeros(len(z))
        gain = np.sort(u * np.maximum(kernel(z, z, sigma) - m, 0), axis=1).sum(axis=1)
        gain = np.where(gain <= 1e-12 * u.sum(), 0, gain).astype(np.float32)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        gains.append(float(gain.max()) / len(z))
    return chosen, gains


tables = st.tuples(st.integers(1, 10), st.integers(0, 4), st.integers(1, 4)).flatmap(
    lambda shape: st.tuples(
        npst.arrays(np.float32, (shape[0], shape[2]), elements=st.integers(-2, 2)),
        npst.arrays(np.float32, (shape[1], shape[2]), elements=st.integers(-2, 2)),
        npst.arrays(np.float64, shape[0], elements=st.sampled_from([0.0, 0.25, 1.0])),
        st.integers(1, shape[0]),
        st.sampled_from([0.05, 0.5, 1.0, 30.0]),
    )
)


@settings(deadline=None, max_examples=150)
@given(tables)
def test_equals_brute_force_with_ties_duplicates_and_zero_rows(table):
    features, labeled, _, n, sigma = table
    chosen, scores, state = query(f"maxherding:{sigma}", pool_of(features, labeled), n)
    expected, gains = brute_force(features, labeled, n, sigma)
    assert chosen == expected
    np.testing.assert_allclose(scores, gains, rtol=1e-6)
    assert scores == sorted(scores, reverse=True)
    assert state is None


@pytest.mark.parametrize("sigma, labeled", itertools.product([0.2, 1.0, 3.0], [0, 1, 12]))
def test_equals_brute_force_on_real_numbers(sigma, labeled):
    draw = np.random.default_rng(labeled)
    features, known = draw.normal(size=(70, 6)), draw.normal(size=(labeled, 6))
    chosen, scores, _ = query(f"maxherding:{sigma}", pool_of(features, known), 70)
    expected, gains = brute_force(features, known, 70, sigma)
    assert chosen == expected
    np.testing.assert_allclose(scores, gains, rtol=1e-6, atol=1e-12)


def test_larger_pools_than_a_tile_equal_the_definition():
    images = load_digits().data.astype(np.float32)
    features = np.concatenate([images, images[::-1] + 1])[:2500]
    chosen, scores, _ = query("maxherding", pool_of(features, features[:0]), 12)
    z = unit(features)
    k = kernel_of_many(z)
    m = np.zeros(len(z))
    for position, score in zip(chosen, scores, strict=True):
        gains = np.maximum(k - m, 0).mean(axis=1)
        assert gains[position] == pytest.approx(gains.max(), rel=1e-7)
        assert score == pytest.approx(gains[position], rel=1e-6)
        m = np.maximum(m, k[position])


@pytest.mark.parametrize("sigma, labeled", itertools.product([0.3, 1.0], [0, 20]))
def test_tiles_do_not_change_the_choice(sigma, labeled, monkeypatch):
    for module in (kernel_coverage, kernel_sums):
        monkeypatch.setattr(module, "TILE", 16)
    draw = np.random.default_rng(labeled)
    images = draw.normal(size=(12, 5))[draw.integers(12, size=220)]
    images = (images + 0.3 * draw.normal(size=(220, 5))).astype(np.float32)
    known, features = images[:labeled], images[labeled:]
    chosen, scores, _ = query(f"maxherding:{sigma}", pool_of(features, known), 90)
    expected, gains = brute_force(features, known, 90, sigma)
    assert chosen == expected
    np.testing.assert_allclose(scores, gains, rtol=1e-6, atol=1e-12)


def test_many_equal_images_come_after_all_others():
    draw = np.random.default_rng(0)
    features = draw.normal(size=(90, 4)).astype(np.float32)
    features[10:60] = features[10]
    chosen, scores, _ = query("maxherding", pool_of(features, features[:1]), 89)
    others = [*range(1, 11), *range(60, 90)]
    assert sorted(chosen[:40]) == others
    assert chosen[40:] == [0, *range(11, 59)]
    assert scores[40:] == [0.0] * 49


def kernel_of_many(z):
    squares = (z**2).sum(axis=1)
    return np.exp(-np.maximum(squares[:, None] + squares[None] - 2 * z @ z.T, 0))


def test_a_narrow_kernel_takes_the_largest_groups_of_equal_rows_first():
    rows = [[1, 0], [0, 1], [0, 1], [-1, 0], [0, -1], [0, -1], [0, -1]]
    assert query("maxherding:0.001", pool_of(np.array(rows, float), np.ones((0, 2))), 7)[0] == [
        *(4, 1, 0, 3),
        *(2, 5, 6),
    ]


def test_a_wide_kernel_is_greedy_k_medoids():
    draw = np.random.default_rng(4)
    features = draw.normal(size=(40, 5))
    z = unit(features)
    squares = ((z[:, None] - z[None]) ** 2).sum(axis=2)
    nearest, expected = np.full(40, np.inf), []
    for _ in range(6):
        costs = np.minimum(squares, nearest).sum(axis=1)
        costs[expected] = np.inf
        expected.append(int(costs.argmin()))
        nearest = np.minimum(nearest, squares[expected[-1]])
    assert query("maxherding:100", pool_of(features, features[:0]), 6)[0] == expected


@pytest.mark.parametrize("seed", range(5))
def test_covers_as_much_as_submodularity_promises(seed):
    features = np.random.default_rng(seed).normal(size=(12, 3))
    k = kernel(unit(features), unit(features), 1.0)
    coverage = {s: k[list(s)].max(axis=0).mean() for s in itertools.combinations(range(12), 3)}
    chosen = query("maxherding", pool_of(features, features[:0]), 3)
    assert sum(chosen[1]) == pytest.approx(coverage[tuple(sorted(chosen[0]))], rel=1e-6)
    assert sum(chosen[1]) >= (1 - 1 / math.e) * max(coverage.values())


def test_fewer_picks_are_a_prefix_and_lengths_of_rows_do_not_matter():
    draw = np.random.default_rng(0)
    features, labeled = draw.normal(size=(50, 4)), draw.normal(size=(5, 4))
    everything = query("maxherding", pool_of(features, labeled), 50)[0]
    assert sorted(everything) == list(range(50))
    for n in (1, 7, 49):
        assert query("maxherding", pool_of(features, labeled), n)[0] == everything[:n]
    longer = features * draw.choice([0.25, 1.0, 8.0], size=(50, 1))
    assert query("maxherding", pool_of(longer, labeled), 20)[0] == everything[:20]


# UHerding


def logits_of(probabilities):
    return torch.tensor(np.log(probabilities))


def uherding_pool(n=40, labeled=10, classes=4, seed=0, **changes):
    draw = np.random.default_rng(seed)
    outputs = {
        "logits": torch.tensor(2 * draw.normal(size=(n, classes))),
        "heldout_logits": torch.tensor(5 * draw.normal(size=(labeled, classes))),
        "heldout_labels": torch.tensor(draw.integers(classes, size=labeled)),
    }
    features, known = draw.normal(size=(n, 5)), draw.normal(size=(labeled, 5))
    return pool_of(features, known, **outputs | changes)


def margins(logits):
    p = np.sort(torch.softmax(torch.as_tensor(logits).double(), dim=1).numpy(), axis=1)
    return 1 - (p[:, -1] - p[:, -2])


@pytest.mark.parametrize("seed", range(4))
def test_weights_are_margins_at_the_best_temperature_and_the_radius_is_the_smallest_distance(seed):
    pool = uherding_pool(seed=seed)
    chosen, scores, state = query("uherding", pool, 20)
    losses = {}
    for step in range(10, 200):
        p = torch.softmax(pool.heldout_logits / (step / 10), dim=1)
        own = p[torch.arange(10), pool.heldout_labels]
        losses[step / 10] = float(-own.log().mean())
    assert state["temperature"] == min(losses, key=losses.get)
    z = unit(pool.labeled_features)
    assert state["sigma"] == pytest.approx(
        min(math.dist(a, b) for a, b in itertools.combinations(z.tolist(), 2)), rel=1e-9
    )
    u = margins(pool.logits / state["temperature"])
    expected, gains = brute_force(
        pool.features, pool.labeled_features, 20, state["sigma"], u / u.max()
    )
    assert chosen == expected
    np.testing.assert_allclose(scores, gains, rtol=1e-5)


@settings(deadline=None, max_examples=100)
@given(tables)
def test_uherding_equals_brute_force_with_ties(table):
    features, labeled, weights, n, sigma = table
    probabilities = np.stack([(1 - w / 2, w / 2) for w in weights]).clip(1e-300)
    none = {
        "heldout_logits": torch.empty(0, 2),
        "heldout_labels": torch.empty(0, dtype=torch.int64),
    }
    pool = pool_of(features, labeled, logits=logits_of(probabilities), **none)
    chosen, _, state = query(f"uherding:margin@{sigma}", pool, n)
    u = margins(pool.logits).astype(np.float32).astype(np.float64)
    constant = len(labeled) == 0 or u.max() == 0
    expected, _ = brute_force(features, labeled, n, sigma, None if constant else u / u.max())
    z = unit(features)
    if chosen != expected:  # weights of float32 and of float64 may break a tie in another way
        first = next(k for k, (a, b) in enumerate(zip(chosen, expected, strict=True)) if a != b)
        u = np.ones(len(z)) if constant else u / u.max()
        known = np.concatenate([unit(labeled).reshape(-1, z.shape[1]), z[chosen[:first]]])
        m = kernel(z, known, sigma).max(axis=1) if len(known) else 0
        gains = (u * np.maximum(kernel(z, z, sigma) - m, 0)).sum(axis=1)
        assert gains[chosen[first]] == pytest.approx(gains[expected[first]], rel=1e-6, abs=1e-9)
    assert state == {"temperature": 1.0, "sigma": sigma}


def test_without_labels_it_is_maxherding():
    pool = uherding_pool(labeled=0)
    chosen, scores, state = query("uherding", pool, 15)
    assert (chosen, scores) == query("maxherding", pool, 15)[:2]
    assert state == {"temperature": 1.0, "sigma": 1.0}


def test_constant_uncertainty_is_maxherding_of_the_same_width():
    pool = uherding_pool(logits=torch.zeros(40, 4))
    one = query("uherding:entropy@0.7", pool, 15)
    assert one[:2] == query("maxherding:0.7", pool, 15)[:2]


def test_sure_predictions_alone_are_maxherding():
    pool = uherding_pool(logits=torch.zeros(40, 1), heldout_logits=torch.zeros(10, 1))
    pool.heldout_labels.zero_()
    assert query("uherding:margin@1", pool, 15)[0] == query("maxherding", pool, 15)[0]


def test_a_narrow_kernel_is_uncertainty_sampling():
    pool = uherding_pool()
    chosen, _, state = query("uherding:margin@0.001", pool, 40)
    u = margins(pool.logits / state["temperature"])
    assert chosen == np.argsort(-u, kind="stable").tolist()


def test_equal_labelled_rows_do_not_make_the_radius_zero():
    pool = uherding_pool(labeled=4)
    labeled = pool.labeled_features
    twice = torch.cat([labeled, labeled[:2], 3 * labeled[:1]])
    held_out = {"heldout_logits": pool.heldout_logits, "heldout_labels": pool.heldout_labels}
    more = pool_of(pool.features, twice, logits=pool.logits, **held_out)
    assert query("uherding", more, 5)[2] == query("uherding", pool, 5)[2]
    alike = pool_of(pool.features, labeled[:1].repeat(3, 1), logits=pool.logits, **held_out)
    assert query("uherding", alike, 5)[2]["sigma"] == 1.0


def test_scaled_held_out_logits_scale_the_temperature():
    draw = np.random.default_rng(1)
    logits = torch.tensor(draw.normal(size=(200, 4)))
    labels = torch.multinomial(torch.softmax(logits, 1), 1, generator=torch.Generator())[:, 0]
    found = [
        query("uherding", uherding_pool(heldout_logits=s * logits, heldout_labels=labels), 1)[2]
        for s in (2, 4, 8)
    ]
    one, two, three = (state["temperature"] for state in found)
    assert two == pytest.approx(2 * one, abs=0.15)
    assert three == pytest.approx(4 * one, abs=0.3)


@pytest.mark.parametrize(
    "name, match",
    [
        ("maxherding:0", r"'0'.*\[0.001, 100\]"),
        ("maxherding:wide", "'wide'"),
        ("uherding:badge", "'badge'. Legal: margin, entropy, least-confidence"),
        ("uherding:margin@-1", "'-1'"),
    ],
)
def test_illegal_names_are_refused(name, match):
    with pytest.raises(ConfigurationError, match=match):
        run_strategy(name, uherding_pool(), 1, np.random.default_rng(0))
