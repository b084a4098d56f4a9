"""BADGE against explicit gradient embeddings and a given stream of uniforms."""

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from alhpo.base.types import PoolOutputs
from alhpo.strategies import get_strategy, run_strategy
from alhpo.strategies.badge import Gradients
from alhpo.strategies.clustering import draw

badge = get_strategy("badge")


class Uniforms:
    """Stands in for a generator; hands out the given numbers and nothing else."""

    def __init__(self, values):
        self.left = list(values)

    def random(self):
        return self.left.pop(0)


def make_pool(logits, features):
    return PoolOutputs(
        torch.arange(len(logits)) * 2 + 1,
        logits=torch.as_tensor(logits),
        features=torch.as_tensor(features),
    )


def query(logits, features, n, uniforms):
    result = badge(make_pool(logits, features), n, Uniforms(uniforms))
    return [(i - 1) // 2 for i in result.indices], list(result.scores)


def embeddings(logits, features):
    """The (N, C·D) gradients of the cross-entropy with respect to the last layer's weights, by
    automatic differentiation of each image's own loss at its predicted class."""
    result = []
    for x, h in zip(logits, features, strict=True):
        x = torch.as_tensor(x, dtype=torch.float64)
        h = torch.as_tensor(h, dtype=torch.float64)
        weights = torch.zeros(len(x), len(h), dtype=torch.float64, requires_grad=True)
        outputs = x + weights @ h
        label = int(np.argmax(x.numpy()))
        loss = torch.nn.functional.cross_entropy(outputs[None], torch.tensor([label]))
        (gradient,) = torch.autograd.grad(loss, weights)
        result.append(gradient.flatten().numpy())
    return np.array(result)


def brute_force(logits, features, n, uniforms):
    g = embeddings(logits, features)
    norms = [float((row**2).sum()) for row in g]
    chosen = [norms.index(max(norms))]
    scores = [max(norms)]
    uniforms = list(uniforms)
    while len(chosen) < n:
        mass = [
            0.0 if i in chosen else min(float(((row - g[j]) ** 2).sum()) for j in chosen)
            for i, row in enumerate(g)
        ]
        if sum(mass) > 0:
            rest = uniforms.pop(0) * sum(mass)
            for pick, m in enumerate(mass):  # noqa: B007
                rest -= m
                if rest < 0:
                    break
        else:
            pick = min(set(range(len(g))) - set(chosen))
        chosen.append(pick)
        scores.append(mass[pick])
    return chosen, scores


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_equals_brute_force_over_explicit_gradients(seed, n_classes):
    draw = np.random.default_rng(seed)
    logits = 2 * draw.normal(size=(40, n_classes)).astype(np.float32)
    features = draw.normal(size=(40, 6)).astype(np.float32)
    uniforms = draw.random(39)
    chosen, scores = query(logits, features, 40, uniforms)
    expected, masses = brute_force(logits, features, 40, uniforms)
    assert chosen == expected
    np.testing.assert_allclose(scores, masses, rtol=1e-8)


def explicit(logits, features, n, uniforms):
    """k-means++ over the explicit gradients, vectorised."""
    q = scipy.special.softmax(logits.astype(np.float64), axis=1)
    q[np.arange(len(q)), logits.argmax(axis=1)] -= 1
    g = (q[:, :, None] * features[:, None].astype(np.float64)).reshape(len(q), -1)
    mass = (g**2).sum(axis=1)
    chosen, nearest = [int(mass.argmax())], np.full(len(g), np.inf)
    for u in uniforms[: n - 1]:
        nearest = np.minimum(nearest, ((g - g[chosen[-1]]) ** 2).sum(axis=1))
        nearest[chosen] = 0
        total = nearest.cumsum()
        chosen.append(int(np.searchsorted(total, u * total[-1], side="right")))
    return chosen


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sharpness", [0.1, 1, 20])
def test_picks_from_float32_are_those_of_explicit_float64_gradients(seed, sharpness):
    draw = np.random.default_rng(seed)
    centres, classes = draw.normal(size=(6, 48)), draw.integers(6, size=1500)
    features = np.maximum(centres[classes] + draw.normal(size=(1500, 48)), 0).astype(np.float32)
    logits = (sharpness * (features @ centres.T) / 7).astype(np.float32)
    uniforms = draw.random(150)
    chosen, _ = query(logits, features, 151, uniforms)
    assert chosen == explicit(logits, features, 151, uniforms)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(-20, 20))
def test_invariances(seed, exponent):
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(50, 4)).astype(np.float32)
    features = np.maximum(draw.normal(size=(50, 6)), 0).astype(np.float32)
    uniforms = draw.random(20)
    chosen, scores = query(logits, features, 15, uniforms)
    scaled, masses = query(logits, features * np.float32(2.0**exponent), 15, uniforms)
    assert scaled == chosen
    assert masses == [score * 4.0**exponent for score in scores]
    shift = np.float32(draw.integers(-4, 4))
    assert query(logits + shift, features, 15, uniforms)[0] == chosen
    classes = draw.permutation(4)
    assert query(logits[:, classes], features, 15, uniforms)[0] == chosen


