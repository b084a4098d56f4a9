"""A search as a study of Optuna: it says what the Tuner recorded, however often it was killed."""

from __future__ import annotations

import json
import math
import os
import signal
import warnings

import pytest
from ConfigSpace import CategoricalHyperparameter, Constant, OrdinalHyperparameter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tuning_spaces import spaces
from tuning_toys import ToyObjective, learning_curve, run_in_fork, toy_space

from alhpo.base.errors import ConfigurationError, DivergedError
from alhpo.hyperparameters.description import plain_value
from alhpo.tuning import Tuner, optuna_study
from alhpo.tuning.optuna_study import OptunaStudy

optuna = pytest.importorskip("optuna")
from optuna.storages.journal import JournalFileBackend  # noqa: E402
from optuna.trial import TrialState  # noqa: E402

MAX_EPOCHS = 3


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


def curve(configuration, epoch):
    """The toys' curve; a part of the space diverges, in the first or the second epoch."""
    if configuration["x"] > 0.6 and epoch == 1 + (configuration["kind"] == "a"):
        return math.nan
    return learning_curve(configuration, epoch)


def tuner(folder, optimizer="hyperband", **changes):
    given = {"max_budget": 14, "seed": 1, "num_configurations": 9, "minimize": False} | changes
    objective = given.pop("objective", None) or ToyObjective(curve)
    space = given.pop("space", None) or toy_space()
    max_epochs = given.pop("max_epochs", MAX_EPOCHS)
    given.setdefault("optuna_storage", folder / "optuna.log")
    return Tuner(
        objective,
        space,
        max_epochs,
        given.pop("max_budget"),
        folder,
        optimizer,
        progress=False,
        resume="quiet",
        **given,
    )


def opened(file, name=None):
    """The study in a file, as users of Optuna open it."""
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(file)))
    return optuna.load_study(study_name=name, storage=storage)


def told(study, *, without=("seconds",)):
    """All that a study says, but for times."""
    trials = [
        (
            trial.number,
            trial.state.name,
            trial.value,
            trial.params,
            trial.distributions,
            trial.intermediate_values,
            {name: value for name, value in trial.user_attrs.items() if name not in without},
        )
        for trial in study.trials
    ]
    return study.study_name, study.direction, study.user_attrs, trials


def by_trial(rows):
    """The rows of each configuration, in the order in which they were begun."""
    trials = {}
    for row in rows:
        trials.setdefault(row["configuration_id"], []).append(row)
    return trials


@pytest.mark.parametrize("minimize", [False, True])
@pytest.mark.parametrize(
    ("optimizer", "parallel"), [("hyperband", 1), ("asha", 3), ("random", 2), ("dyhpo", 1)]
)
def test_the_study_is_the_search(tmp_path, optimizer, parallel, minimize):
    search = tuner(tmp_path, optimizer, parallel=parallel, minimize=minimize)
    best = search.run()
    study = opened(tmp_path / "optuna.log")
    assert study.study_name == search.experiment_path.name
    assert study.direction.name == ("MINIMIZE" if minimize else "MAXIMIZE")
    trials = by_trial(search.results)
    assert [trial.user_attrs["configuration_id"] for trial in study.trials] == [*trials]
    states = set()
    for trial, rows in zip(study.trials, trials.values(), strict=True):
        last = rows[-1]
        metrics = {row["epoch"]: row["metric"] for row in rows if math.isfinite(row["metric"])}
        assert trial.intermediate_values == metrics
        assert trial.params == last["configuration"]
        if math.isnan(last["metric"]):
            assert (trial.state, trial.value) == (TrialState.FAIL, None)
            assert trial.user_attrs["status"] == "diverged"
        else:
            ended = last["epoch"] == MAX_EPOCHS
            assert trial.state == (TrialState.COMPLETE if ended else TrialState.PRUNED)
            assert trial.value == last["metric"]
        assert trial.user_attrs["list"] == last["list"]
        assert trial.user_attrs["total"] == last["total"]
        assert trial.user_attrs["seconds"] == pytest.approx(sum(row["time"] for row in rows))
        assert trial.datetime_start <= trial.datetime_complete
        states.add(trial.state.name)
    assert "COMPLETE" in states
    assert optimizer != "hyperband" or states == {"FAIL", "PRUNED", "COMPLETE"}
    assert study.user_attrs["best"] == {
        key: best[key] for key in ("configuration_id", "epoch", "metric")
    }
    assert study.user_attrs["stop_reason"] == search.stop_reason
    assert study.user_attrs["max_budget"] == 14


