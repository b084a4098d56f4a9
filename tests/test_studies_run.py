"""Studies from first to last cell: dependencies, failures, kills, several drivers, the command."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from study_examples import (
    LARGER,
    LARGER_OF_TIMM,
    SETTINGS,
    SHORT_OF_TIMM,
    TIMMS,
    all_below,
    begin_command,
    gone,
    kill_at_work,
    records,
    starts,
    study_in,
    wait_until,
)

from alhpo.base.errors import ConfigurationError
from alhpo.base.files import exclusive
from alhpo.cli import main
from alhpo.studies import expand, load_study
from alhpo.studies.cell_runner import FAILURE, LOG, Outcome, record_failure, run_cell
from alhpo.studies.launch.machine import physical_cores, visible_gpus
from alhpo.studies.launch.remote import pack, run_packed
from alhpo.studies.scheduler import RESUBMISSIONS, StudyObserver, begin_study, run_study

ONE_THREAD = {"workers": 2, "threads": 1}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Records of the larger study, run in this process from first to last."""
    study = study_in(tmp_path_factory.mktemp("undisturbed"), **LARGER_OF_TIMM)
    assert run_study(study, "in-process").complete
    return records(study)


class Notes(StudyObserver):
    """Keeps what it is told."""

    def __init__(self):
        self.lines = []

    def settled(self, title, status, message, seconds, done, left):
        self.lines.append((status, title))

    def noted(self, title, message):
        self.lines.append((message, title))


class Pretender:
    """A launcher that does no work: outcomes come from a function of the cell and the attempt."""

    def __init__(self, answer, capacity=2):
        self.capacity = capacity
        self.answer = answer
        self.submitted = []
        self.work = []
        self.closed = False

    def submit(self, cell):
        assert len(self.work) < self.capacity
        self.submitted.append(cell.index)
        self.work.append(cell)

    def wait(self, timeout=None):
        if not self.work:
            return []
        cell = self.work.pop(0)
        status = self.answer(cell, self.submitted.count(cell.index))
        if status == "finished":
            cell.path.mkdir(parents=True, exist_ok=True)
            (cell.path / ("run.json" if cell.kind == "run" else "tune.json")).touch()
        if status == "failed":
            record_failure(cell, "pretended")
        return [Outcome(cell.index, status, "so it was said", 1.0)]

    def close(self):
        self.closed = True


@pytest.fixture(scope="module")
def _short_pauses():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("alhpo.studies.scheduler.PAUSE", 0.001)
        yield


# ------------------------------------------------------------------ the order, without any work


def test_tunings_begin_when_their_run_is_finished_and_before_further_runs(tmp_path):
    study = study_in(tmp_path, **LARGER)
    launcher = Pretender(lambda cell, attempt: "finished", capacity=1)
    assert run_study(study, launcher).complete
    assert launcher.submitted == [0, 4, 1, 5, 2, 6, 3, 7]
    assert launcher.closed


@pytest.mark.usefixtures("_short_pauses")
@given(st.data())
@hypothesis_settings(max_examples=30, deadline=None)
def test_every_cell_is_settled_whatever_happens(tmp_path_factory, data):
    study = study_in(tmp_path_factory.mktemp("study"), **LARGER)
    cells = expand(study)
    statuses = st.sampled_from(["finished", "failed", "lost", "elsewhere"])
    plan = {cell.index: data.draw(st.lists(statuses, max_size=6)) for cell in cells}
    seen = Counter()

    def answer(cell, attempt):
        assert cell.run is None or cells[cell.run].finished
        assert not cell.finished and not (cell.path / FAILURE).exists()
        status = plan[cell.index][attempt - 1] if attempt <= len(plan[cell.index]) else "finished"
        seen[cell.index, status] += 1
        return status

    launcher = Pretender(answer, capacity=data.draw(st.integers(1, 3)))
    result = run_study(study, launcher)
    failed = {cell.index for cell, _ in result.failed}
    finished = {cell.index for cell in result.finished}
    blocked = {cell.index for cell in result.blocked}
    assert sorted([*failed, *finished, *blocked]) == list(range(len(cells)))
    for cell in cells:
        bad = seen[cell.index, "failed"] or seen[cell.index, "lost"] > RESUBMISSIONS
        assert (cell.index in failed) == bool(bad) == (cell.path / FAILURE).exists()
        assert (cell.index in blocked) == (cell.run in failed)
    assert result.complete == (not failed)