tables = st.tuples(st.integers(1, 10), st.integers(1, 4), st.integers(1, 3)).flatmap(
    lambda shape: st.tuples(
        npst.arrays(np.float32, shape[:2], elements=st.integers(-2, 2)),
        npst.arrays(np.float32, (shape[0], shape[2]), elements=st.sampled_from([0, 1, 3])),
        st.integers(1, shape[0]),
        st.lists(st.floats(0.05, 0.95), min_size=10, max_size=10),
    )
)


@settings(deadline=None)
@given(tables)
def test_duplicates_zero_gradients_and_full_pools_still_make_sense(table):
    logits, features, n, uniforms = table
    chosen, scores = query(logits, features, n, uniforms)
    assert len(set(chosen)) == n
    g = embeddings(logits, features)
    norms = (g**2).sum(axis=1)
    np.testing.assert_allclose(norms[chosen[0]], norms.max(), rtol=1e-12)
    for k in range(1, n):
        to_chosen = ((g[:, None] - g[None, chosen[:k]]) ** 2).sum(axis=2).min(axis=1)
        np.testing.assert_allclose(scores[k], to_chosen[chosen[k]], rtol=1e-9, atol=1e-12)
        if scores[k] == 0:  # no mass was left: all the rest duplicates what was chosen
            np.testing.assert_allclose(to_chosen, 0, atol=1e-12)
            assert chosen[k] == min(set(range(len(g))) - set(chosen[:k]))


def test_factorised_distances_equal_explicit_ones_and_are_exactly_zero_for_duplicates():
    draw = np.random.default_rng(0)
    logits = torch.as_tensor(draw.normal(size=(30, 7)) * 5).float()
    features = torch.as_tensor(100 + draw.normal(size=(30, 9))).float()
    logits[20:], features[20:] = logits[:10].clone(), features[:10].clone()
    gradients = Gradients(logits, features)
    g = embeddings(logits, features)
    for j in range(30):
        distances = gradients.squared_distances(np.arange(30), j)
        np.testing.assert_allclose(distances, ((g - g[j]) ** 2).sum(axis=1), rtol=1e-9, atol=1e-13)
        twins = [i for i in range(30) if i % 20 == j % 20]
        assert distances[twins].tolist() == [0.0] * len(twins)


def test_confident_predictions_keep_their_tiny_gradients():
    logits = np.array([[60.0, 0.0], [61.0, 0.0], [62.0, 0.0]], dtype=np.float32)
    chosen, scores = query(logits, np.ones((3, 1), dtype=np.float32), 1, [])
    assert chosen == [0]
    np.testing.assert_allclose(scores, [2 * np.exp(-120.0)], rtol=1e-12)


@pytest.mark.parametrize(
    "logits, features",
    [
        (np.zeros((5, 1), np.float32), np.ones((5, 3), np.float32)),  # one class: p − e is 0
        (np.ones((5, 4), np.float32), np.zeros((5, 3), np.float32)),  # no features
        (np.ones((5, 4), np.float32), np.full((5, 3), 0.1, np.float32)),  # all alike
    ],
)
def test_without_mass_the_lowest_indices_follow_and_nothing_is_drawn(logits, features):
    chosen, scores = query(logits, features, 5, uniforms=[])
    assert chosen == [0, 1, 2, 3, 4]
    assert scores[1:] == [0.0] * 4


def test_uniforms_at_both_ends_pick_the_first_and_the_last_with_mass():
    logits = np.zeros((5, 2), np.float32)
    features = np.array([[4], [4], [1], [2], [4]], np.float32)  # 0 is chosen first; 1, 4 repeat it
    assert query(logits, features, 2, [0.0])[0] == [0, 2]
    assert query(logits, features, 2, [np.nextafter(1.0, 0.0)])[0] == [0, 3]


def test_frequencies_are_proportional_to_the_mass():
    mass, generator = np.array([0.0, 1, 4, 0, 16]), np.random.default_rng(0)
    picks = [draw(mass, mass > 0, generator) for _ in range(3000)]
    np.testing.assert_allclose(np.bincount(picks) / 3000, mass / 21, atol=0.03)


def test_no_embedding_of_all_candidates_is_ever_made():
    logits, features = torch.randn(50, 1000), torch.randn(50, 2**17, dtype=torch.float16)
    query = run_strategy(  # 50 × 1000 × 2**17 numbers would be 52 GB
        "badge", PoolOutputs(torch.arange(50), logits, features), 3, np.random.default_rng(0)
    )
    assert len(query) == 3


def test_a_product_that_rounds_up_to_the_total_stays_within_the_mass():
    tiny = np.array([0.0, np.nextafter(0.0, 1.0), 0.0])  # 0.9 times it is it again
    assert draw(tiny, np.ones(3, dtype=bool), Uniforms([0.9])) == 1
