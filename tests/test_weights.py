"""Importance weights: closed forms, exact expectations, and a selection that they undo."""

import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alhpo import ActiveLearner, Query, load_dataset
from alhpo.base.errors import ConfigurationError, LabelError
from alhpo.base.files import Journal
from alhpo.base.types import PoolOutputs, Selection
from alhpo.data.pool import Pool
from alhpo.strategies import run_strategy
from alhpo.testing.process_state import process_left_alone
from alhpo.validation import get_validation
from alhpo.validation.selection import validation_weights
from alhpo.validation.weights import (
    density_ratio_weights,
    effective_size,
    lure_weights,
    pixel_features,
    truncated,
)

CONFIGURATION = {"lr": 0.02, "weight_decay": 1e-3}


def rng(seed=0):
    return np.random.default_rng(seed)


def learner_of(dataset, **options):
    plain = {"batch_size": 16, "augmentation": "none"}
    options = {"model": "alhpo_toy", "max_epochs": 2, "precision": "float32"} | options
    return ActiveLearner(dataset, hyperparameters=plain, **options)


# --- the probabilities of the draws --------------------------------------------------------------


def all_draws(pool, m, probability):
    """Every sequence of ``m`` draws with its probability and those of its draws."""
    for sequence in itertools.permutations(range(pool), m):
        each = []
        for t, image in enumerate(sequence):
            left = [x for x in range(pool) if x not in sequence[:t]]
            total = sum(probability(x, sequence[:t]) for x in left)
            each.append(probability(image, sequence[:t]) / total)
        yield sequence, each


@pytest.mark.parametrize(("pool", "m"), [(2, 1), (5, 1), (5, 3), (5, 4), (5, 5), (6, 2)])
def test_lure_is_unbiased_over_all_sequences_of_draws(pool, m):
    """The mean over everything that can be drawn is the mean of the pool, of the weights 1; where
    the draws depend on those before, and the labels are taken into account later than drawn."""
    loss = rng(1).exponential(size=pool) * 10
    taste = np.linspace(1, 9, pool)

    def probability(image, before):
        return taste[image] * (2.5 if (image + sum(before)) % 2 else 1)

    estimate = weights = unweighted = 0.0
    for number, (sequence, each) in enumerate(all_draws(pool, m, probability)):
        order = rng(number).permutation(m)  # labels came in another order than the draws
        v = lure_weights(order + 1, np.array(each)[order], pool)
        assert (v > 0).all()
        chance = math.prod(each)
        images = np.array(sequence)[order]
        estimate += chance * (v * loss[images]).mean()
        weights += chance * v
        unweighted += chance * loss[images].mean()
    assert estimate == pytest.approx(loss.mean(), rel=1e-9)
    assert np.mean(weights) == pytest.approx(1)
    assert m == pool or abs(unweighted - loss.mean()) > 0.01 * loss.mean()


@given(st.integers(1, 30), st.integers(0, 30))
def test_uniform_draws_have_weight_1(m, more):
    draws = rng(m).permutation(m) + 1
    v = lure_weights(draws, 1 / (m + more - draws + 1), m + more)
    np.testing.assert_allclose(v, 1)


@given(st.integers(2, 20), st.integers(0, 1000))
def test_a_pool_that_is_labelled_whole_has_weights_1(n, seed):
    draws = rng(seed).permutation(n) + 1
    q = rng(seed).uniform(0.01, 1, n)
    q[draws == n] = 1  # only one image is left
    np.testing.assert_allclose(lure_weights(draws, q, n), 1)


def candidates(n, seed=0):
    logits = torch.from_numpy(rng(seed).normal(size=(n, 3)).astype(np.float32))
    return PoolOutputs(
        torch.arange(n) * 2 + 1,
        logits=logits,
        features=logits,
        labels=torch.tensor([0]),
        labeled_indices=torch.tensor([0]),
        labeled_logits=logits[:1],
        labeled_features=logits[:1],
    )


@pytest.mark.parametrize(
    "name", ["random", pytest.param("albl:margin,random", marks=pytest.mark.slow)]
)
def test_strategies_draw_with_the_probabilities_that_they_tell(name):
    """Frequencies of pairs of draws over many seeds against the probabilities told."""
    pool, times = candidates(4), 3000
    counts, told = Counter(), {}
    for seed in range(times):
        query = run_strategy(name, pool, 2, rng(seed))
        counts[query.indices] += 1
        told[query.indices] = math.prod(query.probabilities)
    assert len(told) == 12 and sum(told.values()) == pytest.approx(1)
    for pair, p in told.items():
        assert abs(counts[pair] / times - p) < 5 * math.sqrt(p * (1 - p) / times)


