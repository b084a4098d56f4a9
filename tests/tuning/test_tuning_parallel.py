"""Several trials at a time: the record is a function of seed and ``parallel`` alone."""

from __future__ import annotations

import json
import logging
import math
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tuning_toys import (
    OWN_OPTIMIZERS,
    ToyObjective,
    learning_curve,
    needs_optuna,
    read_rows,
    toy_space,
)

from alhpo.base.errors import CheckpointError, ConfigurationError, DivergedError, TunerError
from alhpo.base.seeding import numpy_generator
from alhpo.runs.search import run_search
from alhpo.runs.setting_groups import SearchSettings
from alhpo.runs.settings import RunConfig, TuneConfig
from alhpo.tuning import Tuner
from alhpo.tuning.optimizers import hpo4dl
from alhpo.tuning.optimizers.registry import OPTIMIZERS, register_optimizer

PROPERTIES = settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(params=OWN_OPTIMIZERS, scope="module")
def name(request):
    needs_optuna(request.param)
    return request.param


class Together(ToyObjective):
    """Trains what it is given in an order of its own, and does something at some calls.

    ``events`` maps the number of a training, from 1, to what it raises: an ``Exception`` in place
    of the result of that one, anything else out of everything.
    """

    def __init__(self, curve=learning_curve, order=0, events=None):
        super().__init__(curve)
        self.order, self.events = random.Random(order), events or {}
        self.steps: list[list[tuple[str, int]]] = []

    def __call__(self, configuration, epoch, previous_epoch, checkpoint_path):
        folder = Path(checkpoint_path)
        if previous_epoch and not (folder / "two.json").exists():
            raise CheckpointError(f"{folder} is damaged")
        rows = super().__call__(configuration, epoch, previous_epoch, checkpoint_path)
        if len(self.calls) in self.events:
            raise self.events[len(self.calls)]
        return rows

    def train_together(self, requests):
        self.steps.append([(Path(path).name, epoch) for _, epoch, _, path in requests])
        results = [None] * len(requests)
        for place in self.order.sample(range(len(requests)), len(requests)):
            try:
                results[place] = self(*requests[place])
            except Exception as error:
                results[place] = error
        return results


def tuner(objective, output, optimizer="random", parallel=3, **settings):
    settings = {"max_epochs": 4, "max_budget": 14, "num_configurations": 12} | settings
    settings = {"seed": 5, "progress": False, "resume": "quiet", "keep_mib": 0} | settings
    sizes = [settings.pop(name) for name in ("max_epochs", "max_budget")]
    return Tuner(objective, toy_space(), *sizes, output, optimizer, parallel=parallel, **settings)


def assert_same(search, undisturbed):
    assert read_rows(search.experiment_path).equals(read_rows(undisturbed.experiment_path))
    best, expected = (one.experiment_path / "best_trial" for one in (search, undisturbed))
    assert {path.name: path.read_text() for path in best.iterdir()} == {
        path.name: path.read_text() for path in expected.iterdir()
    }
    assert not (search.experiment_path / "trials").exists()


def flaky(seed, rate):
    """Metrics from a hash of configuration and epoch; some NaN or an exception."""

    def curve(configuration, epoch):
        fate, level, kind = numpy_generator(
            seed, repr(sorted(configuration.items())), epoch
        ).random(3)
        if fate >= rate:
            return float(round(level, 1))
        if kind < 0.3:
            raise ValueError("a flaky trial")
        if kind < 0.5:
            raise DivergedError("a loss")
        return math.nan

    return curve


def run(search):
    try:
        search.run()
    except KeyboardInterrupt:
        return False
    except TunerError as error:
        assert "No trial succeeded" in str(error)
    return True


def told(search):
    return repr(
        [
            (row["configuration_id"], row["epoch"], row["configuration"], row["metric"])
            for row in search.results
        ]
    )


@PROPERTIES
@given(data=st.data())
def test_whatever_finishes_first_and_wherever_it_is_killed_the_record_is_the_same(
    name, data, tmp_path_factory
):
    sizes = {
        "parallel": data.draw(st.integers(2, 4)),
        "max_epochs": data.draw(st.integers(1, 5)),
        "max_budget": data.draw(st.integers(1, 18)),
        "num_configurations": data.draw(st.integers(1, 12)),
        "max_failures": 18,
        "seed": data.draw(st.integers(0, 2**40)),
    }
    curve = flaky(sizes["seed"], data.draw(st.sampled_from([0.0, 0.2, 1.0])))
    folder = tmp_path_factory.mktemp("search")
    alone = tuner(ToyObjective(curve), folder / "alone", name, **sizes)
    run(alone)
    together = Together(curve, order=data.draw(st.integers(0, 99)))
    run(tuner(together, folder / "together", name, **sizes))
    broken = folder / "broken"
    for at in data.draw(st.lists(st.integers(1, 18), min_size=1, max_size=3)):
        if not run(tuner(Together(curve, at, {at: KeyboardInterrupt()}), broken, name, **sizes)):
            shutil.rmtree(folder / "killed", ignore_errors=True)
    run(tuner(Together(curve), broken, name, **sizes))
    searches = [tuner(together, folder / one, name, **sizes) for one in ("together", "broken")]
    assert {told(one) for one in searches} == {told(alone)}
    assert 1 <= alone.epochs_spent <= sizes["max_budget"]
    assert all(2 <= len(step) <= sizes["parallel"] for step in together.steps)
    for step in together.steps:
        assert len({trial for trial, _ in step}) == len(step)


