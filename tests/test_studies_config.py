"""A study's file: its grid, its cells and their folders."""

import json
from pathlib import Path

import ConfigSpace as CS
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from alhpo.base.errors import ConfigurationError
from alhpo.runs.data import size_of_data
from alhpo.runs.settings import RunConfig, TuneConfig
from alhpo.strategies import get_strategy, strategy_needs
from alhpo.strategies.autoal import DEFAULT_ARMS
from alhpo.studies import StudyConfig, expand, load_study, shipped_studies

SETTINGS = {"initial_size": 20, "acquisition_size": 10, "budget": 40, "max_epochs": 3}


def study(**values):
    return StudyConfig(**{"name": "s", "settings": SETTINGS, **values})


def serialised(space):
    if hasattr(space, "to_serialized_dict"):  # ConfigSpace >= 1
        return json.dumps(space.to_serialized_dict())
    from ConfigSpace.read_and_write import json as configspace_json

    return configspace_json.write(space)


def coordinates(cells):
    return [dict(cell.coordinates) for cell in cells]


def test_cells_are_the_product_of_the_axes_a_whole_repetition_first():
    cells = expand(study(grid={"seed": [0, 1], "strategy": ["random", "badge"]}))
    assert coordinates(cells) == [
        {"seed": "0", "strategy": "random"},
        {"seed": "0", "strategy": "badge"},
        {"seed": "1", "strategy": "random"},
        {"seed": "1", "strategy": "badge"},
    ]
    assert [cell.index for cell in cells] == [0, 1, 2, 3]
    assert {cell.kind for cell in cells} == {"run"}
    assert [cell.config.strategy for cell in cells] == ["random", "badge"] * 2


def test_a_study_without_a_grid_is_one_run():
    (cell,) = expand(study())
    assert cell.config.budget == 40
    assert cell.path.parent == Path("studies/s/cells")


def test_tunings_follow_the_runs_and_point_to_theirs():
    grid = {"strategy": ["random", "badge"]}
    tune = {"labels": [30, 40], "settings": {"max_budget": 7}, "grid": {"optimizer": ["tpe"]}}
    cells = expand(study(grid=grid, tune=tune))
    assert [cell.kind for cell in cells] == ["run"] * 2 + ["tune"] * 4
    assert [cell.run for cell in cells] == [None, None, 0, 0, 1, 1]
    last = cells[-1]
    assert isinstance(last.config, TuneConfig)
    assert (last.config.labels, last.config.max_budget, last.config.optimizer) == (40, 7, "tpe")
    assert last.config.pool == str(cells[1].path)
    assert last.path.parent == cells[1].path / "tune"
    assert dict(last.coordinates) == {"strategy": "badge", "labels": "40", "tune.optimizer": "tpe"}
    assert last.title == "badge, labels 40, tpe"


def test_named_hyperparameters_go_over_the_shared_ones():
    shared = SETTINGS | {"hyperparameters": {"batch_size": 16, "lr": 0.5}}
    grid = {"hyperparameters": {"HP 1": {"lr": 0.01}, "HP 2": {"weight_decay": 0.05}}}
    one, two = expand(study(settings=shared, grid=grid, tune={"labels": [20]}))[:2]
    assert one.config.hyperparameters == {"batch_size": 16, "lr": 0.01}
    assert two.config.hyperparameters == {"batch_size": 16, "lr": 0.5, "weight_decay": 0.05}
    assert one.title == "HP 1"


def test_the_tuning_knows_the_hyperparameters_of_its_pool():
    grid = {"hyperparameters": {"HP 1": {"lr": 0.01}}}
    run, tuning = expand(study(grid=grid, tune={"labels": [20]}))
    assert tuning.config.hyperparameters == run.config.hyperparameters == {"lr": 0.01}
    assert tuning.config.seed == run.config.seed