def test_a_cell_whose_process_dies_again_and_again_fails(tmp_path):
    study = study_in(tmp_path)
    notes = Notes()
    launcher = Pretender(lambda cell, attempt: "finished" if cell.index else "lost")
    result = run_study(study, launcher, observer=notes)
    assert launcher.submitted.count(0) == RESUBMISSIONS + 1
    ((cell, message),) = result.failed
    assert cell.index == 0 and f"{RESUBMISSIONS + 1}th time" in message
    assert message in (cell.path / FAILURE).read_text()
    assert [c.run for c in result.blocked] == [0]
    assert len([line for line in notes.lines if "another" in line[0]]) == RESUBMISSIONS


def test_room_that_comes_later_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr("alhpo.studies.scheduler.LOOK", 0.001)
    launcher = Pretender(lambda cell, attempt: "finished", capacity=1)
    waited = launcher.wait

    def wait(timeout=None):
        """No cell ends before a second one, for which there was no room at first, is begun."""
        if len(launcher.submitted) > 1:
            return waited()
        assert timeout is not None
        launcher.capacity = 2
        return []

    launcher.wait = wait
    assert run_study(study_in(tmp_path), launcher).complete


def test_failed_cells_are_skipped_until_retried(tmp_path):
    study = study_in(tmp_path)
    run_study(study, Pretender(lambda cell, attempt: "finished" if cell.index else "failed"))
    launcher = Pretender(lambda cell, attempt: "finished")
    result = run_study(study, launcher)
    assert not launcher.submitted
    assert [message for _, message in result.failed] == ["before: pretended"]
    assert [cell.index for cell in result.blocked] == [2]
    assert run_study(study, launcher, retry=True).complete
    assert launcher.submitted == [0, 2]


# ----------------------------------------------------------------------------- the study's folder


def test_a_study_that_grew_goes_on_and_another_is_refused(tmp_path):
    run_study(study_in(tmp_path), Pretender(lambda cell, attempt: "finished"))
    launcher = Pretender(lambda cell, attempt: "finished")
    result = run_study(study_in(tmp_path, **LARGER), launcher)
    assert result.complete and len(launcher.submitted) == 4
    assert load_study(tmp_path / "study").grid == LARGER["grid"]
    with pytest.raises(ConfigurationError, match=r"folder of study 'tiny'.*study 'other'"):
        begin_study(study_in(tmp_path, name="other"))
    assert load_study(tmp_path / "study").name == "tiny"


def test_a_study_that_was_moved_is_continued_where_it_is(tmp_path, monkeypatch):
    study_file = study_in(tmp_path) and tmp_path / "tiny.yaml"
    study = load_study(study_file, output_dir=str(tmp_path / "here"))
    run_study(study, Pretender(lambda cell, attempt: "finished" if cell.index else "failed"))
    (tmp_path / "here").rename(tmp_path / "there")
    launcher = Pretender(lambda cell, attempt: "finished")
    assert run_study(load_study(tmp_path / "there"), launcher, retry=True).complete
    assert launcher.submitted == [0, 2]
    assert not (tmp_path / "here").exists()


# ---------------------------------------------------------------------- cells, with all their work


def test_a_tuning_says_which_cell_to_run_first(tmp_path):
    cells = begin_study(study_in(tmp_path))
    outcome = run_cell(cells[2])
    assert outcome.status == "blocked"
    assert "Run cell 0 first" in outcome.message
    assert not cells[2].path.exists()


