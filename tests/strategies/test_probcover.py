"""ProbCover against greedy covering over a table of all distances, and scikit-activeml."""

import numpy as np
import pytest
import scipy.spatial.distance
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.datasets import load_digits

from alhpo.base.errors import ConfigurationError
from alhpo.base.types import PoolOutputs
from alhpo.strategies import get_strategy, probcover, run_strategy
from alhpo.strategies.clustering import k_means
from alhpo.strategies.probcover import pure_radius
from alhpo.strategies.rows import Rows


def query(features, labeled, n, name="probcover:0.5", classes=3, seed=0):
    pool = PoolOutputs(
        torch.arange(len(features)) + 3,
        logits=torch.zeros(len(features), classes),
        features=torch.as_tensor(features),
        labeled_features=torch.as_tensor(labeled),
    )
    result = run_strategy(name, pool, n, np.random.default_rng(seed))
    return [i - 3 for i in result.indices], list(result.scores)


def unit(features):
    x = features.astype(np.float64)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return (x / np.where(norms > 0, norms, 1)).astype(np.float32).astype(np.float64)


def gains_of(features, labeled, radius, chosen):
    """What each choice newly covers, from the definition."""
    x, known = unit(features), unit(labeled)
    inside = scipy.spatial.distance.cdist(x, x) <= radius
    left = np.ones(len(x), bool)
    if len(known):
        left &= (scipy.spatial.distance.cdist(x, known) > radius).all(axis=1)
    for position in chosen:
        yield inside[:, left].sum(axis=1)
        left &= ~inside[position]


def check_greedy(features, labeled, radius, chosen, scores):
    assert len(set(chosen)) == len(chosen)
    for k, gains in enumerate(gains_of(features, labeled, radius, chosen)):
        free = np.setdiff1d(np.arange(len(features)), chosen[:k])
        assert scores[k] == gains[chosen[k]] == gains[free].max()


@pytest.mark.parametrize("radius", [0.2, 0.4, 0.6, 1.0])
@pytest.mark.parametrize("n_labeled", [0, 1, 30])
def test_every_choice_covers_as_much_as_any_could(radius, n_labeled, monkeypatch):
    monkeypatch.setattr(probcover, "TILE", 100)
    images = load_digits().data.astype(np.float32)[:500]
    labeled, features = images[:n_labeled], images[n_labeled:]
    chosen, scores = query(features, labeled, 40, f"probcover:{radius}")
    check_greedy(features, labeled, radius, chosen, scores)


@pytest.mark.parametrize("radius", [0.1, 0.5, 0.9])
def test_pools_of_several_tiles_with_ties_by_the_distance_to_the_mean(radius, monkeypatch):
    monkeypatch.setattr(probcover, "TILE", 500)
    draw = np.random.default_rng(0)
    images = draw.normal(size=(30, 5))[draw.integers(30, size=1300)]
    images += draw.choice([0.02, 0.1, 0.4], size=(1300, 1)) * draw.normal(size=(1300, 5))
    labeled, features = images[:50].astype(np.float32), images[50:].astype(np.float32)
    chosen, scores = query(features, labeled, 120, f"probcover:{radius}")
    x = unit(features)
    from_middle = np.linalg.norm(x - x.mean(axis=0), axis=1)
    for k, gains in enumerate(gains_of(features, labeled, radius, chosen)):
        gains[chosen[:k]] = -1
        equal = np.flatnonzero(gains == gains.max())
        assert chosen[k] == equal[from_middle[equal].argmin()]
        assert scores[k] == gains.max()


tables = st.tuples(st.integers(1, 14), st.integers(0, 5), st.integers(1, 3)).flatmap(
    lambda shape: st.tuples(
        npst.arrays(np.float32, (shape[0], shape[2]), elements=st.integers(-3, 3)),
        npst.arrays(np.float32, (shape[1], shape[2]), elements=st.integers(-3, 3)),
        st.integers(1, shape[0]),
        st.sampled_from([1e-6, 0.5, 1.3, 2.0]),
    )
)


@settings(deadline=None, max_examples=150)
@given(tables)
def test_zeros_duplicates_and_full_pools(table):
    features, labeled, n, radius = table
    chosen, scores = query(features, labeled, n, f"probcover:{radius}")
    check_greedy(features, labeled, radius, chosen, scores)