@pytest.mark.parametrize("name", ["margin", "badge", "coreset", "albl:margin,entropy"])
def test_strategies_that_cannot_draw_everything_tell_none(name):
    assert run_strategy(name, candidates(30), 4, rng()).probabilities is None


@pytest.mark.parametrize("probabilities", [(0.5,), (0.5, 0.0), (0.5, 1.5), (0.5, math.nan)])
def test_probabilities_that_cannot_be_are_refused(probabilities):
    def strategy(pool, n, generator):
        return Query(tuple(pool.indices[:n].tolist()), probabilities=probabilities)

    with pytest.raises(ConfigurationError, match=r"the probabilities .*one in "):
        run_strategy(strategy, candidates(5), 2, rng())


def test_probabilities_are_recorded_with_what_was_asked(tmp_path):
    journal = Journal(tmp_path / "labels.jsonl")
    pool = Pool([f"i{n}" for n in range(9)], "abc", journal)
    pool.ask([4, 2], 0, probabilities=(1 / 9, 1 / 8))
    pool.tell([2, 4], [0, 1], 0)
    pool.ask([7], 1)
    pool.tell([8], [1], 1)
    for one in (pool, Pool([f"i{n}" for n in range(9)], "abc", journal)):
        assert one.draws == {4: 1 / 9, 2: 1 / 8, 7: None}
        assert list(one.draws) == [4, 2, 7]  # the order of asking, not of telling


@pytest.mark.parametrize("drawn", [[0.5, 0.5], [2.0], ["x"], 0.5, [0.0]])
def test_recorded_probabilities_that_cannot_be(tmp_path, drawn):
    journal = Journal(tmp_path / "labels.jsonl")
    journal.append({"event": "ask", "cycle": 0, "images": ["i1"], "probabilities": drawn})
    with pytest.raises(LabelError, match="not of what was asked"):
        Pool([f"i{n}" for n in range(9)], "abc", journal)


def test_draws_of_a_learner_are_weighed_by_lure(few_digits, tmp_path):
    """With albl the weights are those of R_LURE from the journal; after a restart the same."""

    def continued():
        return learner_of(few_digits, strategy="albl:margin,random", path=tmp_path / "run")

    learner = continued()
    learner.label_initial(12)
    learner.fit(CONFIGURATION)
    learner.query(8)
    scheme = "acquisition:random:0.5"
    rows = learner.objective(validation=scheme)(CONFIGURATION, 2, 0, tmp_path / "trial")
    again = continued()
    objective = again.objective(validation=scheme)
    assert objective(CONFIGURATION, 2, 0, tmp_path / "other") == rows
    assert objective.identity == learner.objective(validation=scheme).identity
    asked = [e for e in Journal(tmp_path / "run/labels.jsonl").read() if e["event"] == "ask"]
    q = [p for entry in asked for p in entry["probabilities"]]
    v = [1 + 100 / (120 - m) * (1 / ((121 - m) * q[m - 1]) - 1) for m in range(1, 21)]
    np.testing.assert_allclose(v[:12], 1)
    assert np.ptp(v[12:]) > 0.01  # albl did not draw uniformly
    weights, _ = validation_weights(
        get_validation(scheme), few_digits.images, again.pool, 0, pixel_features
    )
    np.testing.assert_allclose(weights, v)


def test_where_draws_have_no_probabilities_the_error_says_what_does(few_digits, tmp_path):
    learner = learner_of(few_digits, strategy="margin", max_epochs=1)
    learner.label_initial(12)
    learner.objective(validation="acquisition:random:0.5")  # all of them random draws so far
    learner.fit(CONFIGURATION)
    query = learner.ask(4)
    with pytest.raises(ConfigurationError, match="4 are still waited for"):
        learner.objective(validation="acquisition:random:0.5")
    learner.tell(query.indices, [0, 0, 0, 0])
    with pytest.raises(ConfigurationError, match=r"4 of 16 have none.*albl.*weighted:SCHEME"):
        learner.objective(validation="acquisition:random:0.5")
    told = learner_of(few_digits)
    told.tell([3, 4, 5], [0, 1, 2])  # nobody asked for them
    with pytest.raises(ConfigurationError, match="3 of 3 have none"):
        told.objective(validation="acquisition:random:0.5")


