"""A process that is killed at any moment at all, and continued, ends with the same records."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kill_examples import recorded, run, search, study
from killing import Tree, in_process, kill_in, states_of, whole_states_of

MODES = {
    "fixed": {"hpo": "fixed"},
    "per-cycle": {"hpo": "per-cycle", "budget": 12},
    "every": {"hpo": "every:2"},
    "final": {"hpo": "final", "budget": 12},
}


def assert_same_end(job: Callable[[], Any], folder: Path, state: Tree, expected: Any) -> None:
    """Go on from a state in a new process, and compare what comes of it."""
    state.put(folder)
    ended = in_process(job)
    assert (ended.result(), recorded(folder)) == expected, sorted(state.content)


def check_every_kill(job: Callable[[], Any], folder: Path) -> int:
    """Kill a job in every state and go on from each; returns the number of states."""
    folder.mkdir()
    states = states_of(job, folder)
    expected = in_process(job).result(), recorded(folder)
    for state in states:
        assert_same_end(job, folder, state, expected)
    return len(states)


@pytest.mark.parametrize("start", ["cold", "warm"])
@pytest.mark.parametrize("mode", MODES)
def test_a_run_killed_anywhere_ends_with_the_same_records(tmp_path, mode, start):
    job = partial(run, tmp_path / "killed", start=start, **MODES[mode])
    print(check_every_kill(job, tmp_path / "killed"))


@pytest.mark.parametrize("replaces_files", [False, True])
@pytest.mark.parametrize("optimizer", ["dyhpo", "hyperband", "asha", "random", "tpe"])
def test_a_search_killed_anywhere_ends_with_the_same_rows(tmp_path, optimizer, replaces_files):
    job = partial(search, tmp_path / "killed", optimizer, replaces_files)
    print(check_every_kill(job, tmp_path / "killed"))