def test_a_space_counts_by_what_it_holds(tmp_path):
    space = tmp_path / "space.json"

    def name(upper, file=space):
        file.write_text(serialised(CS.ConfigurationSpace({"lr": (1e-3, upper)})))
        settings = SETTINGS | {"hpo": "per-cycle", "space": str(file)}
        return expand(study(settings=settings))[0].path.name

    first = name(0.1)
    assert name(0.2) != first
    assert name(0.1, tmp_path / "moved.json") == first


def test_tunings_of_different_pools_have_folders_of_their_own(tmp_path):
    paths = set()
    for number in range(2):
        pool = tmp_path / str(number) / "queried_indices.json"
        pool.parent.mkdir()
        pool.write_text(json.dumps({"cycle0": [number, 5]}))
        config = TuneConfig(pool=str(pool), labels=2, output_dir=str(tmp_path / "out"))
        paths.add(config.path)
    assert len(paths) == 2


def test_an_axis_of_another_name_has_groups_of_settings():
    mode = {"fixed": {"hpo": "fixed"}, "tuned": {"hpo": "per-cycle", "max_budget": 9}}
    fixed, tuned = expand(study(grid={"mode": mode}))
    assert (fixed.config.hpo, tuned.config.hpo, tuned.config.max_budget) == (
        "fixed",
        "per-cycle",
        9,
    )
    assert tuned.coordinates == {"mode": "tuned"}


def test_points_that_stand_for_the_same_run_are_one_cell():
    grid = {"hpo": ["fixed", "per-cycle"], "optimizer": ["dyhpo", "asha"]}
    cells = expand(study(grid=grid))
    assert [(c.config.hpo, c.config.optimizer) for c in cells] == [
        ("fixed", "dyhpo"),
        ("per-cycle", "dyhpo"),
        ("per-cycle", "asha"),
    ]
    assert len({cell.path for cell in cells}) == len(cells)


def test_excluded_points_are_no_cells_and_have_no_tunings():
    grid = {
        "strategy": ["random", "badge"],
        "hyperparameters": {"HP 1": {"lr": 0.1}, "HP 2": {"lr": 0.2}},
        "seed": [0, 1],
    }
    exclude = [{"strategy": "badge", "hyperparameters": ["HP 2"], "seed": [0, 1]}, {"seed": 1}]
    tune = {
        "labels": [20, 30],
        "grid": {"validation": ["kfold:2", "acquisition:kfold:2"]},
        "exclude": [
            {"strategy": "badge", "validation": "acquisition:kfold:2"},
            {"labels": 30, "hyperparameters": "HP 2"},
        ],
    }
    cells = expand(study(grid=grid, exclude=exclude, tune=tune))
    runs = [cell for cell in cells if cell.kind == "run"]
    assert [cell.title for cell in runs] == [
        "random, HP 1, seed 0",
        "random, HP 2, seed 0",
        "badge, HP 1, seed 0",
    ]
    tunings = [(cell.run, cell.config.labels, cell.config.validation) for cell in cells[3:]]
    assert tunings == [
        (0, 20, "kfold:2"),
        (0, 20, "acquisition:kfold:2"),
        (0, 30, "kfold:2"),
        (0, 30, "acquisition:kfold:2"),
        (1, 20, "kfold:2"),
        (1, 20, "acquisition:kfold:2"),
        (2, 20, "kfold:2"),
        (2, 30, "kfold:2"),
    ]
    assert [cell.index for cell in cells] == list(range(len(cells)))


def test_a_tuning_is_excluded_where_all_points_of_its_run_are():
    grid = {"hyperparameters": {"HP 1": {"lr": 0.1}, "same": {"lr": 0.1}}}
    for name in ("HP 1", "same"):
        tune = {"labels": [20], "exclude": [{"hyperparameters": name}]}
        assert [cell.kind for cell in expand(study(grid=grid, tune=tune))] == ["run", "tune"]
    with pytest.raises(ConfigurationError, match="leaves no tuning"):
        tune = {"labels": [20], "exclude": [{"hyperparameters": ["HP 1", "same"]}]}
        expand(study(grid=grid, tune=tune))