def test_it_is_up_to_date_after_every_epoch(tmp_path):
    rows, seen = [], []

    def look(row):
        rows.append(row)
        study = opened(tmp_path / "optuna.log")
        values = {
            trial.user_attrs["configuration_id"]: trial.intermediate_values
            for trial in study.trials
        }
        assert values == {
            number: {one["epoch"]: one["metric"] for one in of if math.isfinite(one["metric"])}
            for number, of in by_trial(rows).items()
        }
        finite = [one["metric"] for one in rows if math.isfinite(one["metric"])]
        assert study.user_attrs["best"]["metric"] == max(finite)
        seen.extend(trial.state.name for trial in study.trials)

    tuner(tmp_path, callback=look).run()
    assert set(seen) == {"RUNNING", "COMPLETE", "FAIL"}  # pruned only at the end


def test_a_trial_runs_before_its_first_epoch_ends(tmp_path):
    counts = []

    class Looking(ToyObjective):
        def __call__(self, configuration, epoch, *rest):
            if epoch == 1:
                last = opened(tmp_path / "optuna.log").trials[-1]
                counts.append((last.number, last.state.name, last.params == configuration))
            return super().__call__(configuration, epoch, *rest)

    tuner(tmp_path, "random", objective=Looking(curve), max_budget=7).run()
    assert counts == [(number, "RUNNING", True) for number in range(len(counts))]
    assert len(counts) >= 3


def test_it_changes_nothing_of_the_search(tmp_path):
    plain = tuner(tmp_path / "plain", optuna_storage=None)
    shown = tuner(tmp_path / "shown")
    assert plain.run()["metric"] == shown.run()["metric"]
    assert plain.experiment_path.name == shown.experiment_path.name
    assert [row["metric"] for row in plain.results if row["metric"] == row["metric"]] == [
        row["metric"] for row in shown.results if row["metric"] == row["metric"]
    ]


@pytest.mark.parametrize(
    ("optimizer", "parallel", "killed_at"), [("hyperband", 1, 4), ("asha", 3, 1), ("asha", 3, 8)]
)
def test_killed_and_continued_it_is_the_same_study(tmp_path, optimizer, parallel, killed_at):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    tuner(whole, optimizer, parallel=parallel).run()

    seen = []

    def kill(row):
        seen.append(row)
        if len(seen) == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    search = tuner(killed, optimizer, parallel=parallel, callback=kill)
    assert run_in_fork(search.run) == -signal.SIGKILL
    with (killed / "optuna.log").open("a") as file:
        file.write('{"op_code":6,"worker')  # as if the kill had come in the middle of an entry
    tuner(killed, optimizer, parallel=parallel).run()
    assert told(opened(killed / "optuna.log")) == told(opened(whole / "optuna.log"))


class Killed(BaseException):
    """Ends the search at a write, as a kill would."""


