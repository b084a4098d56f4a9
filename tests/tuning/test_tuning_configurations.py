"""Sampled configurations: plain, distinct, repeatable, and encoded so that DyHPO can read them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from ConfigSpace import (
    CategoricalHyperparameter,
    ConfigurationSpace,
    Constant,
    EqualsCondition,
    OrdinalHyperparameter,
    UniformFloatHyperparameter,
    UniformIntegerHyperparameter,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alhpo.base.errors import ConfigurationError
from alhpo.base.protocols import Configurations
from alhpo.tuning import SampledConfigurations


def _build(hyperparameters, conditions=()) -> ConfigurationSpace:
    space = ConfigurationSpace()
    if hasattr(space, "add"):
        space.add(list(hyperparameters), list(conditions))
    else:
        space.add_hyperparameters(list(hyperparameters))
        space.add_conditions(list(conditions))
    return space


def _sgd_space() -> ConfigurationSpace:
    """HPO4DL's example: momentum only with SGD."""
    lr = UniformFloatHyperparameter("lr", 1e-5, 1.0, log=True)
    opt = CategoricalHyperparameter("opt", ["sgd", "adam"])
    momentum = UniformFloatHyperparameter("momentum", 0.1, 0.99)
    return _build([lr, opt, momentum], [EqualsCondition(momentum, opt, "sgd")])


_NAMES = ["h0", "h1", "h2", "h3", "h4"]
_CHOICES = st.sampled_from(
    [[64, 16, 32], ["b", "a"], [True, False], [3, "a", True], [0.5, "auto"], ["only"]]
)


@st.composite
def _spaces(draw) -> ConfigurationSpace:
    hyperparameters = []
    for name in _NAMES[: draw(st.integers(1, 5))]:
        match draw(st.integers(0, 5)):
            case 0:
                made = UniformFloatHyperparameter(name, 1e-4, 1.0, log=draw(st.booleans()))
            case 1:
                made = UniformIntegerHyperparameter(name, 1, draw(st.integers(2, 40)))
            case 2:
                made = UniformIntegerHyperparameter(name, 1, 512, log=True)
            case 3:
                made = CategoricalHyperparameter(name, draw(_CHOICES))
            case 4:
                made = OrdinalHyperparameter(
                    name, draw(st.sampled_from([["s", "m", "l"], [8, 16, 64]]))
                )
            case _:
                made = Constant(name, draw(st.sampled_from([1, 0.5, "fixed"])))
        hyperparameters.append(made)
    conditions = []
    switch = CategoricalHyperparameter("switch", ["on", "off"])
    for made in hyperparameters:
        if draw(st.booleans()):
            conditions.append(EqualsCondition(made, switch, "on"))
    return _build([*hyperparameters, *([switch] if conditions else [])], conditions)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(space=_spaces(), seed=st.integers(0, 2**40), n=st.integers(1, 40))
def test_any_space_is_sampled_plainly_and_encoded_readably(space, seed, n):
    configurations = SampledConfigurations(space, seed)
    added = configurations.add_configurations(n)
    assert added == list(range(len(configurations)))
    assert 1 <= len(added) <= n
    seen = [configurations.get_configuration(number) for number in added]
    assert len({repr(sorted(one.items(), key=lambda item: item[0])) for one in seen}) == len(seen)
    for one in seen:
        assert all(type(value) in (int, float, str, bool) for value in one.values())
        active = one.get("switch", "on") == "on"
        assert active or len(one) < len(space)
        if active and "switch" not in list(space):
            assert set(one) == set(space)

    again = SampledConfigurations(space, seed)
    again.add_configurations(n)
    assert [again.get_configuration(number) for number in added] == seen

    table = configurations.get_configurations()
    categorical, levels = configurations.get_categorical_indicator()
    log = configurations.get_log_indicator()
    assert list(table.columns) == configurations.configuration_names
    assert len(table) == len(added)
    assert len(log) == len(categorical) == len(levels) == table.shape[1] >= 1
    for name, is_log, is_categorical, known in zip(
        table.columns, log, categorical, levels, strict=True
    ):
        if is_categorical:
            assert not is_log
            assert all(isinstance(level, str) for level in known)
            assert set(table[name]) <= set(known)
            assert len(set(known)) == len(known)
        else:
            values = table[name].to_numpy(dtype=float)
            assert np.all(np.isnan(values) | np.isfinite(values))
            assert not is_log or np.all(np.isnan(values) | (values > 0))


@pytest.mark.hpo4dl
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(space=_spaces())
@pytest.mark.filterwarnings("ignore")
def test_upstreams_dyhpo_reads_any_space(space):
    from alhpo.tuning import get_optimizer_factory

    optimizer = get_optimizer_factory("hpo4dl-dyhpo")(
        SampledConfigurations(space, 0),
        max_epochs=3,
        max_budget=3,
        num_configurations=20,
        seed=0,
        device="cpu",
    )
    candidates = optimizer.upstream.hp_candidates
    assert candidates.shape[1] >= 1
    assert np.isfinite(candidates.astype(float)).all()
    ids, epochs = optimizer.suggest()
    assert list(epochs) == [1]
    assert 0 <= ids[0] < 20