def test_a_log_on_a_full_disk_changes_nothing(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    study = study_in(tmp_path, tune=None)
    cells = begin_study(study)
    for cell in cells:
        cell.path.mkdir(parents=True)
        (cell.path / LOG).symlink_to("/dev/full")
    assert run_cell(cells[0]).status == "finished"
    assert Outcome.from_json(run_packed(pack(cells[1]))).status == "finished"


def write_images(folder: Path) -> None:
    """Two classes of images, bright and dark, for the pool and for evaluation."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 30), ("val", 10)):
        for name, level in (("bright", 150), ("dark", 0)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(level, level + 100, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")


@pytest.mark.parametrize("launcher", ["in-process", pytest.param("local", marks=pytest.mark.slow)])
def test_one_failing_cell_stops_no_other_and_is_retried(tmp_path, launcher):
    images = tmp_path / "images"
    settings = SHORT_OF_TIMM if launcher == "local" else SETTINGS
    study = study_in(tmp_path, settings=settings, grid={"dataset": ["digits", str(images)]})
    options = ONE_THREAD if launcher == "local" else {}
    result = run_study(study, launcher, options=options)
    assert [cell.index for cell in result.finished] == [0, 2]
    ((cell, message),) = result.failed
    assert cell.index == 1 and str(images) in message
    assert [cell.index for cell in result.blocked] == [3]
    failure = (cell.path / FAILURE).read_text()
    assert "Traceback" in failure and str(images) in failure
    assert "cell 1:" in (cell.path / LOG).read_text()

    write_images(images)
    assert not run_study(study, launcher, options=options).complete
    assert run_study(study, launcher, options=options, retry=True).complete
    assert not (cell.path / FAILURE).exists()
    assert (cell.path / LOG).read_text().count("cell 1:") == 2


@pytest.mark.usefixtures("_short_pauses")
def test_what_is_in_work_elsewhere_is_waited_for(tmp_path):
    study = study_in(tmp_path, tune=None)
    first = begin_study(study)[0]
    holding, notes = threading.Event(), Notes()

    def hold():
        with exclusive(first.path):
            holding.set()
            wait_until(lambda: any("is running it" in line[0] for line in notes.lines))

    thread = threading.Thread(target=hold)
    thread.start()
    holding.wait()
    assert run_study(study, "in-process", observer=notes).complete
    thread.join()
    assert [line[0] for line in notes.lines][1:] == ["finished", "finished"]
    assert "is running it" in notes.lines[0][0]


@pytest.mark.usefixtures("_short_pauses")
def test_two_drivers_share_the_work(tmp_path):
    study = study_in(tmp_path)
    results = []

    def drive():
        results.append(run_study(study, "in-process"))

    threads = [threading.Thread(target=drive) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.complete for result in results] == [True, True]
    for cell in expand(study):  # nothing was begun twice
        assert len((cell.path / "sessions.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
def test_local_processes_record_what_this_one_does(tmp_path):
    studies = []
    for launcher, options in (("in-process", {}), ("local", {"workers": 1, "threads": 1})):
        (tmp_path / launcher).mkdir()
        grid = {"strategy": ["entropy"]}
        study = study_in(tmp_path / launcher, settings=SHORT_OF_TIMM, grid=grid)
        assert run_study(study, launcher, options=options).complete
        studies.append(records(study))
    assert studies[0] == studies[1] and len(studies[0]) == 2
    for cell in expand(study):
        session = json.loads((cell.path / "sessions.jsonl").read_text())
        assert session["threads"] == 1
        assert "test 0." in (cell.path / LOG).read_text()
    assert not workers_of(os.getpid())


def workers_of(pid: int) -> list[psutil.Process]:
    return [p for p in all_below(pid) if "alhpo.studies.launch.worker" in p.cmdline()]


@pytest.mark.slow
def test_workers_that_are_killed_are_replaced(tmp_path, undisturbed):
    study = study_in(tmp_path, **LARGER_OF_TIMM)
    notes = Notes()
    done = threading.Event()
    generator = random.Random()
    killed = []

    def kill():
        while not done.wait(generator.uniform(0.5, 6)) and len(killed) < RESUBMISSIONS:
            if workers := workers_of(os.getpid()):
                killed.append(generator.choice(workers))
                killed[-1].kill()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        result = run_study(study, "local", options=ONE_THREAD, observer=notes)
    finally:
        done.set()
        thread.join()
    assert result.complete, result.failed
    assert killed
    assert records(study) == undisturbed
    assert not workers_of(os.getpid())


# ------------------------------------------------------------------------------------- the command


def invoke(*arguments):
    return CliRunner().invoke(main, ["study", *map(str, arguments)])


def test_one_cell_by_its_number(tmp_path):
    study = study_in(tmp_path)
    file, folder = tmp_path / "tiny.yaml", study.path
    waiting = invoke(file, "--output", folder, "--cell", 2)
    assert waiting.exit_code == 1 and "Run cell 0 first" in waiting.output
    assert invoke(file, "--output", folder, "--cell", 0).exit_code == 0
    again = invoke(folder, "--cell", 0)
    assert again.exit_code == 0 and "finished before" in again.output
    assert invoke(folder, "--cell", 2).exit_code == 0
    assert expand(study)[2].finished
    wrong = invoke(folder, "--cell", 4)
    assert isinstance(wrong.exception, ConfigurationError)
    assert "has the cells 0 to 3" in str(wrong.exception)


def test_one_cell_that_fails(tmp_path):
    study = study_in(tmp_path, grid={"dataset": [str(tmp_path / "nothing")]})
    outcome = invoke(study.path.parent / "tiny.yaml", "--output", study.path, "--cell", 0)
    assert outcome.exit_code == 1 and "nothing" in outcome.output


def test_the_command_says_what_failed_and_what_to_do(tmp_path):
    study = study_in(tmp_path, grid={"dataset": ["digits", str(tmp_path / "nothing")]})
    file = tmp_path / "tiny.yaml"
    shown = invoke(file, "--output", study.path, "--launcher", "in-process")
    assert shown.exit_code == 1
    failed = expand(study)[1]
    for text in ("2 finished, 1 failed, 1 blocked", str(failed.path / FAILURE), "--retry"):
        assert text in shown.output
    assert "cell 0 " not in shown.output.split("2 finished")[1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--launcher", "slurm"], "Unknown launcher 'slurm'"),
        (["--launcher", "ray", "--threads", "2"], "'threads'. Legal: address"),
        (["--launcher", "local", "--workers", "0"], "'workers' is 0"),
        (["--launcher", "in-process", "--workers", "2"], "'workers'"),
    ],
)
def test_what_cannot_be_is_said_before_any_cell_is_run(tmp_path, arguments, text):
    study = study_in(tmp_path)
    shown = invoke(tmp_path / "tiny.yaml", "--output", study.path, *arguments)
    assert isinstance(shown.exception, ConfigurationError) and text in str(shown.exception)
    assert not (study.path / "cells").exists()


def test_ray_that_is_missing_is_said_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigurationError, match=r'pip install "alhpo\[ray\]"'):
        run_study(study_in(tmp_path), "ray")


def test_a_gpu_by_number_is_refused_where_processes_see_one(tmp_path):
    study = study_in(tmp_path, settings={**SETTINGS, "device": "cuda:1"})
    with pytest.raises(ConfigurationError, match="'cuda:1', but launcher 'local'"):
        run_study(study, "local")


def test_the_machine_has_cores_and_names_of_gpus(monkeypatch):
    assert 1 <= physical_cores() <= (os.cpu_count() or 1)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert visible_gpus() == ["3", "5"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


# ------------------------------------------------------------------------------ killed as a whole


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["local", "in-process"])
def test_a_driver_killed_at_any_moment_leaves_no_process_and_goes_on(
    tmp_path, undisturbed, launcher
):
    study = study_in(tmp_path, **LARGER_OF_TIMM)
    arguments = ("study", tmp_path / "tiny.yaml", "--output", study.path, "--launcher", launcher)
    if launcher == "local":
        arguments += ("--workers", 2, "--threads", 1)
    for _ in range(2):
        below = kill_at_work(begin_command(*arguments), study.path)
        assert len(below) == (2 if launcher == "local" else 0)
        wait_until(lambda below=below: gone(below), 30)
    process = begin_command(*arguments)
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 0, output + errors
    assert not gone([psutil.Process()])  # the check can tell
    assert records(study) == undisturbed


@pytest.mark.slow
def test_two_commands_at_once(tmp_path, undisturbed):
    study = study_in(tmp_path, **LARGER_OF_TIMM)
    arguments = ("study", tmp_path / "tiny.yaml", "--output", study.path, "--threads", 1)
    processes = [begin_command(*arguments, "--workers", 1) for _ in range(2)]
    for process in processes:
        output, errors = process.communicate(timeout=900)
        assert process.returncode == 0, output + errors
        assert "8 finished" in output
    assert records(study) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "number", "word"),
    [
        ("local", signal.SIGINT, "interrupted"),
        ("local", signal.SIGTERM, "terminated"),  # batch systems send it, then SIGKILL
        ("in-process", signal.SIGTERM, "terminated"),
        ("threads", signal.SIGINT, "interrupted"),
        ("threads", signal.SIGTERM, "terminated"),
    ],
)
def test_a_signal_ends_the_command_and_its_workers(tmp_path, launcher, number, word):
    study = study_in(tmp_path, settings={**TIMMS, "max_epochs": 200, "max_budget": 400})
    arguments = ("study", tmp_path / "tiny.yaml", "--output", study.path, "--launcher", launcher)
    process = begin_command(*arguments)
    wait_until(lambda: starts(study.path))
    below = all_below(process.pid)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert f"{word}. The same command goes on" in errors and "Traceback" not in errors
    assert bool(below) == (launcher == "local")
    wait_until(lambda: gone(below), 30)
    for cell in expand(study):
        assert not (cell.path / FAILURE).exists()
        with exclusive(cell.path):  # no lock is left
            pass