def test_killed_at_any_write_of_the_study_it_is_the_same(tmp_path, monkeypatch):
    settings = {"max_budget": 8, "num_configurations": 4}
    tuner(tmp_path / "whole", **settings).run()
    expected = told(opened(tmp_path / "whole" / "optuna.log"))
    writes = len((tmp_path / "whole" / "optuna.log").read_text().splitlines())
    append = JournalFileBackend.append_logs
    for place in range(writes):
        folder = tmp_path / str(place)

        def until(self, logs, left=[place]):  # noqa: B006 - counts down over the calls
            if not left[0]:
                raise Killed
            left[0] -= 1
            append(self, logs)

        monkeypatch.setattr(JournalFileBackend, "append_logs", until)
        with pytest.raises(Killed):
            tuner(folder, **settings).run()
        monkeypatch.setattr(JournalFileBackend, "append_logs", append)
        tuner(folder, **settings).run()
        assert told(opened(folder / "optuna.log")) == expected
    assert writes > 20


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(1, 40), max_size=3))
def test_brought_up_to_date_from_any_earlier_or_later_state(tmp_path_factory, cuts):
    """Such as after an export of a copy that is ahead, or of a search that was extended."""
    folder = tmp_path_factory.mktemp("states")
    search = tuner(folder, optuna_storage=None)
    search.run()
    journal = search.experiment_path / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    for cut in cuts:
        journal.write_text("".join(lines[:cut]))
        OptunaStudy(folder / "often.log", "s", search.experiment_path).catch_up()
    journal.write_text("".join(lines))
    for _ in range(2):
        OptunaStudy(folder / "often.log", "s", search.experiment_path).catch_up()
        size = (folder / "often.log").stat().st_size
    OptunaStudy(folder / "once.log", "s", search.experiment_path).catch_up()
    OptunaStudy(folder / "often.log", "s", search.experiment_path).catch_up()
    assert (folder / "often.log").stat().st_size == size  # nothing new, nothing written
    assert told(opened(folder / "often.log")) == told(opened(folder / "once.log"))


def test_an_export_is_what_the_search_would_have_shown(tmp_path):
    search = tuner(tmp_path)
    search.run()
    OptunaStudy(
        tmp_path / "later.log", search.experiment_path.name, search.experiment_path
    ).catch_up()
    assert told(opened(tmp_path / "later.log")) == told(opened(tmp_path / "optuna.log"))
    trials = opened(tmp_path / "later.log").trials
    assert all(trial.datetime_start < trial.datetime_complete for trial in trials)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(space=spaces())
def test_parameters_and_distributions_are_those_of_the_space(tmp_path_factory, space):
    folder = tmp_path_factory.mktemp("space")
    search = tuner(
        folder,
        "random",
        space=space,
        objective=lambda _, epoch, *__: {"epoch": epoch, "metric": 0.5},
        identity="flat",
        max_epochs=1,
        max_budget=5,
    )
    search.run()
    study = opened(folder / "optuna.log")
    for trial, row in zip(study.trials, search.results, strict=True):
        assert trial.params == row["configuration"]
        assert {name: type(value) for name, value in trial.params.items()} == {
            name: type(value) for name, value in row["configuration"].items()
        }
        for name, distribution in trial.distributions.items():
            here = space[name]
            if isinstance(here, CategoricalHyperparameter | OrdinalHyperparameter | Constant):
                values = getattr(here, "choices", None) or getattr(here, "sequence", None)
                values = [plain_value(here, one) for one in values or [here.value]]
                assert list(distribution.choices) == values
            else:
                assert (distribution.low, distribution.high) == (here.lower, here.upper)
                assert distribution.log == getattr(here, "log", False)
                assert type(distribution.low) is type(row["configuration"][name])


def test_choices_that_optuna_cannot_tell_apart_are_shown_as_text(tmp_path):
    space = {"hyperparameters": [{"name": "a", "type": "x", "choices": [1, True, 1.0]}]}
    assert optuna_study._distribution(space["hyperparameters"][0]).choices == ("1", "True", "1.0")
    assert optuna_study._told(space["hyperparameters"][0], 1.0) == "1.0"


def test_a_failed_trial_says_why(tmp_path):
    def objective(configuration, epoch, *_):
        if configuration["x"] > 0.5:
            raise ValueError("too large")
        if configuration["x"] > 0.3:
            raise DivergedError("no")
        return {"epoch": epoch, "metric": 1.0}

    search = tuner(tmp_path, "random", objective=objective, identity="fails", max_failures=9)
    search.run()
    study = opened(tmp_path / "optuna.log")
    why = {trial.user_attrs.get("status"): trial.user_attrs.get("error") for trial in study.trials}
    assert why == {"failed": "ValueError: too large", "diverged": None, None: None}
    states = {trial.user_attrs.get("status"): trial.state.name for trial in study.trials}
    assert states == {"failed": "FAIL", "diverged": "FAIL", None: "COMPLETE"}