def test_the_users_space_and_its_generator_stay_as_they_are():
    space, twin = _sgd_space(), _sgd_space()
    space.seed(7)
    twin.seed(7)
    before = copy.deepcopy(dict(space))
    SampledConfigurations(space, 3, [{"lr": 0.1, "opt": "adam"}]).add_configurations(50)
    assert dict(space) == before
    assert space.sample_configuration(5) == twin.sample_configuration(5)


@pytest.mark.hpo4dl
def test_samples_are_those_of_hpo4dl():
    from hpo4dl.configuration_manager.configuration_manager import ConfigurationManager

    theirs = ConfigurationManager(_sgd_space(), num_configurations=40, seed=11)
    ours = SampledConfigurations(_sgd_space(), 11)
    ours.add_configurations(40)
    assert isinstance(ours, Configurations)
    assert [ours.get_configuration(n) for n in range(40)] == theirs.configurations
    assert ours.configuration_names == theirs.configuration_names
    assert ours.get_log_indicator() == theirs.get_log_indicator()


def test_inactive_hyperparameters_are_absent():
    configurations = SampledConfigurations(_sgd_space(), 0)
    configurations.add_configurations(30)
    for number in range(30):
        one = configurations.get_configuration(number)
        assert ("momentum" in one) == (one["opt"] == "sgd")


@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_finite_space_is_emptied_and_then_gives_nothing(left):
    space = ConfigurationSpace({"a": (1, 4), "b": ["x", "y"]})
    configurations = SampledConfigurations(space, 0)
    assert len(configurations.add_configurations(8 - left)) == 8 - left
    assert len(configurations.add_configurations(100)) == left
    assert configurations.add_configurations(1) == []
    assert len(configurations) == 8


def test_a_finite_conditional_space_is_emptied():
    switch = CategoricalHyperparameter("switch", ["on", "off"])
    size = UniformIntegerHyperparameter("size", 1, 5)
    space = _build([switch, size], [EqualsCondition(size, switch, "on")])
    configurations = SampledConfigurations(space, 1)
    assert len(configurations.add_configurations(100)) == 6


def test_initial_configurations_come_first_and_once():
    first, second = {"lr": 0.25, "opt": "adam"}, {"lr": 1, "opt": "sgd", "momentum": 0.5}
    configurations = SampledConfigurations(_sgd_space(), 0, [first, second, dict(first)])
    assert configurations.num_initial == len(configurations) == 2
    assert configurations.get_configuration(0) == first
    assert configurations.get_configuration(1) == second
    assert type(configurations.get_configuration(1)["lr"]) is float
    assert configurations.add_configurations(3) == [2, 3, 4]


def test_configurations_can_be_added_on_the_way():
    configurations = SampledConfigurations(_sgd_space(), 0)
    configurations.add_configurations(3)
    assert configurations.add({"lr": 1, "opt": "adam"}) == 3
    assert type(configurations.get_configuration(3)["lr"]) is float
    assert configurations.add({"opt": "adam", "lr": 1.0}) == 3
    assert configurations.add(configurations.get_configuration(1)) == 1
    assert configurations.num_initial == 0
    # the stream of samples goes on as if nothing had been added
    undisturbed = SampledConfigurations(_sgd_space(), 0)
    undisturbed.add_configurations(3)
    undisturbed.add_configurations(3)
    assert configurations.add_configurations(3) == [4, 5, 6]
    for there, here in enumerate([0, 1, 2, 4, 5, 6]):
        expected = undisturbed.get_configuration(there)
        assert configurations.get_configuration(here) == expected
    assert configurations.add(undisturbed.get_configuration(5)) == 6


@pytest.mark.parametrize(
    "bad", [{"lr": 7.0, "opt": "adam"}, {"lr": 0.1}, {"lr": 0.1, "opt": "adam", "momentum": 0.5}]
)
def test_an_illegal_configuration_cannot_be_added(bad):
    configurations = SampledConfigurations(_sgd_space(), 0)
    with pytest.raises(ConfigurationError, match="not in the space"):
        configurations.add(bad)
    with pytest.raises(ConfigurationError, match="expected a mapping"):
        configurations.add("lr")  # pyright: ignore[reportArgumentType]
    assert len(configurations) == 0


def test_configurations_are_copies():
    configurations = SampledConfigurations(_sgd_space(), 0, [{"lr": 0.25, "opt": "adam"}])
    configurations.get_configuration(0)["lr"] = 7
    assert configurations.get_configuration(0)["lr"] == 0.25


@pytest.mark.parametrize(
    "bad",
    [
        {"lr": 7.0, "opt": "adam"},
        {"lr": 0.1},
        {"lr": 0.1, "opt": "adam", "depth": 3},
        {"lr": 0.1, "opt": "adam", "momentum": 0.5},
        {"lr": 0.1, "opt": "lion"},
        "lr",
    ],
)
def test_an_illegal_initial_configuration_is_refused(bad):
    with pytest.raises(ConfigurationError, match="Initial configuration 1"):
        SampledConfigurations(_sgd_space(), 0, [{"lr": 0.1, "opt": "adam"}, bad])
