"""Studies on a real cluster of Ray on this machine, started and stopped by them."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from study_examples import (
    LARGER_OF_TIMM,
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
from alhpo.studies import expand
from alhpo.studies.cell_runner import FAILURE, LOG
from alhpo.studies.scheduler import StudyObserver, run_study

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _as_urgent_as_other_tests():
    """Ray's processes that run cells are nice by default, and starve beside another test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        yield


@pytest.fixture(autouse=True)
def _no_other_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="module")
def leaving():
    """Processes that must have ended after all these tests: Ray's agents try for a minute to tell
    a cluster that is gone that it is gone."""
    processes = []
    yield processes
    wait_until(lambda: gone(processes), 120)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Records of the larger study, run in this process from first to last."""
    study = study_in(tmp_path_factory.mktemp("undisturbed"), **LARGER_OF_TIMM)
    assert run_study(study, "in-process").complete
    return records(study)


def ray_processes() -> set[psutil.Process]:
    """Ray's among the processes below this one; a cluster of other tests may be among them."""
    found = set()
    for process in all_below(os.getpid()):
        with suppress(psutil.Error):
            if "ray" in " ".join(process.cmdline()) and process.is_running():
                found.add(process)
    return found


class Notes(StudyObserver):
    def __init__(self):
        self.lines = []

    def noted(self, title, message):
        self.lines.append(message)


def test_a_study_with_a_process_killed_in_the_middle_of_a_cell(tmp_path, undisturbed):
    study = study_in(tmp_path, **LARGER_OF_TIMM)
    notes, killed, others = Notes(), [], ray_processes()
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
    wait_until(lambda: ray_processes() <= others, 30)


def test_a_driver_that_is_killed_leaves_no_cluster_and_goes_on(tmp_path, undisturbed, leaving):
    study = study_in(tmp_path, **LARGER_OF_TIMM)
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
    leaving.extend(below)


def test_sigterm_ends_a_cluster_that_was_started(tmp_path):
    study = study_in(tmp_path, settings={**TIMMS, "max_epochs": 200, "max_budget": 400})
    arguments = ("study", tmp_path / "tiny.yaml", "--output", study.path, "--launcher", "ray")
    process = begin_command(*arguments)
    wait_until(lambda: starts(study.path))
    below = all_below(process.pid)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "terminated. The same command goes on" in errors and "Traceback" not in errors
    assert below
    wait_until(lambda: gone(below), 60)


# ------------------------------------------------------------------------- a cluster that is joined

SMALL = {"object_store_memory": 80 * 2**20}


@contextmanager
def running_cluster():
    """A cluster with a head without CPUs, to which tests add nodes: processes of this machine."""
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": folder, **SMALL}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield cluster
        finally:
            nodes = [processes_of(node) for node in cluster.list_all_nodes()]
            cluster.shutdown()
            for processes in nodes:
                kill_all(processes)


@pytest.fixture(scope="module")
def cluster():
    with running_cluster() as running:
        running.add_node(num_cpus=1, **SMALL)
        yield running


def raylet(node) -> psutil.Process:
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def processes_of(node) -> set[psutil.Process]:
    """Its services, and what they have started."""
    found = set()
    for service in (one for kind in node.all_processes.values() for one in kind):
        with suppress(psutil.Error):
            process = psutil.Process(service.process.pid)
            found |= {process, *process.children(recursive=True)}
    return found


def kill_all(processes) -> None:
    """All of them: agents outlive their raylet for a while."""
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def at_work(node) -> list[psutil.Process]:
    """Its processes that hold a cell and have begun with it."""

    def works(process):
        with suppress(psutil.Error):
            held = (Path(file.path) for file in process.open_files())
            return any(p.name == ".lock" and (p.parent / "sessions.jsonl").exists() for p in held)

    return [p for p in raylet(node).children(recursive=True) if works(p)]


