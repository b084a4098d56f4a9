"""Checkpoints that lag behind their trials: the same searches, with fewer files written."""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import alhpo.training.trainer
from alhpo import ActiveLearner, RunConfig, Tuner, run_experiment
from alhpo.base.errors import CheckpointError
from alhpo.training.checkpoints import FILE_NAME, read_checkpoint
from alhpo.training.compute import Compute

#: In seconds of a clock on which an epoch of a trial takes one, and so does writing a checkpoint.
#: The first checkpoint of all is written always, as nobody knows how long that takes.
LAGS = {"written every third epoch": 2.5, "never written": 1e9}
both_lags = pytest.mark.parametrize("lag", LAGS, indirect=True)
CONFIGURATION = {"lr": 0.05, "weight_decay": 1e-3}


@pytest.fixture(autouse=True)
def lag(request, monkeypatch):
    """How far checkpoints lag, by its name in ``LAGS``."""
    ticks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: float(next(ticks)))
    name = getattr(request, "param", "written every third epoch")
    monkeypatch.setattr("alhpo.training.objective.time", clock)
    monkeypatch.setattr("alhpo.training.objective.LAG", LAGS[name])
    return name


@pytest.fixture
def written(monkeypatch):
    """The folders into which checkpoints were written, with the epoch of each."""
    calls, write = [], alhpo.training.trainer.write_checkpoint

    def counted(folder, tensors, description):
        calls.append((Path(folder), description["epoch"]))
        write(folder, tensors, description)

    monkeypatch.setattr(alhpo.training.trainer, "write_checkpoint", counted)
    return calls


@pytest.fixture
def learner(few_digits):
    learner = ActiveLearner(
        few_digits,
        model="alhpo_toy",
        max_epochs=4,
        precision="float32",
        validation="holdout:0.25",
        hyperparameters={"batch_size": 12},
    )
    learner.label_initial(16)
    learner.compute = replace(learner.compute, captured=True)
    return learner


def lagging(learner, max_epochs=None):
    objective = learner.objective(max_epochs)
    objective.let_checkpoints_lag()
    return objective


def tuner_of(objective, folder, *, callback=None, parallel=1, max_budget=9):
    return Tuner(
        objective,
        objective.configuration_space,
        max_epochs=objective.max_epochs,
        max_budget=max_budget,
        output_path=folder,
        optimizer="hyperband",
        num_configurations=6,
        parallel=parallel,
        seed=1,
        resume="quiet",
        progress=False,
        keep_mib=0,
        callback=callback,
    )


def search(objective, folder, **options):
    """The rows of a search, without times."""
    tuner = tuner_of(objective, folder, **options)
    tuner.run()
    return [{k: v for k, v in row.items() if "time" not in k} for row in tuner.results]


def interrupted(objective, folder, epochs, **options):
    """A search that is interrupted after some epochs."""

    trained = []

    def stop(row):
        trained.append(row)
        if len(trained) == epochs:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuner_of(objective, folder, callback=stop, **options).run()


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_search_has_the_same_rows_and_writes_less(learner, tmp_path, written, parallel):
    strict = search(learner.objective(), tmp_path / "strict", parallel=parallel)
    before = len(written)
    assert before == len(strict) == 9 and len({row["configuration_id"] for row in strict}) > 3
    assert search(lagging(learner), tmp_path / "lagging", parallel=parallel) == strict
    assert len(written) - before <= before / 2


@pytest.mark.parametrize(
    ("lag", "parallel", "goes_on"),
    [
        ("written every third epoch", 1, "another objective"),
        ("never written", 1, "another objective"),
        ("written every third epoch", 3, "the same objective"),
        pytest.param("written every third epoch", 3, "another objective", marks=pytest.mark.slow),
        pytest.param("never written", 3, "the same objective", marks=pytest.mark.slow),
    ],
    indirect=["lag"],
)
def test_interrupted_after_any_epoch_it_goes_on(learner, tmp_path, caplog, parallel, goes_on, lag):
    """No trial is lost, whether its file is absent or of an earlier epoch."""
    expected = search(lagging(learner), tmp_path / "whole", parallel=parallel)
    caplog.set_level(logging.WARNING, "alhpo")
    for epochs in range(1, len(expected)):
        objective, folder = lagging(learner), tmp_path / str(epochs)
        interrupted(objective, folder, epochs, parallel=parallel)
        objective = objective if goes_on == "the same objective" else lagging(learner)
        assert search(objective, folder, parallel=parallel) == expected
    assert not caplog.messages


@both_lags
def test_a_call_goes_on_from_an_earlier_epoch_or_from_none(learner, tmp_path, written, lag):
    configurations = [CONFIGURATION, CONFIGURATION | {"lr": 0.01}]
    objective, strict = lagging(learner, 6), learner.objective(6)
    for number, configuration in enumerate(configurations):
        expected = strict(configuration, 6, 0, tmp_path / "strict" / str(number))
        rows, folder = [], tmp_path / str(number)
        for epoch in range(5):
            rows += objective(configuration, epoch + 1, epoch, folder)
        rows += lagging(learner, 6)(configuration, 6, 5, folder)
        assert rows == expected
    epochs = [[e for folder, e in written if folder.name == n] for n in ("0", "1")]
    if lag == "never written":
        assert epochs == [[6, 1], [6]]
    else:
        assert epochs == [[6, 1, 4], [6, 3]]


