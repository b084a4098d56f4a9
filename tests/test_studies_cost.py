"""What a study is said to cost is what its runs record and a hand count of its images."""

import math

import pytest
import yaml
from click.testing import CliRunner
from toy_models import toy_weights

from alhpo import run_experiment
from alhpo.base.errors import DataError
from alhpo.cli import main
from alhpo.data.loading import dataset_size, load_dataset
from alhpo.data.sources import DatasetSize
from alhpo.runs.data import size_of_data
from alhpo.studies import StudyConfig, expand, load_study
from alhpo.studies.cost import Cost, Speed, cell_cost, measure_speed, speed_key

DATA = DatasetSize(1000, 100, (8, 8, 1), 10)
SMALL = {
    "dataset": "digits",
    "model": "alhpo_toy",
    "strategy": "random",
    "max_epochs": 2,
    "hyperparameters": {"batch_size": 8},
    "initial_size": 12,
    "acquisition_size": 10,
    "budget": 30,
    "pool_size": 60,
    "eval_size": 20,
}


def costs(settings, data=DATA, **study):
    cells = expand(StudyConfig(name="s", settings=SMALL | settings, **study))
    return [cell_cost(cell, data) for cell in cells]


def test_fixed_hyperparameters_cost_their_fits_and_evaluations():
    (cost,) = costs({"validate_fixed": False})
    assert cost == Cost(epochs=3 * 2, trained=2 * (16 + 24 + 32), predicted=3 * 100)


def test_validation_of_fixed_hyperparameters_is_a_training_more():
    (cost,) = costs({"validation": "holdout:0.5"})
    assert cost.epochs == 2 * 3 * 2
    assert cost.trained == 2 * (16 + 24 + 32) + 2 * (8 + 16 + 16)
    assert cost.predicted == 3 * 100 + 2 * (6 + 11 + 15)


def test_fits_that_are_left_out_cost_nothing():
    (cost,) = costs({"validate_fixed": False, "evaluate_at": [22]})
    assert cost == Cost(epochs=2, trained=2 * 24, predicted=100)
    (cost,) = costs({"validation": "holdout:0.5", "evaluate_at": [12, 30]})
    assert cost.epochs == 2 * 2 * 2 and cost.trained == 2 * (16 + 32) + 2 * (8 + 16)
    final = {"hpo": "final", "validation": "holdout:0.5"}
    (whole,), (early,), (late,) = (
        costs(final | {"evaluate_at": numbers}) for numbers in (None, [12], [12, 30])
    )
    # without the last cycle's, the final search measures the current configuration itself
    assert early.epochs == (2 + 2) + 100 + 2
    assert late.epochs == (2 + 2) * 2 + (100 - 2) + 2
    assert whole.epochs == late.epochs + 2 + 2


def test_a_strategy_that_looks_predicts_its_candidates_and_the_labelled():
    (all_of_them,) = costs({"validate_fixed": False, "strategy": "badge"})
    assert all_of_them.predicted == 300 + (1000 - 12 + 12) + (1000 - 22 + 22)
    (subset,) = costs({"validate_fixed": False, "strategy": "badge", "query_subset": 50})
    assert subset.predicted == 300 + 50 + 12 + 50 + 22


def test_networks_that_weigh_strategies_are_trained_on_halves_of_the_labels():
    autoal = {"validate_fixed": False, "strategy": "autoal:margin,entropy"}
    (without,) = costs(autoal | {"strategy": "votes:margin,entropy"})
    (cost,) = costs(autoal)  # for 2 and 4 epochs
    assert cost.trained - without.trained == 12 // 2 * 6 + 22 // 2 * 6
    assert cost.predicted - without.predicted == 6 * 5 + 988 + 11 * 5 + 978
    longer = {"autoal_fit_epochs": 10, "autoal_search_epochs": 30, "autoal_cycles": 2}
    (cost,) = costs(autoal | longer)
    assert cost.trained - without.trained == 2 * 40 * (6 + 11)


def test_k_folds_train_k_models_in_an_epoch():
    (cost,) = costs({"hpo": "final", "validate_fixed": False, "validation": "kfold:5"})
    (without,) = costs({"validate_fixed": False})
    assert cost.epochs - without.epochs == 100 + 2
    assert cost.trained - without.trained == 100 * 5 * 24 + 2 * 32


