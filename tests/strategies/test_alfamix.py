"""ALFA-Mix against the published mixing ratios, with gradients by automatic differentiation."""

import numpy as np
import pytest
import torch
from cluster_choices import nearest_to_centres
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from alhpo.base.types import PoolOutputs
from alhpo.strategies import run_strategy
from alhpo.strategies.clustering import k_means
from alhpo.strategies.rows import Rows, normalised

CAPS = (0.2, 0.4, 0.6, 0.8, 1.0)


def linear(weights, bias):
    return lambda features: features @ weights.to(features).T + bias.to(features)


def shifted(weights, bias):
    """The same predictions and losses, though no linear function."""
    return lambda x: linear(weights, bias)(x) + x.square().sum(dim=1, keepdim=True)


def hidden(seed, width, classes):
    draw = torch.Generator().manual_seed(seed)
    first = torch.randn(width, 16, generator=draw, dtype=torch.float64) / width**0.5
    second = torch.randn(16, classes, generator=draw, dtype=torch.float64)
    return lambda x: ((x.double() @ first).tanh() @ second).to(x)


def problem(seed, n_rows=40, width=6, classes=4, labeled=8, scale=1.0):
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(n_rows, width, generator=draw)
    known = torch.randn(labeled, width, generator=draw)
    labels = torch.randint(classes, (labeled,), generator=draw)
    weights = scale * torch.randn(classes, width, generator=draw)
    bias = scale * torch.randn(classes, generator=draw)
    return features, known, labels, weights, bias


def query(features, known, labels, classify, n, seed=0):
    pool = PoolOutputs(
        torch.arange(len(features)) + 7,
        features=features,
        labels=labels,
        labeled_features=known,
        classify=classify,
    )
    result = run_strategy("alfamix", pool, n, np.random.default_rng(seed))
    return [i - 7 for i in result.indices], list(result.scores)


def smallest_caps(features, known, labels, classify):
    """(N,) from the scores of a query of everything: infinite for those that are drawn."""
    chosen, scores = query(features, known, labels, classify, len(features))
    caps = np.empty(len(features))
    with np.errstate(divide="ignore"):
        caps[chosen] = 1 / np.array(scores) - 1
    return caps


def changes(z, known, labels, classify, cap):
    """Whether mixing changes the prediction, as published."""
    z = z.double().requires_grad_()
    logits = classify(z[None])
    predicted = logits.argmax(dim=1)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, predicted), z)
    if not gradient.norm() > 0:
        return False
    for label in labels.unique():
        away = known[labels == label].double().mean(dim=0) - z.detach()
        epsilon = cap / len(z) ** 0.5
        alpha = epsilon * away.norm() / gradient.norm() * gradient / away
        mixed = alpha * (z.detach() + away) + (1 - alpha) * z.detach()
        if classify(mixed[None]).argmax(dim=1) != predicted:
            return True
    return False


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 12), st.sampled_from([0.1, 0.5, 1.5])
)
def test_caps_of_a_linear_classifier_are_those_of_the_published_ratios(
    seed, classes, labeled, scale
):
    features, known, labels, *head = problem(
        seed, 12, classes=classes, labeled=labeled, scale=scale
    )
    caps = smallest_caps(features, known, labels, linear(*head))
    for z, cap in zip(features, caps, strict=True):
        if np.isfinite(cap):
            assert cap <= 1.0001
            assert changes(z, known, labels, linear(*head), cap * 1.001)
            assert not changes(z, known, labels, linear(*head), cap * 0.999)
        else:
            assert not changes(z, known, labels, linear(*head), 0.999)


@pytest.mark.parametrize("seed", range(4))
def test_caps_of_a_hidden_layer_are_the_first_of_the_steps(seed):
    features, known, labels, *_ = problem(seed)
    classify = hidden(seed, 6, 4)
    caps = smallest_caps(features, known, labels, classify)
    expected = [
        next((cap for cap in CAPS if changes(z, known, labels, classify, cap)), np.inf)
        for z in features
    ]
    np.testing.assert_allclose(caps, expected, rtol=1e-9)
    assert len(set(expected)) > 2


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 2, 5]))
def test_adding_the_same_to_all_logits_changes_no_candidates(seed, scale):
    """Nor that the classifier is no longer linear, but that caps are found in steps."""
    features, known, labels, *head = problem(seed, scale=scale)
    caps = smallest_caps(features, known, labels, linear(*head))
    steps = smallest_caps(features, known, labels, shifted(*head))
    for cap, step in zip(caps, steps, strict=True):
        expected = {
            next((one for one in CAPS if cap * error <= one), np.inf) for error in (0.999, 1.001)
        }
        assert any(np.isclose(step, one) or step == one for one in expected)


