"""Paired differences over validation images, against scipy and the scores of whole splits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from toy_models import TOY

from alhpo import ActiveLearner
from alhpo.training.image_scores import KEY, gain_between, unpacked_scores

SCORES = hnp.arrays(float, st.integers(2, 30), elements=st.floats(-20, 0, width=32))


@given(SCORES, st.randoms())
def test_of_equal_weights_it_is_the_mean_and_the_standard_error(scores, random):
    n = len(scores)
    others = np.array([random.uniform(-5, 0) for _ in range(n)])
    gain = gain_between(scores, others, np.arange(n), np.ones(n))
    assert gain.mean == pytest.approx(np.mean(scores - others), abs=1e-9)
    assert gain.error == pytest.approx(stats.sem(scores - others), abs=1e-9)
    assert gain.sure == (gain.mean > gain.error)


@given(SCORES, st.integers(2, 4))
def test_an_image_that_is_held_out_often_counts_as_one_image(scores, times):
    n = len(scores)
    images = np.tile(np.arange(n), times)
    again = gain_between(np.tile(scores, times), np.zeros(n * times), images, np.ones(n * times))
    once = gain_between(scores, np.zeros(n), np.arange(n), np.ones(n))
    assert again.mean == pytest.approx(once.mean, abs=1e-9)
    assert again.error == pytest.approx(once.error, abs=1e-9)


def test_of_one_image_nothing_is_sure():
    gain = gain_between(np.array([0.0]), np.array([-5.0]), np.array([3]), np.ones(1))
    assert gain.mean == 5 and math.isinf(gain.error) and not gain.sure
    weighted = gain_between(np.zeros(2), np.full(2, -5.0), np.arange(2), np.array([1.0, 0.0]))
    assert weighted == gain


@pytest.mark.parametrize("validation", ["holdout:0.4", "kfold:4", "weighted:random:0.3x3"])
@pytest.mark.parametrize("metric", ["accuracy", "balanced-accuracy", "likelihood"])
def test_its_mean_is_the_difference_of_the_metric(few_digits, tmp_path, validation, metric):
    learner = ActiveLearner(
        few_digits, TOY["model"], max_epochs=15, validation=validation, metric=metric
    )
    learner.label_initial(100)
    objective = learner.objective()
    objective.keeps_image_scores = True
    rows = []
    for number, lr in enumerate((1e-5, 0.1)):
        configuration = {"lr": lr, "weight_decay": 1e-3}
        rows += objective(configuration, 15, 0, tmp_path / str(number))[-1:]
    assert len(unpacked_scores(rows[0][KEY])) == len(unpacked_scores(rows[1][KEY]))
    gain = objective.gain(rows[1], over=rows[0])
    before, after = (row["metric"] for row in rows)
    expected = math.log(after / before) if metric == "likelihood" else after - before
    assert gain.mean == pytest.approx(expected, abs=1e-6)
    assert 0 < gain.error < 1
    assert objective.gain(rows[0], over=rows[1]).mean == pytest.approx(-expected, abs=1e-6)
    plain = learner.objective()({"lr": 0.05, "weight_decay": 1e-3}, 15, 0, tmp_path / "plain")
    assert KEY not in plain[-1]