def test_pairs_within_a_trillionth_of_the_radius_are_told_apart():
    draw = np.random.default_rng(0)
    features = draw.normal(size=(40, 6)).astype(np.float32)
    distances = np.sort(scipy.spatial.distance.pdist(unit(features)))
    for radius in distances[[100, 300, 500]]:  # one pair lies on the sphere
        for bound, expected in ((radius * (1 + 1e-12), 1), (radius * (1 - 1e-12), 0)):
            chosen, scores = query(features, features[:0], 8, f"probcover:{bound:.17g}")
            check_greedy(features, features[:0], bound, chosen, scores)
            assert (distances <= bound).sum() - (distances < radius).sum() == expected


def purity(x, labels, radius):
    inside = scipy.spatial.distance.cdist(x, x) <= radius
    return np.mean([len(set(labels[row])) == 1 for row in inside])


@pytest.mark.parametrize("classes", [2, 10])
def test_the_radius_is_the_largest_of_enough_purity(classes):
    x = unit(load_digits().data[:300])
    rows = Rows(torch.as_tensor(x).float())
    radius = pure_radius(rows, classes, np.random.default_rng(0))
    labels = k_means(rows, classes, np.random.default_rng(0)).labels
    assert purity(x, labels, radius) >= 0.95
    assert purity(x, labels, radius * (1 + 1e-9)) < 0.95


def test_the_radius_of_a_large_pool_is_that_of_a_sample(monkeypatch):
    rows = Rows(torch.as_tensor(unit(load_digits().data)).float())
    whole = pure_radius(rows, 10, np.random.default_rng(0))
    monkeypatch.setattr(probcover, "PURITY_SAMPLE", 600)
    assert pure_radius(rows, 10, np.random.default_rng(0)) == pytest.approx(whole, rel=0.1)


def test_without_a_radius_the_rule_decides():
    images = load_digits().data.astype(np.float32)[:300]
    everything = Rows(torch.as_tensor(unit(images)).float())
    radius = pure_radius(everything, 10, np.random.default_rng(0))
    chosen, scores = query(images[20:], images[:20], 15, "probcover", classes=10)
    assert (chosen, scores) == query(images[20:], images[:20], 15, f"probcover:{radius!r}")


def test_one_class_is_covered_by_the_most_central_image():
    images = load_digits().data.astype(np.float32)[:50]
    chosen, scores = query(images, images[:0], 3, "probcover", classes=1)
    central = np.linalg.norm(unit(images) - unit(images).mean(axis=0), axis=1)
    assert chosen == np.argsort(central)[:3].tolist()
    assert scores == [50, 0, 0]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_lengths_of_features_do_not_matter_and_moved_rows_move_the_choice(seed, scale):
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(60, 4))
    labeled = draw.normal(size=(4, 4))
    chosen, scores = query(features, labeled, 12)
    factors = np.float64(2.0) ** draw.integers(-5, 6, size=(60, 1))
    assert query(features * factors, labeled * 4, 12) == (chosen, scores)
    order = draw.permutation(60)
    moved, same = query(features[order], labeled, 12)
    assert same == scores
    assert order[moved].tolist() == chosen


@pytest.mark.filterwarnings("ignore:The maximum purity")
def test_covers_as_much_as_scikit_activeml():
    """Its ties are random, so the gains can be compared, on data where few tie."""
    pool = pytest.importorskip("skactiveml.pool")
    x = unit(load_digits().data[:200])
    labels = np.full(200, np.nan)
    labels[:5] = 0
    theirs = pool.ProbCover(deltas=[0.45], alpha=1e-9, random_state=0)
    _, utilities = theirs.query(x, labels, batch_size=3, return_utilities=True)
    chosen, scores = query(x[5:].astype(np.float32), x[:5].astype(np.float32), 3, "probcover:0.45")
    assert np.nanmax(utilities[0]) == scores[0]
    assert utilities[0][chosen[0] + 5] == scores[0]


@pytest.mark.parametrize("radius", ["0", "-1", "2.5", "nan", "", "wide"])
def test_a_radius_that_cannot_be_is_refused(radius):
    with pytest.raises(ConfigurationError, match="number in \\(0, 2\\]"):
        get_strategy(f"probcover:{radius}")
