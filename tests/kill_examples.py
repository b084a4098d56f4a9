"""Runs, searches and studies of a fraction of a second that are killed, and what they recorded."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import re
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import toy_models  # noqa: F401 - a network that trains in milliseconds, registered with timm
from ConfigSpace import ConfigurationSpace
from forked_processes import fork_processes

import alhpo.hyperparameters.spaces
import alhpo.runs.experiment
import alhpo.runs.pool_tuning
import alhpo.studies.scheduler
import alhpo.training.final_fit
import alhpo.training.objective
from alhpo import ActiveLearner
from alhpo.base.errors import AlhpoError, CheckpointError
from alhpo.data.dataset import ImageDataset
from alhpo.runs.experiment import run_experiment
from alhpo.runs.settings import RunConfig
from alhpo.studies.config import StudyConfig
from alhpo.studies.scheduler import StudyObserver, run_study
from alhpo.tuning import Tuner


def toy_data() -> ImageDataset:
    """A pool of 30 and an evaluation split of 18 noisy images, with a bright bar for the class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(48) % 3
    images = torch.randint(0, 120, (48, 8, 8, 1), generator=generator, dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 2 * label : 2 * label + 2] += 100
    return ImageDataset("toy", images[:30], labels[:30], images[30:], labels[30:], ("a", "b", "c"))


def _quick() -> None:
    """Make the process that this is called in, which a test has for itself, fast and exact."""
    torch.set_num_threads(1)
    os.fsync = lambda _: None  # a kill leaves what was written; a power cut would not
    alhpo.training.final_fit.CHECKPOINT_SECONDS = 0.0  # a checkpoint after every epoch
    alhpo.studies.scheduler.PAUSE = 0.01
    alhpo.hyperparameters.spaces.SAMPLED_COMBINATIONS = 2  # that are checked


# ------------------------------------------------------------------------------------ what is run

RUN = {
    "dataset": "toy",
    "model": "alhpo_toy",
    "strategy": "albl:random,entropy",  # it has a state, which lives from query to query
    "initial_size": 8,
    "acquisition_size": 4,
    "budget": 16,
    "validation": "holdout:0.4",
    "max_epochs": 2,
    "max_budget": 5,
    "optimizer": "dyhpo",  # it learns from the searches before
    "num_configurations": 2,  # so few that it goes on with one
    "metric": "likelihood",
    "hyperparameters": {"batch_size": 4},
    "validate_fixed": False,
    "precision": "float32",
    "device": "cpu",
}


def run(folder: Path, **changes: Any) -> list[dict[str, Any]]:
    """A run in the folder; returns its records."""
    _quick()
    config = RunConfig.create(RUN, {"output_dir": str(folder)}, changes)
    result = run_experiment(config, dataset=toy_data())
    return [replace(record, seconds={}).to_dict() for record in result.records]


def frozen_run(folder: Path, weights: str, **changes: Any) -> list[dict[str, Any]]:
    """A run of a head on frozen features, which are computed into a cache in the folder."""
    os.environ["ALHPO_CACHE"] = str(folder / "cache")
    head = {"recipe": "frozen", "weights": weights, "validation": "kfold:2", "space": "head"}
    return run(folder / "runs", **head, **changes)


def finetune_run(folder: Path, weights: str, **changes: Any) -> list[dict[str, Any]]:
    """A run of fine-tuning, whose activations are computed into a cache in the folder."""
    os.environ["ALHPO_CACHE"] = str(folder / "cache")
    tuned = {"recipe": "finetune", "weights": weights, "space": "finetune"}
    return run(folder / "runs", model="alhpo_stages", **tuned, **changes)


def longer_run(folder: Path, **changes: Any) -> list[Any]:
    """A run, and then one to more labels that begins with it."""
    return [run(folder, budget=budget, **changes) for budget in (8, 12)]


