"""A process that is killed at any moment at all, and continued, ends with the same records."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kill_examples import (
    extended_search,
    finetune_run,
    frozen_run,
    growing_run,
    lagging_search,
    longer_run,
    recorded,
    run,
    search,
    study,
    without_retraining,
)
from killing import (
    Tree,
    changed,
    continued,
    in_memory,
    in_process,
    kill_in,
    states_of,
    stopped_in,
    whole_states_of,
)
from toy_models import random_weights, toy_weights

Job = Callable[[], Any]
#: Reads what of a folder must be the same after a kill.
ReadFolder = Callable[[Path], dict[str, Any]]


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    with in_memory(tmp_path) as folder:
        yield folder


MODES = {
    "fixed": {"hpo": "fixed"},
    "per-cycle": {"hpo": "per-cycle", "budget": 12, "max_budget": 4},
    "every": {"hpo": "every:2", "measure_current": False, "max_budget": 3},
    "final": {"hpo": "final", "budget": 12, "max_budget": 4},
    "shared budget": {
        "hpo": "initial+final",
        "adopt": "sure",
        "budget": 12,
        "max_budget": 100,
        "total_budget": 8,
    },
    "diverging": {"hpo": "fixed", "hyperparameters": {"batch_size": 4, "lr": 1e25}},
}


def result_of(job: Job, folder: Path, read: ReadFolder = recorded) -> tuple[Any, dict[str, Any]]:
    """What the job returns, and what it leaves in the folder."""
    return in_process(job).result(), read(folder)


def check_every_kill(job: Job, folder: Path, read: ReadFolder = recorded) -> None:
    """Kill a job at every moment, and go on each time."""
    folder.mkdir()
    states = states_of(job, folder)
    expected = result_of(job, folder, read)
    wrong = []
    for number, ended in enumerate(continued(job, folder, states, read)):
        if ended.value != expected:
            after = changed(states[max(0, number - 1)], states[number])
            wrong.append(f"{number}, after {after}: {ended.traceback or 'other records'}")
    assert not wrong, f"{len(wrong)} of {len(states)} states\n" + "\n".join(wrong)


def slow(*values: Any) -> Any:
    """A parameter set that only the whole suite tests."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("mode", "start"),
    [slow(mode, start) for mode in MODES for start in ("cold", "warm")],
)
def test_a_run_killed_anywhere_ends_with_the_same_records(tmp_path, mode, start):
    folder = tmp_path / "killed"
    check_every_kill(partial(run, folder, start=start, **MODES[mode]), folder)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fixed", "per-cycle", "final"])
def test_a_run_to_more_labels_killed_anywhere_ends_with_the_same_records(tmp_path, mode):
    folder, settings = tmp_path / "killed", MODES[mode] | {"optimizer": "random"}
    settings.pop("budget", None)
    check_every_kill(partial(longer_run, folder, **settings), folder)


@pytest.mark.parametrize("mode", ["fixed", slow("final")])
def test_a_run_that_leaves_out_fits_killed_anywhere_ends_with_the_same_records(tmp_path, mode):
    folder, settings = tmp_path / "killed", MODES[mode] | {"budget": 16, "evaluate_at": [12]}
    check_every_kill(partial(run, folder, strategy="random", **settings), folder)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [1, 2])
def test_a_run_on_frozen_features_killed_anywhere_ends_with_the_same_records(tmp_path, parallel):
    folder, weights = tmp_path / "killed", toy_weights(tmp_path)
    settings = MODES["per-cycle"] | {"max_budget": 5, "parallel": parallel}
    check_every_kill(partial(frozen_run, folder, weights, **settings), folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"hpo": "per-cycle", "budget": 8, "max_budget": 3, "optimizer": "random"},
        {"hpo": "fixed", "budget": 12, "start": "warm"},
    ],
    ids=["search", "warm"],
)
def test_a_run_of_fine_tuning_killed_anywhere_ends_with_the_same_records(tmp_path, settings):
    folder, weights = tmp_path / "killed", random_weights(tmp_path, "alhpo_stages")
    check_every_kill(partial(finetune_run, folder, weights, **settings), folder)


@pytest.mark.slow
def test_a_run_of_active_inas_killed_anywhere_ends_with_the_same_records(tmp_path):
    folder, settings = tmp_path / "killed", {"acquisition_size": "2,4@10", "budget": 13}
    check_every_kill(partial(growing_run, folder, strategy="entropy", **settings), folder)