def test_a_node_that_is_killed_in_the_middle_of_a_cell(tmp_path, cluster, undisturbed):
    second = cluster.add_node(num_cpus=1, **SMALL)
    study = study_in(tmp_path, **LARGER_OF_TIMM)
    process = begin_command(
        *("study", "tiny.yaml", "--output", "study", "--launcher", "ray"),
        *("--address", cluster.address),
        cwd=tmp_path,  # relative paths mean the same to all
    )
    nodes = cluster.list_all_nodes()[1:]
    try:
        wait_until(lambda: all(map(at_work, nodes)) or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        for one in [raylet(second), *raylet(second).children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        output, errors = process.communicate(timeout=900)
    finally:
        process.kill()
        cluster.remove_node(second, allow_graceful=False)
    assert process.returncode == 0, output + errors
    assert "2 at once" in output and "lost" in output and "8 finished" in output
    assert records(study) == undisturbed
    assert starts(study.path) == 9  # one cell was gone on with
    assert all(raylet(node).is_running() for node in cluster.list_all_nodes())


def test_a_driver_that_goes_leaves_the_cluster_and_no_cell(
    tmp_path, cluster, undisturbed, monkeypatch
):
    study = study_in(tmp_path, **LARGER_OF_TIMM)
    _, node = cluster.list_all_nodes()
    process = begin_command(
        *("study", tmp_path / "tiny.yaml", "--output", study.path, "--launcher", "ray"),
        RAY_ADDRESS=cluster.address,
    )
    kill_at_work(process, study.path)
    wait_until(lambda: not at_work(node), 60)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    assert run_study(study, "ray").complete
    assert records(study) == undisturbed
    assert not ray.is_initialized()
    assert all(raylet(node).is_running() for node in cluster.list_all_nodes())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_folder_that_nodes_do_not_share_is_said(tmp_path, cluster):
    """A path by way of a file descriptor is another one in another process."""
    folder = os.open(tmp_path, os.O_RDONLY)
    number = os.dup2(folder, 250)
    try:
        study = study_in(tmp_path, settings=TIMMS, tune=None, output_dir=None)
        study = study.model_copy(update={"output_dir": f"/proc/self/fd/{number}/study"})
        with pytest.raises(ConfigurationError, match="a file system that all nodes share") as error:
            run_study(study, "ray", options={"address": cluster.address})
        assert any(str(cell.path) in str(error.value) for cell in expand(study))
        assert not list(study.path.rglob(FAILURE))
    finally:
        os.close(number)
        os.close(folder)


def test_a_cluster_that_goes_away_ends_the_command_which_goes_on_elsewhere(tmp_path, undisturbed):
    study = study_in(tmp_path, **LARGER_OF_TIMM)
    with running_cluster() as lost:
        node = lost.add_node(num_cpus=1, **SMALL)
        process = begin_command(
            *("study", tmp_path / "tiny.yaml", "--output", study.path, "--launcher", "ray"),
            *("--address", lost.address),
            RAY_gcs_rpc_server_reconnect_timeout_s="5",  # a minute by default
        )
        wait_until(lambda: at_work(node) or process.poll() is not None)
        kill_all(processes_of(lost.head_node))
        output, errors = process.communicate(timeout=300)
        assert process.returncode != 0, output
        assert "GCS" in errors
    assert run_study(study, "in-process").complete
    assert records(study) == undisturbed


def test_a_cell_no_node_has_room_for_is_refused(tmp_path):
    options = {"cpus_per_cell": 10_000, "address": "local"}
    with pytest.raises(ConfigurationError, match="No node of the Ray cluster has room"):
        run_study(study_in(tmp_path, settings=TIMMS), "ray", options=options)
    assert not ray.is_initialized()
    assert not (tmp_path / "study" / "cells").exists()


def test_a_cluster_that_is_not_there(tmp_path):
    with pytest.raises(ConfigurationError, match="No Ray cluster at 127"):
        run_study(study_in(tmp_path, settings=TIMMS), "ray", options={"address": "127.0.0.1:1"})
    assert not ray.is_initialized()
