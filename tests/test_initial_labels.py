"""The first batch, chosen by a strategy before anything is trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from toy_models import ToyNet, alhpo_toy, toy_weights

from alhpo import ActiveLearner, PoolOutputs, Query, RunConfig, run_experiment
from alhpo.base.errors import ConfigurationError
from alhpo.strategies import run_strategy

MODEL = alhpo_toy.__name__
COLOURED = ("images", "eval_images")
FAST = {"model": MODEL, "max_epochs": 1}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return toy_weights(tmp_path_factory.mktemp("weights"))


def in_colour(dataset):
    images = {name: getattr(dataset, name).expand(-1, -1, -1, 3) for name in COLOURED}
    return replace(dataset, **{name: one.clone() for name, one in images.items()})


def features_of(dataset, weights, recipe):
    toy = ToyNet(10, 3)
    state = {n: v for n, v in load_file(weights).items() if not n.startswith("fc.")}
    toy.load_state_dict(state, strict=False)
    if recipe == "network":
        mean, std = dataset.channel_statistics()
    else:
        mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    inputs = dataset.images.permute(0, 3, 1, 2) / 255
    inputs = (inputs - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.no_grad():
        return toy.eval().forward_head(toy.forward_features(inputs), pre_logits=True)


def first_of_spied():
    def spy(pool, n, generator):
        spy.seen.append(pool)
        return Query(tuple(pool.indices[:n].tolist()))

    spy.seen, spy.needs = [], frozenset({"features", "labeled_features", "labels"})
    return spy


@pytest.mark.parametrize("recipe", ["network", "frozen"])
def test_features_are_those_of_the_pretrained_network(few_digits, weights, recipe):
    spy = first_of_spied()
    dataset = in_colour(few_digits)
    learner = ActiveLearner(dataset, initial=spy, weights=weights, recipe=recipe, **FAST)
    query = learner.label_initial(10)
    assert query.indices == tuple(range(10))
    pool = spy.seen[0]
    expected = features_of(dataset, weights, recipe)
    torch.testing.assert_close(pool.features, expected, rtol=1e-4, atol=1e-5)
    assert pool.labeled_features.shape == (0, pool.features.shape[1])
    assert len(pool.labels) == 0


def test_random_weights_are_not_looked_at_but_pixels_are(few_digits):
    spy = first_of_spied()
    learner = ActiveLearner(few_digits, initial=spy, **FAST)
    learner.label_initial(10)
    expected = few_digits.images.permute(0, 3, 1, 2).flatten(1) / 255
    torch.testing.assert_close(spy.seen[0].features, expected)


@pytest.mark.parametrize("name", ["typiclust", "coreset", "kmeans", "probcover:0.5"])
def test_equals_the_strategy_on_an_empty_labelled_set(few_digits, name):
    learner = ActiveLearner(few_digits, initial=name, seed=3, **FAST)
    asked = learner.ask_initial(8).indices
    spy = first_of_spied()
    ActiveLearner(few_digits, initial=spy, **FAST).ask_initial(1)
    pool = spy.seen[0]
    again = ActiveLearner(few_digits, initial=name, seed=3, **FAST).ask_initial(8).indices
    assert asked == again
    if name in ("coreset", "probcover:0.5"):  # nothing is drawn
        expected = run_strategy(name, pool, 8, np.random.default_rng(0))
        assert asked == expected.indices


def test_the_same_images_for_every_strategy_and_of_the_subset(few_digits):
    def initial(strategy, **options):
        learner = ActiveLearner(few_digits, strategy=strategy, initial="kmeans", **FAST, **options)
        return learner.label_initial(8).indices

    assert initial("random") == initial("entropy")
    assert initial("random", query_subset=20) == initial("entropy", query_subset=20)
    assert initial("random", query_subset=20) != initial("random")
    spy = first_of_spied()
    learner = ActiveLearner(few_digits, initial=spy, query_subset=20, **FAST)
    learner.ask_initial(8)
    assert len(spy.seen[0]) == 20


@pytest.mark.parametrize(
    "name, needs", [("badge", "logits"), ("probcover", "logits"), ("albl", "labeled_logits")]
)
def test_what_needs_a_model_is_refused_before_any_work(few_digits, name, needs):
    with pytest.raises(ConfigurationError, match=rf"{name}' cannot choose.*{needs}.*typiclust"):
        ActiveLearner(few_digits, initial=name, **FAST)
    with pytest.raises(ConfigurationError, match=f"'initial' is '{name}'.*{needs}"):
        RunConfig.create({"initial": name})


def test_a_run_records_how_its_first_labels_were_chosen(few_digits, tmp_path):
    config = RunConfig.create(
        {
            **FAST,
            "strategy": "random",
            "initial": "coreset",
            "initial_size": 10,
            "acquisition_size": 5,
            "budget": 15,
            "output_dir": str(tmp_path),
        }
    )
    result = run_experiment(config, dataset=few_digits)
    learner = ActiveLearner.of(config, few_digits)
    expected = learner.label_initial(10).indices
    resumed = ActiveLearner.of(config, few_digits, path=result.path)
    assert tuple(resumed.pool.by_cycle()[0]) == expected
    assert resumed.pool.asked_by(expected[0]) == "coreset"
    assert resumed.label_initial(10).indices == expected
    other = replace_initial(config, "random")
    assert other.name != config.name
    assert "initial" in config.model_dump()


def replace_initial(config, name):
    return RunConfig.create(config.model_dump() | {"initial": name})


def test_all_images_equal_gives_the_lowest_indices(few_digits):
    same = replace(few_digits, images=few_digits.images[:1].expand(120, -1, -1, -1).clone())
    learner = ActiveLearner(same, initial="coreset", **FAST)
    assert learner.ask_initial(4).indices == (0, 1, 2, 3)


def test_pool_outputs_may_have_no_labels():
    pool = PoolOutputs(torch.arange(6), features=torch.eye(6), labeled_features=torch.empty(0, 6))
    assert len(run_strategy("coreset", pool, 6, np.random.default_rng(0))) == 6
