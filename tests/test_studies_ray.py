"""Studies on a real cluster of Ray on this machine, started and stopped by them."""

from __future__ import annotations

import json
import os
import threading

import psutil
import pytest
from study_examples import (
    LARGER,
    all_below,
    begin_command,
    gone,
    kill_at_work,
    records,
    study_in,
    wait_until,
)

from alhpo import ConfigurationError
from alhpo.studies import expand
from alhpo.studies.cell_runner import LOG
from alhpo.studies.scheduler import SilentStudy, run_study

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Records of the larger study, run in this process from first to last."""
    study = study_in(tmp_path_factory.mktemp("undisturbed"), **LARGER)
    assert run_study(study, "in-process").complete
    return records(study)


def ray_processes(pid: int) -> list[psutil.Process]:
    return [p for p in all_below(pid) if "ray" in " ".join(p.cmdline()) and p.is_running()]


class Notes(SilentStudy):
    def __init__(self):
        self.lines = []

    def noted(self, title, message):
        self.lines.append(message)


def test_a_study_with_a_process_killed_in_the_middle_of_a_cell(tmp_path, undisturbed):
    study = study_in(tmp_path, **LARGER)
    notes, killed = Notes(), []
    done = threading.Event()

    def kill():
        """The process of a task, as soon as there is one with a cell in work."""
        while not killed and not done.wait(0.05):
            tasks = [p for p in all_below(os.getpid()) if p.name().startswith("ray::_task")]
            if tasks and list(study.path.glob("cells/*/sessions.jsonl")):
                tasks[0].kill()
                killed.append(tasks[0].pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        result = run_study(study, "ray", observer=notes)
    finally:
        done.set()
        thread.join()
    assert result.complete, result.failed
    assert killed and any("lost" in line for line in notes.lines)
    assert records(study) == undisturbed
    for cell in expand(study):
        sessions = (cell.path / "sessions.jsonl").read_text().splitlines()
        assert {json.loads(line)["threads"] for line in sessions} == {1}
        assert "test 0." in (cell.path / LOG).read_text()
    assert not ray.is_initialized()
    wait_until(lambda: not ray_processes(os.getpid()), 30)


def test_a_driver_that_is_killed_leaves_no_cluster_and_goes_on(tmp_path, undisturbed):
    study = study_in(tmp_path, **LARGER)
    arguments = ("study", tmp_path / "tiny.yaml", "--output", study.path, "--launcher", "ray")
    below = kill_at_work(begin_command(*arguments), study.path)
    at_work = [p for p, name in below.items() if name in ("ray::_task", "raylet", "gcs_server")]
    assert len(at_work) >= 3, below
    wait_until(lambda: gone(at_work), 60)
    process = begin_command(*arguments)
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 0, output + errors
    assert "usage" not in output + errors
    assert records(study) == undisturbed
    wait_until(lambda: gone(below))  # Ray's agents take minutes to give up on their cluster


def test_a_cell_no_node_has_room_for_is_refused(tmp_path):
    options = {"cpus_per_cell": 10_000, "address": "local"}
    with pytest.raises(ConfigurationError, match="No node of the Ray cluster has room"):
        run_study(study_in(tmp_path), "ray", options=options)
    assert not ray.is_initialized()
    assert not (tmp_path / "study" / "cells").exists()


def test_a_cluster_that_is_not_there(tmp_path):
    with pytest.raises(ConfigurationError, match="No Ray cluster at 127"):
        run_study(study_in(tmp_path), "ray", options={"address": "127.0.0.1:1"})
    assert not ray.is_initialized()
