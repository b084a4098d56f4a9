"""Every strategy in whole runs: handwritten digits under every HPO mode, and CIFAR-10 images."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from quick_figures import undrawn  # noqa: F401 - a fixture
from strategy_examples import examples
from toy_models import SMALLEST

from alhpo import ImageDataset, RunConfig, load_dataset, run_experiment
from alhpo.base.files import Journal
from alhpo.base.types import RunResult
from alhpo.cli import main
from alhpo.strategies import get_strategy, strategy_needs

STRATEGIES = examples()
MODES = ("fixed", "per-cycle", "every:2", "final")
SMALL = {
    "initial_size": 20,
    "acquisition_size": 8,
    "budget": 33,  # three cycles; the last acquisition is of 5
    "max_epochs": 1,
    "max_budget": 2,
    "num_configurations": 4,
    "optimizer": "random",
    "validate_fixed": False,
    "hyperparameters": {"batch_size": 8},
    "mc_passes": 10,
    "precision": "float32",
}
#: Strategies of hundreds of queries, or trainings.
MANY = ("boss", "refine")
#: CIFAR-10 as folders train/CLASS/*.jpg and test/CLASS/*.jpg.
CIFAR10 = Path(os.environ.get("ALHPO_CIFAR10", "~/.cache/alhpo")).expanduser()


def settings(strategy: str, mode: str, folder: Path, model: str | None = None) -> RunConfig:
    """Of a toy network; where nothing is searched, of one of timm's."""
    model = model or (SMALLEST if mode == "fixed" else "alhpo_toy")
    model = "alhpo_toy" if strategy.startswith(MANY) else model
    dropout = 0.5 if "passes" in strategy_needs(get_strategy(strategy)) else 0.0
    own = {"strategy": strategy, "hpo": mode, "dropout": dropout, "model": model}
    return RunConfig.create(SMALL, own, {"output_dir": str(folder)})


def check_run(result: RunResult, config: RunConfig, dataset: ImageDataset) -> None:
    """The records are complete and say of the labels what the files of the run say."""
    records = result.records
    kinds = ["cycle"] * 3 + ["final"] * (config.hpo == "final")
    assert [record.kind for record in records] == kinds
    assert [record.n_labeled for record in records] == [20, 28, 33, 33][: len(records)]
    tuned = {
        "fixed": [False] * 3,
        "per-cycle": [True] * 3,
        "every:2": [True, False, True],
        "final": [False] * 3 + [True],
    }
    assert [record.tuned for record in records] == tuned[config.hpo]
    for record in records:
        assert record.epochs == {"hpo": 2 if record.tuned else 0, "fit": 1}
        assert not record.diverged
        assert 0 <= record.test["accuracy"] <= 1
        assert np.isfinite(record.test["nll"])
        assert (record.validation is not None) == record.tuned
    assert [len(record.queried) for record in records[:3]] == [8, 5, 0]
    assert all("query" in record.seconds for record in records[:2])

    labeled = json.loads((result.path / "queried_indices.json").read_text())
    assert [len(indices) for indices in labeled.values()] == [20, 8, 5]
    everything = [index for indices in labeled.values() for index in indices]
    assert len(set(everything)) == len(everything) == 33
    assert min(everything) >= 0 and max(everything) < len(dataset)
    for cycle, record in enumerate(records[:2]):
        assert list(record.queried) == labeled[f"cycle{cycle + 1}"]
    assert dataset.labels is not None
    place = {image: index for index, image in enumerate(dataset.identities)}
    for entry in Journal(result.path / "labels.jsonl").read():
        if entry["event"] == "tell":
            numbers = dataset.labels[[place[image] for image in entry["images"]]].tolist()
            assert entry["labels"] == [dataset.classes[number] for number in numbers]


def run_and_repeat(config: RunConfig, dataset: ImageDataset) -> RunResult:
    result = run_experiment(config, dataset=dataset)
    check_run(result, config, dataset)
    again = run_experiment(config, dataset=dataset)
    assert again.resumed and again.records == result.records and again.path == result.path
    return result


def pairs() -> list:
    """Every strategy under every mode, each under one of them at once and the others if asked."""
    return [
        pytest.param(
            name,
            mode,
            marks=[] if i % len(MODES) == j and not name.startswith(MANY) else pytest.mark.slow,
        )
        for i, name in enumerate(STRATEGIES)
        for j, mode in enumerate(MODES)
    ]


@pytest.mark.parametrize(("strategy", "mode"), pairs())
def test_every_strategy_runs_on_digits_under_every_mode(strategy, mode, few_digits, tmp_path):
    run_and_repeat(settings(strategy, mode, tmp_path), few_digits)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_seed_makes_the_same_run(strategy, few_digits, tmp_path):
    """Also where a strategy draws, trains something, or remembers something."""
    runs = [
        run_experiment(settings(strategy, "fixed", tmp_path / name), dataset=few_digits)
        for name in ("one", "other")
    ]
    picks = [[record.queried for record in run.records] for run in runs]
    assert picks[0] == picks[1]
    assert runs[0].records[-1].test == runs[1].records[-1].test


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory) -> ImageDataset:
    """12 images of each class to label, 6 to evaluate on."""
    if not (CIFAR10 / "train").is_dir() or not (CIFAR10 / "test").is_dir():
        pytest.skip(f"no CIFAR-10 images as class folders in {CIFAR10} (ALHPO_CIFAR10)")
    folder = tmp_path_factory.mktemp("cifar10")
    for part, target, number in (("train", "train", 12), ("test", "validation", 6)):
        for source in sorted((CIFAR10 / part).iterdir()):
            (folder / target / source.name).mkdir(parents=True)
            for image in sorted(source.iterdir())[:number]:
                shutil.copy(image, folder / target / source.name)
    dataset = load_dataset(str(folder))
    assert (len(dataset), dataset.num_classes, dataset.image_size) == (120, 10, (32, 32))
    return dataset


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_runs_on_cifar10(strategy, cifar10, tmp_path):
    mode = MODES[(STRATEGIES.index(strategy) + 1) % len(MODES)]
    result = run_and_repeat(settings(strategy, mode, tmp_path, "resnet10t"), cifar10)
    assert result.records[-1].n_labeled == 33


@pytest.mark.usefixtures("undrawn")
def test_one_command_runs_several_strategies_whose_names_have_commas(tmp_path):
    flags = "--model alhpo_toy --pool-size 60 --eval-size 30 --max-epochs 1 --no-validate-fixed"
    sizes = "--initial-size 20 --acquisition-size 5 --budget 25"
    result = CliRunner().invoke(
        main,
        [
            *("run", "--strategy", "random; albl:entropy,random", "--output-dir", str(tmp_path)),
            *flags.split(),
            *sizes.split(),
        ],
    )
    assert result.exit_code == 0, result.output
    runs = {path.parent.name: path for path in tmp_path.glob("*/run.json")}
    assert sorted(name.partition("-fixed-")[0] for name in runs) == [
        "digits-albl-entropy-random",
        "digits-random",
    ]
