"""What a run does in the steps of a cycle: its searches, what they cost, and its queries."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from dataclasses import replace

import pytest
import yaml
from ConfigSpace import ConfigurationSpace, Float
from toy_models import TOY, alhpo_toy

from alhpo.base.errors import DivergedError, TunerError
from alhpo.data.sources import DatasetSize
from alhpo.learner import ActiveLearner
from alhpo.runs.experiment import run_experiment
from alhpo.runs.pool_tuning import tune_pool
from alhpo.runs.settings import RunConfig
from alhpo.studies.config import Cell
from alhpo.studies.cost import cell_cost
from alhpo.training.objective import Objective
from alhpo.tuning import register_optimizer


def run(data, folder, **changes):
    config = RunConfig.create(TOY, {"output_dir": str(folder)}, changes)
    return run_experiment(config, dataset=data)


def journals(path) -> list[dict]:
    """Every epoch in the journals of the searches of a run or a tuning."""
    lines = [
        json.loads(line)
        for file in path.glob("hpo/**/journal.jsonl")
        for line in file.read_text().splitlines()
    ]
    return [line for line in lines if line["kind"] == "epoch"]


MODES = ["fixed", "initial", "per-cycle", "every:2", "at:12,20", "final"]


@pytest.mark.parametrize(
    ("hpo", "start"),
    [(mode, "cold") for mode in MODES]
    + [pytest.param(mode, "warm", marks=pytest.mark.slow) for mode in MODES[:-1]]
    + [("final", "warm")],  # which cannot begin with what the last cycle measured
)
def test_epochs_of_searches_are_counted_once(few_digits, tmp_path, hpo, start):
    """Records hold as many as the journals; the cost that a study foresees is the same."""
    measured = [True] if hpo == "fixed" else [True, False]
    validated = [True] if hpo == "per-cycle" else [True, False]  # where every cycle searches
    for measure, validate in itertools.product(measured, validated):
        result = run(
            few_digits,
            tmp_path,
            hpo=hpo,
            start=start,
            measure_current=measure,
            validate_fixed=validate,
            max_budget=5,
        )
        spent = sum(record.epochs["hpo"] for record in result.records)
        assert spent == len(journals(result.path)), (measure, validate)
        config = RunConfig.create(yaml.safe_load((result.path / "config.yaml").read_text()))
        size = DatasetSize(120, 60, (8, 8, 1), 10)
        cost = cell_cost(Cell(0, config, {}), size)
        assert cost.epochs == spent + sum(record.epochs["fit"] for record in result.records)


def test_a_fit_that_diverged_counts_the_epochs_that_were_trained(few_digits, tmp_path):
    hot = {"batch_size": 8, "lr": 1e25}
    result = run(few_digits, tmp_path, hpo="fixed", hyperparameters=hot, max_epochs=6)
    assert all(record.diverged and 1 <= record.epochs["fit"] < 6 for record in result.records)


@pytest.fixture
def hot(tmp_path) -> str:
    """The file of a space in which everything diverges."""
    file = tmp_path / "hot.json"
    space = ConfigurationSpace({"lr": Float("lr", (1e24, 1e26), log=True)})
    if hasattr(space, "to_json"):
        space.to_json(file)
    else:
        from ConfigSpace.read_and_write import json as configspace_json

        file.write_text(configspace_json.write(space))
    return str(file)


@pytest.mark.parametrize("optimizer", ["random", "dyhpo"])
@pytest.mark.parametrize("hpo", ["per-cycle", "final"])
@pytest.mark.parametrize("measure", [True, False])
def test_where_the_search_diverges_the_current_configuration_stays(
    few_digits, tmp_path, hot, hpo, optimizer, measure
):
    changes = {"space": hot, "hpo": hpo, "optimizer": optimizer, "measure_current": measure}
    record = run(few_digits, tmp_path, budget=20, **changes).records[-1]
    assert (record.tuned, record.diverged) == (True, False)
    assert record.configuration["lr"] == 0.05
    assert (record.validation is not None) == measure


def not_finite(monkeypatch, spared=0.05):
    """Every configuration but one has a metric of NaN."""
    call = Objective.__call__

    def broken(self, configuration, *args):
        rows = call(self, configuration, *args)
        return rows if configuration["lr"] == spared else [rows[0] | {"metric": math.nan}]

    monkeypatch.setattr(Objective, "__call__", broken)


def test_a_search_of_which_every_trial_ends_without_a_metric(few_digits, tmp_path, monkeypatch):
    not_finite(monkeypatch)
    result = run(few_digits, tmp_path, hpo="per-cycle", transfer=False, max_budget=6)
    assert all(record.configuration["lr"] == 0.05 for record in result.records)
    tuned = tune_pool(
        {"pool": str(result.path), "labels": 12, "space": "paper", "max_budget": 6},
        dataset=few_digits,
    )
    assert tuned.record.configuration["lr"] == 0.05


class NothingLeft:
    """An optimizer that has nothing to try, as where no bracket fits into the budget."""

    def __init__(self, configurations, **_):
        pass

    def suggest(self):
        return None, None

    def observe(self, configuration_results):
        raise AssertionError("nothing was trained")


register_optimizer("nothing-left", NothingLeft)


@pytest.mark.parametrize("measure", [True, False])
def test_a_search_that_can_try_nothing_leaves_the_current_configuration(
    few_digits, tmp_path, measure
):
    changes = {"hpo": "per-cycle", "optimizer": "nothing-left", "measure_current": measure}
    (record,) = run(few_digits, tmp_path, budget=12, **changes).records
    assert record.configuration["lr"] == 0.05
    assert record.epochs["hpo"] == (2 if measure else 0)
    assert (record.validation is not None) == measure


def test_an_error_in_a_trial_stops_the_run(few_digits, tmp_path, monkeypatch):
    call = Objective.__call__

    def broken(self, configuration, *args):
        if configuration["lr"] != 0.05:
            raise ValueError("a fault of the model")
        return call(self, configuration, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Objective, "__call__", broken)
        with pytest.raises((TunerError, ValueError), match="a fault of the model"):
            run(few_digits, tmp_path, hpo="per-cycle", transfer=False)


@pytest.fixture
def flat(few_digits):
    """Data with one image of one colour, on which the toy's outputs are not finite."""
    images = few_digits.images.clone()
    learner = ActiveLearner(few_digits, alhpo_toy.__name__, "random", device="cpu")
    learner.label_initial(12)
    last = int(learner.pool.available[-1])
    images[last] = 7
    return replace(few_digits, images=images), last


