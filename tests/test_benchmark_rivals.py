"""Other packages' searches in the race: what they see, and how their epochs are counted."""

import io
import json
import sys

import numpy as np
import pytest
from ConfigSpace import (
    CategoricalHyperparameter,
    ConfigurationSpace,
    EqualsCondition,
    UniformFloatHyperparameter,
)
from hpo_report import report
from hypothesis import given, settings
from hypothesis import strategies as st
from race import CurveTable
from rival_search import Ended, Table
from rivals import Rival, points, race, rivals_of

RIVAL = """
import json, sys
from rival_search import Ended, Table
print("null", flush=True)
while line := sys.stdin.readline():
    table = Table(json.loads(line), sys.stdout, sys.stdin)
    try:
        {search}
    except Ended:
        pass
    print("null", flush=True)
"""


@pytest.fixture
def rival(tmp_path, monkeypatch):
    """A rival whose search is a line of Python."""
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))

    def make(search):
        script = tmp_path / "rival.py"
        script.write_text(RIVAL.format(search=search))
        return Rival("toy", (sys.executable, str(script)), {"toy": "1.0"})

    return make


def table(metrics):
    lr = UniformFloatHyperparameter("lr", 1e-4, 1.0, log=True)
    space = ConfigurationSpace()
    space.add(lr) if hasattr(space, "add") else space.add_hyperparameter(lr)
    rows = [{"lr": float(lr)} for lr in np.geomspace(1e-4, 1, len(metrics))]
    return CurveTable(space, rows, np.array(metrics, dtype=float))


CURVES = [[0.1, 0.2, 0.3], [0.2, float("nan"), 0.9], [0.5, 0.6, 0.7]]


def test_epochs_are_counted_as_trained_and_the_budget_ends_the_search(rival):
    greedy = rival("for row in (0, 1, 2): table.train(row, 1); table.train(row, 3)")
    done = race(greedy, table(CURVES), budget=6, seed=0)
    trained = [(epoch, metric) for _, epoch, metric in done.rows]
    expected = [(1, 0.1), (2, 0.2), (3, 0.3), (1, 0.2), (2, float("nan")), (1, 0.5)]
    np.testing.assert_array_equal(trained, expected)
    assert done.suggestions == 5
    again = race(greedy, table(CURVES), budget=4, seed=0)
    assert [row[1:] for row in again.rows] == trained[:4]


def test_a_search_that_ends_early_has_trained_what_it_asked_for(rival):
    done = race(rival("table.train(2, 2); table.train(2, 1)"), table(CURVES), budget=9, seed=0)
    assert [row[1:] for row in done.rows] == [(1, 0.5), (2, 0.6)]
    assert done.best(4).tolist() == [0.5, 0.6, 0.6, 0.6]


def test_a_search_learns_of_divergence_but_not_of_what_would_follow(rival):
    asks = (
        "table.train(1, 3); table.train(1, 3); assert len(table.curves[1]) == 2; table.train(0, 1)"
    )
    done = race(rival(asks), table(CURVES), budget=9, seed=0)
    assert len(done.rows) == 3


def test_a_rival_that_fails_says_why(rival):
    with pytest.raises(RuntimeError, match=r"toy 1\.0 failed(.|\n)*no such option"):
        race(rival("raise ValueError('no such option')"), table(CURVES), budget=3, seed=0)


def test_an_epoch_that_is_not_there_is_refused(rival):
    eager = rival("table.train(0, table.budget)")
    with pytest.raises(RuntimeError, match="from epoch 0 to 4"):
        race(eager, table(CURVES), budget=4, seed=0)
    assert len(race(eager, table(CURVES), budget=3, seed=0).rows) == 3


def test_configurations_are_points_of_the_unit_cube():
    lr = UniformFloatHyperparameter("lr", 1e-4, 1.0, log=True)
    optimizer = CategoricalHyperparameter("optimizer", ["sgd", "adam"])
    momentum = UniformFloatHyperparameter("momentum", 0.0, 0.8)
    space = ConfigurationSpace()
    parts = [lr, optimizer, momentum]
    condition = EqualsCondition(momentum, optimizer, "sgd")
    if hasattr(space, "add"):
        space.add(*parts, condition)
    else:  # ConfigSpace 0.7
        space.add_hyperparameters(parts)
        space.add_condition(condition)
    rows = [
        {"lr": 1e-2, "optimizer": "sgd", "momentum": 0.2},
        {"lr": 1.0, "optimizer": "adam"},
        {"lr": 1e-4, "optimizer": "sgd", "momentum": 0.8},
    ]
    x, choices = points(CurveTable(space, rows, np.zeros((3, 1))))
    found = dict(zip(space, zip(x.T.tolist(), choices, strict=True), strict=True))
    assert found["lr"] == (pytest.approx([0.5, 1, 0]), 0)
    assert found["optimizer"] == ([0, 1, 0], 2)
    assert found["momentum"] == (pytest.approx([0.25, 0.5, 1]), 0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 2)), min_size=1, max_size=12))
def test_a_point_stands_for_the_nearest_configuration_that_no_other_point_stands_for(asked):
    x = np.random.default_rng(0).random((12, 2))
    x[:, 1] = np.arange(12) % 3
    task = {"x": x.tolist(), "choices": [0, 3], "epochs": 2, "budget": 1, "seed": 0}
    rows = Table(task, io.StringIO(), io.StringIO())
    taken = {}
    for point in asked:
        row = rows.row(list(point))
        if point not in taken:
            apart = [(point[0] - a) ** 2 + (point[1] != b) for a, b in x]
            free = set(range(12)) - set(taken.values())
            assert apart[row] == min(apart[other] for other in free)
        assert taken.setdefault(point, row) == row
    assert len(set(taken.values())) == len(taken)


def test_a_search_that_only_asks_for_what_it_knows_ends():
    answers = io.StringIO(json.dumps({"metrics": [0.25], "ended": False}) + "\n")
    task = {"x": [[0.0]], "choices": [0], "epochs": 1, "budget": 9, "seed": 0}
    rows = Table(task, io.StringIO(), answers)
    with pytest.raises(Ended):
        while True:
            assert rows.loss([0.5], 1) == 0.75


def test_ifbo_needs_weights(tmp_path, capsys):
    assert rivals_of(["ifbo=python"], None) == []
    assert "--ifbo-weights PATH" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="has no weights"):
        rivals_of(["ifbo=python"], tmp_path / "none")


def test_a_rival_that_cannot_run_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"--rival dehb=.*Give NAME=PYTHON"):
        rivals_of([f"dehb={tmp_path / 'python'}"], None)
    with pytest.raises(SystemExit, match=r"--rival tpe=.* cannot be asked"):
        rivals_of([f"tpe={sys.executable}"], None)


def test_differences_are_paired_by_task_and_seed(capsys):
    def cell(optimizer, task, seed, regret):
        one = {"optimizer": optimizer, "task": task, "seed": seed, "regret": {"50": regret}}
        return one | {"seconds": 1.0, "suggestions": 10}

    cells = [cell("dyhpo", "a", 0, 0.1), cell("dyhpo", "a", 1, 0.3), cell("dyhpo", "b", 0, 0.5)]
    cells += [cell("dehb 1", "a", 1, 0.4), cell("dehb 1", "a", 0, 0.4), cell("dehb 1", "c", 0, 0)]
    found = report(cells)["TaskSet, differences"]["dehb 1"]["50"]
    assert found["mean"] == pytest.approx(0.2)
    assert found["half"] == pytest.approx(1.96 * 0.1)
    assert found["races"] == 2
    assert "+0.2000 ± 0.1960 (2)" in capsys.readouterr().out