def test_a_subset_of_the_pool_leaves_no_probabilities(few_digits):
    settings = {"strategy": "albl:margin,random", "query_subset": 30, "max_epochs": 1}
    learner = learner_of(few_digits, **settings)
    learner.label_initial(12)
    learner.fit(CONFIGURATION)
    assert learner.query(3).probabilities is None
    uniform = learner_of(few_digits, strategy="random", query_subset=30)
    uniform.label_initial(12)  # random looks at nothing, and chooses from all
    assert uniform.query(2).probabilities == pytest.approx((1 / 108, 1 / 107))


# --- weights from a classifier -------------------------------------------------------------------


def test_density_ratio_of_two_normal_distributions():
    """Labelled N(0, 1), others N(1, 1): their ratio is exp(x - 1/2)."""
    labeled, unlabeled = rng(1).normal(size=(3000, 1)), rng(2).normal(1, 1, size=(3000, 1))
    found = density_ratio_weights(labeled, unlabeled, 10**9, rng())
    truth = np.exp(labeled[:, 0] - 0.5)
    assert np.abs(np.log(found) - np.log(truth / truth.mean())).mean() < 0.1
    mean = np.average(labeled[:, 0], weights=found)
    assert mean == pytest.approx(1, abs=0.15)  # the mean of the others, not 0
    half = density_ratio_weights(labeled, unlabeled, 6000, rng())  # half of the pool is labelled
    assert np.average(labeled[:, 0], weights=half) == pytest.approx(0.5, abs=0.1)


def test_without_a_bias_the_weights_are_near_1():
    values = rng(3).normal(size=(1500, 30))
    weights = density_ratio_weights(values[:500], values[500:], 1500, rng())
    assert effective_size(weights) > 0.97 * 500


@settings(deadline=None, max_examples=8)
@given(st.integers(1, 12), st.integers(0, 12), st.integers(1, 3), st.floats(0, 50), st.booleans())
def test_weights_of_few_images(n, others, dimensions, distance, constant):
    generator = rng(n)
    labeled = generator.normal(size=(n, dimensions)) * (not constant)
    unlabeled = generator.normal(size=(others, dimensions)) * (not constant) + distance
    with process_left_alone("weights"):
        found = density_ratio_weights(labeled, unlabeled, n + others, rng(5))
    again = density_ratio_weights(labeled, unlabeled, n + others, rng(5))
    assert np.array_equal(found, again)
    assert found.shape == (n,) and np.isfinite(found).all() and (found > 0).all()
    assert found.mean() == pytest.approx(1)
    if min(n, others) < 2:
        assert (found == 1).all()


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40).filter(lambda w: sum(w) > 1e-3))
def test_truncation(weights):
    weights = np.array(weights)
    found = truncated(weights)
    assert found.mean() == pytest.approx(1)
    bound = math.sqrt(len(weights)) * weights.mean()
    kept = weights <= bound
    relative = weights[kept] / min(weights.max(), bound)
    np.testing.assert_allclose(found[kept] / found.max(), relative, atol=1e-300)  # denormals
    assert (found[~kept] == found.max()).all()


def test_effective_size():
    assert effective_size(np.full(7, 3.0)) == pytest.approx(7)
    assert effective_size(np.array([0.0, 5.0, 0.0])) == pytest.approx(1)
    assert effective_size(np.array([1.0, 1.0, 2.0])) == pytest.approx(16 / 6)
    assert effective_size(np.zeros(3)) == 0


@pytest.mark.parametrize("shape", [(8, 8, 1), (40, 33, 3), (1, 2, 1)])
@pytest.mark.parametrize("others", [0, 1, 50])
def test_pixel_features(shape, others):
    images = torch.from_numpy(rng().integers(0, 256, (others + 6, *shape), dtype=np.uint8))
    labeled, unlabeled = pixel_features(images[:6], images[6:])
    assert len(labeled) == 6 and len(unlabeled) == others
    assert labeled.shape[1] == unlabeled.shape[1]
    assert np.isfinite(labeled).all() and labeled.dtype == np.float32
    repeated = pixel_features(images[:6], images[6:])
    assert np.array_equal(labeled, repeated[0]) and np.array_equal(unlabeled, repeated[1])


