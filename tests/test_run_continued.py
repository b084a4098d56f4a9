"""What a run needs to go on: the models it starts from, the machine it began on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from toy_models import TOY, alhpo_toy

from alhpo.base.errors import CheckpointError, ConfigurationError, DataError
from alhpo.learner import ActiveLearner
from alhpo.runs.experiment import run_experiment
from alhpo.runs.pool_tuning import tune_pool
from alhpo.runs.settings import RunConfig
from alhpo.studies.cell_runner import run_cell
from alhpo.studies.config import Cell
from alhpo.training.checkpoints import read_checkpoint, write_checkpoint
from alhpo.training.compute import Compute


def settings(folder, **changes) -> RunConfig:
    return RunConfig.create(TOY, {"output_dir": str(folder)}, changes)


def comparable(records) -> list[dict]:
    return [replace(record, seconds={}).to_dict() for record in records]


class Killed(BaseException):
    """Ends the process as SIGKILL would: nothing catches it."""


def stopped(config, data, records: int) -> Path:
    """The folder of a run that was killed right after this many records."""

    class Stop:
        def started(self, *_): ...

        def loaded(self, *_): ...

        def progressed(self, *_): ...

        def recorded(self, record):
            if record.cycle == records - 1:
                raise Killed

    with pytest.raises(Killed):
        run_experiment(config, dataset=data, observer=Stop())
    return Path(config.output_dir) / config.name


@pytest.mark.parametrize("other", ["configuration", "labels"])
def test_a_warm_start_takes_no_other_fit(few_digits, tmp_path, other):
    config = settings(tmp_path / "a", start="warm", hpo="fixed", validate_fixed=False)
    path = stopped(config, few_digits, 1)
    changes = {"hyperparameters": {"batch_size": 8, "lr": 0.01}} if other != "labels" else {}
    size = {"initial_size": 13} if other == "labels" else {}
    strange = settings(
        tmp_path / "b", start="warm", hpo="fixed", validate_fixed=False, **changes, **size
    )
    shutil.copytree(stopped(strange, few_digits, 1) / "fit", path / "fit", dirs_exist_ok=True)
    with pytest.raises(
        CheckpointError, match=r"start=warm.*of another (configuration|labeled set)"
    ):
        run_experiment(config, dataset=few_digits)


def test_a_finished_run_needs_no_model_to_write_its_last_file(few_digits, tmp_path):
    config = settings(tmp_path, start="warm", hpo="final", budget=20)
    whole = run_experiment(config, dataset=few_digits)
    kept = sorted(folder.name for folder in (whole.path / "fit").iterdir())
    assert kept == ["cycle_000", "cycle_001", "final"]  # for a run to more labels
    (whole.path / "run.json").unlink()
    shutil.rmtree(whole.path / "fit")
    assert comparable(run_experiment(config, dataset=few_digits).records) == comparable(
        whole.records
    )


def test_a_saved_model_says_what_fit_it_is_of(few_digits, tmp_path):
    learner = ActiveLearner(few_digits, alhpo_toy.__name__, max_epochs=3, device="cpu")
    learner.label_initial(12)
    learner.fit({"lr": 0.02}, checkpoint_path=tmp_path)
    _, said = read_checkpoint(tmp_path)
    assert said["configuration"]["lr"] == 0.02
    assert (said["epoch"], said["training"]["max_epochs"], said["diverged"]) == (3, 3, False)
    learner.restore(tmp_path, configuration={"lr": 0.02})
    with pytest.raises(CheckpointError, match=r"another configuration: it has lr=0\.02"):
        learner.restore(tmp_path, configuration={"lr": 0.01})
    learner.query(5)
    with pytest.raises(CheckpointError, match="another labeled set"):
        learner.restore(tmp_path, configuration={"lr": 0.02})
    learner.restore(tmp_path, configuration={"lr": 0.02}, n_labeled=12)
    learner.restore(tmp_path)


def test_the_model_of_an_interrupted_fit_is_refused(few_digits, tmp_path, monkeypatch):
    monkeypatch.setattr("alhpo.training.final_fit.CHECKPOINT_SECONDS", 0.0)
    learner = ActiveLearner(few_digits, alhpo_toy.__name__, max_epochs=10, device="cpu")
    learner.label_initial(12)

    def kill(epoch):
        if epoch == 3:
            raise Killed

    with pytest.raises(Killed):
        learner.fit(checkpoint_path=tmp_path / "fit", callback=kill)
    with pytest.raises(CheckpointError, match=r"interrupted after epoch 2 of 10.*Fit again"):
        learner.restore(tmp_path / "fit")
    learner.fit(checkpoint_path=tmp_path / "fit")
    learner.restore(tmp_path / "fit")


def test_the_model_of_a_trial_is_that_of_its_latest_epoch(few_digits, tmp_path):
    learner = ActiveLearner(few_digits, alhpo_toy.__name__, max_epochs=10, device="cpu")
    learner.label_initial(20)
    objective = learner.objective()
    objective({"lr": 0.02, "weight_decay": 1e-4}, 2, 0, tmp_path / "trial")
    learner.restore(tmp_path / "trial")
    assert learner.evaluate().n == 60


def test_a_checkpoint_of_something_else_is_refused(few_digits, tmp_path):
    vaal = ActiveLearner(few_digits, alhpo_toy.__name__, "vaal", vaal_epochs=1, path=tmp_path)
    vaal.label_initial(12)
    write_checkpoint(tmp_path / "other", {}, {"epoch": 3})
    with pytest.raises(CheckpointError, match="not of a fit or a trial"):
        vaal.restore(tmp_path / "other")


def sessions(path) -> list[dict]:
    return [json.loads(line) for line in (path / "sessions.jsonl").read_text().splitlines()]


def begun_with(path, **changes) -> None:
    """Let the first session have computed otherwise."""
    first, *others = sessions(path)
    lines = [json.dumps(one) + "\n" for one in (first | changes, *others)]
    (path / "sessions.jsonl").write_text("".join(lines))


def test_a_run_goes_on_in_the_precision_that_it_began_with(few_digits, tmp_path, monkeypatch):
    """Where "auto" is bfloat16 at its start, and float32 where it goes on."""
    resolve = Compute.resolve

    def elsewhere(device="auto", precision="auto", image_size=32):
        return resolve(device, "bfloat16" if precision == "auto" else precision, image_size)

    changes = {"precision": "auto", "hpo": "fixed", "validate_fixed": False}
    with monkeypatch.context() as patched:
        patched.setattr(Compute, "resolve", elsewhere)
        whole = run_experiment(settings(tmp_path / "whole", **changes), dataset=few_digits)
        path = stopped(settings(tmp_path / "moved", **changes), few_digits, 1)
    moved = run_experiment(settings(tmp_path / "moved", **changes), dataset=few_digits)
    assert comparable(moved.records) == comparable(whole.records)
    assert [one["precision"] for one in sessions(path)] == ["bfloat16", "bfloat16"]
    begun = run_experiment(settings(tmp_path / "here", **changes), dataset=few_digits)
    assert sessions(begun.path)[0]["precision"] == "float32"
    assert begun.records[0].test != whole.records[0].test


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"device_type": "cuda"}, r"began with device_type=cuda.*device_type=cpu.*--device cuda"),
        ({"precision": "bfloat16"}, r"precision=bfloat16.*=float32.*--precision bfloat16"),
        ({"channels_last": True}, r"channels_last=True.*version of alhpo that began it"),
    ],
)
def test_a_run_does_not_go_on_with_other_computation(few_digits, tmp_path, changes, match):
    config = settings(tmp_path, hpo="fixed", validate_fixed=False)
    path = stopped(config, few_digits, 1)
    begun_with(path, **changes)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(ConfigurationError, match=match):
        run_experiment(config, dataset=few_digits)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    begun_with(path, device_type="cpu", precision="float32", channels_last=False)
    assert len(run_experiment(config, dataset=few_digits).records) == 3
    begun_with(path, **changes)
    assert run_experiment(config, dataset=few_digits).resumed  # it is finished


def test_another_type_of_device_is_refused_before_data_are_loaded(
    few_digits, tmp_path, monkeypatch
):
    config = settings(tmp_path, hpo="fixed", validate_fixed=False)
    begun_with(stopped(config, few_digits, 1), device_type="cuda")
    monkeypatch.setattr("alhpo.runs.experiment.load_data", lambda *_: pytest.fail("loaded"))
    with pytest.raises(ConfigurationError, match="--device cuda"):
        run_experiment(config)
    outcome = run_cell(Cell(0, config, {}))
    assert outcome.status == "failed" and "--device cuda" in outcome.message


def test_other_versions_and_threads_are_warned_of(few_digits, tmp_path):
    config = settings(tmp_path, hpo="fixed", validate_fixed=False)
    path = stopped(config, few_digits, 1)
    versions = sessions(path)[0]["versions"]
    begun_with(path, threads=64, versions=versions | {"torch": "1.0"})
    with pytest.warns(UserWarning, match=r"threads \(64, now \d+\), torch \(1\.0, now"):
        assert len(run_experiment(config, dataset=few_digits).records) == 3


def test_another_version_of_what_the_search_depends_on_is_refused(few_digits, tmp_path):
    """Not where nothing is searched: see the test before."""
    pytest.importorskip("optuna")
    config = settings(tmp_path, hpo="per-cycle", optimizer="tpe")
    path = stopped(config, few_digits, 1)
    versions = sessions(path)[0]["versions"]
    begun_with(path, versions=versions | {"optuna": "4.0"})
    with pytest.raises(ConfigurationError, match=r"began with optuna 4\.0.*Install optuna==4\.0"):
        run_experiment(config, dataset=few_digits)
    begun_with(path, versions=versions)
    assert len(run_experiment(config, dataset=few_digits).records) == 3


@pytest.mark.parametrize("line", ["[1]", "{}", '{"precision": "float32"}'])
def test_a_session_that_says_nothing_is_damaged(few_digits, tmp_path, line):
    config = settings(tmp_path, hpo="fixed", validate_fixed=False)
    path = stopped(config, few_digits, 1)
    (path / "sessions.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=r"sessions\.jsonl, line 1.*Restore"):
        run_experiment(config, dataset=few_digits)


def test_a_tuning_does_not_go_on_with_other_computation(few_digits, tmp_path):
    run = run_experiment(settings(tmp_path, hpo="fixed", budget=12), dataset=few_digits)
    tune = {"pool": str(run.path), "labels": 12}
    result = tune_pool(tune, dataset=few_digits)
    begun_with(result.path, device_type="cuda")
    assert tune_pool(tune, dataset=few_digits).record == result.record  # it is finished
    (result.path / "tune.json").unlink()
    with pytest.raises(ConfigurationError, match="--device cuda"):
        tune_pool(tune, dataset=few_digits)
    begun_with(result.path, device_type="cpu")
    again = tune_pool(tune, dataset=few_digits)
    assert replace(again.record, seconds={}) == replace(result.record, seconds={})


def test_labels_go_on_anywhere(few_digits, tmp_path):
    """A learner's folder holds labels, not results: another precision is no other session."""
    one = ActiveLearner(few_digits, TOY["model"], path=tmp_path, precision="float32")
    one.label_initial(12)
    other = ActiveLearner(few_digits, TOY["model"], path=tmp_path, precision="bfloat16")
    assert other.n_labeled == 12