@pytest.mark.parametrize("head", [linear, shifted])
@pytest.mark.parametrize("n", [1, 3, 22, "as many as with the first cap"])
@pytest.mark.parametrize("seed", range(3))
def test_chooses_representatives_of_the_candidates_at_the_first_cap_with_more_than_n(head, n, seed):
    features, known, labels, *parts = problem(seed)
    caps = smallest_caps(features, known, labels, linear(*parts))
    n = int((caps <= CAPS[0]).sum()) if isinstance(n, str) else n
    cap = next((one for one in CAPS if (caps <= one).sum() > n), 1.0)
    candidates = np.flatnonzero(caps <= cap)
    chosen, scores = query(features, known, labels, head(*parts), n, seed)
    if len(candidates) < n:
        assert set(chosen[: len(candidates)]) == set(candidates)
        assert set(scores[len(candidates) :]) == {0.0}
        return
    directions = normalised(features[candidates])
    clusters = k_means(Rows(directions), n, np.random.default_rng(seed)).labels
    x = directions.double().numpy()
    assert chosen == [candidates[i] for _, i in nearest_to_centres(x, clusters, n)]
    assert all(score > 0 for score in scores)


@pytest.mark.parametrize("scale", [30, 1000])
def test_directions_are_exact_where_the_probability_rounds_to_1(scale):
    """Large logits: the gradient of the cross-entropy in float32 would be 0. With two classes, the
    direction does not depend on the scale, nor do the caps."""
    features, known, labels, weights, bias = problem(0, classes=2)
    caps = smallest_caps(features, known, labels, linear(weights, bias))
    assert 3 < np.isfinite(caps).sum() < 37
    sure = linear(scale * weights, scale * bias)
    np.testing.assert_allclose(smallest_caps(features, known, labels, sure), caps, rtol=1e-5)
    steps = smallest_caps(features, known, labels, shifted(scale * weights, scale * bias))
    assert np.isfinite(steps).tolist() == np.isfinite(caps).tolist()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(-12, 12))
def test_features_times_s_and_weights_over_s_give_the_same_query(seed, exponent):
    features, known, labels, weights, bias = problem(seed)
    s = 2.0**exponent
    first = query(features, known, labels, linear(weights, bias), 9)
    assert query(s * features, s * known, labels, linear(weights / s, bias), 9) == first


def test_a_rotation_changes_no_caps():
    features, known, labels, weights, bias = problem(3)
    q = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))[0]
    caps = smallest_caps(features, known, labels, linear(weights, bias))
    turned = smallest_caps(features @ q, known @ q, labels, linear(weights @ q, bias))
    np.testing.assert_allclose(turned, caps, rtol=1e-4)


def test_blocks_do_not_change_the_caps(monkeypatch):
    features, known, labels, *head = problem(3)
    for kind in (linear, shifted):
        whole = smallest_caps(features, known, labels, kind(*head))
        with monkeypatch.context() as patched:
            patched.setattr("alhpo.strategies.rows.BLOCK", 100)
            blocks = smallest_caps(features, known, labels, kind(*head))
        np.testing.assert_allclose(blocks, whole, rtol=1e-6)


@pytest.mark.parametrize("case", ["no labels", "one class", "equal weights", "at the anchor"])
@pytest.mark.parametrize("head", [linear, shifted])
def test_all_are_drawn_where_mixing_changes_nothing(case, head):
    features, known, labels, weights, bias = problem(0, n_rows=6, classes=3, labeled=4)
    if case == "no labels":
        known, labels = known[:0], labels[:0]
    elif case == "one class":
        weights, bias, labels = weights[:1], bias[:1], 0 * labels
    elif case == "equal weights":
        weights, bias = weights[:1].expand(3, -1), torch.zeros(3)
    else:
        features, known = known[:1].expand(6, -1), known[:1].expand(4, -1)
    counts = np.zeros(6)
    for seed in range(100):
        chosen, scores = query(features, known, labels, head(weights, bias), 2, seed)
        counts[chosen] += 1
        assert scores == [0, 0]
    np.testing.assert_allclose(counts / 100, 1 / 3, atol=5 * np.sqrt(2 / 9 / 100))


def test_a_class_with_the_weights_of_another_never_overtakes_it():
    features, known, labels, weights, bias = problem(1, classes=3)
    twice = torch.cat([weights, weights])
    caps = smallest_caps(features, known, labels, linear(weights, bias))
    both = torch.cat([bias, bias])  # copies change no direction
    np.testing.assert_allclose(
        smallest_caps(features, known, labels, linear(twice, both)), caps, rtol=1e-5
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 15), st.integers(1, 4), st.integers(0, 5), st.data())
def test_degenerate_pools_give_distinct_candidates_before_drawn_ones(
    seed, n_rows, classes, labeled, data
):
    n = data.draw(st.integers(1, n_rows))
    draw = torch.Generator().manual_seed(seed)
    whole = lambda *shape: torch.randint(-1, 2, shape, generator=draw).float()  # noqa: E731
    labels = torch.randint(classes, (labeled,), generator=draw)
    head = data.draw(st.sampled_from([linear, shifted]))(whole(classes, 2), whole(classes))
    chosen, scores = query(whole(n_rows, 2), whole(labeled, 2), labels, head, n, seed)
    assert len(set(chosen)) == n
    assert all(0 <= score <= 1 for score in scores)
    assert [score > 0 for score in scores] == sorted((score > 0 for score in scores), reverse=True)
