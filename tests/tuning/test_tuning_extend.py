"""A search that goes on with a larger ``max_budget`` uses all that was trained."""

from __future__ import annotations

import json
import logging
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from killing import in_memory
from tuning_toys import (
    OWN_OPTIMIZERS,
    QUICK_DYHPO,
    TIMES,
    ToyObjective,
    needs_optuna,
    read_rows,
    toy_space,
)

from alhpo.base.errors import ConfigurationError, EarlierResultWarning, TunerError
from alhpo.tuning import Tuner

#: Those that choose as they would with the whole budget, and those that plan with it.
PLANNING = ["dyhpo", "one-epoch"]
INDEPENDENT = [name for name in OWN_OPTIMIZERS if name not in PLANNING]
WHOLE = 14


@pytest.fixture
def tmp_path(tmp_path):
    with in_memory(tmp_path) as folder:
        yield folder


def tuner(output, optimizer, max_budget, objective=None, **changes):
    arguments = {"num_configurations": 12, "seed": 5, "progress": False, "resume": "quiet"}
    return Tuner(
        objective or ToyObjective(),
        toy_space(),
        changes.pop("max_epochs", 4),
        max_budget,
        output,
        optimizer,
        **arguments | changes,
    )


def extended(output, optimizer, *budgets, **changes):
    """The search with one budget after the other, and the number of epochs trained for each."""
    calls = []
    for budget in budgets:
        objective = ToyObjective()
        search = tuner(output, optimizer, budget, objective, **changes)
        search.run()
        calls.append(len(objective.calls))
    return search, calls


