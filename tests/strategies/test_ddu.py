"""DDU against SciPy, and against its definition in many digits where covariances are singular."""

import math

import mpmath
import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from alhpo.base.types import PoolOutputs
from alhpo.strategies import run_strategy


def query(features, labeled, labels, n):
    """Rows, in order of choice, and their scores."""
    pool = PoolOutputs(
        torch.arange(len(features)) * 2 + 1,
        features=torch.as_tensor(features),
        labeled_features=torch.as_tensor(labeled),
        labels=torch.as_tensor(labels, dtype=torch.int64),
    )
    result = run_strategy("ddu", pool, n, np.random.default_rng(0))
    return [(i - 1) // 2 for i in result.indices], list(result.scores)


def scipy_surprise(features, labeled, labels, jitter=0.0):
    joint = []
    for label in np.unique(labels):
        own = labeled[labels == label].astype(np.float64)
        covariance = np.cov(own, rowvar=False) + jitter * np.eye(own.shape[1])
        gaussian = scipy.stats.multivariate_normal(own.mean(axis=0), covariance)
        joint.append(gaussian.logpdf(features) + np.log(len(own) / len(labels)))
    return -scipy.special.logsumexp(np.stack(joint), axis=0)


def exact_surprise(features, labeled, labels, jitter):
    """−log Σ_y q(y) N(z; mean_y, covariance_y + jitter) in 80 digits."""
    surprise = []
    with mpmath.workdps(80):
        gaussians = []
        for label in np.unique(labels):
            own = mpmath.matrix(labeled[labels == label].tolist())
            size, width = own.rows, own.cols
            mean = [mpmath.fsum(own[:, d]) / size for d in range(width)]
            for i in range(size):
                for d in range(width):
                    own[i, d] -= mean[d]
            covariance = own.T * own / max(1, size - 1) + mpmath.mpf(jitter) * mpmath.eye(width)
            share = mpmath.mpf(size) / len(labels)
            scale = mpmath.sqrt((2 * mpmath.pi) ** width * mpmath.det(covariance))
            gaussians.append((mean, covariance**-1, share / scale))
        for z in features.tolist():
            density = mpmath.mpf(0)
            for mean, precision, factor in gaussians:
                d = mpmath.matrix([a - b for a, b in zip(z, mean, strict=True)])
                density += factor * mpmath.exp(-(d.T * precision * d)[0] / 2)
            surprise.append(float(-mpmath.log(density)))
    return np.array(surprise)


def digits(n_features, labeled):
    images, labels = load_digits(return_X_y=True)
    features = PCA(n_features, random_state=0).fit_transform(images).astype(np.float32)
    return features[labeled:], features[:labeled], labels[:labeled]


def jitter_of(labeled):
    """The power of ten that the docstring names."""
    centred = labeled.astype(np.float64) - labeled.astype(np.float64).mean(axis=0)
    largest = (centred**2).sum(axis=1).max() or 1.0
    return 10.0 ** math.ceil(math.log10(labeled.shape[1] * 2.0**-52 * largest))


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_equals_scipy_on_digits_where_covariances_are_regular(offset):
    features, labeled, labels = digits(5, 400)
    features, labeled = features + np.float32(offset), labeled + np.float32(offset)
    rows, scores = query(features, labeled, labels, len(features))
    expected = scipy_surprise(features, labeled, labels)
    np.testing.assert_allclose(scores, expected[rows], rtol=1e-8)
    assert rows == np.argsort(-expected).tolist()


def test_unequal_classes_have_unequal_shares():
    draw = np.random.default_rng(0)
    labeled = draw.normal(size=(60, 3)) + np.repeat([[0, 0, 0], [4, 0, 0]], [50, 10], axis=0)
    labels, features = np.repeat([7, 2], [50, 10]), draw.normal((2, 0, 0), size=(40, 3))
    rows, scores = query(features, labeled, labels, 40)
    np.testing.assert_allclose(scores, scipy_surprise(features, labeled, labels)[rows], rtol=1e-9)


@pytest.mark.parametrize("labeled", [12, 40])
def test_equals_the_definition_where_covariances_are_singular(labeled):
    features, labeled, labels = digits(12, labeled)  # few labels a class, some with one
    features = features[:30]
    rows, scores = query(features, labeled, labels, 30)
    expected = exact_surprise(features, labeled, labels, jitter_of(labeled))
    np.testing.assert_allclose(scores, expected[rows], rtol=1e-7)
    assert rows == np.argsort(-expected).tolist()


def test_features_that_never_vary_are_given_the_jitter():
    features, labeled, labels = digits(4, 200)
    dead = [np.pad(part, ((0, 0), (0, 2))) for part in (features, labeled)]
    rows, scores = query(*dead, labels, len(features))
    expected = scipy_surprise(features, labeled, labels, jitter_of(dead[1]))
    expected += 2 * math.log(2 * math.pi * jitter_of(dead[1])) / 2
    np.testing.assert_allclose(scores, expected[rows], rtol=1e-6)
    assert rows == np.argsort(-expected).tolist()


def test_more_features_than_labels_finds_what_is_far_from_every_class():
    draw = np.random.default_rng(1)
    centres = 10 * draw.normal(size=(3, 512))
    labels = np.arange(30) % 3
    labeled = (centres[labels] + draw.normal(size=(30, 512))).astype(np.float32)
    known = centres[np.arange(40) % 3] + draw.normal(size=(40, 512))
    unknown = 10 * draw.normal(size=(5, 512))
    features = np.concatenate([known[:20], unknown, known[20:]]).astype(np.float32)
    rows, scores = query(features, labeled, labels, 45)
    assert set(rows[:5]) == {20, 21, 22, 23, 24}
    assert np.isfinite(scores).all()
    # as far as rounding goes, the distance to the nearest class's affine hull decides
    distances = []
    for label in range(3):
        own = labeled[labels == label].astype(np.float64)
        basis = np.linalg.qr((own[1:] - own[0]).T)[0]
        d = features.astype(np.float64) - own[0]
        distances.append(np.linalg.norm(d - d @ basis @ basis.T, axis=1))
    assert rows == np.argsort(-np.min(distances, axis=0)).tolist()


def test_one_label_a_class_ranks_by_the_distance_to_the_nearest():
    features, labeled, labels = digits(20, 1000)
    first = np.unique(labels, return_index=True)[1]
    rows, _ = query(features, labeled[first], labels[first], len(features))
    distances = np.linalg.norm(features[:, None].astype(np.float64) - labeled[first], axis=2)
    assert rows == np.argsort(-distances.min(axis=1)).tolist()


def test_without_labels_everything_is_infinitely_surprising_in_order():
    features = np.random.default_rng(0).normal(size=(5, 3))
    assert query(features, np.empty((0, 3)), [], 5) == ([0, 1, 2, 3, 4], [math.inf] * 5)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 12), st.integers(1, 4))