def skewed(digits, seed):
    """300 labels of which the digits 0 to 4 are eight times as likely."""
    labels = digits.labels.numpy()
    p = np.where(labels < 5, 8.0, 1.0)
    chosen = rng(seed).choice(len(labels), 300, replace=False, p=p / p.sum())
    return chosen, labels[chosen]


def test_weights_undo_a_skewed_selection_of_digits(digits, tmp_path):
    """The models know the digits better that were selected, and validation is too good by what is
    seen on the evaluation split; weighted validation is nearer, of the same models."""
    errors = {"weighted": [], "unweighted": []}
    for seed in range(2):
        learner = learner_of(digits, max_epochs=20, seed=seed)
        learner.tell(*skewed(digits, seed))
        objective = learner.objective(validation="weighted:random:0.3x2", measure_test=True)
        row = objective(CONFIGURATION, 20, 0, tmp_path / str(seed))[-1]
        errors["weighted"].append(row["accuracy"] - row["test_accuracy"])
        errors["unweighted"].append(row["accuracy_unweighted"] - row["test_accuracy"])
        assert row["nll_unweighted"] < row["nll"] < row["test_nll"]
        assert 45 < row["effective_size"] < 85  # of 90
    weighted, unweighted = (np.mean(errors[name]) for name in ("weighted", "unweighted"))
    assert unweighted > 0.05
    assert abs(weighted) < 0.75 * abs(unweighted)


# --- weights in searches -------------------------------------------------------------------------


class Fixed:
    """Holds out the second half, with weights of its own."""

    name = "fixed-weights"
    needs = ()

    def __init__(self, weights):
        self.given = np.asarray(weights, dtype=float)

    def splits(self, labels, generator):
        half = len(labels) // 2
        return [(np.arange(half), np.arange(half, len(labels)))]

    def weights(self, selection, generator):
        assert selection == Selection(120)  # nothing was computed that it does not need
        return self.given


def test_rows_of_a_weighted_scheme(few_digits, tmp_path):
    learner = learner_of(few_digits)
    learner.label_initial(12)
    one = np.zeros(12)
    one[7] = 3.0
    rows = learner.objective(validation=Fixed(one))(CONFIGURATION, 2, 0, tmp_path / "one")
    equal = learner.objective(validation=Fixed(np.full(12, 0.1)))
    plain = equal(CONFIGURATION, 2, 0, tmp_path / "equal")
    for row, other in zip(rows, plain, strict=True):
        assert row["accuracy"] in (0.0, 1.0) and row["effective_size"] == pytest.approx(1)
        assert row["metric"] == row["accuracy"] == row["split_accuracy"][0]
        assert other["accuracy"] == pytest.approx(other["accuracy_unweighted"])
        assert other["nll"] == pytest.approx(other["nll_unweighted"])
        assert other["effective_size"] == pytest.approx(6)
        assert row["nll_unweighted"] == other["nll_unweighted"] != row["nll"]
        assert row["accuracy_unweighted"] == other["accuracy_unweighted"]
    learner.restore(tmp_path / "one")
    index = learner.pool.labeled[7]
    logits = learner.predict([index]).logits.double()
    nll = -float(logits.log_softmax(1)[0, few_digits.labels[index]])
    assert rows[-1]["nll"] == pytest.approx(nll, rel=1e-4)
    likely = learner.objective(validation=Fixed(one), metric="likelihood")
    row = likely(CONFIGURATION, 2, 0, tmp_path / "likely")[-1]
    assert row["metric"] == pytest.approx(math.exp(-nll), rel=1e-4)


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        (np.r_[np.ones(6), np.zeros(6)], "all images of validation split 0 weight 0"),
        (np.r_[np.ones(11), -1], "negative"),
        (np.r_[np.ones(11), np.nan], "not finite"),
        (np.ones(11), r"shape \(11,\) for 12"),
    ],
)
def test_weights_that_cannot_be_used(few_digits, weights, match):
    learner = learner_of(few_digits)
    learner.label_initial(12)
    with pytest.raises(ConfigurationError, match=match):
        learner.objective(validation=Fixed(weights))


