"""Launchers by name, and the suite that passes good ones and catches bad ones."""

from __future__ import annotations

import subprocess

import pytest
import torch
from study_examples import study_in

from alhpo.base.errors import ConfigurationError
from alhpo.base.schema import Settings
from alhpo.studies import run_study
from alhpo.studies.cell_runner import Outcome, record_failure, run_cell
from alhpo.studies.config import expand
from alhpo.studies.launch import launcher_names, local, register_launcher
from alhpo.studies.launch.registry import LAUNCHERS
from alhpo.studies.scheduler import StudyObserver
from alhpo.testing import check_launcher


@pytest.fixture(autouse=True)
def _forgotten_afterwards():
    with LAUNCHERS.temporary():
        yield


class Options(Settings):
    capacity: int = 2


class LastFirst:
    """Runs cells in this process, the last that was submitted first."""

    options_class = Options

    def __init__(self, capacity):
        self.capacity = capacity
        self.cells = []

    @classmethod
    def for_cells(cls, options, cells, observer):
        return cls(options.capacity)

    def submit(self, cell):
        self.cells.append(cell)

    def wait(self, timeout=None):
        return [self.run(self.cells.pop())] if self.cells else []

    def run(self, cell):
        return run_cell(cell)

    def close(self):
        self.cells.clear()


class Forgets(LastFirst):
    def wait(self, timeout=None):
        return []


class Pretends(LastFirst):
    def run(self, cell):
        return Outcome(cell.index, "finished")


class AnotherCell(LastFirst):
    def run(self, cell):
        return Outcome(cell.index + 10, "finished")


def test_a_registered_launcher_is_found_with_its_options(tmp_path):
    register_launcher("last-first", LastFirst)
    assert launcher_names() == ("in-process", "last-first", "local", "ray", "threads")
    study = study_in(tmp_path, grid={"strategy": ["random"]}, tune=None)
    with pytest.raises(ConfigurationError, match=r"'last-first': 'capacty'.*Did you mean"):
        run_study(study, "last-first", options={"capacty": 1})
    assert run_study(study, "last-first", options={"capacity": 1}).complete
    with pytest.raises(ConfigurationError, match=r"Unknown launcher 'lastfirst'.*'last-first'"):
        run_study(study, "lastfirst")


@pytest.mark.parametrize("launcher", [LastFirst(2).wait, Options, "local"])
def test_what_does_not_declare_its_options_is_refused(launcher):
    with pytest.raises(ConfigurationError, match=r"options_class.*for_cells"):
        register_launcher("own", launcher)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("in-process", {}),
        ("threads", {"workers": 2}),
        pytest.param("local", {"workers": 2, "threads": 1}, marks=pytest.mark.slow),
    ],
)
def test_launchers_of_the_package_conform(name, options):
    check_launcher(name, options)


@pytest.mark.parametrize(
    ("launcher", "rule"),
    [
        (LastFirst, None),
        (Forgets, "with no outcome"),
        (Pretends, "has no run.json"),
        (AnotherCell, "not the outcome of a cell that is running"),
    ],
)
def test_a_bad_launcher_is_caught(launcher, rule):
    register_launcher("own", launcher)
    if rule is None:
        check_launcher("own", {"capacity": 1})
        return
    with pytest.raises(AssertionError, match=rule):
        check_launcher("own")


@pytest.mark.parametrize(
    ("options", "share"), [({}, 1.0), ({"per_gpu": 3}, 0.3), ({"per_gpu": 3, "workers": 4}, 0.45)]
)
def test_processes_divide_the_memory_of_the_gpu_that_they_share(monkeypatch, options, share):
    told = []

    class Ended(subprocess.Popen):
        def __init__(self, command, *, env, **rest):
            told.append((env["CUDA_VISIBLE_DEVICES"], float(command[-1])))
            super().__init__(["true"], env=env, **rest)

    monkeypatch.setattr(local, "visible_gpus", lambda: ["0", "1"])
    monkeypatch.setattr(subprocess, "Popen", Ended)
    launcher = local.LocalLauncher(local.LocalOptions.model_validate(options))
    for _ in range(2):
        launcher._busy[launcher._start()] = None
    launcher.close()
    assert told == [("0", pytest.approx(share)), ("1", pytest.approx(share))]


class Crowded(LastFirst):
    """Has memory for two cells at a time."""

    room = 2

    def wait(self, timeout=None):
        return [self.attempt(self.cells.pop())] if self.cells else []

    def attempt(self, cell):
        if len(self.cells) >= self.room:
            record_failure(cell, "MemoryError")
            return Outcome(cell.index, "failed", "MemoryError", out_of_memory=True)
        return run_cell(cell)


@pytest.mark.parametrize("room", [2, 1, 0])
def test_cells_that_memory_does_not_suffice_for_run_beside_fewer(tmp_path, room):
    study = study_in(tmp_path, grid={"seed": [0, 1, 2, 3, 4]})
    launcher, notes = Crowded(5), []
    launcher.room = room

    class Noted(StudyObserver):
        def noted(self, title, message):
            notes.append(message)

    result = run_study(study, launcher, observer=Noted())
    assert result.complete == bool(room)
    assert len(notes) == (5 - room if room else 4)
    assert notes[0] == "no memory for it beside 4 cells; tried again later"
    if not room:  # alone, a lack of memory is the cell's own
        assert all(message == "MemoryError" for _, message in result.failed)
        assert len(result.failed) == 5


def test_a_lack_of_memory_is_told_by_the_outcome(tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("the search failed") from torch.cuda.OutOfMemoryError("none left")

    monkeypatch.setattr("alhpo.studies.cell_runner._work", fails)
    (cell, *_) = expand(study_in(tmp_path))
    outcome = run_cell(cell)
    assert outcome.status == "failed" and outcome.out_of_memory
    assert Outcome.from_json(outcome.to_json()) == outcome
