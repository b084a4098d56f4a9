"""Trials in processes: the record is that of one process, whatever happens to the others."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import cloudpickle
import forked_processes
import psutil
import pytest
import torch
import tuning_toys
from tuning_toys import ToyObjective, learning_curve, read_rows, toy_space

from alhpo import ActiveLearner
from alhpo.base.errors import CheckpointError, ConfigurationError, DivergedError, TunerError
from alhpo.runs.experiment import run_experiment
from alhpo.runs.settings import RunConfig
from alhpo.tuning import Tuner
from alhpo.tuning.processes import TrialProcesses, process
from alhpo.tuning.processes.together import side_by_side


@pytest.fixture(autouse=True)
def started(monkeypatch):
    """The processes that a test started, as stand-ins for ``Popen``."""
    every = []

    own = tuning_toys, sys.modules[__name__]  # importing these takes longer than forking
    for module in own:
        cloudpickle.register_pickle_by_value(module)

    def start(*arguments):
        every.append(forked_processes.Forked(*arguments))
        return every[-1]

    monkeypatch.setattr(process, "_started", start)
    yield every
    for module in own:
        cloudpickle.unregister_pickle_by_value(module)
    assert all(one.poll() is not None for one in every), "a process lives on"


# Torch says so and uses one, because threads that wait for each other are slow on a busy machine.


@pytest.fixture
def four_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


class Told(ToyObjective):
    """Does something at its calls for an epoch of a trial: ``events`` maps the two to a function,
    which is called once in all processes."""

    def __init__(self, folder, events=None, curve=learning_curve):
        super().__init__(curve)
        self.folder, self.events = folder, events or {}

    def __call__(self, configuration, epoch, previous_epoch, checkpoint_path):
        folder = Path(checkpoint_path)
        if previous_epoch and not (folder / "two.json").exists():
            raise CheckpointError(f"{folder} is damaged")
        (row,) = super().__call__(configuration, epoch, previous_epoch, checkpoint_path)
        event = self.events.get((folder.name, epoch))
        if event:
            done = self.folder / f"{folder.name}.{epoch}.done"
            if not done.exists():
                done.touch()
                event()
        return row | {"pid": os.getpid(), "threads": torch.get_num_threads()}


KIND_B = {"x": 0.5, "kind": "b"}


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def no_memory():
    raise MemoryError


def raising(kind, *arguments, cause=None):
    def event():
        raise kind(*arguments) from cause and cause[0](*cause[1:])

    return event


def tuner(objective, output, optimizer="random", parallel=2, processes=True, **settings):
    settings = {"max_epochs": 4, "max_budget": 14, "num_configurations": 12, "seed": 5} | settings
    sizes = [settings.pop(name) for name in ("max_epochs", "max_budget")]
    further = {
        "parallel": parallel,
        "processes": processes,
        "progress": False,
        "resume": "quiet",
        "keep_mib": 0,
    }
    return Tuner(objective, toy_space(), *sizes, output, optimizer, **further, **settings)


def rows_of(search):
    return read_rows(search.experiment_path).drop(columns=["pid", "threads"], errors="ignore")


def assert_same(search, undisturbed):
    assert rows_of(search).equals(rows_of(undisturbed))
    best, expected = (one.experiment_path / "best_trial" for one in (search, undisturbed))
    assert {path.name: path.read_text() for path in best.iterdir()} == {
        path.name: path.read_text() for path in expected.iterdir()
    }
    assert not (search.experiment_path / "trials").exists()


@pytest.fixture
def undisturbed(tmp_path):
    """Two at a time, in this process."""
    search = tuner(ToyObjective(), tmp_path / "undisturbed", processes=False)
    search.run()
    return search


@pytest.mark.parametrize("optimizer", ["dyhpo", "hyperband", "random"])
def test_the_record_is_that_of_one_process(tmp_path, optimizer, started):
    here = tuner(ToyObjective(), tmp_path / "here", optimizer, 3, processes=False)
    here.run()
    assert not started
    search = tuner(ToyObjective(), tmp_path / "processes", optimizer, 3)
    assert search.experiment_path.name == here.experiment_path.name
    search.run()
    assert 2 <= len(started) <= 3
    assert_same(search, here)


def test_processes_divide_the_threads_and_keep_their_trials(tmp_path, four_threads, started):
    search = tuner(Told(tmp_path), tmp_path / "out")
    search.run()
    assert {row["threads"] for row in search.results} == {2}
    assert len({row["pid"] for row in search.results}) == len(started) == 2
    homes = {(row["configuration_id"], row["pid"]) for row in search.results}
    assert len(homes) == len({number for number, _ in homes})


@pytest.mark.parametrize("lag", [False, True])
def test_no_process_is_idle_while_another_has_two_trials(tmp_path, lag):
    """Unless their checkpoints may be old, so that another one would train them again."""
    objective = Told(tmp_path)
    objective.checkpoints_lag = lag

    def rows(epoch, *trials):
        paths = [str(tmp_path / f"trial_{trial}") for trial in trials]
        return both.train_together([(KIND_B, epoch, epoch - 1, path) for path in paths])

    with side_by_side(objective, 2, True) as both:
        homes = {row["pid"] for row in rows(1, 0, 1)}
        assert len(homes) == 2
        assert {row["pid"] for row in rows(1, 2, 3)} == homes
        assert len({row["pid"] for row in rows(2, 0, 2)}) == (1 if lag else 2)
        one, other = rows(3, 0, 2)
        assert one["total"] == other["total"] == sum(learning_curve(KIND_B, n) for n in (1, 2, 3))


def test_as_many_processes_as_threads_where_the_objective_asks_for_them(
    tmp_path, monkeypatch, started
):
    objective = Told(tmp_path)
    objective.in_processes = True
    tuner(objective, tmp_path / "one", processes=None).run()
    assert not started  # one thread
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    search = tuner(objective, tmp_path / "two", parallel=4, processes=None)
    search.run()
    assert len(started) == 2
    assert {row["threads"] for row in search.results} == {1}
    del objective.in_processes
    tuner(objective, tmp_path / "none", processes=None).run()
    assert len(started) == 2


# Processes that are kept from search to search.


def test_kept_processes_train_for_the_next_search(tmp_path, undisturbed, two_threads, started):
    with TrialProcesses() as kept:
        for name in ("one", "two"):
            search = tuner(Told(tmp_path), tmp_path / name, processes=kept)
            search.run()
            assert_same(search, undisturbed)
            assert len(started) == 2
            assert {row["pid"] for row in search.results} == {one.pid for one in started}
        assert all(one.poll() is None for one in started)


def test_kept_processes_forget_the_objective(tmp_path, two_threads):
    """A search's images are not held until the next one."""

    class Leaves(Told):
        def __del__(self):
            (self.folder / f"{os.getpid()}.gone").touch()

    with TrialProcesses() as kept:
        search = tuner(Leaves(tmp_path), tmp_path / "one", processes=kept)
        search.run()
        gone = [tmp_path / f"{row['pid']}.gone" for row in search.results]
        deadline = time.monotonic() + 60
        while not all(path.exists() for path in gone):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_kept_process_with_other_threads_is_not_used(tmp_path, monkeypatch, started):
    with TrialProcesses() as kept:
        for threads in (2, 4, 2):
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            search = tuner(Told(tmp_path), tmp_path / str(len(started)), processes=kept)
            search.run()
            assert {row["threads"] for row in search.results} == {threads // 2}
        assert len(started) == 4


@pytest.mark.parametrize("how", ["killed while idle", "interrupted", "no memory"])
def test_kept_processes_after_something_went_wrong(
    tmp_path, undisturbed, two_threads, started, how, caplog
):
    def interrupt(row):
        if how == "interrupted":
            raise KeyboardInterrupt

    events = {("trial_1", 2): no_memory} if how == "no memory" else {}
    with TrialProcesses() as kept:
        first = tuner(Told(tmp_path, events), tmp_path / "one", processes=kept, callback=interrupt)
        with pytest.raises(KeyboardInterrupt) if how == "interrupted" else nullcontext():
            first.run()
        if how == "killed while idle":
            for one in started:
                one.kill()
                one.wait()
        caplog.clear()
        search = tuner(Told(tmp_path), tmp_path / "two", processes=kept)
        search.run()
        assert not caplog.text
        assert_same(search, undisturbed)


# What goes wrong with one of several.


@pytest.mark.parametrize("at", [("trial_0", 1), ("trial_1", 3), ("trial_2", 2)])
@pytest.mark.parametrize("event", [kill, no_memory])
def test_where_a_process_is_killed_trials_are_trained_one_by_one(
    tmp_path, undisturbed, at, event, caplog, started
):
    search = tuner(Told(tmp_path, {at: event}), tmp_path / "out")
    with caplog.at_level(logging.WARNING, "alhpo.tuning"):
        search.run()
    assert "does not suffice for 2 trials together" in caplog.text
    assert ("was killed (SIGKILL)" in caplog.text) is (event is kill)
    assert len(started) == 3  # and then one alone
    assert_same(search, undisturbed)


def test_where_it_is_killed_alone_too_the_search_stops(tmp_path, undisturbed):
    def kill_again():
        (tmp_path / "trial_1.2.done").unlink()
        kill()

    with pytest.raises(TunerError, match=r"LostProcessError.*was killed.*goes on with this trial"):
        tuner(Told(tmp_path, {("trial_1", 2): kill_again}), tmp_path / "out", max_failures=9).run()
    search = tuner(Told(tmp_path), tmp_path / "out")
    assert search.epochs_spent == 3
    search.run()
    assert_same(search, undisturbed)


def test_one_that_ended_while_it_had_nothing_to_do_is_started_again(
    tmp_path, undisturbed, caplog, started
):
    def callback(row):
        if len(started) == 2:
            started[0].kill()
            started[0].wait()

    search = tuner(Told(tmp_path), tmp_path / "out", callback=callback)
    with caplog.at_level(logging.WARNING, "alhpo.tuning"):
        search.run()
    assert not caplog.text
    assert len(started) == 3
    assert_same(search, undisturbed)


def test_an_exception_stops_the_search_which_goes_on_when_it_is_fixed(tmp_path, undisturbed):
    event = raising(AttributeError, "no 'fcc'")
    with pytest.raises(TunerError, match=r"no 'fcc'.*max_failures=1") as stopped:
        tuner(Told(tmp_path, {("trial_1", 2): event}), tmp_path / "out").run()
    assert isinstance(stopped.value.__cause__, AttributeError)
    search = tuner(Told(tmp_path), tmp_path / "out")
    journal = (search.experiment_path / "journal.jsonl").read_text()
    assert "in event" in journal  # where it was raised
    search.run()
    assert_same(search, undisturbed)


def test_the_causes_of_an_exception_count(tmp_path):
    """What memory does not suffice for is often hidden behind another exception."""
    event = raising(RuntimeError, "a library", cause=(OSError, 28, "No space left on device"))
    with pytest.raises(TunerError, match="The disk is full"):
        tuner(Told(tmp_path, {("trial_1", 2): event}), tmp_path / "out", max_failures=9).run()


class Particular(Exception):
    """Cannot be loaded where it was not raised."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def test_an_exception_that_cannot_be_sent_is_told(tmp_path):
    event = raising(Particular, "the first", "the second")
    with pytest.raises(TunerError, match="Particular: the first and the second"):
        tuner(Told(tmp_path, {("trial_1", 2): event}), tmp_path / "out").run()


def test_a_result_that_cannot_be_sent_is_told(tmp_path):
    class Holds(Told):
        def __call__(self, *request):
            return super().__call__(*request) | {"lock": threading.Lock()}

    with pytest.raises(TunerError, match="cannot be sent to another process"):
        tuner(Holds(tmp_path), tmp_path / "out").run()


def test_divergence_and_failures_are_outcomes(tmp_path):
    diverged, failed = raising(DivergedError, "a loss"), raising(ValueError, "once")
    events = {("trial_0", 2): diverged, ("trial_1", 3): failed}
    search = tuner(Told(tmp_path, events), tmp_path / "out", max_failures=1)
    search.run()
    ended = {
        row["configuration_id"]: row["epoch"] for row in search.results if not row["metric"] > -9
    }
    assert ended == {0: 2, 1: 3}


def test_a_lost_checkpoint_is_trained_again(tmp_path, undisturbed, caplog, started):
    def interrupt(row):
        if (row["configuration_id"], row["epoch"]) == (0, 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuner(Told(tmp_path), tmp_path / "out", callback=interrupt).run()
    search = tuner(Told(tmp_path), tmp_path / "out")
    (search.experiment_path / "trials" / "trial_0" / "two.json").unlink()
    with caplog.at_level(logging.WARNING, "alhpo.tuning"):
        search.run()
    assert "Configuration 0 is trained again from epoch 0 to 3" in caplog.text
    assert_same(search, undisturbed)


# What is refused.


def test_an_objective_that_cannot_be_pickled_is_refused(tmp_path):
    objective = Told(tmp_path)
    objective.lock = threading.Lock()
    search = tuner(objective, tmp_path / "out")
    with pytest.raises(ConfigurationError, match=r"processes is True.*cannot be pickled.*lock"):
        search.run()
    assert search.epochs_spent == 0


def test_where_nobody_asked_for_processes_it_is_trained_here(
    tmp_path, undisturbed, four_threads, caplog, started
):
    objective = Told(tmp_path)
    objective.in_processes, objective.lock = True, threading.Lock()
    search = tuner(objective, tmp_path / "out", processes=None)
    with caplog.at_level(logging.WARNING, "alhpo.tuning"):
        search.run()
    assert "one after the other: the objective cannot be pickled" in caplog.text
    assert not started
    assert_same(search, undisturbed)


class Unloadable(ToyObjective):
    def __setstate__(self, state):
        raise ImportError("No module named 'elsewhere'")

    def __getstate__(self):
        return self.__dict__


def test_an_objective_that_cannot_be_loaded_there_is_told(tmp_path):
    with pytest.raises(TunerError, match=r"cannot be loaded in another process.*elsewhere"):
        tuner(Unloadable(), tmp_path / "out", max_failures=9).run()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"processes": True, "parallel": 1}, "parallel is 1"),
        ({"processes": 3}, "processes is 3"),
    ],
)
def test_illegal_arguments(tmp_path, settings, message):
    with pytest.raises(ConfigurationError, match=message):
        tuner(ToyObjective(), tmp_path, **settings)


# The objective of a cycle.


@pytest.fixture
def learner(few_digits):
    learner = ActiveLearner(
        few_digits,
        model="alhpo_toy",
        strategy="random",
        hyperparameters={"batch_size": 8},
        validation="kfold:2",
        metric="likelihood",
        max_epochs=3,
        device="cpu",
    )
    learner.label_initial(60)
    return learner


def test_a_trial_is_what_it_is_alone_with_as_many_threads(learner, tmp_path, two_threads, started):
    objective = learner.objective()
    assert objective.in_processes
    search = Tuner(
        *(objective, objective.configuration_space, 3, 9, tmp_path, "random"),
        num_configurations=5,
        seed=0,
        parallel=2,
        progress=False,
    )
    search.run()
    assert len(started) == 2
    for number in (0, 2):
        rows = [row for row in search.results if row["configuration_id"] == number]
        alone = learner.objective()(rows[0]["configuration"], 3, 0, tmp_path / f"alone_{number}")
        assert [row | one for row, one in zip(rows, alone, strict=True)] == rows


@pytest.mark.parametrize("hpo", ["final", "per-cycle", "initial+final"])
def test_all_searches_of_a_run_use_the_same_processes(learner, tmp_path, two_threads, started, hpo):
    records = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        records.append(run_of(learner.dataset, folder, hpo))
    assert len(started) == 4
    assert records[0] == records[1]


def run_of(dataset, folder, hpo):
    config = RunConfig.create(
        {
            "dataset": "digits",
            "model": "alhpo_toy",
            "strategy": "random",
            "hpo": hpo,
            "initial_size": 20,
            "acquisition_size": 20,
            "budget": 40,
            "max_epochs": 2,
            "max_budget": 8,
            "optimizer": "random",
            "num_configurations": 4,
            "parallel": 2,
            "hyperparameters": {"batch_size": 8},
            "device": "cpu",
            "output_dir": str(folder),
        }
    )
    result = run_experiment(config, dataset=dataset)
    return [replace(record, seconds={}).to_dict() for record in result.records]


# Processes as they are, not forks.

SCRIPT = """
import os, sys, time
from pathlib import Path

from ConfigSpace import ConfigurationSpace

from alhpo.tuning import Tuner

folder, slow = Path(sys.argv[1]), float(sys.argv[2])

def objective(configuration, epoch, previous_epoch, checkpoint_path):
    trial = Path(checkpoint_path)
    trial.mkdir(exist_ok=True)
    (folder / f"{os.getpid()}.pid").touch()
    before = float((trial / "x").read_text()) if previous_epoch else 0.0
    time.sleep(slow)
    (trial / "x").write_text(repr(before + configuration["x"]))
    threads = os.environ["OMP_NUM_THREADS"]
    return {"epoch": epoch, "metric": before + configuration["x"], "threads": threads}

space = ConfigurationSpace({"x": (0.0, 1.0)})
tuner = Tuner(objective, space, 3, 6, folder / "out", "random", num_configurations=2, seed=0,
              parallel=2, processes=True, progress=False, resume="quiet", identity="script")
tuner.run()
assert [row["threads"] for row in tuner.results] == ["1"] * 6
print([(row["configuration_id"], row["epoch"], row["metric"]) for row in tuner.results])
"""


def script(folder, slow, **options):
    command = [sys.executable, "-c", SCRIPT, str(folder), str(slow)]
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, **options)


def pids(folder):
    return {int(path.stem) for path in folder.glob("*.pid")}


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_process_that_started_them(tmp_path, how):
    """The script has no guard for being run again, and its function no module to import."""
    process = script(tmp_path, 60, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(pids(tmp_path)) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    began = pids(tmp_path)
    process.send_signal(how)
    process.wait()
    _gone, alive = psutil.wait_procs(
        [psutil.Process(pid) for pid in began if psutil.pid_exists(pid)], 10
    )
    assert not alive
    ended = script(tmp_path, 0)
    rows, _ = ended.communicate()
    assert ended.returncode == 0
    assert len(pids(tmp_path)) == 4
    whole = tmp_path / "whole"
    whole.mkdir()
    assert script(whole, 0).communicate()[0] == rows


def test_a_real_process(tmp_path):
    ended = script(tmp_path, 0)
    rows, _ = ended.communicate()
    assert ended.returncode == 0
    assert len(json.loads(rows.replace("(", "[").replace(")", "]"))) == 6
    assert len(pids(tmp_path)) == 2
