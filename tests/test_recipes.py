"""Recipes: the conformance suite on ours and a toy; runs of a recipe that has no network."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
import toy_models  # noqa: F401
from toy_recipe import ToyHyperparameters, ToyRecipe

from alhpo import ActiveLearner, RunConfig, load_dataset, run_experiment
from alhpo.base.errors import ConfigurationError
from alhpo.base.types import Query
from alhpo.testing import check_recipe, check_strategy
from alhpo.training.compute import Compute
from alhpo.training.recipes import RECIPES, get_recipe

TOY = {
    "recipe": "toy",
    "strategy": "entropy",
    "initial_size": 30,
    "acquisition_size": 10,
    "budget": 50,
    "max_epochs": 3,
    "max_budget": 9,
    "num_configurations": 4,
    "optimizer": "random",
    "precision": "float32",
    "device": "cpu",
    "pool_size": 300,
    "eval_size": 100,
}


def test_the_toy_conforms():
    check_recipe("toy", diverging={"lr": 1e38})


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("recipe", ["network", "learning-loss"])
def test_recipes_of_networks_conform(recipe, captured):
    compute = Compute(torch.device("cpu"), "float32", False, captured)
    check_recipe(recipe, {"batch_size": 8}, model="alhpo_toy", compute=compute)


class Forgetful(ToyRecipe):
    """It keeps a momentum that no checkpoint holds."""

    def start(self, hp, max_epochs, compute):
        training, state = super().start(hp, max_epochs, compute), {"epochs": 0}
        epoch = training.epoch

        def counted(images, number, *key):
            state["epochs"] += 1
            return epoch(images, number, *key) + state["epochs"]

        training.epoch = counted
        return training


class Global(ToyRecipe):
    def __init__(self, spec, seed):
        super().__init__(spec, seed)
        self.initial = torch.randn(self.initial.shape)


class Together(ToyRecipe):
    def predict(self, model, inputs, compute, *, features):
        return super().predict(model, inputs - inputs.mean(), compute, features=features)


class InPlace(ToyRecipe):
    def start(self, hp, max_epochs, compute):
        training = super().start(hp, max_epochs, compute)
        training.model = self.initial
        return training


class Raising(ToyRecipe):
    def start(self, hp, max_epochs, compute):
        if hp.lr > 1e3:
            raise FloatingPointError
        return super().start(hp, max_epochs, compute)


@pytest.mark.parametrize(
    ("recipe", "rule"),
    [
        (Forgetful, "restored after every epoch"),
        (Global, "same seed made other weights|state of the process|global"),
        (Together, "depends on what is predicted beside"),
        (InPlace, "same training gave other|start from"),
        (Raising, "raised FloatingPointError"),
    ],
)
def test_what_does_not_conform_is_told(recipe, rule):
    with pytest.raises(AssertionError, match=rule):
        check_recipe(recipe, diverging={"lr": 1e38})


@pytest.mark.parametrize("hpo", ["fixed", "per-cycle", "final"])
def test_a_run_of_a_recipe_without_a_network(tmp_path, hpo):
    """It is resumed by a second call with the same records, and learns."""
    result = run_experiment(RunConfig(**TOY, hpo=hpo, output_dir=str(tmp_path)))
    assert [r.n_labeled for r in result.records][:3] == [30, 40, 50]
    assert result.records[-1].test["accuracy"] > 0.3  # 0.1 by chance
    assert set(result.records[0].configuration) == set(ToyHyperparameters.model_fields)
    again = run_experiment(RunConfig(**TOY, hpo=hpo, output_dir=str(tmp_path)))
    assert again.resumed and again.records == result.records


def test_hyperparameters_are_those_of_the_recipe():
    with pytest.raises(ConfigurationError, match="momentum"):
        RunConfig.create(TOY, {"hyperparameters": {"momentum": 0.9}})
    with pytest.raises(ConfigurationError, match="space"):
        RunConfig.create(TOY, {"space": "hpo4dl"})
    with pytest.raises(ConfigurationError, match="Did you mean 'network'"):
        RunConfig.create(TOY, {"recipe": "networt"})


def test_only_another_recipe_is_part_of_a_runs_name():
    default = RunConfig(model="resnet18")
    assert RunConfig(model="resnet18", recipe="network").name == default.name
    assert RunConfig(model="resnet18", recipe="learning-loss").name != default.name


def test_a_strategy_selects_learning_loss_or_is_refused():
    assert get_recipe("network", frozenset({"predicted_losses"})) is RECIPES.get("learning-loss")
    assert get_recipe("network", frozenset({"features"})) is RECIPES.get("network")
    with pytest.raises(ConfigurationError, match=r"predicted_losses.*'toy'"):
        ActiveLearner(load_dataset("digits", pool_size=50), strategy="lpl", recipe="toy")


def test_restore_and_warm_start_of_a_recipe_without_a_network(tmp_path):
    data = load_dataset("digits", pool_size=200, eval_size=50)
    learner = ActiveLearner(data, strategy="badge", recipe="toy", max_epochs=3, start="warm")
    learner.label_initial(30)
    first = learner.fit(checkpoint_path=tmp_path / "fit")
    other = ActiveLearner(data, strategy="badge", recipe="toy", max_epochs=3)
    other.label_initial(30)
    other.restore(tmp_path / "fit")
    assert torch.equal(other.predict().logits, learner.predict().logits)
    assert learner.fit().nll < first.nll


def oracle(pool, n, generator):
    """Of the first ten candidates those that help most, each by itself."""
    tried = pool.indices[: max(n, 10)].tolist()
    scores = [result.nll for result in pool.retrain([[index] for index in tried])]
    worth = torch.tensor(scores, dtype=torch.float64)
    chosen = worth.sort(stable=True)
    return Query(tuple(tried[i] for i in chosen.indices[:n]), tuple(chosen.values[:n].tolist()))


oracle.needs = frozenset({"retrain"})


def flattened(pool, n, generator):
    """The least sure of half of its features."""
    logits = pool.classify(pool.features / 2)
    order = logits.softmax(1).amax(1).sort(stable=True).indices[:n]
    return Query(tuple(pool.indices[order].tolist()))


flattened.needs = frozenset({"features", "classify"})


def test_strategies_that_classify_conform():
    check_strategy(flattened)


def test_what_an_oracle_is_told_is_a_fresh_training(tmp_path):
    data = load_dataset("digits", pool_size=60, eval_size=50)
    options = {"recipe": "toy", "max_epochs": 3, "hyperparameters": {"lr": 0.05}}
    learner = ActiveLearner(data, strategy=oracle, **options)
    learner.label_initial(10)
    whole = {"batch_size": 11}  # with one more label, one batch of all: no order matters
    learner.fit(whole, checkpoint_path=tmp_path)
    query = learner.ask(3)
    restored = ActiveLearner(data, strategy=oracle, **options)
    restored.label_initial(10)
    restored.restore(tmp_path)
    assert restored.ask(3) == query
    assert len(set(query.scores)) == 3
    by_hand = ActiveLearner(data, strategy="random", **options)
    labeled = torch.tensor([*learner.pool.labeled.tolist(), query.indices[0]])
    by_hand.tell(labeled.tolist(), data.labels[labeled].tolist())
    assert by_hand.fit(whole).nll == pytest.approx(query.scores[0], rel=1e-5)


def test_an_oracle_is_refused_an_image_with_a_label():
    data = load_dataset("digits", pool_size=60, eval_size=50)
    learner = ActiveLearner(data, strategy=oracle, recipe="toy", max_epochs=1)
    labeled = learner.label_initial(10).indices

    def forgetful(pool, n, generator):
        pool.retrain([labeled[:1]])

    forgetful.needs = oracle.needs
    learner.fit()
    with pytest.raises(ConfigurationError, match="without labels"):
        learner.ask(1, strategy=forgetful)


def test_an_oracle_is_refused_outside_simulations():
    data = load_dataset("digits", pool_size=60, eval_size=50)
    with pytest.raises(ConfigurationError, match="is an oracle"):
        ActiveLearner(replace(data, labels=None), strategy=oracle, recipe="toy")
    learner = ActiveLearner(replace(data, labels=None), strategy="entropy", recipe="toy")
    with pytest.raises(ConfigurationError, match="is an oracle"):
        learner.ask(1, strategy=oracle)


def test_the_classifier_makes_the_logits():
    seen = []

    def spy(pool, n, generator):
        seen.append(pool)
        return flattened(pool, n, generator)

    spy.needs = flattened.needs | {"logits"}
    learner = ActiveLearner(load_dataset("digits", pool_size=60), strategy=spy, recipe="toy")
    learner.label_initial(10)
    learner.fit(max_epochs=2)
    learner.ask(4)
    assert torch.allclose(seen[0].classify(seen[0].features), seen[0].logits, atol=1e-5)
    assert seen[0].retrain is None


def test_defaults_that_a_recipe_does_not_name_are_the_usual_ones():
    class Short(ToyHyperparameters):
        run_defaults: ClassVar = {"max_epochs": 5}

    class Named(ToyRecipe):
        hyperparameters = Short

    RECIPES.register("named", Named)
    learner = ActiveLearner(load_dataset("digits", pool_size=50), recipe="named")
    assert learner.max_epochs == 5
    assert learner.validation.name == "holdout:0.2"