@given(
    seeds=st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True),
    strategies=st.lists(st.sampled_from(["random", "badge", "entropy"]), min_size=1, unique=True),
    labels=st.lists(st.sampled_from([20, 30, 40]), max_size=3, unique=True),
)
@settings(max_examples=20, deadline=None)
def test_every_point_is_one_cell_with_a_folder_of_its_own(seeds, strategies, labels):
    tune = {"labels": labels} if labels else None
    cells = expand(study(grid={"strategy": strategies, "seed": seeds}, tune=tune))
    n_runs = len(seeds) * len(strategies)
    assert len(cells) == n_runs * (1 + len(labels))
    assert len({cell.path for cell in cells}) == len(cells)
    assert [cell.index for cell in cells] == list(range(len(cells)))
    assert all(cells[cell.run].path in cell.path.parents for cell in cells[n_runs:])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"grid": {"strategie": ["random"]}}, "axis of the grid 'strategie'. Did you mean"),
        ({"grid": {"strategy": []}}, "no values"),
        ({"grid": {"strategy": ["random", "random"]}}, "random twice"),
        ({"grid": {"output_dir": ["a"]}}, "cannot be an axis"),
        ({"grid": {"hyperparameters": [0.1]}}, "expected mappings"),
        ({"grid": {"strategy": ["random", "badg"]}}, "Cell strategy badg: .*Did you mean 'badge'"),
        ({"grid": {"hyperparameters": {"HP 1": {"lr": -1}}}}, "Cell hyperparameters HP 1: .*-1"),
        ({"settings": {"budgets": 3}}, "Did you mean 'budget'"),
        ({"tune": {"labels": [20], "settings": {"pool": "x"}}}, "pool cannot be among"),
        ({"tune": {"labels": [20], "settings": {"hyperparameters": 3}}}, "hyperparameters is 3"),
        ({"grid": {"g": {"a": {"hyperparameters": [1]}}}}, r"hyperparameters is \[1\]"),
        (
            {"grid": {"optimizer": ["dyhpo", "random"]}, "tune": {"labels": [20]}},
            r"differ only in optimizer .* tune: grid:",
        ),
        ({"exclude": [{"seed": 0}]}, "axis in exclude 'seed'"),
        ({"grid": {"seed": [0]}, "exclude": [{"seed": 1}]}, "value of seed in exclude '1'"),
        ({"grid": {"seed": [0]}, "exclude": [{}]}, "names no axis"),
        ({"grid": {"seed": [0]}, "exclude": [{"seed": []}]}, "no value for 'seed'"),
        ({"grid": {"seed": [0]}, "exclude": [{"seed": 0}]}, "leaves no cell"),
        ({"tune": {"labels": [20], "exclude": [{"labels": 30}]}}, "value of labels in .* '30'"),
        ({"tune": {"labels": [25]}}, "tune has 25; .* Legal: 20, 30, 40"),
        (
            {"tune": {"labels": [20], "settings": {"optimizer": "dyhop"}}},
            "Cell labels 20: Unknown optimizer 'dyhop'",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_runs(values, message):
    with pytest.raises(ConfigurationError, match=message):
        expand(study(**values))


def test_a_study_is_read_from_a_file_a_folder_and_by_name(tmp_path):
    values = {"name": "mine", "settings": SETTINGS, "grid": {"seed": [0]}}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(values))
    from_file = load_study(file)
    assert from_file.name == "mine"
    assert from_file.path == Path("studies/mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "study.yaml").write_text(yaml.safe_dump(values))
    from_folder = load_study(tmp_path / "folder")
    assert from_folder.path == tmp_path / "folder"  # wherever the study was moved to
    assert expand(from_folder)[0].path.name == expand(from_file)[0].path.name
    assert load_study(file, output_dir=str(tmp_path)).path == tmp_path
    assert load_study("paper-digits").name == "paper-digits"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: a/b", "name"),
        ("settings: {}", "'name' is missing"),
        ("name: a\ngrids: {}", "Did you mean 'grid'"),
        ("name: a\npublished: cifar1O", r"cifar1O.*'cifar10' or 'cifar100'"),
        ("- a", "holds a list"),
        ("name: [", "Cannot read"),
        ("name: a\ntune: {labels: []}", "labels"),
    ],
)
def test_a_file_that_is_no_study_is_refused(tmp_path, content, message):
    file = tmp_path / "study.yaml"
    file.write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        load_study(file)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ConfigurationError, match=r"Did you mean 'paper-digits'.*paper-cifar10"):
        load_study("paper-digit")


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_studies_expand(name):
    assert all(isinstance(c.config, RunConfig | TuneConfig) for c in expand(load_study(name)))