def test_names_of_classes_and_equal_candidates(seed, width, labeled, classes):
    draw = np.random.default_rng(seed)
    features = draw.integers(-3, 3, size=(9, width)).astype(np.float32)
    labeled = draw.integers(-3, 3, size=(labeled, width)).astype(np.float32)
    labels = draw.integers(0, classes, len(labeled))
    rows, scores = query(np.repeat(features, 2, axis=0), labeled, labels, 18)
    assert np.isfinite(scores).all()
    assert scores == sorted(scores, reverse=True)
    position = {row: i for i, row in enumerate(rows)}
    assert all(position[2 * i] < position[2 * i + 1] for i in range(9))
    again, other = query(np.repeat(features, 2, axis=0), labeled, 100 - 3 * labels, 18)
    before, after = dict(zip(rows, scores, strict=True)), dict(zip(again, other, strict=True))
    for row, score in before.items():
        np.testing.assert_allclose(after[row], score, rtol=1e-9, atol=1e-9)


def test_pools_larger_than_a_block(monkeypatch):
    features, labeled, labels = digits(30, 100)
    whole = query(features, labeled, labels, 200)
    monkeypatch.setattr("alhpo.strategies.rows.BLOCK", 30 * 64)
    rows, scores = query(features, labeled, labels, 200)
    assert rows == whole[0]
    np.testing.assert_allclose(scores, whole[1], rtol=1e-9)