@PROPERTIES
@given(
    rate=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 99),
    budget=st.integers(1, 30),
    optimizer=st.sampled_from(["random", "one-epoch"]),
)
def test_what_is_trained_does_not_depend_on_how_many_at_a_time(
    tmp_path_factory, rate, seed, budget, optimizer
):
    """These do not choose by what was seen while the suggestion was trained."""
    folder, curve = tmp_path_factory.mktemp("search"), flaky(seed, rate)
    settings = {"max_budget": budget, "max_failures": 30, "num_configurations": 7}
    trained = []
    for parallel in (1, 2, 3):
        search = tuner(Together(curve), folder, optimizer, parallel, **settings)
        run(search)
        trained.append(sorted((row["configuration_id"], row["epoch"]) for row in search.results))
    assert trained[0] == trained[1] == trained[2]


def test_hyperband_trains_the_same_with_several_at_a_time(tmp_path):
    trained = []
    for parallel in (1, 4):
        search = tuner(Together(), tmp_path, "hyperband", parallel, max_epochs=9, max_budget=None)
        search.run()
        trained.append({(row["configuration_id"], row["epoch"]) for row in search.results})
    assert trained[0] == trained[1]


def test_the_budget_is_given_away_in_the_order_of_the_suggestion(tmp_path):
    search = tuner(Together(), tmp_path, "random", 4, max_budget=10)
    search.run()
    pairs = [(row["configuration_id"], row["epoch"]) for row in search.results]
    both = [(number, epoch) for epoch in (3, 4) for number in (0, 1)]
    assert pairs == [*((n, e) for e in (1, 2) for n in (0, 1, 2)), *both]


def test_a_place_that_is_free_is_taken_by_the_next_of_the_suggestion(tmp_path):
    objective = Together(lambda c, epoch: math.nan if c["kind"] == "a" else 0.5)
    search = tuner(objective, tmp_path, "one-epoch", 3, max_epochs=3, max_budget=None)
    search.run()
    assert [len(step) for step in objective.steps[:4]] == [3, 3, 3, 3]  # of 12 candidates
    assert {epoch for step in objective.steps[:4] for _, epoch in step} == {1}


def test_one_at_a_time_never_trains_together_and_is_the_search_it_always_was(tmp_path):
    objective = Together()
    search = tuner(objective, tmp_path, parallel=1)
    search.run()
    assert not objective.steps
    assert (
        search.experiment_path
        == Tuner(
            *(objective, toy_space(), 4, 14, tmp_path, "random"), num_configurations=12, seed=5
        ).experiment_path
    )
    start = json.loads((search.experiment_path / "journal.jsonl").open().readline())
    assert "parallel" not in start


def test_another_number_is_another_search(tmp_path):
    paths = {tuner(Together(), tmp_path, parallel=n).experiment_path for n in (1, 2, 3)}
    assert len(paths) == 3


# What goes wrong with one of several.


@pytest.fixture
def undisturbed(tmp_path):
    search = tuner(Together(), tmp_path / "undisturbed")
    search.run()
    return search


@pytest.mark.parametrize("at", [2, 3, 8])
def test_an_exception_of_one_stops_the_search_which_goes_on_when_it_is_fixed(
    tmp_path, undisturbed, at
):
    error = AttributeError("no 'fcc'")
    with pytest.raises(TunerError, match=r"no 'fcc'.*max_failures=1") as stopped:
        tuner(Together(events={at: error}), tmp_path / "out").run()
    assert stopped.value.__cause__ is error
    search = tuner(Together(), tmp_path / "out")
    search.run()
    assert_same(search, undisturbed)


