"""Folders of another format: continued by no other version, read by reports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from alhpo.base.errors import DataError, FormatError
from alhpo.base.formats import FILE, FORMAT
from alhpo.data.dataset import ImageDataset
from alhpo.hyperparameters import paper_space
from alhpo.learner import ActiveLearner
from alhpo.reports import write_report
from alhpo.runs.experiment import run_experiment
from alhpo.runs.pool_tuning import tune_config, tune_pool
from alhpo.runs.settings import RunConfig
from alhpo.studies import load_study, run_study
from alhpo.tuning import Tuner

#: What alhpo 0.1.0 wrote: two runs; a study of two runs and a tuning of each.
FORMAT_1 = Path(__file__).parent / "data" / "format-1"
RUN = "digits-entropy-fixed-seed0-376313a6"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(FORMAT_1, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def settings_of(run: Path) -> RunConfig:
    return RunConfig.create(yaml.safe_load((run / "config.yaml").read_text()))


def unfinished(run: Path) -> Path:
    (run / "run.json").unlink()
    lines = (run / "cycles.jsonl").read_text().splitlines(keepends=True)
    (run / "cycles.jsonl").write_text("".join(lines[:-1]))
    return run


# --- what 0.1.0 wrote ----------------------------------------------------------------------------


def test_reports_read_it(old: Path) -> None:
    runs = write_report(old / "runs", old / "report").findings
    assert runs.settings == ("fixed", "per-cycle")
    assert len(runs.curves) == 4
    study = write_report(old / "small", old / "report")
    assert [one.state for one in study.findings.cells] == ["finished"] * 4


def test_a_finished_run_is_returned(old: Path) -> None:
    run = old / "runs" / RUN
    config = settings_of(run)
    assert config.name == RUN
    result = run_experiment(config)
    assert result.resumed and len(result.records) == 2
    assert not (run / FILE).exists()


def test_an_unfinished_run_is_refused_with_the_version_that_goes_on(old: Path) -> None:
    run = unfinished(old / "runs" / RUN)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(
        FormatError, match=rf"no format\.json.*0\.1\.0 .*format {FORMAT}.*Reports read"
    ):
        run_experiment(settings_of(run))
    assert {path: path.read_bytes() for path in before} == before
    assert len(write_report(run, old / "report").findings.curves) == 1


def test_its_labelled_pool_is_refused(old: Path, few_digits: ImageDataset) -> None:
    with pytest.raises(FormatError, match=r"labels\.jsonl but no format\.json"):
        ActiveLearner(few_digits, "lcnet_035", path=old / "runs" / RUN)


def test_its_study_is_refused(old: Path) -> None:
    study = load_study(old / "small")
    with pytest.raises(FormatError, match=r"study\.yaml but no format\.json"):
        run_study(study, "in-process")


def test_its_tuning_is_refused_where_it_is_not_finished(old: Path) -> None:
    (record,) = (old / "small" / "cells" / RUN).glob("tune/*/tune.json")
    settings = yaml.safe_load((record.parent / "config.yaml").read_text())
    config = tune_config(settings.pop("pool"), **settings)
    assert config.path.resolve() == record.parent
    assert tune_pool(config).resumed
    record.unlink()
    with pytest.raises(FormatError, match=r"labels\.jsonl but no format\.json"):
        tune_pool(config)


# --- every folder of this version ----------------------------------------------------------------


def objective(configuration, epoch, previous_epoch, checkpoint_path):
    return {"epoch": epoch, "metric": configuration["lr"]}


def search(folder: Path) -> Tuner:
    return Tuner(objective, paper_space(), 2, 4, folder, "random", seed=0, progress=False)


def test_every_folder_says_its_format(tmp_path: Path) -> None:
    """A run with its searches, a study with its cells, a tuning, a search alone."""
    settings = {
        "dataset": "digits",
        "pool_size": 40,
        "eval_size": 20,
        "model": "lcnet_035",
        "strategy": "random",
        "initial_size": 10,
        "budget": 10,
        "hpo": "per-cycle",
        "optimizer": "random",
        "max_epochs": 1,
        "max_budget": 2,
    }
    tune = {"labels": [10], "settings": {"max_budget": 2}}
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({"name": "all", "settings": settings, "tune": tune}))
    study = load_study(file, output_dir=str(tmp_path / "all"))
    assert run_study(study, "in-process").complete
    search(tmp_path / "alone").run()
    begun = {"study.yaml", "cycles.jsonl", "journal.jsonl", "tune.json"}
    folders = {path.parent for path in tmp_path.rglob("*") if path.name in begun} - {tmp_path}
    assert len(folders) == 8  # the study, its run and tuning, two searches each, and one alone
    for folder in folders:
        assert json.loads((folder / FILE).read_text())["format"] == FORMAT, folder


def test_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    tuner = search(tmp_path)
    tuner.run()
    journal = tuner.experiment_path / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]))
    marker = tuner.experiment_path / FILE
    marker.write_text(json.dumps({"format": FORMAT + 1, "alhpo": "7.0"}))
    with pytest.raises(FormatError, match=rf"format {FORMAT + 1}, which alhpo 7\.0 continues"):
        search(tmp_path).run()
    marker.write_text("{}")
    with pytest.raises(DataError, match=r"format\.json does not say"):
        search(tmp_path).run()
    marker.unlink()
    with pytest.raises(FormatError, match=r"journal\.jsonl but no format\.json"):
        search(tmp_path).run()
    journal.write_text("".join(lines))
    assert search(tmp_path).run()["epoch"] in (1, 2)  # one that ended is read
