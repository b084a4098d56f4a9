"""A search that is interrupted and continued is the search that was never interrupted."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from tuning_toys import QUICK_DYHPO, ToyObjective, quick_dyhpo, read_rows, toy_space

from alhpo.base.errors import TunerError
from alhpo.tuning import Tuner

KILLED = 9


def _tuner(output, optimizer, replaces_files=False, objective=None, **settings):
    settings = {"max_epochs": 4, "max_budget": 22, "num_configurations": 12} | settings
    return Tuner(
        objective or ToyObjective(replaces_files=replaces_files),
        toy_space(),
        settings.pop("max_epochs"),
        settings.pop("max_budget"),
        output,
        optimizer,
        seed=5,
        device="cpu",
        progress=False,
        **settings,
    )


def _assert_same_end(killed: Tuner, undisturbed: Tuner) -> None:
    pd.testing.assert_frame_equal(
        read_rows(killed.experiment_path), read_rows(undisturbed.experiment_path)
    )
    ours, theirs = (
        {path.name: path.read_text() for path in (one.experiment_path / "best_trial").iterdir()}
        for one in (killed, undisturbed)
    )
    assert ours == theirs
    left, expected = (
        {path.relative_to(folder): path.read_text() for path in folder.rglob("*.json")}
        for folder in (one.experiment_path / "trials" for one in (killed, undisturbed))
    )
    assert left == expected  # of unfinished trials only
    results = killed.run(), undisturbed.run()
    for time in ("time", "overhead_time", "total_time"):
        for result in results:
            assert result.pop(time) >= 0
    assert results[0] == results[1]


class _Interrupting(ToyObjective):
    """Ends the search in the middle of its n-th call, the checkpoint written."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def __call__(self, *arguments):
        result = super().__call__(*arguments)
        if len(self.calls) == self.n:
            self.end()
        return result

    def end(self):
        raise KeyboardInterrupt


@pytest.mark.parametrize("optimizer", ["random", "hyperband", QUICK_DYHPO])
def test_interrupted_between_checkpoint_and_journal(tmp_path, optimizer):
    undisturbed = _tuner(tmp_path / "undisturbed", optimizer, max_budget=12)
    undisturbed.run()
    for n in (2, 9) if optimizer is quick_dyhpo else (1, 2, 6, 12):
        search = _tuner(tmp_path / f"{n}", optimizer, objective=_Interrupting(n), max_budget=12)
        with pytest.raises(KeyboardInterrupt):
            search.run()
        assert search.epochs_spent == n - 1
        assert len(read_rows(search.experiment_path)) == n - 1 or n == 1
        search.run()  # the same Tuner goes on
        _assert_same_end(search, undisturbed)


class _OnBrokenGPU(ToyObjective):
    """Fails as everything does on a GPU after an illegal access."""

    def __call__(self, *arguments):
        result = super().__call__(*arguments)
        if len(self.calls) == 3:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return result


def test_a_broken_gpu_ends_the_search_and_is_no_fault_of_a_trial(tmp_path):
    undisturbed = _tuner(tmp_path / "undisturbed", "random", max_budget=6)
    undisturbed.run()
    search = _tuner(tmp_path / "out", "random", objective=_OnBrokenGPU(), max_budget=6)
    with pytest.raises(TunerError, match="CUDA error"):
        search.run()
    assert search.epochs_spent == 2
    again = _tuner(tmp_path / "out", "random", max_budget=6)  # in another process, on a user's side
    again.run()
    _assert_same_end(again, undisturbed)


def test_checkpoints_elsewhere_are_found_again(tmp_path):
    settings = {"storage_path": tmp_path / "storage", "max_budget": 6}
    search = _tuner(tmp_path / "out", "random", objective=_Interrupting(3), **settings)
    with pytest.raises(KeyboardInterrupt):
        search.run()
    again = _tuner(tmp_path / "out", "random", max_budget=6)
    again.run()
    assert again.epochs_spent == 6
    assert not [row for row in again.results if row["metric"] != row["metric"]]
    assert [path.name for path in (tmp_path / "storage").rglob("trial_*")] == ["trial_1"]


def test_a_suggestion_that_differs_from_the_record_follows_the_record(tmp_path, caplog):
    search = _tuner(tmp_path, "random", objective=_Interrupting(7), max_budget=10)
    with pytest.raises(KeyboardInterrupt):
        search.run()
    journal = search.experiment_path / "journal.jsonl"
    text = journal.read_text()
    journal.write_text(
        text.replace('"configuration_ids":[1]', '"configuration_ids":[3]').replace(
            '"configuration_id":1,', '"configuration_id":3,'
        )
    )
    trials = search.experiment_path / "trials"
    for path in trials.glob("trial_1*"):
        path.rename(trials / path.name.replace("trial_1", "trial_3"))
    again = _tuner(tmp_path, "random", max_budget=10)
    again.run()
    assert "the search goes on with the record" in caplog.text
    assert [row["configuration_id"] for row in again.results] == [0] * 4 + [3] * 4 + [2] * 2


class _Killing(_Interrupting):
    """Ends the whole process there."""

    def end(self):
        os._exit(KILLED)


@pytest.mark.slow
@pytest.mark.hpo4dl
def test_dyhpo_killed_in_its_own_process_and_continued(tmp_path):
    """HPO4DL's; every other kill of a search is in test_kills.py."""
    import subprocess

    undisturbed = _tuner(tmp_path / "undisturbed", quick_dyhpo, max_budget=14)
    undisturbed.run()
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(int(sys.argv[4]))  # they change the surrogate's last digits
import test_tuning_resume as t
objective = t._Killing(int(sys.argv[3]))
t._tuner(sys.argv[2], t.quick_dyhpo, objective=objective, max_budget=14).run()
"""
    here = str(Path(__file__).parent)
    for calls in (4, 6, 100):
        arguments = [here, tmp_path / "killed", calls, torch.get_num_threads()]
        command = [sys.executable, "-c", code, *map(str, arguments)]
        status = subprocess.run(command, check=False).returncode
        assert status == (KILLED if calls < 100 else 0)
    _assert_same_end(_tuner(tmp_path / "killed", quick_dyhpo, max_budget=14), undisturbed)