def test_a_tuning_costs_its_budget_and_a_retraining():
    tune = {"labels": [22], "settings": {"max_budget": 7, "validation": "random:0.5x3"}}
    _, cost = costs({}, tune=tune)
    assert cost.epochs == 7 + 2
    assert cost.trained == 7 * 3 * 16 + 2 * 24
    assert cost.predicted == 7 * 3 * 11 + 100 + 3 * 3 * 100
    tune["settings"]["measure_test"] = False
    assert costs({}, tune=tune)[1].predicted == 7 * 3 * 11 + 100


@pytest.mark.parametrize(("images", "of_30"), [("fill", 32), ("drop", 24), (100, 96)])
def test_epochs_have_the_images_that_are_trained(images, of_30):
    hyperparameters = {"batch_size": 8, "epoch_images": images}
    (cost,) = costs(
        {"validate_fixed": False, "initial_size": 30, "hyperparameters": hyperparameters}
    )
    assert cost.trained == 2 * of_30


@pytest.mark.parametrize("hpo", ["fixed", "per-cycle", "every:2", "final"])
def test_epochs_are_those_that_a_run_records(hpo, tmp_path):
    settings = SMALL | {"hpo": hpo, "max_budget": 5, "max_epochs": 1, "optimizer": "random"}
    study = StudyConfig(name="s", settings=settings, output_dir=str(tmp_path))
    (cell,) = expand(study)
    result = run_experiment(cell.config)
    spent = sum(sum(record.epochs.values()) for record in result.records)
    assert cell_cost(cell, size_of_data(cell.config)).epochs == spent


def test_costs_add_up_and_take_time():
    total = Cost(1, 100, 30) + Cost(2, 200, 10)
    assert total == Cost(3, 300, 40)
    assert math.isclose(total.seconds(Speed(trained=10, predicted=20)), 32)


@pytest.mark.parametrize("limits", [{}, {"pool_size": 50, "eval_size": 9, "image_size": 6}])
def test_the_size_is_that_of_what_is_loaded(limits):
    size, data = dataset_size("digits", **limits), load_dataset("digits", **limits)
    assert (size.pool, size.evaluation) == (len(data), len(data.eval_images))
    assert size.shape == tuple(data.images.shape[1:])
    assert size.classes == data.num_classes


def test_public_sets_have_a_size_before_they_are_downloaded(tmp_path):
    size = dataset_size("torch/cifar100", root=tmp_path, pool_size=45_000)
    assert (size.pool, size.evaluation, size.classes) == (45_000, 10_000, 100)
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError):
        dataset_size("torch/fashion_mnist", root=tmp_path)


def test_speed_is_measured_and_cells_of_one_speed_share_it():
    grid = {"seed": [0, 1], "hyperparameters": {"a": {"lr": 0.1}, "b": {"batch_size": 16}}}
    cells = expand(StudyConfig(name="s", settings=SMALL, grid=grid))
    assert len({speed_key(cell, DATA) for cell in cells}) == 2
    speed = measure_speed(cells[0], DATA)
    assert 0 < speed.trained < speed.predicted


def test_the_speed_of_heads_is_that_on_features(tmp_path):
    frozen = {"recipe": "frozen", "model": "alhpo_toy", "weights": toy_weights(tmp_path)}
    (cell,) = expand(StudyConfig(name="s", settings=SMALL | frozen | {"max_budget": 400}))
    speed = measure_speed(cell, DATA)
    assert speed.trained > 0 and speed.predicted > 0
    assert cell_cost(cell, DATA).seconds(speed) > 0


def test_a_dry_run_shows_every_cell_and_runs_none(tmp_path):
    values = {
        "name": "s",
        "settings": SMALL | {"validate_fixed": False, "dataset": "torch/cifar10"},
        "grid": {"strategy": ["random", "badge"], "seed": [3, 4]},
        "tune": {"labels": [30], "settings": {"max_budget": 4}},
        "output_dir": str(tmp_path / "out"),
    }
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    shown = CliRunner().invoke(main, ["study", str(file), "--dry-run"])
    assert shown.exit_code == 0, shown.output
    for title in ("random, seed 3", "badge, seed 4", "tune badge, seed 4, labels 30"):
        assert title in shown.output
    cells = expand(load_study(file))
    total = sum((cell_cost(cell, size_of_data(cell.config)) for cell in cells), Cost())
    assert f"{total.epochs:,}" in shown.output
    assert f"{total.trained:,}" in shown.output
    assert f"{len(cells)} cells to run" in shown.output
    assert "images per second" in shown.output
    assert sorted(tmp_path.iterdir()) == [file]
