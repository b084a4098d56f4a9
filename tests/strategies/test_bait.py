"""BAIT against explicit inverses, Fisher information by automatic differentiation, and algebra."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.special import softmax

from alhpo.base.errors import ConfigurationError
from alhpo.base.types import PoolOutputs
from alhpo.strategies import get_strategy, run_strategy, strategy_names
from alhpo.testing import check_strategy


def make_pool(logits, features, labeled_logits, labeled_features):
    return PoolOutputs(
        torch.arange(len(logits)) * 2 + 1,
        logits=torch.as_tensor(logits),
        features=torch.as_tensor(features),
        labeled_logits=torch.as_tensor(labeled_logits),
        labeled_features=torch.as_tensor(labeled_features),
    )


def query(pool, n, name="bait"):
    result = run_strategy(name, make_pool(*pool), n, np.random.default_rng(0))
    return [(i - 1) // 2 for i in result.indices], list(result.scores)


def draw_pool(seed, n=25, labeled=4, width=4, classes=3, spread=1.0):
    draw = np.random.default_rng(seed)
    sizes = [(n, classes), (n, width), (labeled, classes), (labeled, width)]
    logits, features, *known = (draw.normal(size=size).astype(np.float32) for size in sizes)
    features *= np.exp(spread * draw.normal(size=(n, 1))).astype(np.float32)
    return 2 * logits, features, 2 * known[0], known[1]


def binary_information(logits, features):
    """p̂(1 − p̂) h hᵀ of each row."""
    p = softmax(logits.astype(np.float64), axis=1)
    best = p.argmax(axis=1)
    largest = p[np.arange(len(p)), best]
    p[np.arange(len(p)), best] = 0
    h = features.astype(np.float64)
    return np.einsum("n,nd,ne->nde", largest * p.sum(axis=1), h, h)


def full_information(logits, features):
    """E over y ~ p of g gᵀ for each row, g being the gradient of the cross-entropy with the label y
    with respect to the weights of the last layer, by automatic differentiation."""
    width = logits.shape[1] * features.shape[1]
    result = np.zeros((len(logits), width, width))
    for i, (x, h) in enumerate(zip(logits, features, strict=True)):
        x, h = torch.as_tensor(x).double(), torch.as_tensor(h).double()
        for label, probability in enumerate(x.softmax(dim=0).tolist()):
            weights = torch.zeros(len(x), len(h), dtype=torch.float64, requires_grad=True)
            outputs = x + weights @ h
            loss = torch.nn.functional.cross_entropy(outputs[None], torch.tensor([label]))
            gradient = torch.autograd.grad(loss, weights)[0].flatten().numpy()
            result[i] += probability * np.outer(gradient, gradient)
    return result


def rounded(values):
    """To the 24 bits in which the strategy compares values."""
    return [float(np.float32(value)) for value in values]


def brute_force(information, pool, n, penalty):
    """The definition: every trace from an explicit inverse.

    Returns the positions, the decreases at their addition, and the traces after every step.
    """
    candidates, labeled = information(*pool[:2]), information(*pool[2:])
    mean = np.concatenate([candidates, labeled]).mean(axis=0)
    size, n_labeled = len(mean), len(labeled)
    start = penalty * np.eye(size) + labeled.sum(axis=0) / (n_labeled + n)

    def trace(chosen):
        total = sum((candidates[i] for i in chosen), np.zeros_like(mean))
        return np.trace(np.linalg.inv(start + n / (n_labeled + n) * total) @ mean)

    chosen, gains, traces = [], {}, [trace([])]
    while len(chosen) < min(2 * n, len(candidates)):
        left = [i for i in range(len(candidates)) if i not in chosen]
        values = rounded(traces[-1] - trace([*chosen, i]) for i in left)
        pick = left[values.index(max(values))]
        chosen.append(pick)
        gains[pick] = max(values)
        traces.append(trace(chosen))
    while len(chosen) > n:
        by_index = sorted(chosen, reverse=True)
        costs = rounded(trace([j for j in chosen if j != i]) - traces[-1] for i in by_index)
        chosen.remove(by_index[costs.index(min(costs))])
        traces.append(trace(chosen))
    return chosen, [gains[i] for i in chosen], traces


# Widths on both sides of n: removals work in the space of the images or in that of the features.
# The largest is beyond all images together, which then span a part of the space.
@pytest.mark.parametrize("n", [1, 3, 8, 12, 25])
@pytest.mark.parametrize("width", [2, 5, 40])
@pytest.mark.parametrize("labeled", [0, 4])
@pytest.mark.parametrize("penalty", [0.01, 1, 30])
def test_binary_form_equals_brute_force(n, width, labeled, penalty):
    for seed in range(3):
        pool = draw_pool(seed, labeled=labeled, width=width)
        chosen, scores = query(pool, n, f"bait:binary@{penalty}")
        expected, gains, _ = brute_force(binary_information, pool, n, penalty)
        assert chosen == expected
        np.testing.assert_allclose(scores, gains, rtol=1e-5)


@pytest.mark.parametrize("n", [1, 3, 7, 14])
@pytest.mark.parametrize("width, classes", [(1, 3), (3, 2), (2, 4), (24, 2)])
@pytest.mark.parametrize("labeled", [0, 4])
def test_full_form_equals_brute_force_with_fisher_by_autograd(n, width, classes, labeled):
    for seed, penalty in enumerate([0.1, 1]):
        pool = draw_pool(seed, 14, labeled, width, classes)
        chosen, scores = query(pool, n, f"bait:full@{penalty}")
        expected, gains, _ = brute_force(full_information, pool, n, penalty)
        assert chosen == expected
        np.testing.assert_allclose(scores, gains, rtol=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(0, 5), st.integers(1, 5), st.data())
def test_random_pools_equal_brute_force(seed, size, labeled, width, data):
    n = data.draw(st.integers(1, size))
    pool = draw_pool(seed, size, labeled, width)
    chosen, scores = query(pool, n, "bait:binary@0.3")
    expected, gains, traces = brute_force(binary_information, pool, n, 0.3)
    assert chosen == expected
    np.testing.assert_allclose(scores, gains, rtol=1e-5)
    steps = np.diff(traces)
    added = min(2 * n, size)
    assert (steps[:added] < 0).all()
    assert (steps[added:] > 0).all()


def test_picks_from_float32_are_those_of_float64():
    for seed, scale in enumerate([0.1, 1, 30]):
        draw = np.random.default_rng(seed)
        centres, classes = draw.normal(size=(6, 40)), draw.integers(6, size=1500)
        features = np.maximum(centres[classes] + draw.normal(size=(1500, 40)), 0)
        features = (scale * features).astype(np.float32)
        logits = (features @ centres.T / (3 * scale)).astype(np.float32)
        single = (logits[100:], features[100:], logits[:100], features[:100])
        double = tuple(x.astype(np.float64) for x in single)
        for n in (15, 60):
            assert query(single, n) == query(double, n)


def test_with_two_classes_the_full_form_is_the_binary_one_of_half_the_penalty():
    for seed in range(6):
        pool = draw_pool(seed, 30, 5, 4, classes=2)
        assert query(pool, 6, "bait:full@0.4")[0] == query(pool, 6, "bait:binary@0.2")[0]


def test_plain_bait_is_the_binary_form_with_a_penalty_of_one():
    pool = draw_pool(0)
    assert query(pool, 5) == query(pool, 5, "bait:binary@1") == query(pool, 5, "bait:binary")
    assert query(pool, 5, "bait:full") == query(pool, 5, "bait:full@1")


def test_of_one_feature_the_largest_information_is_taken_in_order():
    logits, features, *known = draw_pool(3, 20, width=1)
    order = np.argsort(-binary_information(logits, features)[:, 0, 0])
    assert query((logits, features, *known), 6)[0] == order[:6].tolist()


def test_orthogonal_features_gain_separately():
    draw = np.random.default_rng(0)
    lengths, penalty, n = draw.uniform(1, 5, 9), 0.5, 3
    logits, known = draw_pool(0, 9)[0], draw_pool(1, 2, width=9)
    pool = (logits, np.diag(lengths).astype(np.float32), known[0], 0 * known[1])
    v = np.einsum("idd->i", binary_information(*pool[:2]))
    f, w = v / (9 + 2), v * n / (2 + n)
    gains = f * (1 / penalty - 1 / (penalty + w))
    chosen, scores = query(pool, n, f"bait:binary@{penalty}")
    assert chosen == np.argsort(-gains)[:n].tolist()
    np.testing.assert_allclose(scores, np.sort(gains)[: -n - 1 : -1], rtol=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(-15, 15), st.sampled_from(["binary", "full"]))
def test_invariances(seed, exponent, form):
    pool = draw_pool(seed, 30, 5, 6)
    chosen, scores = query(pool, 5, f"bait:{form}@1")
    scaled = tuple(x * np.float32(2.0**exponent) if i % 2 else x for i, x in enumerate(pool))
    assert query(scaled, 5, f"bait:{form}@{4.0**exponent}") == (chosen, scores)
    draw = np.random.default_rng(seed)
    turn = np.linalg.qr(draw.normal(size=(6, 6)))[0]
    turned = tuple(
        x.astype(np.float64) @ turn if i % 2 else x.astype(np.float64) for i, x in enumerate(pool)
    )
    assert query(turned, 5, f"bait:{form}@1")[0] == chosen
    order = draw.permutation(30)
    moved, gains = query((pool[0][order], pool[1][order], *pool[2:]), 5, f"bait:{form}@1")
    assert (order[moved].tolist(), gains) == (chosen, scores)


tables = st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 3)).flatmap(
    lambda shape: st.tuples(
        npst.arrays(np.float32, shape[:2], elements=st.integers(-2, 2)),
        npst.arrays(np.float32, (shape[0], shape[2]), elements=st.sampled_from([0, 1, 3])),
        st.integers(1, shape[0]),
        st.sampled_from(["binary", "full"]),
    )
)


@settings(deadline=None)
@given(tables, st.sampled_from([1e-4, 1, 1e4]), st.sampled_from([1, 1e6]))
def test_equals_and_zeros_still_make_sense(table, penalty, scale):
    logits, features, n, form = table
    pool = (logits, features * np.float32(scale), logits[:2], features[:2])
    chosen, scores = query(pool, n, f"bait:{form}@{penalty}")
    assert len(set(chosen)) == n
    assert all(math.isfinite(score) and score >= 0 for score in scores)
    for i in chosen:  # of equal candidates, the first ones, in this order
        equal = [
            j
            for j in range(i)
            if (logits[j] == logits[i]).all() and (features[j] == features[i]).all()
        ]
        assert set(equal) <= set(chosen[: chosen.index(i)])


@pytest.mark.parametrize("form", ["binary", "full"])
@pytest.mark.parametrize(
    "logits, features",
    [
        (np.zeros((6, 1), np.float32), np.ones((6, 3), np.float32)),  # one class
        (np.ones((6, 4), np.float32), np.zeros((6, 3), np.float32)),  # no features
    ],
)
def test_without_information_the_lowest_indices_are_taken(form, logits, features):
    for n in (1, 2, 6):
        pool = (logits, features, logits[:3], features[:3])
        assert query(pool, n, f"bait:{form}") == (list(range(n)), [0.0] * n)


def test_sure_predictions_keep_their_tiny_information():
    logits = np.array([[60.0, 0.0], [61.0, 0.0], [59.0, 0.0], [62.0, 0.0]], dtype=np.float32)
    pool = (logits, np.ones((4, 1), dtype=np.float32), logits[:0], np.ones((0, 1), np.float32))
    for form in ("binary", "full"):
        assert query(pool, 2, f"bait:{form}")[0] == [2, 0]


def test_removal_stays_exact_where_the_penalty_is_small():
    """Eight images are all that is known of eight directions: 1 − vᵀPv is about 10⁻⁷."""
    draw = np.random.default_rng(0)
    turn = np.linalg.qr(draw.normal(size=(16, 16)))[0]
    lengths = np.linspace(4, 5, 8)
    features = lengths[:, None] * turn[:8]
    logits = np.zeros((8, 2))
    pool = (logits, features, logits[:0], features[:0])
    # The trace is the sum over directions, so that the longest are kept.
    assert query(pool, 4, "bait:binary@1e-6")[0] == [7, 6, 5, 4]


@pytest.mark.parametrize("seed", range(8))
def test_what_alone_tells_of_a_direction_is_kept(seed):
    draw = np.random.default_rng(seed)
    turn = np.linalg.qr(draw.normal(size=(3, 3)))[0]
    features = 1e3 * draw.normal(size=(40, 3)) * [1, 1, 0]
    features[17] = [0, 0, 1e3]
    logits = draw.normal(size=(40, 3))
    pool = (logits, features @ turn, logits[:0], features[:0])
    assert 17 in query(pool, 8, "bait:binary@1e-4")[0]


@pytest.mark.parametrize("width", [4, 12])
@pytest.mark.parametrize("seed", range(8))
def test_equal_images_tie_at_the_smallest_penalty(seed, width):
    logits, features, *known = draw_pool(seed, 6, 3, width, spread=0)
    pool = (logits.repeat(3, axis=0), 1e4 * features.repeat(3, axis=0), *known)
    for n in (2, 4, 7):
        chosen, _ = query(pool, n, "bait:binary@1e-9")
        for i in chosen:
            assert set(range(i // 3 * 3, i)) <= set(chosen[: chosen.index(i)])


def test_the_full_form_conforms():
    check_strategy("bait:full@0.5")


def test_large_full_forms_are_refused_and_the_binary_one_is_not():
    for classes, width in ((33, 2), (10, 820)):
        pool = draw_pool(0, 3, 1, width, classes)
        with pytest.raises(ConfigurationError, match=f"C = {classes} .*D = {width} .*'bait'"):
            query(pool, 1, "bait:full")
        assert len(query(pool, 1)[0]) == 1


@pytest.mark.parametrize("text", ["", "0.1", "half", "binary@", "binary@0", "full@-1", "full@inf"])
def test_illegal_arguments_are_refused(text):
    with pytest.raises(ConfigurationError, match=r"'binary' or 'full'.*'bait:binary@0\.01'"):
        get_strategy(f"bait:{text}")
    assert "bait:FORM@LAMBDA" in strategy_names()