def test_the_papers_protocol():
    """Huseljic et al. (2023), section 3, and the code of dal-toolbox (DESIGN's facts)."""
    for name in ("paper-cifar10", "paper-cifar100"):
        cells = expand(load_study(name))
        runs = [cell.config for cell in cells if cell.kind == "run"]
        tunings = [cell.config for cell in cells if cell.kind == "tune"]
        assert (len(runs), len(tunings)) == (4 * 4 * 3, 4 * 4 * 3 * 2)
        assert {run.strategy for run in runs} == {"random", "entropy", "coreset", "badge"}
        assert {
            (run.hyperparameters["lr"], run.hyperparameters["weight_decay"]) for run in runs
        } == {(0.001, 0.05), (0.01, 0.0005), (0.01, 0.05), (0.1, 0.005)}
        for run in runs:
            assert (run.initial_size, run.acquisition_size, run.budget) == (100, 100, 4000)
            assert (run.pool_size, run.query_subset, run.max_epochs) == (45_000, 10_000, 200)
            assert run.start == "cold"
            hp = run.hyperparameters
            assert (hp["batch_size"], hp["momentum"], hp["warmup_epochs"]) == (32, 0.9, 10)
        assert {tuning.labels for tuning in tunings} == {2000, 4000}
        assert {tuning.max_budget // tuning.max_epochs for tuning in tunings} == {50}
        assert {tuning.validation for tuning in tunings} == {"random:0.1x3"}
        assert {tuning.optimizer for tuning in tunings} == {"tpe"}


def test_figure_1_has_the_eight_settings():
    cells = expand(load_study("figure1"))
    pairs = {
        (c.config.hyperparameters["lr"], c.config.hyperparameters["weight_decay"]) for c in cells
    }
    grid = {(lr, wd) for lr in (0.001, 0.01, 0.1) for wd in (0.0005, 0.005, 0.05)}
    assert pairs == grid - {(0.1, 0.05)}
    assert {c.config.strategy for c in cells} == {"random", "badge"}


AUTOAL = {
    "cifar10": (50_000, 200),
    "cifar100": (50_000, 200),
    "svhn": (73_257, 200),
    "tinyimagenet": (100_000, 40),
    "organcmnist": (12_975, 400),
    "pathmnist": (89_996, 400),
    "tissuemnist": (165_466, 400),
}


@pytest.mark.parametrize("name", AUTOAL)
def test_the_protocol_of_autoal(name, tmp_path):
    """Wang et al. (2025) and their code: docs/autoal-protocol.md."""
    cells = expand(load_study(f"autoal-{name}"))
    pool, epochs = AUTOAL[name]
    config = cells[0].config
    assert size_of_data(config.model_copy(update={"data_dir": str(tmp_path)})).pool == pool
    assert len(cells) == 16 * 3
    strategies = [cell.config.strategy for cell in cells if cell.config.seed == 0]
    assert strategies[:9] == ["autoal", "votes", *DEFAULT_ARMS] and len(set(strategies)) == 16
    assert "passes" in strategy_needs(get_strategy("autoal")) and config.dropout > 0
    queries = (config.budget - config.initial_size) / config.acquisition_size
    assert queries == 18 and config.initial_size == 2 * config.acquisition_size
    if pool < 20_000:
        assert round(config.acquisition_size / pool, 2) == 0.02
    else:
        assert (config.initial_size, config.budget) == (2000, 20_000)
    for cell in cells:
        assert (cell.config.max_epochs, cell.config.autoal_search_epochs) == (epochs, 400)