def rows_of(search):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in search.results]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A search of the whole budget, by its optimizer and settings."""
    known = {}

    def of(optimizer, max_budget=WHOLE, **changes):
        key = (str(optimizer), max_budget, *sorted(changes.items()))
        if key not in known:
            search = tuner(tmp_path_factory.mktemp("whole"), optimizer, max_budget, **changes)
            search.run()
            known[key] = search
        return known[key]

    return of


@pytest.mark.parametrize("name", [*INDEPENDENT, QUICK_DYHPO, "hpo4dl-hyperband"])
def test_a_search_goes_on_as_one_of_the_whole_budget(tmp_path, whole, request, name):
    if name == "hpo4dl-hyperband":
        pytest.importorskip("hpo4dl")
    needs_optuna(name)
    expected = whole(name)
    few = (1, 7) if name == "tpe" or callable(name) else range(1, WHOLE)
    for first in few:
        search, calls = extended(tmp_path / f"{first}", name, first, WHOLE)
        assert calls == [first, expected.epochs_spent - first], first
        assert rows_of(search) == rows_of(expected), first
        assert search.stop_reason == expected.stop_reason
        assert read_rows(search.experiment_path).equals(read_rows(expected.experiment_path))
        best, theirs = (
            {path.name: path.read_text() for path in (one.experiment_path / "best_trial").iterdir()}
            for one in (search, expected)
        )
        assert best == theirs, first


@pytest.mark.parametrize("name", [n for n in INDEPENDENT if n != "tpe"])
def test_several_at_a_time_it_trains_the_same_epochs(tmp_path, whole, name):
    def trained(search):
        return sorted((r["configuration_id"], r["epoch"], r["metric"]) for r in search.results)

    for first in range(2, WHOLE, 3):
        search, calls = extended(tmp_path / f"{first}", name, first, WHOLE, parallel=3)
        assert trained(search) == trained(whole(name, parallel=3)), first
        assert sum(calls) == whole(name, parallel=3).epochs_spent


@pytest.mark.parametrize("name", PLANNING)
def test_one_that_plans_with_its_budget_says_that_the_whole_may_differ(
    tmp_path, whole, name, caplog
):
    caplog.set_level(logging.INFO, "alhpo.tuning")
    for first in range(1, WHOLE, 2 if name == "one-epoch" else 6):
        search, calls = extended(tmp_path / f"{first}", name, first, WHOLE)
        assert calls == [first, WHOLE - first]
        assert rows_of(search)[:first] == rows_of(whole(name, first)), first
        assert search.stop_reason == (
            f"max_budget, {WHOLE} epochs, is spent; max_budget was {first} before, and one search "
            "of the whole budget may have chosen otherwise"
        )
        assert search.budgets == [first, WHOLE]
    assert "plans with max_budget, which was 1, then 14" in caplog.text
    assert "otherwise" not in whole(name).stop_reason


def test_one_epoch_plans_anew(tmp_path):
    """4 + 2 x 3 of 10 epochs; of 30 15 first epochs, and 5 to the end."""
    search, _ = extended(tmp_path, "one-epoch", 10, 30, num_configurations=40)
    first, then = search.results[:10], search.results[10:]
    assert [row["epoch"] for row in first] == [1] * 7 + [2, 3, 4]
    assert [row["epoch"] for row in then] == [1] * 8 + [2, 3, 4] * 4
    by_first = {r["configuration_id"]: r["metric"] for r in search.results if r["epoch"] == 1}
    done = first[-1]["configuration_id"]
    ranked = sorted((n for n in by_first if n != done), key=lambda n: -by_first[n])
    assert [r["configuration_id"] for r in then if r["epoch"] == 2] == ranked[:4]


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(["asha", "hyperband", "random"]),
    budgets=st.lists(st.integers(1, 20), min_size=1, max_size=4, unique=True).map(sorted),
    parallel=st.sampled_from([1, 1, 3]),
)
def test_however_often_it_goes_on(tmp_path_factory, name, budgets, parallel):
    with in_memory(tmp_path_factory.mktemp("often")) as folder:
        search, calls = extended(folder / "extended", name, *budgets, parallel=parallel)
        at_once = tuner(folder / "at once", name, budgets[-1], parallel=parallel)
        at_once.run()
        trained = [
            sorted((r["configuration_id"], r["epoch"], r["metric"]) for r in one.results)
            for one in (search, at_once)
        ]
        spent, had = search.epochs_spent, search.budgets
    assert trained[0] == trained[1]
    assert sum(calls) == spent
    assert had == budgets


class Stopping(ToyObjective):
    """Is interrupted in its n-th epoch."""

    def __init__(self, n):
        super().__init__()
        self.n = n

    def __call__(self, *arguments):
        result = super().__call__(*arguments)
        if len(self.calls) == self.n:
            raise KeyboardInterrupt
        return result


@pytest.mark.parametrize("name", ["hyperband", "one-epoch", "dyhpo"])
@pytest.mark.parametrize("parallel", [1, 3])
def test_an_extension_that_is_interrupted_goes_on(tmp_path, name, parallel):
    undisturbed, _ = extended(tmp_path / "undisturbed", name, 7, 12, 20, parallel=parallel)
    for n in (1, 6):
        extended(tmp_path / f"{n}", name, 7, 12, parallel=parallel)
        with pytest.raises(KeyboardInterrupt):
            tuner(tmp_path / f"{n}", name, 20, Stopping(n), parallel=parallel).run()
        search = tuner(tmp_path / f"{n}", name, 20, parallel=parallel)
        assert search.stop_reason is None
        search.run()
        assert rows_of(search) == rows_of(undisturbed)
        assert search.stop_reason == undisturbed.stop_reason


def test_a_search_that_is_under_way_takes_another_budget(tmp_path, whole):
    for budget in (9, 10, WHOLE):
        with pytest.raises(KeyboardInterrupt):
            tuner(tmp_path / f"{budget}", "hyperband", 12, Stopping(10)).run()
        search, calls = extended(tmp_path / f"{budget}", "hyperband", budget)
        assert calls == [budget - 9]
        assert rows_of(search) == rows_of(whole("hyperband"))[:budget]
    search, _ = extended(tmp_path / "9", "hyperband", WHOLE)
    assert rows_of(search) == rows_of(whole("hyperband"))


def test_an_earlier_budget_has_its_earlier_result(tmp_path):
    """So a script that searches, and then searches more, can be run again."""
    first = tuner(tmp_path, "dyhpo", 8)
    result, rows, reason = first.run(), first.results, first.stop_reason
    longer = tuner(tmp_path, "dyhpo", 16)
    later = longer.run()
    assert later != result or longer.results[:8] == rows
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = tuner(tmp_path, "dyhpo", 8)
    assert (again.results, again.stop_reason, again.epochs_spent) == (rows, reason, 8)
    assert again.run() == result
    assert again.budgets == [8]
    assert longer.run() == later
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_what_was_spent_cannot_be_taken_back(tmp_path):
    extended(tmp_path, "random", 8, 12)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(
        ConfigurationError,
        match=r"max_budget is 10, .* has spent 12 epochs\. Give 8 or 12 for an earlier result, 12 "
        r"or more to go on, or resume=False",
    ):
        tuner(tmp_path, "random", 10).run()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    anew = tuner(tmp_path, "random", 10, resume=False)
    anew.run()
    assert anew.epochs_spent == 10 and anew.experiment_path.name.endswith("-2")


def test_the_caller_is_told(tmp_path):
    tuner(tmp_path, "random", 8).run()
    with pytest.warns(EarlierResultWarning, match="with max_budget 8 goes on after 8 epochs with"):
        tuner(tmp_path, "random", 12, resume=True).run()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        tuner(tmp_path, "random", 8, resume=True).run()
    assert "result of an earlier search of 8 epochs" in str(told[0].message)


def test_without_a_limit_and_with_one(tmp_path, whole):
    expected = whole("hyperband", None)
    search, calls = extended(tmp_path, "hyperband", 9, None)
    assert calls == [9, expected.epochs_spent - 9]
    assert rows_of(search) == rows_of(expected)
    assert search.stop_reason == "the optimizer has nothing left to suggest"
    more, calls = extended(tmp_path, "hyperband", 1000)  # there is nothing more
    assert calls == [0] and rows_of(more) == rows_of(expected)


def test_unfinished_trials_keep_their_checkpoints_where_there_is_room(tmp_path, monkeypatch):
    """Those with the best metric, as many as fit; the others are trained again, uncounted."""
    search, _ = extended(tmp_path / "kept", "hyperband", 10, max_epochs=9)
    kept = sorted(path.name for path in (search.experiment_path / "trials").iterdir())
    unfinished = {row["configuration_id"] for row in search.results}
    assert kept == sorted(f"trial_{number}" for number in unfinished)
    expected, calls = extended(tmp_path / "kept", "hyperband", 20, max_epochs=9)
    assert calls == [10]

    search, _ = extended(tmp_path / "none", "hyperband", 10, max_epochs=9, keep_mib=0)
    assert not (search.experiment_path / "trials").exists()
    search, calls = extended(tmp_path / "none", "hyperband", 20, max_epochs=9, keep_mib=0)
    assert 10 < calls[0] < 20 and search.epochs_spent == 20
    assert rows_of(search) == rows_of(expected)

    size = sum(path.stat().st_size for path in _trial(search, tmp_path))
    some = tuner(tmp_path / "some", "hyperband", 10, max_epochs=9, keep_mib=1)
    monkeypatch.setattr(some, "_keep_bytes", 2 * size + size // 2)
    some.run()
    last = {row["configuration_id"]: row["metric"] for row in some.results}
    best = sorted(last, key=lambda number: -last[number])[:2]
    left = sorted(path.name for path in (some.experiment_path / "trials").iterdir())
    assert left == sorted(f"trial_{number}" for number in best)


def _trial(search, folder):
    """The files of one checkpoint."""
    other = tuner(folder / "one", "hyperband", 1, max_epochs=9)
    other.run()
    return [path for path in (other.experiment_path / "trials").rglob("*") if path.is_file()]


def test_the_best_checkpoint_of_an_earlier_budget_stays(tmp_path):
    objective = ToyObjective(lambda configuration, epoch: -epoch)  # the first epoch is the best
    search = tuner(tmp_path, "random", 6, objective)
    best = search.run()
    more = ToyObjective(objective.curve)
    longer = tuner(tmp_path, "random", 12, more)
    assert longer.run() == best
    assert len(more.calls) == 6
    state = json.loads((longer.experiment_path / "best_trial" / "one.json").read_text())
    assert state["epoch"] == best["epoch"] == 1


def test_where_all_failed_it_begins_with_the_new_budget(tmp_path):
    def failing(*_):
        raise ValueError("no")

    failing.identity = "toy"
    with pytest.raises(TunerError):
        tuner(tmp_path, "random", 5, failing, max_failures=9).run()
    search = tuner(tmp_path, "random", 8)
    search.run()
    assert search.epochs_spent == 8 and search.budgets == [8]


def test_min_gain_ends_an_extension_as_well(tmp_path):
    search, _ = extended(tmp_path, "dyhpo", 60, 400, num_configurations=200, min_gain=0.02)
    assert "below min_gain" in search.stop_reason
    more, calls = extended(tmp_path, "dyhpo", 500, num_configurations=200, min_gain=0.02)
    assert calls == [0] and more.epochs_spent == search.epochs_spent
