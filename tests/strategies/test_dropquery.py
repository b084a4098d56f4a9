"""DropQuery against the rule written out, for the features that it showed the classifier."""

import numpy as np
import pytest
import torch
from cluster_choices import nearest_to_centres
from hypothesis import given, settings
from hypothesis import strategies as st

from alhpo.base.types import PoolOutputs
from alhpo.strategies import run_strategy
from alhpo.strategies.clustering import k_means
from alhpo.strategies.rows import Rows, normalised

WIDTH = 48


class Classifier:
    """A linear classifier that remembers what it was shown, and the generator's state then."""

    def __init__(self, weights, generator=None):
        self.weights = weights
        self.generator = generator
        self.shown = []

    def __call__(self, features):
        self.shown.append(features.clone())
        self.state = self.generator and self.generator.bit_generator.state
        return features @ self.weights


def query(features, classify, n, generator):
    pool = PoolOutputs(torch.arange(len(features)) + 7, features=features, classify=classify)
    result = run_strategy("dropquery", pool, n, generator)
    return [i - 7 for i in result.indices], list(result.scores)


def passes_of(features, shown):
    """For each image, the rows that have some of its features, four times as large, and no others.

    No two entries of the features are equal, so that any kept one tells the image.
    """
    owner = {value: i for i, row in enumerate(features.tolist()) for value in row}
    assert len(owner) == features.numel()
    passes = [[] for _ in features]
    for row in torch.cat(shown):
        some = row[row != 0]
        if len(some) == len(row):
            continue  # nothing was dropped
        image = owner[float(some[0]) / 4]
        kept = row != 0
        assert torch.equal(row[kept], 4 * features[image][kept])
        passes[image].append(row)
    return passes


def written_out(features, weights, shown, n):
    """Passes that differ for each image, and the candidates."""
    changes = []
    for row, passes in zip(features, passes_of(features, shown), strict=True):
        assert len(passes) == 3
        whole = int((row @ weights).argmax())
        changes.append(sum(int((one @ weights).argmax()) != whole for one in passes))
    often = [i for i, count in enumerate(changes) if count > 1]
    ever = [i for i, count in enumerate(changes) if count > 0]
    return changes, often if len(often) >= 25 * n else ever


@pytest.mark.parametrize(
    ("n_rows", "n", "separation", "relaxed", "short"),
    [
        (150, 3, 0.0, False, False),
        (150, 12, 0.0, True, False),
        (60, 1, 0.5, True, False),
        (40, 30, 0.7, True, True),
    ],
)
def test_equals_the_rule(n_rows, n, separation, relaxed, short):
    draw = torch.Generator().manual_seed(n)
    weights = torch.randn(WIDTH, 4, generator=draw)
    features = torch.randn(n_rows, WIDTH, generator=draw)
    features += separation * weights.T[torch.arange(n_rows) % 4]
    generator = np.random.default_rng(5)
    classify = Classifier(weights, generator)
    chosen, scores = query(features, classify, n, generator)
    changes, candidates = written_out(features, weights, classify.shown, n)
    assert (min(changes[i] for i in candidates) == 1) == relaxed
    assert (len(candidates) < n) == short
    np.testing.assert_allclose(scores, [changes[i] / 3 for i in chosen])
    if short:
        assert set(candidates) == set(chosen[: len(candidates)])
        return
    after = np.random.default_rng()
    after.bit_generator.state = classify.state
    directions = normalised(features[candidates])
    labels = k_means(Rows(directions), n, after).labels
    x = directions.double().numpy()
    assert chosen == [candidates[i] for _, i in nearest_to_centres(x, labels, n)]


def test_masks_are_independent_and_keep_a_quarter():
    features = 1 + torch.rand(400, WIDTH, generator=torch.Generator().manual_seed(0))
    classify = Classifier(torch.zeros(WIDTH, 2))
    query(features, classify, 5, np.random.default_rng(0))
    rows = torch.cat(classify.shown)
    kept = (rows != 0).double().numpy()
    kept = kept[kept.mean(axis=1) < 1]
    assert len(kept) == 3 * len(features)
    assert abs(kept.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / kept.size)
    deviation = np.sqrt(0.25 * 0.75)
    for correlation in (np.corrcoef(kept), np.corrcoef(kept.T)):
        others = correlation[~np.eye(len(correlation), dtype=bool)]
        size = kept.size / len(correlation)
        assert np.abs(others).max() < 7 / np.sqrt(size)
    np.testing.assert_allclose(kept.std(axis=0), deviation, rtol=0.1)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(1, 70), st.integers(1, 4), st.data())
def test_changed_images_come_before_the_others(n_rows, width, classes, data):
    n = data.draw(st.integers(1, n_rows))
    seed = data.draw(st.integers(0, 1000))
    draw = torch.Generator().manual_seed(seed)
    features = torch.randint(-2, 3, (n_rows, width), generator=draw).float()
    weights = torch.randn(width, classes, generator=draw)
    chosen, scores = query(features, Classifier(weights), n, np.random.default_rng(seed))
    assert len(set(chosen)) == n
    assert {3 * score for score in scores} <= {0, 1, 2, 3}
    assert [score > 0 for score in scores] == sorted((score > 0 for score in scores), reverse=True)
    if classes == 1:
        assert set(scores) == {0}


def test_powers_of_two_of_the_features_give_the_same_choice():
    draw = torch.Generator().manual_seed(1)
    features = torch.randn(90, WIDTH, generator=draw)
    classify = Classifier(torch.randn(WIDTH, 5, generator=draw))
    first = query(features, classify, 7, np.random.default_rng(2))
    assert query(features * 2**-9, classify, 7, np.random.default_rng(2)) == first


def test_blocks_do_not_change_the_choice(monkeypatch):
    draw = torch.Generator().manual_seed(1)
    features = torch.randn(90, 70, generator=draw)
    classify = Classifier(torch.randn(70, 5, generator=draw))
    whole = query(features, classify, 7, np.random.default_rng(2))
    monkeypatch.setattr("alhpo.strategies.rows.BLOCK", 1000)
    assert query(features, classify, 7, np.random.default_rng(2)) == whole


@pytest.mark.parametrize("features", [torch.zeros(6, 3), torch.full((6, 3), 2.0)])
def test_others_are_drawn_uniformly_where_no_prediction_changes(features):
    """Zeros stay zeros; of two classes the first wins all that is not negative."""
    classify = Classifier(torch.tensor([[1.0, -1]]).expand(3, 2))
    counts = np.zeros(6)
    for seed in range(600):
        chosen, scores = query(features, classify, 2, np.random.default_rng(seed))
        counts[chosen] += 1
        assert scores == [0, 0]
    np.testing.assert_allclose(counts / 600, 1 / 3, atol=5 * np.sqrt(2 / 9 / 600))