def test_a_trial_that_may_fail_is_left_out_and_the_others_go_on(tmp_path):
    error = ValueError("once")
    search = tuner(Together(events={5: error}), tmp_path, max_failures=1)
    search.run()
    failed = [row["configuration_id"] for row in search.results if math.isnan(row["metric"])]
    assert len(failed) == 1
    numbers = [row["configuration_id"] for row in search.results]
    assert numbers.count(failed[0]) == 2
    assert len(numbers) == 14


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_a_lost_checkpoint_is_trained_again(tmp_path, undisturbed, how, caplog):
    with pytest.raises(KeyboardInterrupt):
        tuner(Together(events={7: KeyboardInterrupt()}), tmp_path / "out").run()
    search = tuner(Together(), tmp_path / "out")
    assert search.epochs_spent == 6
    trials = search.experiment_path / "trials"
    for copy in trials.glob("*.before_*"):
        shutil.rmtree(copy)
    if how == "gone":
        shutil.rmtree(trials / "trial_1")
    else:
        (trials / "trial_1" / "two.json").unlink()
    with caplog.at_level(logging.WARNING, "alhpo.tuning"):
        search.run()
    assert "Configuration 1 is trained again from epoch 0 to 2" in caplog.text
    assert_same(search, undisturbed)


class OutOfMemory(Together):
    """Has no memory for three, and says so of all or of one; nor, perhaps, for one."""

    def __init__(self, says, alone=False):
        super().__init__(events={7: MemoryError()} if alone else None)
        self.says = says

    def train_together(self, requests):
        results = super().train_together(requests)
        if self.says == "all":
            raise MemoryError
        return [results[0], MemoryError(), *results[2:]]


@pytest.mark.parametrize("says", ["all", "one"])
def test_where_memory_is_short_trials_are_trained_one_by_one(tmp_path, undisturbed, says, caplog):
    objective = OutOfMemory(says)
    search = tuner(objective, tmp_path / "out")
    with caplog.at_level(logging.WARNING, "alhpo.tuning"):
        search.run()
    assert "does not suffice for 3 trials together" in caplog.text
    assert len(objective.steps) == 1
    assert_same(search, undisturbed)


def test_where_memory_is_short_for_one_too_the_search_stops(tmp_path, undisturbed):
    with pytest.raises(TunerError, match="not enough memory"):
        tuner(OutOfMemory("all", alone=True), tmp_path / "out", max_failures=9).run()
    search = tuner(Together(), tmp_path / "out")
    assert search.epochs_spent == 3
    search.run()
    assert_same(search, undisturbed)


class Broken(Together):
    """Fails as a whole, or breaks the contract, in its second step."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def train_together(self, requests):
        results = super().train_together(requests)
        if len(self.steps) == 2:
            if self.how == "raises":
                raise ZeroDivisionError("all of it")
            return results[1:]
        return results


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", r"on configurations \[0, 1, 2\] together: ZeroDivisionError: all of it"),
        ("too few", "one result, or exception, for each of its 3 requests"),
    ],
)
def test_a_failure_of_all_stops_the_search_whatever_is_allowed(tmp_path, undisturbed, how, message):
    with pytest.raises(TunerError, match=message):
        tuner(Broken(how), tmp_path / "out", max_failures=9).run()
    search = tuner(Together(), tmp_path / "out")
    assert search.epochs_spent == 3
    search.run()
    assert_same(search, undisturbed)


# Who takes it.


@pytest.mark.parametrize("factory", [hpo4dl.dyhpo, hpo4dl.hyperband])
def test_hpo4dls_optimizers_are_refused(tmp_path, factory):
    with pytest.raises(ConfigurationError, match="suggests one trial at a time"):
        tuner(Together(), tmp_path, factory, parallel=2)
    assert not list(tmp_path.iterdir())


def test_a_run_refuses_an_optimizer_that_does_not_take_it():
    with OPTIMIZERS.temporary():
        register_optimizer("single", lambda configurations, **_: None)
        RunConfig.create({"optimizer": "single", "hpo": "per-cycle"})
        with pytest.raises(ConfigurationError, match="'single' suggests one trial at a time"):
            RunConfig.create({"optimizer": "single", "hpo": "per-cycle", "parallel": 2})


def test_a_run_is_another_with_another_number_where_it_searches():
    for config, chosen, same in (
        (RunConfig, {"hpo": "per-cycle"}, False),
        (RunConfig, {"hpo": "fixed"}, True),
        (TuneConfig, {"pool": "pool", "labels": 8}, False),
    ):
        one, other = (config.create(chosen, {"parallel": n}).name for n in (1, 3))
        assert (one == other) is same


def test_a_runs_searches_train_several_at_a_time(tmp_path):
    objective = Together()
    objective.configuration_space, objective.max_epochs = toy_space(), 3
    objective.let_checkpoints_lag = lambda: None
    objective.in_processes = False
    chosen = SearchSettings(optimizer="random", num_configurations=5, parallel=2)
    arguments = {"budget": 6, "seed": 0, "storage": None, "show": lambda status: None}
    run_search(objective, chosen, tmp_path, **arguments)
    assert [len(step) for step in objective.steps] == [2, 2, 2]
