"""What is shown of a search while it runs."""

from __future__ import annotations

import io
import itertools
import re
import sys

import pytest
from tuning_toys import ToyObjective, toy_space

from alhpo.base.errors import ConfigurationError
from alhpo.tuning import Tuner


def tuner(folder, progress, **changes):
    given = {"max_budget": 9, "optimizer": "asha", "num_configurations": 9, "seed": 0} | changes
    return Tuner(
        ToyObjective(),
        toy_space(),
        3,
        output_path=folder,
        progress=progress,
        resume="quiet",
        **given,
    )


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, folder, stderr, **changes):
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    search = tuner(folder, True, **changes)
    best = search.run()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stderr.getvalue())
    lines = text.replace("\r", "\n").splitlines()
    return search, best, [line.rstrip() for line in lines if line.strip()]


@pytest.mark.parametrize(("parallel", "budget"), [(1, 9), (3, 9), (1, None)])
def test_a_terminal_shows_best_trial_epochs_and_time(monkeypatch, tmp_path, parallel, budget):
    changes = {"parallel": parallel, "max_budget": budget}
    search, best, lines = shown(monkeypatch, tmp_path, Terminal(), **changes)
    last = search.results[-1]
    bar, *below = lines[-3:]
    spent = len(search.results)
    total = r"\?" if budget is None else budget
    assert re.match(rf"search \S+ +{spent}/{total} +epochs +0:0\d:\d\d", bar)
    assert ("left" in bar) == (budget is not None)
    x, kind = best["configuration"]["x"], best["configuration"]["kind"]
    where = f"trial {best['configuration_id']}, epoch {best['epoch']}"
    assert {f"kind {kind}", f"x {x:.3g}"} == {*below[0].split(":  ")[1].rstrip().split("  ")}
    assert below[0].startswith(f"best  {best['metric']:.4g}  {where}:  ")
    assert below[1].startswith("now   trial")
    assert str(last["configuration_id"]) in below[1]
    assert below[1].rstrip().endswith("of 3") or f"epoch {last['epoch']} of 3:  " in below[1]


def test_nothing_is_shown_where_stderr_is_no_terminal(monkeypatch, tmp_path):
    assert shown(monkeypatch, tmp_path, io.StringIO())[2] == []


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_function_is_told_before_and_after_every_epoch(tmp_path, parallel):
    told = []
    search = tuner(tmp_path, told.append, parallel=parallel)
    search.run()
    rows = search.results
    epochs = [status.epochs for status in told]
    assert epochs == sorted(epochs)
    assert {*epochs} == {*range(10)}
    for before, after in itertools.pairwise(told):
        trained = rows[before.epochs : after.epochs]
        known = {(trial.number, trial.epoch) for trial in before.training}
        assert {(row["configuration_id"], row["epoch"]) for row in trained} <= known
        assert 1 <= len(known) <= parallel
    assert told[0].best is None
    assert all(s.best["metric"] == rows[s.epochs - 1]["best_metric"] for s in told if s.epochs)


def test_a_continued_search_shows_what_was_trained_before(tmp_path):
    class Killed(BaseException):
        pass

    def kill(status):
        if status.epochs == 4:
            raise Killed

    with pytest.raises(Killed):
        tuner(tmp_path, kill).run()
    told = []
    tuner(tmp_path, told.append).run()
    assert told[0].epochs == 4
    assert told[0].best is not None
    assert told[-1].epochs == 9


def test_what_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="progress is 'bar'; expected True, False or a"):
        tuner(tmp_path, "bar")