def growing_run(folder: Path, **changes: Any) -> list[dict[str, Any]]:
    """A run of active-iNAS, whose architecture grows from cycle to cycle."""
    grown = {"recipe": "architecture", "model": "stacked_resnet", "space": "architecture-2"}
    search = {"optimizer": "inas:1", "hpo": "per-cycle", "max_budget": 3, "metric": "accuracy"}
    return run(folder, **grown, **search, **changes)


def without_retraining(folder: Path) -> dict[str, Any]:
    """What ``recorded`` tells, but not which trials were trained again."""

    def is_of_it(entry: Any) -> bool:
        return isinstance(entry, dict) and entry.get("kind") in ("retrain", "retrained")

    return {
        name: [one for one in content if not is_of_it(one)]
        if isinstance(content, list)
        else content
        for name, content in recorded(folder).items()
    }


class ToyObjective:
    """Adds up its metrics in two files that it writes one after the other, as a checkpoint.

    Metrics rise, fall now and then, and depend on what is found on disk; with x above 0.65 they
    are NaN from epoch 2 on.
    """

    identity = "toy"

    def __init__(self, replaces_files: bool) -> None:
        self.replaces_files = replaces_files

    def __call__(
        self, configuration: Mapping[str, Any], epoch: int, previous_epoch: int, checkpoint: str
    ) -> dict[str, Any]:
        folder, total = Path(checkpoint), 0.0
        if previous_epoch:
            total = self._read(folder, previous_epoch)
        else:
            assert not folder.exists(), "leftovers of another search"
        folder.mkdir(exist_ok=True)
        metric = 1 - (configuration["x"] - 0.3) ** 2 - 1 / (epoch + 1) - 0.2 * (epoch % 3 == 0)
        metric += 0.01 * total
        for name in ("one", "two"):
            self._write(folder / name, json.dumps({"epoch": epoch, "total": total + metric}))
        diverged = configuration["x"] > 0.65 and epoch > 1
        return {"epoch": epoch, "metric": math.nan if diverged else metric, "total": total}

    def _read(self, folder: Path, epoch: int) -> float:
        try:
            one, two = (json.loads((folder / name).read_text()) for name in ("one", "two"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder} is damaged: {error}") from error
        if one != two or one["epoch"] != epoch:
            raise CheckpointError(f"{folder} is torn, or not of epoch {epoch}")
        return one["total"]

    def _write(self, path: Path, text: str) -> None:
        if self.replaces_files:
            path.with_suffix(".new").write_text(text)
            path.with_suffix(".new").replace(path)
        else:
            path.write_text(text)


class TogetherObjective(ToyObjective):
    """Trains several together; those that were asked for last are finished first."""

    def train_together(self, requests: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
        return [self(*request) for request in reversed(requests)][::-1]


def extended_search(folder: Path, optimizer: str, **settings: Any) -> list[list[dict[str, Any]]]:
    """A search that then goes on with a larger budget; returns what both return."""
    return [search(folder, optimizer, True, max_budget=n, keep_mib=1, **settings) for n in (4, 7)]


def search(
    folder: Path,
    optimizer: str,
    replaces_files: bool,
    elsewhere: bool = False,
    parallel: int = 1,
    max_budget: int = 7,
    processes: bool = False,
    keep_mib: int = 0,
) -> list[dict[str, Any]]:
    """A search in the folder, its checkpoints elsewhere in it or with the rest; returns its best
    row and all rows."""
    _quick()
    if processes:
        fork_processes()
    tuner = Tuner(
        (ToyObjective if processes else TogetherObjective)(replaces_files),
        ConfigurationSpace({"x": (0.0, 1.0)}),
        max_epochs=3,
        max_budget=max_budget,
        output_path=folder / "results",
        optimizer=optimizer,
        num_configurations=4,
        parallel=parallel,
        processes=processes,
        seed=1,
        resume="quiet",
        storage_path=folder / "storage" if elsewhere else None,
        keep_mib=keep_mib,
        progress=False,
    )
    best = tuner.run()
    return [_without_times(row) for row in (best, *tuner.results)]


def lagging_search(folder: Path, parallel: int = 1) -> list[dict[str, Any]]:
    """A search of trainings whose checkpoints lag: each is written after every other epoch, and
    when it goes out of memory, in which there is room for two."""
    _quick()
    ticks = itertools.count()
    alhpo.training.objective.time = SimpleNamespace(monotonic=lambda: next(ticks))
    alhpo.training.objective.LAG = 1.5
    alhpo.training.objective.LIVE_BYTES = 16_000
    learner = ActiveLearner(
        toy_data(),
        model="alhpo_toy",
        max_epochs=4,
        validation="holdout:0.4",
        metric="likelihood",
        hyperparameters={"batch_size": 4},
        precision="float32",
        device="cpu",
    )
    learner.compute = replace(learner.compute, captured=True)
    learner.label_initial(10)
    objective = learner.objective()
    objective.let_checkpoints_lag()
    tuner = Tuner(
        objective,
        objective.configuration_space,
        max_epochs=4,
        max_budget=10,
        output_path=folder,
        optimizer="hyperband",
        num_configurations=5,
        keep_mib=0,
        parallel=parallel,
        seed=1,
        resume="quiet",
        progress=False,
    )
    best = tuner.run()
    return [_without_times(row) for row in (best, *tuner.results)]


def study(folder: Path, *, tune: bool, process: int | None = None) -> list[str]:
    """A study in the folder: of two runs; or with ``tune`` of one, and the tuning of its pool.

    Args:
        process: to be killed when a cell is found to be in work elsewhere.

    Returns:
        the cells that are finished.

    Raises:
        AlhpoError: what one failed with.
    """
    _quick()
    alhpo.runs.experiment.load_data = alhpo.runs.pool_tuning.load_data = lambda _: toy_data()
    config = StudyConfig(
        name="toy",
        output_dir=str(folder),
        settings={**RUN, "budget": 8, "optimizer": "random", "max_budget": 3},
        grid={"strategy": ["albl:random,entropy"] if tune else ["albl:random,entropy", "random"]},
        tune={"labels": [8]} if tune else None,
    )
    result = run_study(config, "in-process", observer=_Killer(process))
    for cell, message in result.failed:
        trace = (cell.path / "failed.txt").read_text()
        assert (
            re.search(r"^alhpo\.base\.errors\.\w+: ", trace, re.MULTILINE)
            or "Traceback" not in trace
        ), trace
        raise AlhpoError(message)
    return [cell.title for cell in result.finished]


class _Killer(StudyObserver):
    """Kills a process when it hears that another one has a cell in work."""

    def __init__(self, process: int | None) -> None:
        self._process = process

    def noted(self, title: str, message: str) -> None:
        assert self._process is not None, message
        os.kill(self._process, signal.SIGKILL)


# -------------------------------------------------------------------------- what of it is recorded

#: Names, in any file, of what differs from one start of the same work to the next.
INCIDENTAL = {
    *("seconds", "time", "overhead_time", "total_time", "suggest_time"),
    *("previous_observe_time", "storage"),
}
#: Files that tell of the starts.
OF_STARTS = {"sessions.jsonl", "cell.log"}


def recorded(folder: Path) -> dict[str, Any]:
    """All files of a folder by their path, but for times and hidden files (locks, and temporary
    files of a process that was killed); checkpoints to the last bit."""
    return {
        path.relative_to(folder).as_posix(): _content(path)
        for path in sorted(folder.rglob("*"))
        if not path.name.startswith(".") and path.name not in OF_STARTS and path.is_file()
    }


def _content(path: Path) -> Any:
    read = {".jsonl": _lines, ".json": json.loads, ".csv": _rows}.get(path.suffix)
    content = path.read_bytes()
    if read is None:
        return content
    try:
        return _without_times(read(content.decode()))
    except ValueError:  # damaged
        return content


def _lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def _rows(text: str) -> list[Any]:
    return list(csv.DictReader(io.StringIO(text)))


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if k not in INCIDENTAL}
    if isinstance(value, list):
        return [_without_times(item) for item in value]
    if isinstance(value, float) and math.isnan(value):
        return "NaN"  # equal to itself
    return value
