"""A run to more labels, or with larger budgets, goes on from the runs beside it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from toy_models import TOY

from alhpo.base.errors import ConfigurationError
from alhpo.runs.experiment import run_experiment
from alhpo.runs.observer import Observer
from alhpo.runs.settings import RunConfig
from alhpo.studies.config import StudyConfig
from alhpo.studies.scheduler import run_study


class Counting(Observer):
    """Counts the epochs that are trained now."""

    def __init__(self):
        self.epochs = 0
        self._told = {}

    def progressed(self, cycle, part, done, total, note):
        if part == "search":  # it tells where it is before each epoch, too
            self.epochs += max(0, done - self._told.get(cycle, done))
            self._told[cycle] = done
        else:
            self.epochs += 1


class Killing(Counting):
    def __init__(self, record=None, epoch=None):
        super().__init__()
        self.record, self.epoch = record, epoch

    def progressed(self, *arguments):
        super().progressed(*arguments)
        if self.epochs == self.epoch:
            raise KeyboardInterrupt

    def recorded(self, record):
        if record.cycle == self.record:
            raise KeyboardInterrupt


def settings(folder, **changes) -> RunConfig:
    return RunConfig.create(TOY, {"output_dir": str(folder)}, changes)


def run(data, folder, **changes):
    """A run, and the number of epochs that it trained."""
    counting = Counting()
    result = run_experiment(settings(folder, **changes), dataset=data, observer=counting)
    return result, counting.epochs


def content(result):
    """All of a run that does not tell the time."""
    records = [replace(record, seconds={}).to_dict() for record in result.records]
    names = ("labels.jsonl", "dataset.json", "queried_indices.json", "run.json")
    return records, [(result.path / name).read_text() for name in names]


def spent(result) -> int:
    return sum(sum(record.epochs.values()) for record in result.records)


def files_of(path):
    return {
        file.relative_to(path): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name != ".lock"
    }


MODES = {
    "fixed": {"hpo": "fixed"},
    "warm": {"hpo": "fixed", "start": "warm"},
    "per-cycle": {"hpo": "per-cycle"},
    "per-cycle, warm": {"hpo": "per-cycle", "start": "warm", "measure_current": False},
    "dyhpo": {"hpo": "per-cycle", "optimizer": "dyhpo"},
    "every": {"hpo": "every:2"},
    "at": {"hpo": "at:12,20"},
    "final": {"hpo": "final"},
    "initial and final": {"hpo": "initial+final"},
    "state": {"hpo": "fixed", "strategy": "albl:random,entropy"},
    "evaluated": {"hpo": "fixed", "strategy": "random", "evaluate_at": [20]},
}


@pytest.mark.parametrize("mode", MODES)
def test_a_run_to_more_labels_has_the_records_of_one_that_began_anew(few_digits, tmp_path, mode):
    changes = MODES[mode]
    whole, epochs = run(few_digits, tmp_path / "whole", budget=28, **changes)
    assert epochs == spent(whole)
    shorter, _ = run(few_digits, tmp_path / "out", budget=20, **changes)
    before = files_of(shorter.path)
    longer, trained = run(few_digits, tmp_path / "out", budget=28, **changes)
    assert content(longer) == content(whole)
    assert files_of(shorter.path) == before
    # the final search and fit on 20 labels are for these labels
    final = sum(sum(r.epochs.values()) for r in shorter.records if r.kind == "final")
    assert trained == epochs - (spent(shorter) - final)
    taken = json.loads((longer.path / "earlier_run.json").read_text())
    assert taken == {"run": shorter.path.name, "records": 1}
    assert not (longer.path / "earlier_hpo").exists()
    assert run_experiment(settings(tmp_path / "out", budget=28, **changes), dataset=few_digits)


@pytest.mark.parametrize("mode", ["fixed", "per-cycle", "final"])
def test_a_run_that_was_killed_is_gone_on_from(few_digits, tmp_path, mode):
    whole, epochs = run(few_digits, tmp_path / "whole", budget=28, **MODES[mode])
    for kill in ({"record": 0}, {"epoch": 9}):
        killed = settings(tmp_path / str(kill), budget=36, **MODES[mode])
        with pytest.raises(KeyboardInterrupt):
            run_experiment(killed, dataset=few_digits, observer=Killing(**kill))
        shorter, trained = run(few_digits, tmp_path / str(kill), budget=28, **MODES[mode])
        assert content(shorter) == content(whole)
        assert trained < epochs


def test_a_last_cycle_of_another_size_is_queried_anew(few_digits, tmp_path):
    """20 labels were followed by 24, and are now by 28."""
    whole, epochs = run(few_digits, tmp_path / "whole", budget=28, hpo="per-cycle")
    run(few_digits, tmp_path / "out", budget=24, hpo="per-cycle")
    longer, trained = run(few_digits, tmp_path / "out", budget=28, hpo="per-cycle")
    assert content(longer) == content(whole)
    # of cycle 1 the model was gone, its searches are used
    assert trained == epochs - whole.records[0].epochs["fit"] - sum(
        record.epochs["hpo"] for record in whole.records[:2]
    )


@pytest.mark.parametrize(("total", "cycles_kept"), [(16, 1), (12, 0)])
def test_a_shared_budget_is_gone_on_with_where_the_shares_are_the_same(
    few_digits, tmp_path, total, cycles_kept
):
    changes = {"hpo": "per-cycle", "max_budget": 100}
    whole, epochs = run(few_digits, tmp_path / "whole", budget=36, total_budget=total, **changes)
    run(few_digits, tmp_path / "out", budget=20, total_budget=8, **changes)
    longer, trained = run(few_digits, tmp_path / "out", budget=36, total_budget=total, **changes)
    assert content(longer) == content(whole)
    assert json.loads((longer.path / "earlier_run.json").read_text())["records"] == cycles_kept
    assert trained < epochs


@pytest.mark.parametrize("optimizer", ["random", "dyhpo"])
def test_searches_with_a_larger_budget_go_on_where_that_is_asked_for(
    few_digits, tmp_path, optimizer
):
    changes = {"hpo": "per-cycle", "budget": 20, "optimizer": optimizer}
    whole, epochs = run(few_digits, tmp_path / "whole", max_budget=7, **changes)
    run(few_digits, tmp_path / "out", max_budget=5, **changes)
    anew, trained = run(few_digits, tmp_path / "out", max_budget=7, **changes)
    assert content(anew) == content(whole)
    assert trained <= epochs - 2  # the current configuration was measured

    extended, trained = run(few_digits, tmp_path / "other", max_budget=5, **changes)
    extended, trained = run(few_digits, tmp_path / "other", max_budget=7, extend=True, **changes)
    searches = [record.search for record in extended.records]
    assert [search.get("extended_from") for search in searches] == [3, None]
    assert trained <= epochs - 5
    if optimizer == "random":
        records = [replace(record, seconds={}).to_dict() for record in whole.records]
        for record, search in zip(records, searches, strict=True):
            record["search"] = {**record["search"], **search}
        assert content(extended)[0] == records


@pytest.mark.parametrize("extend", [False, True])
def test_a_final_search_goes_on(few_digits, tmp_path, extend):
    """All cycles are those of the run with the smaller budget."""
    changes = {"hpo": "final", "budget": 20}
    whole, _ = run(few_digits, tmp_path / "whole", max_budget=9, **changes)
    shorter, _ = run(few_digits, tmp_path / "out", max_budget=6, **changes)
    longer, trained = run(few_digits, tmp_path / "out", max_budget=9, extend=extend, **changes)
    assert json.loads((longer.path / "earlier_run.json").read_text())["records"] == 2
    fit = longer.records[-1].epochs["fit"]
    assert trained == fit + (9 - 6 if extend else 9 - 2)
    assert longer.records[-1].epochs == whole.records[-1].epochs
    assert content(longer)[0][:-1] == content(whole)[0][:-1]
    assert longer.records[-1].configuration == whole.records[-1].configuration
    assert shorter.records[-1].epochs["hpo"] == 4


def test_what_differs_in_more_is_left_alone(few_digits, tmp_path, monkeypatch):
    changes = {"hpo": "fixed", "budget": 20, "validate_fixed": False}
    run(few_digits, tmp_path, **changes)
    other, _ = run(few_digits, tmp_path, **changes | {"budget": 28, "max_epochs": 3})
    assert not (other.path / "earlier_run.json").exists()
    turned = replace(few_digits, images=few_digits.images.flip(1))
    longer, epochs = run(turned, tmp_path, **changes | {"budget": 28})
    assert not (longer.path / "earlier_run.json").exists() and epochs == spent(longer)
    shutil.rmtree(longer.path)
    for path in tmp_path.glob("*/sessions.jsonl"):
        path.write_text(path.read_text().replace('"device_type":"cpu"', '"device_type":"cuda"'))
    longer, epochs = run(few_digits, tmp_path, **changes | {"budget": 28})
    assert not (longer.path / "earlier_run.json").exists() and epochs == spent(longer)


def test_a_study_to_more_labels_and_seeds_goes_on_from_its_cells(few_digits, tmp_path, monkeypatch):
    monkeypatch.setattr("alhpo.runs.experiment.load_data", lambda _: few_digits)
    epochs = []

    def study(folder, budget, seeds):
        config = StudyConfig(
            name="toy",
            output_dir=str(tmp_path / folder),
            settings={**TOY, "hpo": "fixed", "budget": budget, "dataset": "toy"},
            grid={"seed": seeds},
        )
        counting = Counting()
        result = run_study(config, "in-process", cell_observer=counting)
        assert result.complete
        epochs.append(counting.epochs)
        return [
            (cell.path.name, (cell.path / "labels.jsonl").read_text()) for cell in result.finished
        ]

    study("grown", 20, [0])
    assert study("grown", 20, [0, 1]) == study("seeds", 20, [0, 1])
    assert study("grown", 28, [0, 1]) == study("whole", 28, [0, 1])
    assert epochs == [8, 8, 16, 8, 24]


def test_an_earlier_run_is_named(few_digits, tmp_path, caplog):
    caplog.set_level("INFO", "alhpo.runs")
    run(few_digits, tmp_path, budget=20, hpo="fixed", validate_fixed=False)
    run(few_digits, tmp_path, budget=28, hpo="fixed", validate_fixed=False)
    assert "The first 1 records are those of" in caplog.text
    assert Path(tmp_path).exists()
    with pytest.raises(ConfigurationError):
        settings(tmp_path, extend="sometimes")