@pytest.mark.parametrize(
    ("optimizer", "replaces_files"),
    [
        ("asha", False),
        slow("dyhpo", False),
        slow("dyhpo", True),
        slow("hyperband", True),
        slow("random", False),
        slow("tpe", False),
    ],
)
def test_a_search_killed_anywhere_ends_with_the_same_rows(tmp_path, optimizer, replaces_files):
    folder = tmp_path / "killed"
    check_every_kill(partial(search, folder, optimizer, replaces_files), folder)


@pytest.mark.parametrize(
    ("optimizer", "replaces_files"),
    [
        ("random", True),
        *(slow(name, False) for name in ("asha", "dyhpo", "hyperband", "one-epoch", "tpe")),
    ],
)
def test_a_search_of_three_trials_at_a_time_killed_anywhere_ends_with_the_same_rows(
    tmp_path, optimizer, replaces_files
):
    folder = tmp_path / "killed"
    check_every_kill(partial(search, folder, optimizer, replaces_files, parallel=3), folder)


@pytest.mark.parametrize(
    ("optimizer", "parallel"),
    [("hyperband", 1), *(slow(name, n) for name in ("dyhpo", "one-epoch") for n in (1, 3))],
)
def test_a_search_that_is_extended_killed_anywhere_ends_with_the_same_rows(
    tmp_path, optimizer, parallel
):
    folder = tmp_path / "killed"
    check_every_kill(partial(extended_search, folder, optimizer, parallel=parallel), folder)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "replaces_files"), [("random", True), ("dyhpo", False)])
def test_a_search_in_processes_killed_anywhere_ends_with_the_same_rows(
    tmp_path, optimizer, replaces_files
):
    """Two trials at a time, each written by its process while the other one is. A checkpoint that
    is torn is found out, and its trial trained again, which the journal tells."""
    folder = tmp_path / "killed"
    job = partial(search, folder, optimizer, replaces_files, parallel=2, processes=True)
    check_every_kill(job, folder, without_retraining)


@pytest.mark.slow
def test_a_search_with_checkpoints_elsewhere_killed_anywhere_ends_with_the_same_rows(tmp_path):
    folder = tmp_path / "killed"
    check_every_kill(partial(search, folder, "random", True, elsewhere=True), folder)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [1, 3])
def test_a_search_whose_checkpoints_lag_killed_anywhere_ends_with_the_same_rows(tmp_path, parallel):
    folder = tmp_path / "killed"
    check_every_kill(partial(lagging_search, folder, parallel), folder)


@pytest.mark.slow
def test_a_study_killed_anywhere_ends_with_the_same_records(tmp_path):
    folder = tmp_path / "killed"
    check_every_kill(partial(study, folder, tune=True), folder)


@pytest.mark.slow
def test_a_study_goes_on_when_another_process_of_it_is_killed_anywhere(tmp_path):
    """The other one comes to the cell while its process still holds it, and takes it over."""
    folder = tmp_path / "shared"
    job = partial(study, folder, tune=False)
    folder.mkdir()
    states = whole_states_of(job, folder)
    expected = result_of(job, folder)
    for number in range(len(states)):
        if number and not changed(states[number - 1], states[number]):
            continue
        states[0].put(folder)
        with stopped_in(job, folder, number) as process:
            beside = partial(study, folder, tune=False, process=process)
            assert result_of(beside, folder) == expected, number
        assert result_of(job, folder) == expected, number


@pytest.mark.parametrize(
    ("work", "settings", "times"),
    [
        (run, {"start": "warm", **MODES["fixed"]}, 5),
        slow(run, {"start": "warm", **MODES["final"]}, 12),
        slow(search, {"optimizer": "dyhpo", "replaces_files": True}, 12),
        slow(study, {"tune": True}, 12),
    ],
    ids=["fixed", "final", "search", "study"],
)
def test_killed_twice_it_ends_with_the_same_records(tmp_path, work, settings, times):
    """Processes that are really killed, at random moments, as are those that go on."""
    folder = tmp_path / "killed"
    job = partial(work, folder, **settings)
    folder.mkdir()
    states = whole_states_of(job, folder)
    expected = result_of(job, folder)
    dice = random.Random(0)
    for first in dice.sample(range(len(states)), times):
        states[0].put(folder)
        assert kill_in(job, folder, first)
        left = Tree.of(folder).without_random_names()
        assert left == states[first].without_random_names()
        kill_in(job, folder, dice.randrange(1, len(states) - first + 1))
        assert result_of(job, folder) == expected, first