def test_outputs_that_are_not_finite_make_a_random_query_and_say_so(flat, tmp_path):
    data, _ = flat
    with pytest.warns(UserWarning, match=r"queries at random.*logits.*not finite in 1 of"):
        result = run(data, tmp_path, hpo="fixed", budget=20)
    first, last = result.records
    assert (first.random_query, first.diverged) == (True, False)
    assert not last.random_query
    plain = run(data, tmp_path / "random", hpo="fixed", strategy="random", budget=20)
    assert first.queried == plain.records[0].queried
    assert not plain.records[0].random_query
    stored = json.loads((result.path / "cycles.jsonl").read_text().splitlines()[0])
    assert stored["random_query"] is True


def test_a_random_query_is_on_record_after_a_kill(flat, tmp_path, monkeypatch):
    """Killed between the query and its record."""
    data, _ = flat

    class Killed(BaseException):
        pass

    def kill(*_, **__):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("alhpo.runs.experiment.CycleRecord", kill)
        with pytest.raises(Killed), pytest.warns(UserWarning, match="at random"):
            run(data, tmp_path, hpo="fixed", budget=20)
    assert run(data, tmp_path, hpo="fixed", budget=20).records[0].random_query


def test_a_diverged_fit_makes_a_random_query(few_digits, tmp_path):
    hot = {"batch_size": 8, "lr": 1e25}
    first, last = run(few_digits, tmp_path, hpo="fixed", hyperparameters=hot, budget=20).records
    assert (first.diverged, first.random_query) == (True, True)
    assert (last.diverged, last.random_query) == (True, False)  # it queries nothing


def test_a_learner_says_that_outputs_are_not_finite(flat):
    data, _ = flat
    learner = ActiveLearner(data, alhpo_toy.__name__, "entropy", max_epochs=1, device="cpu")
    learner.label_initial(12)
    learner.fit()
    with pytest.raises(DivergedError, match="not finite"):
        learner.ask(4)
    assert not len(learner.pool.pending)
    assert len(learner.ask(4, strategy="random")) == 4


def test_cleaning_up_ends_no_run(few_digits, tmp_path, monkeypatch):
    def denied(path, ignore_errors=False, **_):
        if not ignore_errors:
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", denied)
    result = run(few_digits, tmp_path, hpo="final", start="warm")
    assert [record.kind for record in result.records] == ["cycle"] * 3 + ["final"]