def test_a_search_that_starts_anew_has_a_new_study(tmp_path):
    broken = [True]

    def objective(configuration, epoch, *_):
        if broken[0]:
            raise ValueError("broken")
        return {"epoch": epoch, "metric": 1.0}

    changes = {"objective": objective, "identity": "broken", "max_failures": 99, "max_budget": 6}
    with pytest.raises(Exception, match="No trial succeeded"):
        tuner(tmp_path, "random", **changes).run()
    assert {trial.state.name for trial in opened(tmp_path / "optuna.log").trials} == {"FAIL"}
    broken[0] = False
    tuner(tmp_path, "random", **changes).run()
    states = [trial.state.name for trial in opened(tmp_path / "optuna.log").trials]
    assert states == ["COMPLETE", "COMPLETE"]


def test_a_file_holds_many_searches(tmp_path):
    file = tmp_path / "all.log"
    searches = [
        tuner(tmp_path / "runs", "random", seed=seed, optuna_storage=file, optuna_study="mine")
        for seed in (0, 1)
    ]
    for search in [*searches, *searches]:
        search.run()
    other = f"mine/{searches[1].experiment_path.name}"
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(file)))
    assert sorted(optuna.get_all_study_names(storage)) == ["mine", other]
    for name, search in zip(["mine", other], searches, strict=True):
        trials = opened(file, name).trials
        values = [trial.value for trial in trials if trial.state is TrialState.COMPLETE]
        rows = [row for row in search.results if row["epoch"] == MAX_EPOCHS]
        assert values == [row["metric"] for row in rows if math.isfinite(row["metric"])]


def test_a_search_goes_on_where_the_study_cannot_be_written(tmp_path):
    place = tmp_path / "studies"

    def remove(row):
        (place / "optuna.log").unlink(missing_ok=True)
        if place.exists():
            place.rmdir()

    with pytest.warns(UserWarning, match="not brought up to date any further"):
        tuner(tmp_path, optuna_storage=place / "optuna.log", callback=remove).run()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search = tuner(tmp_path, optuna_storage=place / "optuna.log")
        search.run()
    study = opened(place / "optuna.log")
    assert len(study.trials) == len(by_trial(search.results))


def test_optunas_logging_stays_as_it_was(tmp_path, capfd):
    before = (
        optuna.logging.get_verbosity(),
        list(optuna.logging._get_library_root_logger().handlers),
    )
    tuner(tmp_path).run()
    after = optuna.logging.get_verbosity(), list(optuna.logging._get_library_root_logger().handlers)
    assert after == before
    assert capfd.readouterr() == ("", "")


def test_what_is_refused(tmp_path, monkeypatch):
    with pytest.raises(
        ConfigurationError, match=r"optuna_storage is .*, a folder; expected a file"
    ):
        tuner(tmp_path, optuna_storage=tmp_path)
    with pytest.raises(ConfigurationError, match="optuna_storage is 3; expected the path"):
        tuner(tmp_path, optuna_storage=3)
    text = tmp_path / "notes.txt"
    for content in ("[1]\n", "not JSON\nat all\n", json.dumps({"op_code": 99}) + "\n"):
        text.write_text(content)
        with pytest.raises(ConfigurationError, match=r"not a journal of Optuna .* remove it"):
            tuner(tmp_path, optuna_storage=text).run()
        assert text.read_text() == content
    with pytest.raises(ConfigurationError, match="has no search"):
        OptunaStudy(tmp_path / "new.log", "s", tmp_path / "nothing")
    unbounded = {"hyperparameters": [{"name": "a", "type": "NormalFloatHyperparameter", "mu": 0}]}
    with pytest.raises(ConfigurationError, match=r"'a' \(NormalFloat.* has no bounds"):
        optuna_study.check_space(unbounded)
    monkeypatch.setattr(optuna_study.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"needs the package optuna.*alhpo\[dashboard\]"):
        tuner(tmp_path)
