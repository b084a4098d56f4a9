"""scikit-activeml's strategies by name: all that can be driven, and the refusal of the others."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from alhpo import ActiveLearner
from alhpo.base.errors import ConfigurationError
from alhpo.base.types import PoolOutputs
from alhpo.outputs.dropout_passes import TensorPasses
from alhpo.strategies import get_strategy, run_strategy, strategy_name, strategy_needs
from alhpo.strategies.scikit_activeml import SUPPORTED
from alhpo.testing import check_strategy
from alhpo.testing.process_state import process_left_alone

pool_module = pytest.importorskip("skactiveml.pool")
NAMES = sorted(name for name in SUPPORTED if hasattr(pool_module, name))
LABELED = 30


@pytest.fixture(scope="module")
def pool():
    """60 candidates of digits, with the predictions and committee of linear models."""
    images, labels = load_digits(return_X_y=True)
    noise = np.random.default_rng(0).normal(size=images.shape)
    features = torch.from_numpy(images / 16 + 1e-3 * noise)[: LABELED + 60].float()
    known = labels[:LABELED]
    linear = LogisticRegression(max_iter=500).fit(features[:LABELED].numpy(), known)
    logits = torch.full((len(features), 10), -9.0)
    logits[:, linear.classes_] = torch.from_numpy(linear.decision_function(features)).float()
    passes = logits[LABELED:] + torch.randn(5, 60, 10, generator=torch.Generator().manual_seed(0))
    return PoolOutputs(
        torch.arange(60) * 2 + 1,
        logits=logits[LABELED:],
        features=features[LABELED:],
        passes=TensorPasses(passes),
        labels=torch.from_numpy(known),
        labeled_logits=logits[:LABELED],
        labeled_features=features[:LABELED],
    )


def query(name, pool, n, seed=0):
    return run_strategy(f"skactiveml:{name}", pool, n, np.random.default_rng(seed))


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_chooses_and_is_contained(pool, name):
    filters = list(warnings.filters)
    with process_left_alone(name):
        first = query(name, pool, 7)
    assert warnings.filters == filters
    torch.manual_seed(3)
    assert query(name, pool, 7) == first
    assert len(set(first.indices)) == 7
    assert set(first.indices) <= set(pool.indices.tolist())
    assert len(query(name, pool, 1)) == 1


def test_some_depend_on_the_generator_and_others_do_not(pool):
    assert query("RandomSampling", pool, 7, 0) != query("RandomSampling", pool, 7, 1)
    assert query("CoreSet", pool, 7, 0) == query("CoreSet", pool, 7, 1)


def test_uncertainty_is_that_of_the_network(pool):
    """The least confident candidates, whatever a model fitted to the features would say."""
    shuffled = pool.logits[torch.randperm(60, generator=torch.Generator().manual_seed(1))]
    strange = replace(pool, logits=shuffled)
    for outputs in (pool, strange):
        expected = run_strategy("least-confidence", outputs, 7, np.random.default_rng(0))
        assert query("UncertaintySampling", outputs, 7).indices == expected.indices


def test_the_committee_is_made_of_the_passes(pool):
    expected = run_strategy("bald", pool, 7, np.random.default_rng(0))
    assert query("GreedyBALD", pool, 7).indices == expected.indices
    assert "passes" in strategy_needs(get_strategy("skactiveml:GreedyBALD"))
    assert "passes" not in strategy_needs(get_strategy("skactiveml:CoreSet"))


def test_core_set_is_ours(pool):
    ours = run_strategy("coreset", pool, 7, np.random.default_rng(0))
    assert query("CoreSet", pool, 7).indices == ours.indices


@pytest.mark.parametrize(
    "name",
    [
        "UncertaintySampling",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("Badge", "CoreSet", "RandomSampling")),
    ],
)
def test_they_conform(name):
    check_strategy(f"skactiveml:{name}")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("ExpectedModelChangeMaximization", "for regression.*Legal: .*CoreSet"),
        ("MonteCarloEER", "refits its classifier"),
        ("SubSamplingWrapper", "wraps another"),
        ("Coreset", "Unknown strategy of scikit-activeml 'Coreset'.*Did you mean 'CoreSet'"),
        ("", "Unknown strategy of scikit-activeml ''"),
    ],
)
def test_others_are_refused_before_any_work(few_digits, name, match):
    with pytest.raises(ConfigurationError, match=match):
        ActiveLearner(few_digits, strategy=f"skactiveml:{name}")


def test_a_missing_package_is_said_before_any_work(few_digits, monkeypatch):
    for module in [m for m in sys.modules if m.split(".")[0] == "skactiveml"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "skactiveml", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'alhpo\[skactiveml\]'"):
        ActiveLearner(few_digits, strategy="skactiveml:KnownToNobody")


def test_what_the_package_refuses_is_passed_on(pool, monkeypatch):
    def refuse(self, **arguments):
        raise ValueError("too few samples")

    monkeypatch.setattr(pool_module.TypiClust, "query", refuse)
    with pytest.raises(ConfigurationError, match=r"TypiClust cannot choose 3 of 60.*too few samp"):
        query("TypiClust", pool, 3)


def test_it_runs_in_a_learner(few_digits):
    for name in ("TypiClust", "UncertaintySampling"):
        options = {"model": "alhpo_toy", "max_epochs": 1}
        learner = ActiveLearner(few_digits, strategy=f"skactiveml:{name}", **options)
        learner.label_initial(20)
        learner.fit()
        learner.query(10)
        assert learner.n_labeled == 30
        assert strategy_name(learner.strategy) == f"skactiveml:{name}"
