"""TPE is Optuna's, on the same space, with what Optuna cannot know taken care of."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pytest
from ConfigSpace import (
    CategoricalHyperparameter,
    ConfigurationSpace,
    Constant,
    EqualsCondition,
    ForbiddenAndConjunction,
    ForbiddenEqualsClause,
    OrdinalHyperparameter,
    UniformFloatHyperparameter,
    UniformIntegerHyperparameter,
)
from ConfigSpace.hyperparameters import NormalFloatHyperparameter
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tuning_spaces import HAS_QUANTA, build, spaces

from alhpo.base.errors import ConfigurationError
from alhpo.hyperparameters.conditions import is_active, parents_first
from alhpo.tuning import SampledConfigurations, Tuner, get_optimizer_factory
from alhpo.tuning.optimizers import tpe

optuna = pytest.importorskip("optuna")


def search_space():
    learning_rate = UniformFloatHyperparameter("lr", 1e-5, 1.0, log=True)
    momentum = UniformFloatHyperparameter("momentum", 0.1, 0.99)
    kind = CategoricalHyperparameter("opt", ["sgd", "adam", "lion"])
    layers = UniformIntegerHyperparameter("layers", 1, 64, log=True)
    size = OrdinalHyperparameter("size", [8, 16, 64])
    return build(
        [learning_rate, momentum, kind, layers, size, Constant("epochs", 7)],
        [EqualsCondition(momentum, kind, "sgd")],
    )


def quality(values):
    """Best near lr = 0.01 with SGD of high momentum."""
    loss = (math.log10(values["lr"]) + 2) ** 2 + 0.1 * abs(math.log2(values["layers"]) - 3)
    loss += 1 - values["momentum"] if values["opt"] == "sgd" else 2.0
    return -loss - 0.01 * values["size"]


def drive(space, metric, n, seed, initial=(), num_configurations=None):
    """The configurations that TPE tries, in order."""
    configurations = SampledConfigurations(space, seed, initial)
    optimizer = get_optimizer_factory("tpe")(
        configurations,
        max_epochs=1,
        max_budget=None,
        num_configurations=num_configurations or n,
        seed=seed,
        device=None,
    )
    tried = []
    while len(tried) < n:
        ids, epochs = optimizer.suggest()
        if ids is None:
            break
        assert list(epochs) == [1]
        values = configurations.get_configuration(ids[0])
        tried.append(values)
        result = {"configuration_id": ids[0], "configuration": values, "epoch": 1, "time": 1.0}
        optimizer.observe([result | {"metric": metric(values)}])
    return tried


def optuna_alone(n, seed, *, fails=()):
    """The same search written for Optuna."""
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(multivariate=False, constant_liar=False, seed=seed),
    )
    tried = []
    for number in range(n):
        trial = study.ask()
        kind = ["sgd", "adam", "lion"]
        values: dict[str, Any] = {
            "epochs": 7,
            "layers": trial.suggest_int("layers", 1, 64, log=True),
            "lr": trial.suggest_float("lr", 1e-5, 1.0, log=True),
            "opt": kind[trial.suggest_categorical("opt", [0, 1, 2])],
            "size": [8, 16, 64][trial.suggest_int("size", 0, 2)],
        }
        if values["opt"] == "sgd":
            values["momentum"] = trial.suggest_float("momentum", 0.1, 0.99)
        tried.append(values)
        if number in fails:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, quality(values))
    return tried


def rounded(tried):
    """ConfigSpace rounds floats to some ten digits."""
    return [
        {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in sorted(one.items())}
        for one in tried
    ]


@pytest.mark.parametrize("seed", [0, 7])
def test_it_is_optunas_search(seed):
    assert parents_first(search_space()) == ["epochs", "layers", "lr", "opt", "size", "momentum"]
    ours = drive(search_space(), quality, 40, seed)
    assert rounded(ours) == rounded(optuna_alone(40, seed))


def test_it_learns_from_trials_on_the_same_task_as_from_its_own(tmp_path):
    first = {"lr": 0.3, "opt": "adam", "layers": 9, "size": 16, "epochs": 7}

    def objective(values, epoch, previous_epoch, checkpoint_path):
        return [{"epoch": epoch, "metric": epoch * quality(values)}]

    def tried(n, **start):
        tuner = Tuner(
            *(objective, search_space(), 2, 2 * n, tmp_path, "tpe"), seed=1, progress=False, **start
        )
        tuner.run()
        return [row["configuration"] for row in tuner.results if row["epoch"] == 2]

    own = tried(30, initial_configurations=[first])
    rows = [{"configuration": first, "epoch": e, "metric": e * quality(first)} for e in (1, 2)]
    assert own[0] == first
    assert tried(29, observed=rows) == own[1:]
    assert tried(29, observed=rows[:1]) != own[1:]  # it was not trained to the end
    assert tried(29, warm_start=[rows])[0] == first  # another task: tried anew
    lied = [row | {"metric": 1.0} for row in rows]
    assert tried(29, observed=lied) != own[1:]


def test_what_diverged_is_a_failed_trial_to_optuna():
    lost, calls = {3, 12, 20}, []

    def metric(values):
        calls.append(values)
        return math.nan if len(calls) - 1 in lost else quality(values)

    ours = drive(search_space(), metric, 30, 1)
    assert rounded(ours) == rounded(optuna_alone(30, 1, fails=lost))


def test_it_beats_random_search_on_a_quadratic():
    space = ConfigurationSpace({"x": (-10.0, 10.0), "y": (-10.0, 10.0)})

    def loss(values):
        return (values["x"] - 2) ** 2 + (values["y"] + 3) ** 2

    found = {"tpe": [], "random": []}
    for seed in range(5):
        tried = drive(space, lambda values: -loss(values), 60, seed)
        found["tpe"].append(min(map(loss, tried)))
        sampled = SampledConfigurations(space, seed)
        numbers = sampled.add_configurations(60)
        found["random"].append(min(loss(sampled.get_configuration(i)) for i in numbers))
    assert np.median(found["tpe"]) < 0.5 * np.median(found["random"])


def test_initial_configurations_are_learnt_from():
    first = {"lr": 0.1, "opt": "lion", "layers": 5, "size": 64, "epochs": 7}
    second = {"lr": 1e-5, "opt": "sgd", "momentum": 0.99, "layers": 64, "size": 8, "epochs": 7}
    tried = drive(search_space(), quality, 15, 0, [first, second])
    assert tried[:2] == [first, second]
    worse = drive(search_space(), lambda values: -quality(values), 15, 0, [first, second])
    assert tried[2:] != worse[2:]


@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],  # shrinking takes minutes
)
@given(space=spaces(), seed=st.integers(0, 2**40))
def test_every_proposal_is_a_new_configuration_of_the_space(space, seed):
    tried = drive(space, lambda values: float(len(repr(values)) % 7), 25, seed)
    assert tried
    keys = [repr(sorted(values.items())) for values in tried]
    assert len(set(keys)) == len(keys)
    again = SampledConfigurations(space, 0)
    assert [again.add(values) for values in tried] == list(range(len(tried)))
    # a small space is emptied (sampling may miss what is rare)
    everything = SampledConfigurations(space, 1)
    assert len(tried) >= len(everything.add_configurations(25))


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(space=spaces(forbidden=False))
def test_active_hyperparameters_are_those_that_are_sampled(space):
    order = parents_first(space)
    assert sorted(order) == sorted(space)
    samples = SampledConfigurations(space, 0)
    for number in samples.add_configurations(15):
        values = samples.get_configuration(number)
        known = {}
        for name in order:
            active = is_active(space, name, known)
            assert active == (name in values)
            if active:
                known[name] = values[name]


def test_forbidden_combinations_are_never_tried():
    a, b = (CategoricalHyperparameter(name, list(range(6))) for name in "ab")
    clauses = [
        ForbiddenAndConjunction(ForbiddenEqualsClause(a, k), ForbiddenEqualsClause(b, k))
        for k in range(1, 6)
    ]
    tried = drive(build([a, b], (), clauses), lambda values: float(values["a"]), 100, 3)
    assert len(tried) == 31
    assert not [values for values in tried if values["a"] == values["b"] != 0]


def test_a_finite_space_ends_the_search():
    space = ConfigurationSpace({"a": (1, 4), "b": ["x", "y"]})
    tried = drive(space, lambda values: float(values["a"]), 100, 0)
    assert len({repr(values) for values in tried}) == len(tried) == 8


@pytest.mark.skipif(not HAS_QUANTA, reason="this ConfigSpace has no quantised hyperparameters")
def test_quantised_numbers_stay_on_their_grid():
    space = build(
        [
            UniformFloatHyperparameter("a", 0.0, 2.0, q=0.25),  # pyright: ignore[reportCallIssue]
            UniformIntegerHyperparameter("b", 1, 31, q=3),  # pyright: ignore[reportCallIssue]
            UniformIntegerHyperparameter("c", 1, 31, q=3, log=True),  # pyright: ignore[reportCallIssue]
        ]
    )
    for values in drive(space, lambda values: values["a"], 30, 0):
        assert values["a"] / 0.25 == round(values["a"] / 0.25)
        assert (values["b"] - 1) % 3 == (values["c"] - 1) % 3 == 0


@pytest.mark.skipif(not HAS_QUANTA, reason="this ConfigSpace has no unbounded hyperparameters")
def test_a_number_without_bounds_is_refused():
    space = build([NormalFloatHyperparameter("a", mu=0.0, sigma=1.0)])  # pyright: ignore[reportCallIssue]
    with pytest.raises(ConfigurationError, match="'a' has no bounds"):
        drive(space, lambda values: 0.0, 1, 0)


def test_without_optuna_the_error_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setattr(tpe.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="pip install"):
        Tuner(lambda *_: {}, search_space(), 1, 1, tmp_path / "out", "tpe")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigurationError, match="pip install"):
        tpe.tpe(
            SampledConfigurations(search_space(), 0), max_epochs=1, num_configurations=1, seed=0
        )


@pytest.mark.skipif(optuna.__version__ < "4.9", reason="older ones draw other numbers")
def test_the_sequence_is_that_of_optuna_4_also_with_optuna_5():
    """Optuna 5 has other defaults. The last two of twelve, after the ten random ones, as Optuna 4.9
    has them by its defaults (4.0 to 4.5 draw others)."""
    space = build(
        [
            UniformFloatHyperparameter("lr", 1e-5, 1e-1, log=True),
            UniformFloatHyperparameter("weight_decay", 1e-5, 1e-1, log=True),
        ]
    )

    def metric(values):
        return (
            -((math.log10(values["lr"]) + 2) ** 2) - (math.log10(values["weight_decay"]) + 3) ** 2
        )

    tried = drive(space, metric, 12, 0)
    found = [values[name] for values in tried[-2:] for name in ("lr", "weight_decay")]
    assert found == pytest.approx(
        [0.0001131561599, 1.6352708e-05, 0.014122833026, 0.0008108787791], rel=1e-9
    )


def test_the_version_of_optuna_is_part_of_a_search(tmp_path, monkeypatch):
    def path(optimizer):
        return Tuner(quality, search_space(), 2, 8, tmp_path, optimizer, seed=0).experiment_path

    before = path("tpe"), path("random")
    monkeypatch.setattr("alhpo.tuning.tuner.version", lambda package: "4.0")
    assert path("tpe") != before[0]
    assert path("random") == before[1]


def test_optunas_logging_stays_as_it_was(tmp_path, capfd):
    logger = logging.getLogger("optuna")
    mine = logging.NullHandler()
    logger.addHandler(mine)
    before = (list(logger.handlers), logger.level, logger.propagate, logger.disabled)
    try:
        search = Tuner(
            lambda values, epoch, *_: {"epoch": epoch, "metric": quality(values)},
            search_space(),
            *(2, 8, tmp_path, "tpe"),
            seed=0,
            progress=False,
        )
        search.run()
        assert (list(logger.handlers), logger.level, logger.propagate, logger.disabled) == before
    finally:
        logger.removeHandler(mine)
    assert capfd.readouterr() == ("", "")
    assert [row["epoch"] for row in search.results] == [1, 2] * 4
