"""Learning loss as a strategy: the largest predictions, in a real run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alhpo import ActiveLearner, run_experiment
from alhpo.base.types import PoolOutputs
from alhpo.strategies import get_strategy, run_strategy, strategy_needs
from alhpo.testing import check_strategy


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.data())
def test_the_largest_predicted_losses_first_and_ties_by_index(losses, data):
    n = data.draw(st.integers(1, len(losses)))
    indices = torch.arange(len(losses)) * 3 + 2
    pool = PoolOutputs(indices, predicted_losses=torch.tensor(losses, dtype=torch.float32))
    query = run_strategy("lpl", pool, n, np.random.default_rng(0))
    expected = sorted(range(len(losses)), key=lambda i: (-losses[i], i))[:n]
    assert query.indices == tuple(int(indices[i]) for i in expected)
    assert query.scores == tuple(losses[i] for i in expected)


def test_it_conforms():
    check_strategy("lpl")
    assert strategy_needs(get_strategy("lpl")) == {"predicted_losses"}


def test_a_learner_asks_for_what_its_head_says(few_digits):
    learner = ActiveLearner(few_digits, "resnet10t", "lpl", max_epochs=3)
    learner.label_initial(20)
    learner.fit()
    free = learner.pool.available
    predicted = learner.predict(free).predicted_losses
    order = predicted.argsort(descending=True, stable=True)[:8]
    query = learner.query(8)
    assert query.indices == tuple(free[order].tolist())
    assert query.scores == tuple(predicted[order].tolist())


@pytest.mark.parametrize("hpo", [pytest.param("fixed", marks=pytest.mark.slow), "per-cycle"])
def test_runs_search_under_the_training_they_use(few_digits, tmp_path, hpo):
    config = {
        "dataset": "digits",
        "model": "alhpo_toy",
        "strategy": "lpl",
        "hpo": hpo,
        "optimizer": "random",
        "initial_size": 20,
        "acquisition_size": 10,
        "budget": 40,
        "max_epochs": 2,
        "max_budget": 4,
        "output_dir": str(tmp_path),
    }
    result = run_experiment(config, dataset=few_digits)
    assert [r.n_labeled for r in result.records] == [20, 30, 40]
    assert all(len(set(r.queried)) == 10 for r in result.records[:2])
    assert all(r.validation is not None for r in result.records)
    assert run_experiment(config, dataset=few_digits).records == result.records