def test_weighted_searches_resume_exactly(few_digits, tmp_path):
    learner = learner_of(few_digits, validation="weighted:kfold:2", max_epochs=3)
    learner.label_initial(24)
    whole = learner.objective()(CONFIGURATION, 3, 0, tmp_path / "whole")
    learner.fit(CONFIGURATION)  # the model fitted meanwhile has no influence
    steps = []
    for epoch in range(3):
        steps += learner.objective()(CONFIGURATION, epoch + 1, epoch, tmp_path / "steps")
    assert steps == whole
    assert {"accuracy_unweighted", "nll_unweighted", "effective_size"} <= set(whole[0])


def test_identity_is_of_the_pool_only_with_weights(few_digits):
    other = replace(few_digits, images=few_digits.images.clone())
    learners = [learner_of(data) for data in (few_digits, other)]
    for learner in learners:
        learner.label_initial(12)
    other.images[learners[0].pool.available[0]] ^= 255  # an unlabelled image
    plain, weighted = (
        [learner.objective(validation=scheme).identity for learner in learners]
        for scheme in ("random:0.3", "weighted:random:0.3")
    )
    assert plain[0] == plain[1] and weighted[0] != weighted[1]


def test_diverged_training_has_no_weighted_result(few_digits, tmp_path):
    learner = learner_of(few_digits, validation="weighted:random:0.5")
    learner.label_initial(12)
    hot = {"lr": 1e25, "weight_decay": 0.0}
    row = learner.objective()(hot, 2, 0, tmp_path / "trial")[-1]
    assert row["diverged"] and row["metric"] == 0
    assert row["accuracy"] is row["accuracy_unweighted"] is row["nll_unweighted"] is None


@pytest.mark.parametrize("n", [2, 119, 120])
def test_almost_nothing_and_everything_labelled(few_digits, tmp_path, n):
    learner = learner_of(few_digits, max_epochs=1)
    learner.label_initial(n)
    for scheme in ("weighted:random:0.5", "acquisition:holdout:0.5"):
        objective = learner.objective(validation=scheme)
        row = objective(CONFIGURATION, 1, 0, tmp_path / f"{scheme} {n}")[-1]
        assert 0 <= row["accuracy"] <= 1
        if n >= 119 or scheme.startswith("acquisition"):  # nothing to weigh, or uniform draws
            assert row["accuracy"] == pytest.approx(row["accuracy_unweighted"])


def test_labels_of_one_class_are_weighted(few_digits, tmp_path):
    zeros = np.flatnonzero(few_digits.labels.numpy() == 0)
    learner = learner_of(few_digits, max_epochs=1)
    learner.tell(zeros, [0] * len(zeros))
    objective = learner.objective(validation="weighted:kfold:3")
    row = objective(CONFIGURATION, 1, 0, tmp_path / "trial")[-1]
    assert 0 <= row["accuracy"] <= 1 and row["effective_size"] <= len(zeros) / 3 + 1


def test_features_of_a_pretrained_model(few_digits, tmp_path):
    """Where the weights came from elsewhere, the initial model says what images are alike."""
    torch.save(learner_of(few_digits)._recipe.template.state_dict(), tmp_path / "w.pth")
    options = {"validation": "weighted:random:0.5", "weights": tmp_path / "w.pth"}
    learner = learner_of(few_digits, **options)
    learner.label_initial(12)
    labeled, unlabeled = learner._selection_features(few_digits.images[:5], few_digits.images[5:12])
    learner._fitted = learner._recipe.template
    expected = learner.predict(range(12)).features.numpy()
    np.testing.assert_allclose(np.concatenate([labeled, unlabeled]), expected, rtol=1e-4, atol=1e-5)


def test_weights_change_neither_the_splits_nor_the_training(tmp_path):
    """The same models on the same images: what is compared is the estimators alone."""
    learner = ActiveLearner(
        load_dataset("digits", pool_size=200, eval_size=50),
        "resnet10t",
        hyperparameters={"batch_size": 16},
        max_epochs=1,
    )
    learner.label_initial(60)
    configuration = {"lr": 0.02, "weight_decay": 1e-3}
    (plain,) = learner.objective(validation="random:0.3")(configuration, 1, 0, tmp_path / "a")
    weighted = learner.objective(validation="weighted:random:0.3")
    (row,) = weighted(configuration, 1, 0, tmp_path / "b")
    assert row["accuracy_unweighted"] == plain["accuracy"]
    assert row["nll_unweighted"] == plain["nll"] != row["nll"]
