"""Curves are looked up, and misuse of the objective's contract is found out."""

import pickle

import numpy as np
import pytest
from tabular import TabularObjective

from alhpo.base.errors import CheckpointError, ConfigurationError

CURVES = np.array([[0.1, 0.2, 0.3], [0.4, np.nan, np.nan]])


@pytest.fixture(params=["memory", "disk"])
def path(request, tmp_path):
    return None if request.param == "memory" else str(tmp_path / "deep" / "trial_0")


def test_epochs_and_metrics_of_a_call(path):
    objective = TabularObjective(CURVES)
    assert objective({"index": 0}, 2, 0, path) == [
        {"epoch": 1, "metric": 0.1},
        {"epoch": 2, "metric": 0.2},
    ]
    assert objective({"index": 0}, 3, 2, path) == [{"epoch": 3, "metric": 0.3}]
    assert objective.calls == [(0, 0, 2), (0, 2, 3)]
    assert objective.epochs_run == objective.max_epochs == 3


def test_divergence_is_nan():
    metrics = [row["metric"] for row in TabularObjective(CURVES)({"index": 1}, 3, 0)]
    np.testing.assert_array_equal(metrics, CURVES[1])


def test_configurations_by_their_values_in_any_order():
    objective = TabularObjective(CURVES, [{"lr": 0.1, "opt": "sgd"}, {"lr": 0.1, "opt": "adam"}])
    assert objective.row({"opt": "adam", "lr": 0.1}) == 1
    assert objective({"opt": "adam", "lr": np.float64(0.1)}, 1, 0)[0]["metric"] == 0.4
    with pytest.raises(ConfigurationError, match="No curve was recorded"):
        objective({"lr": 0.1}, 1, 0)


@pytest.mark.parametrize("configuration", [{"index": 2}, {"index": -1}, {"row": 0}, {}])
def test_unknown_configurations_are_refused(configuration):
    with pytest.raises(ConfigurationError, match=r"such as \{'index': 0\}"):
        TabularObjective(CURVES)(configuration, 1, 0)


@pytest.mark.parametrize("epoch, previous", [(1, 1), (1, 2), (4, 0), (0, 0), (1, -1)])
def test_epochs_out_of_range_are_refused(epoch, previous, path):
    with pytest.raises(ConfigurationError, match="epoch <= 3"):
        TabularObjective(CURVES)({"index": 0}, epoch, previous, path)


def test_a_trial_continues_from_the_epoch_it_has_reached(path):
    objective = TabularObjective(CURVES)
    with pytest.raises(CheckpointError):
        objective({"index": 0}, 2, 1, path)
    objective({"index": 0}, 2, 0, path)
    with pytest.raises(CheckpointError, match="at epoch 2, not configuration 0 at epoch 1"):
        objective({"index": 0}, 2, 1, path)
    assert objective({"index": 0}, 1, 0, path)[0]["epoch"] == 1  # from scratch is always possible
    assert objective.epochs_run == 3


def test_a_checkpoint_belongs_to_one_configuration_and_outlives_the_process(tmp_path):
    TabularObjective(CURVES)({"index": 0}, 1, 0, tmp_path)
    other = pickle.loads(pickle.dumps(TabularObjective(CURVES)))
    with pytest.raises(CheckpointError, match=r"holds configuration 0 .*not configuration 1"):
        other({"index": 1}, 2, 1, tmp_path)
    assert other({"index": 0}, 2, 1, tmp_path) == [{"epoch": 2, "metric": 0.2}]
    assert [file.name for file in tmp_path.iterdir()] == ["tabular.json"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"row": 0'])
def test_damaged_checkpoints_are_refused(tmp_path, text):
    (tmp_path / "tabular.json").write_text(text)
    with pytest.raises(CheckpointError, match="No readable checkpoint"):
        TabularObjective(CURVES)({"index": 0}, 2, 1, tmp_path)


@pytest.mark.parametrize(
    "curves, configurations",
    [
        ([0.1, 0.2], None),
        (np.empty((0, 3)), None),
        (CURVES, [{"lr": 1}]),
        (CURVES, [{"lr": 1}, {"lr": 1}]),
    ],
)
def test_tables_that_do_not_fit_are_refused(curves, configurations):
    with pytest.raises(ConfigurationError):
        TabularObjective(curves, configurations)
