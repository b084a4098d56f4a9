"""inas: the candidates, the greedy path on tables of metrics, and a search that is killed."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

import pytest
from ConfigSpace import ConfigurationSpace

from alhpo.base.errors import ConfigurationError
from alhpo.hyperparameters import architecture_space
from alhpo.runs.settings import RunConfig, TuneConfig
from alhpo.testing import check_optimizer
from alhpo.tuning import SampledConfigurations, Tuner, get_optimizer_factory
from alhpo.tuning.optimizers.inas import candidates

EVERY = [(i, j) for i in range(1, 13) for j in range(1, 6)]


@pytest.mark.parametrize(
    ("current", "expected"),
    [
        ((1, 1), [(1, 1), (2, 1), (1, 2)]),
        ((1, 2), [(1, 2), (2, 2), (1, 3)]),
        ((2, 4), [(2, 4), (3, 4), (2, 5)]),
        ((12, 1), [(12, 1), (7, 2)]),
        ((1, 5), [(1, 5), (2, 5)]),
        ((12, 4), [(12, 4), (10, 5)]),
        ((12, 5), [(12, 5)]),
    ],
)
def test_published_candidates_in_their_order(current, expected):
    assert candidates(*current, 12, 5) == expected


def test_every_step_grows_and_every_architecture_is_reached():
    reached, steps = {(1, 1)}, 0
    waiting = [(1, 1)]
    shortest = {(1, 1): 0}
    while waiting:
        steps += 1
        further = []
        for one in waiting:
            for i, j in candidates(*one, 12, 5)[1:]:
                assert i * j > one[0] * one[1]
                assert (i, j) in EVERY
                if (i, j) not in reached:
                    reached.add((i, j))
                    shortest[i, j] = steps
                    further.append((i, j))
        waiting = further
    assert sorted(reached) == EVERY
    assert shortest[12, 5] == 15


class Table:
    """Metrics of architectures by epoch, kept in a file; unnamed ones are 0."""

    identity = "table"
    replaces_files = False

    def __init__(self, metrics, stop_at=None):
        self.metrics = metrics
        self.calls = []
        self.stop_at = stop_at

    def __call__(self, configuration, epoch, previous_epoch, checkpoint_path):
        architecture = configuration["blocks"], configuration["stacks"]
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        self.calls.append((*architecture, epoch))
        folder = Path(checkpoint_path)
        folder.mkdir(exist_ok=True)
        if previous_epoch:
            assert json.loads((folder / "epoch").read_text()) == previous_epoch
        (folder / "epoch").write_text(json.dumps(epoch))
        rows = self.metrics.get(architecture, [0.0])
        return {"epoch": epoch, "metric": rows[min(epoch, len(rows)) - 1]}


def search(table, folder, optimizer="inas", start=(1, 1), max_epochs=8, space=None, **given):
    """The architecture that is found, and the epochs of each that was trained."""
    tuner = Tuner(
        table,
        space or architecture_space(),
        max_epochs=max_epochs,
        max_budget=None,
        output_path=folder,
        optimizer=optimizer,
        seed=0,
        resume="quiet",
        initial_configurations=[{"blocks": start[0], "stacks": start[1]}] if start else [],
        progress=False,
        **given,
    )
    best = tuner.run()["configuration"]
    trained = defaultdict(int)
    for row in tuner.results:
        trained[row["configuration"]["blocks"], row["configuration"]["stacks"]] = row["epoch"]
    return (best["blocks"], best["stacks"]), dict(trained)


def test_the_candidates_are_trained_for_a_quarter_of_the_epochs(tmp_path):
    table = Table({(1, 2): [0.5, 0.9, 0.1], (2, 1): [0.6], (1, 1): [0.7]})
    found, trained = search(table, tmp_path, max_epochs=10)
    assert found == (1, 2)  # by its best epoch, not its last
    assert list(trained.items()) == [((1, 1), 3), ((2, 1), 3), ((1, 2), 3)]


def test_so_many_epochs_as_its_name_says(tmp_path):
    _, trained = search(Table({}), tmp_path, "inas:5")
    assert set(trained.values()) == {5}


def test_ties_stay(tmp_path):
    tied = {(3, 2): [0.2, 0.5], (4, 2): [0.5, 0.5], (3, 3): [0.5, 0.1]}
    assert search(Table(tied), tmp_path / "all", start=(3, 2))[0] == (3, 2)
    assert search(Table(tied | {(3, 2): [0.4]}), tmp_path / "two", start=(3, 2))[0] == (4, 2)


def test_what_diverges_never_wins(tmp_path):
    nan = [math.nan]
    table = Table({(1, 1): [0.1], (2, 1): nan, (1, 2): [0.2]})
    assert search(table, tmp_path / "one")[0] == (1, 2)
    assert search(Table({(1, 1): nan, (2, 1): nan, (1, 2): [0.2]}), tmp_path / "two")[0] == (1, 2)
    rounds = Table({(1, 1): [0.3], (2, 1): nan, (1, 2): nan})
    found, trained = search(rounds, tmp_path / "three", "inas:1x5")
    assert found == (1, 1) and len(trained) == 3


def test_rounds_follow_the_greedy_path_and_end_where_nothing_is_better(tmp_path):
    metrics = {(1, 1): [0.1], (2, 1): [0.2], (1, 2): [0.3], (2, 2): [0.5], (1, 3): [0.4]}
    path = Table(metrics | {(3, 2): [0.5], (2, 3): [0.1]})
    found, trained = search(path, tmp_path / "long", "inas:1x9")
    assert found == (2, 2)
    assert list(trained) == [(1, 1), (2, 1), (1, 2), (2, 2), (1, 3), (3, 2), (2, 3)]
    assert len(path.calls) == len(set(path.calls)) == 7  # none was trained again
    found, trained = search(Table(metrics), tmp_path / "two", "inas:1x2")
    assert found == (2, 2) and len(trained) == 5


def test_bounds_and_other_hyperparameters_of_the_space_hold(tmp_path):
    space = ConfigurationSpace({"blocks": (2, 3), "stacks": (1, 2), "lr": (0.1, 1.0)})
    table = Table({(2, 1): [0.1], (3, 1): [0.2], (2, 2): [0.1]})
    found, trained = search(table, tmp_path / "one", "inas:1x9", start=None, space=space)
    assert found == (3, 1)
    assert list(trained) == [(2, 1), (3, 1), (2, 2)]
    given = {"blocks": 3, "stacks": 2, "lr": 0.25}
    tuner = Tuner(
        table,
        space,
        max_epochs=4,
        max_budget=None,
        output_path=tmp_path / "two",
        optimizer="inas",
        initial_configurations=[given],
        progress=False,
        seed=0,
    )
    assert tuner.run()["configuration"] == given
    assert len(tuner.results) == 1  # at both bounds there is nothing to compare with


@pytest.mark.parametrize("stop_at", range(1, 6))
def test_a_search_that_is_interrupted_goes_on_without_training_twice(tmp_path, stop_at):
    metrics = {(1, 1): [0.1, 0.2], (2, 1): [0.3, 0.1], (1, 2): [0.2, 0.25]}
    whole = Table(metrics)
    expected = search(whole, tmp_path / "whole")
    first, second = Table(metrics, stop_at), Table(metrics)
    with pytest.raises(KeyboardInterrupt):
        search(first, tmp_path / "interrupted")
    assert search(second, tmp_path / "interrupted") == expected
    assert first.calls + second.calls == whole.calls


@pytest.mark.parametrize("optimizer", ["inas", "inas:1x3"])
def test_the_rules_of_optimizers_are_kept(optimizer):
    def configurations():
        return SampledConfigurations(architecture_space(), 0, [{"blocks": 2, "stacks": 2}])

    check_optimizer(get_optimizer_factory(optimizer), configurations=configurations, max_budget=40)


RUN = {"recipe": "architecture", "optimizer": "inas", "hpo": "per-cycle"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": "paper"}, "needs a space with the integers blocks and stacks"),
        ({"optimizer": "inas:"}, "expected inas:EPOCHS"),
        ({"optimizer": "inas:0"}, "expected inas:EPOCHS"),
        ({"optimizer": "inas:40", "max_budget": 200}, "more than max_epochs=27"),
        ({"max_budget": 20}, "budget of 20 epochs, .* takes up to 21"),
        ({"optimizer": "inas:9x2", "max_budget": 44}, "takes up to 45"),
        ({"total_budget": 100}, "budget of 20 epochs, .* takes up to 21"),
        ({"adopt": "sure"}, "adopt is 'sure', but optimizer 'inas'"),
        ({"parallel": 2}, "suggests one trial at a time"),
        ({"space": "architecture-2", "hyperparameters": {"stacks": 3}}, "does not hold"),
    ],
)
def test_settings_that_do_not_go_with_it(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        RunConfig.create(RUN, changes)


def test_settings_that_go_with_it():
    assert RunConfig.create(RUN, {"max_budget": 21}).starts_from_current
    RunConfig.create(RUN, {"hpo": "fixed", "max_budget": 1})
    RunConfig.create(RUN, {"optimizer": "dyhpo"})
    with pytest.raises(ConfigurationError, match="a tuning is one search"):
        TuneConfig.create(
            {"recipe": "architecture", "optimizer": "inas", "pool": "runs/x", "labels": 100}
        )