def test_a_checkpoint_of_a_later_epoch_is_refused(learner, tmp_path):
    objective = lagging(learner)
    objective(CONFIGURATION, 3, 0, tmp_path)
    with pytest.raises(CheckpointError, match="of epoch 3; expected"):
        lagging(learner)(CONFIGURATION, 3, 2, tmp_path)


def epochs_on_disk(folder):
    found = {path.parent.name: read_checkpoint(path.parent)[1] for path in folder.rglob(FILE_NAME)}
    return {name: description["epoch"] for name, description in found.items()}


def test_release_memory_writes_what_is_unsaved(learner, tmp_path, written):
    objective = lagging(learner, 6)
    for trial in range(3):
        for epoch in range(2 + trial):
            configuration = CONFIGURATION | {"lr": (trial + 1) / 100}
            objective(configuration, epoch + 1, epoch, tmp_path / str(trial))
    objective.release_memory()
    assert epochs_on_disk(tmp_path) == {"0": 2, "1": 3, "2": 4}
    before = len(written)
    objective.release_memory()
    assert len(written) == before


def test_trials_that_go_out_of_memory_are_written(learner, tmp_path, written, monkeypatch):
    expected = search(learner.objective(), tmp_path / "strict")
    written.clear()
    monkeypatch.setattr("alhpo.training.objective.LIVE_BYTES", 0)
    assert search(lagging(learner), tmp_path / "lagging") == expected
    ended = sum(row["epoch"] == 4 for row in expected)
    assert ended and len(written) == len(expected) - ended  # nobody goes on with those


def test_only_objectives_of_captured_steps_let_them_lag(learner, tmp_path, written):
    learner.compute = replace(learner.compute, captured=False)
    rows = search(lagging(learner), tmp_path)
    assert len(written) == len(rows)
    assert len(list(tmp_path.glob(f"*/best_trial/{FILE_NAME}"))) == 1


def test_there_is_a_best_trial_only_where_checkpoints_do_not_lag(learner, tmp_path):
    copies = []
    search(
        lagging(learner),
        tmp_path / "lagging",
        callback=lambda row: copies.extend((tmp_path / "lagging").rglob("best_*")),
    )
    assert not copies and not list((tmp_path / "lagging").rglob(FILE_NAME))
    tuner = tuner_of(learner.objective(), tmp_path / "strict")
    best = tuner.run()
    (file,) = (tmp_path / "strict").rglob(FILE_NAME)
    assert file.parent == tuner.experiment_path / "best_trial"
    assert read_checkpoint(file.parent)[1]["epoch"] == best["epoch"]


@pytest.mark.parametrize("first", ["strict", "lagging"])
def test_a_search_goes_on_with_the_other_kind_of_objective(learner, tmp_path, first):
    expected = search(learner.objective(), tmp_path / "whole")
    for epochs in (3, 6, 8):
        kinds = [learner.objective(), lagging(learner)]
        one, other = kinds if first == "strict" else reversed(kinds)
        interrupted(one, tmp_path / str(epochs), epochs)
        assert search(other, tmp_path / str(epochs)) == expected


@both_lags
def test_divergence_is_remembered(learner, tmp_path, lag):
    hot = {"lr": 1e5, "weight_decay": 1.0}
    expected = learner.objective(6)(hot, 6, 0, tmp_path / "strict")
    assert [row["diverged"] for row in expected] == [False, True, True, True, True, True]
    for switch in range(1, 6):
        objective, rows, folder = lagging(learner, 6), [], tmp_path / str(switch)
        objective(CONFIGURATION, 1, 0, tmp_path / f"{switch}, the first that is written")
        for epoch in range(6):
            objective = lagging(learner, 6) if epoch == switch else objective
            rows += objective(hot, epoch + 1, epoch, folder)
        assert repr(rows) == repr(expected)


@both_lags
def test_a_run_has_the_same_records(tmp_path, few_digits, monkeypatch, written, lag):
    resolve = Compute.resolve
    monkeypatch.setattr(Compute, "resolve", lambda *given: replace(resolve(*given), captured=True))

    def records(folder):
        config = RunConfig(
            dataset="digits",
            model="alhpo_toy",
            strategy="entropy",
            initial_size=12,
            acquisition_size=8,
            budget=20,
            max_epochs=5,
            max_budget=15,
            num_configurations=4,
            optimizer="dyhpo",
            hyperparameters={"batch_size": 8},
            precision="float32",
            device="cpu",
            output_dir=str(folder),
        )
        result = run_experiment(config, dataset=few_digits)
        return [replace(record, seconds={}).to_dict() for record in result.records]

    fewer = records(tmp_path / "lagging")
    monkeypatch.setattr("alhpo.training.objective.LAG", 0)
    assert records(tmp_path / "strict") == fewer
    searches = [folder.parts for folder, _ in written if "hpo" in folder.parts]
    lagging_writes = sum("lagging" in parts for parts in searches)
    # two cycles measure five epochs of one configuration; nobody goes on after the last
    assert len(searches) - lagging_writes == 8
    assert lagging_writes == {"written every third epoch": 4, "never written": 2}[lag]
