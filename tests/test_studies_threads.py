"""Studies whose cells run as threads of this process, and what such threads share."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from study_examples import SETTINGS, records, study_in
from test_data_sources import parts

from alhpo.base.errors import DeviceError
from alhpo.base.registry import Registry
from alhpo.base.seeding import isolated_torch_rng
from alhpo.data.sources import register_data_source
from alhpo.runs.data import SharedData
from alhpo.runs.settings import RunConfig
from alhpo.studies import expand, run_study
from alhpo.studies.cell_runner import FAILURE, LOG
from alhpo.studies.scheduler import StudyObserver
from alhpo.tuning.optimizers.containment import Containment

THREE = {"workers": 3}
#: Fixed and tuned runs, with a random and a scored strategy, of a network that draws in training.
DROPOUT = {
    "settings": {**SETTINGS, "dropout": 0.5, "budget": 22, "max_epochs": 3},
    "grid": {"strategy": ["random", "badge"], "hpo": ["fixed", "per-cycle"]},
}


@pytest.fixture(scope="module")
def one_after_the_other(tmp_path_factory):
    study = study_in(tmp_path_factory.mktemp("one-after-the-other"), **DROPOUT)
    assert run_study(study, "in-process").complete
    return records(study)


class StopsAfter(StudyObserver):
    """Interrupts a study, as Ctrl-C does, when a number of cells are finished."""

    def __init__(self, count):
        self.left = count

    def settled(self, title, status, message, seconds, done, left):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_threads_record_what_one_after_the_other_does(tmp_path, one_after_the_other):
    study = study_in(tmp_path, **DROPOUT)
    before = torch.get_rng_state()
    assert run_study(study, "threads", options=THREE).complete
    assert records(study) == one_after_the_other and len(one_after_the_other) == 8
    assert torch.equal(torch.get_rng_state(), before)
    for cell in expand(study):  # no log has the lines of another cell
        text = (cell.path / LOG).read_text()
        assert text.count("cell ") == 1 and f"cell {cell.index}: {cell.title}" in text


@pytest.mark.parametrize("count", [1, 3])
def test_an_interrupted_study_goes_on(tmp_path, one_after_the_other, count):
    study = study_in(tmp_path, **DROPOUT)
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        run_study(study, "threads", options=THREE, observer=StopsAfter(count))
    assert threading.active_count() == threads
    assert not all(cell.finished for cell in expand(study))
    assert not any((cell.path / FAILURE).exists() for cell in expand(study))
    assert run_study(study, "threads", options=THREE).complete
    assert records(study) == one_after_the_other


def test_an_error_stays_with_its_cell(tmp_path, one_after_the_other):
    grid = {**DROPOUT["grid"], "dataset": ["digits", str(tmp_path / "missing")]}
    study = study_in(tmp_path, **{**DROPOUT, "grid": grid}, tune=None)
    result = run_study(study, "threads", options=THREE)
    assert {cell.config.dataset for cell in result.finished} == {"digits"}
    assert len(result.finished) == len(result.failed) == 4
    for cell, message in result.failed:
        assert str(tmp_path / "missing") in message
        assert "Traceback" in (cell.path / FAILURE).read_text()
    runs = [found for found in one_after_the_other.values() if isinstance(found, list)]
    assert len(runs) == 4
    assert all(found in runs for found in records_of(result.finished))


def records_of(cells):
    from alhpo.runs.records import read_records

    found = []
    for cell in cells:
        written = [record.to_dict() for record in read_records(cell.path / "cycles.jsonl")]
        found.append([record | {"seconds": {}} for record in written])
    return found


def test_cells_share_one_loaded_data_set(tmp_path):
    loaded = []

    @register_data_source("counted")
    def counted(options):
        loaded.append(options)
        return parts(options)

    settings = {**SETTINGS, "dataset": "counted", "pool_size": None, "eval_size": None}
    settings |= {"initial_size": 6, "acquisition_size": 6, "budget": 12}
    study = study_in(tmp_path, settings=settings, grid={"seed": [0, 1, 2, 3]}, tune=None)
    assert run_study(study, "threads", options=THREE).complete
    assert len(loaded) == 1


def test_data_sets_are_kept_while_they_are_used_and_the_last_one_longer():
    one, other = (RunConfig.create({**SETTINGS, "pool_size": size}) for size in (30, 40))
    data = SharedData()
    with ThreadPoolExecutor(4) as pool:
        first, *same = pool.map(data.load, [one] * 4)
    assert all(found is first for found in same)
    identity = id(first)
    assert len(data.load(other)) == 40 and id(data.load(one)) == identity  # still in use here
    del first, same
    last = data.load(one)
    assert id(last) == identity
    again = data.load(one.model_copy(update={"on_error": "skip"}))
    assert again is not last and len(again) == 30


def test_a_broken_gpu_ends_the_study_and_fails_no_cell(tmp_path, monkeypatch):
    def broken(*_, device="cpu", **__):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    settings = {**SETTINGS, "device": "auto", "dataset": str(tmp_path / "missing")}
    study = study_in(tmp_path, settings=settings, tune=None)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch, "zeros", broken)
    with pytest.raises(DeviceError, match=r"missing.*start the study again.*launcher local"):
        run_study(study, "threads", options=THREE)
    assert not any((cell.path / FAILURE).exists() for cell in expand(study))


# ------------------------------------------------------------------ what threads take turns at


def in_threads(work):
    """What a function of a number returns for 0 to 3: in order, and in a thread each."""
    alone = [work(number) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        return alone, list(pool.map(work, range(4)))


def test_threads_draw_from_global_generators_in_turn():
    def draws(number):
        found = []
        for step in range(20):
            with isolated_torch_rng(torch.device("cpu"), number, step):
                for _ in range(3):
                    found.append(torch.rand(1).item())
                    time.sleep(0)  # the others may go on here
        return found

    alone, together = in_threads(draws)
    assert alone == together


def test_threads_take_turns_in_foreign_code():
    """Two contained streams do not mix, and the logger and the filters end as they were."""
    logger = logging.getLogger("foreign")
    before = (list(logger.handlers), logger.propagate, list(warnings.filters))

    def draws(number):
        containment, found = Containment("foreign"), []
        with containment.active():
            np.random.seed(number)  # noqa: NPY002 - as foreign code does
        for _ in range(20):
            with containment.active(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for _ in range(3):
                    found.append(np.random.rand())  # noqa: NPY002
                    time.sleep(0)
        return found

    alone, together = in_threads(draws)
    assert alone == together
    assert before == (list(logger.handlers), logger.propagate, list(warnings.filters))


def test_a_name_is_one_object_in_all_threads():
    registry = Registry("thing", "alhpo.things")
    barrier = threading.Barrier(4)

    def make(text):
        barrier.wait(10)  # all threads are here
        return [text]

    registry.register_family("made", make, "TEXT")
    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(registry.get, ["made:one"] * 4)
    assert all(other is first for other in others)
    assert registry.name_of(first) == "made:one"
