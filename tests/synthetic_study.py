"""A study's folder as its cells would have left it, without training anything."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from alhpo import ImageDataset
from alhpo.base.files import Journal, write_json
from alhpo.base.types import CycleRecord
from alhpo.runs.first_query import write_picture
from alhpo.runs.settings import RunConfig, TuneConfig
from alhpo.studies import Cell, StudyConfig, expand, load_study
from alhpo.tuning.evaluation import Outcome
from alhpo.tuning.record import SearchJournal

SETTINGS: dict[str, Any] = {
    "dataset": "digits",
    "model": "resnet18",
    "initial_size": 100,
    "acquisition_size": 100,
    "budget": 500,
    "validate_fixed": False,
    "max_epochs": 20,
}
STUDY: dict[str, Any] = {
    "name": "synthetic",
    "description": "Made up.",
    "settings": SETTINGS,
    "grid": {
        "strategy": ["random", "badge"],
        "hyperparameters": {
            "HP 1": {"lr": 0.001, "weight_decay": 0.05},
            "HP 2": {"lr": 0.01, "weight_decay": 0.0005},
        },
        "seed": [0, 1],
    },
    "tune": {
        "labels": [300, 500],
        "settings": {"optimizer": "random", "max_budget": 100, "validation": "random:0.1x3"},
    },
}

SESSION = {
    "started": "2026-01-02T03:04:05+0000",
    "python": "3.11.9",
    "versions": {"alhpo": "0.1.0", "torch": "2.5.0", "hpo4dl": None},
    "device": "x86_64",
    "precision": "float32",
    "threads": 1,
}


def pictures(names: tuple[str, ...] = tuple("0123456789"), side: int = 8) -> ImageDataset:
    """Coloured squares, with classes of these names."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, side, side, 3), dtype=torch.uint8, generator=generator)
    labels = torch.arange(60) % len(names)
    return ImageDataset("squares", images, labels, images, labels, names)


def write_study(
    folder: Path,
    study: Mapping[str, Any] = STUDY,
    *,
    skip: Callable[[Cell], bool] = lambda cell: False,
    dataset: ImageDataset | None = None,
) -> StudyConfig:
    """Write all cells of a study but those that ``skip`` names."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(dict(study), sort_keys=False))
    config = load_study(folder, output_dir=str(folder))
    for cell in expand(config):
        if not skip(cell):
            write_cell(cell, dataset or pictures())
    return config


def write_cell(cell: Cell, dataset: ImageDataset) -> None:
    config = cell.config
    generator = np.random.default_rng([cell.index, config.seed])
    cell.path.mkdir(parents=True, exist_ok=True)
    (cell.path / "config.yaml").write_text(yaml.safe_dump(config.model_dump()))
    Journal(cell.path / "sessions.jsonl").append(SESSION)
    if isinstance(config, RunConfig):
        _write_run(cell, config, dataset, generator)
    else:
        _write_tuning(cell, config, generator)


def _write_run(
    cell: Cell, config: RunConfig, dataset: ImageDataset, generator: np.random.Generator
) -> None:
    cycles = Journal(cell.path / "cycles.jsonl")
    sizes = config.sizes
    bonus = sum(map(ord, config.strategy)) % 7 / 100
    level = 0.55 + 0.1 * abs(math.log10(config.hyperparameters.get("lr", 0.01)) + 1) + bonus
    queried = generator.permutation(60)[:20].tolist()
    for cycle, labels in enumerate(sizes):
        share = 1 - math.exp(-labels / (0.3 * sizes[-1]))
        accuracy = min(0.99, 0.2 + (level - 0.2) * share + generator.normal(0, 0.015))
        record = _record("cycle", cycle, labels, accuracy, config)
        cycles.append(record.to_dict() | {"queried": queried if labels < sizes[-1] else []})
    if dataset is not None:
        write_picture(cell.path / "first_query.png", dataset, queried[:16])
    write_json(cell.path / "run.json", {"cycles": len(sizes), "records": len(sizes)})


def _write_tuning(cell: Cell, config: TuneConfig, generator: np.random.Generator) -> None:
    journal = SearchJournal(Journal(cell.path / "hpo" / "experiment_000" / "journal.jsonl"))
    journal.start({"max_budget": 100})
    trials = []
    for number in range(12):
        values = {name: float(10 ** generator.uniform(-5, -1)) for name in ("lr", "weight_decay")}
        test = float(np.clip(0.8 - 0.1 * abs(math.log10(values["lr"]) + 2), 0.1, 1))
        judged = float(np.clip(test + generator.normal(0, 0.04), 0, 1))
        result = {"metric": judged, "accuracy": judged, "nll": 1 - judged}
        result |= {"test_accuracy": test, "test_nll": 1 - test}
        trials.append((judged, test, values))
        journal.suggestion([number], [config.max_epochs], [values], 0.0, None)
        journal.epoch(Outcome(number, config.max_epochs, judged, "ok", 1.0, result))
    journal.end("budget", None)
    _, test, values = max(trials, key=lambda trial: trial[0])
    accuracy = min(0.99, test + generator.normal(0.02, 0.005))
    record = _record("tuned", 4, config.labels, accuracy, config, values)
    write_json(cell.path / "tune.json", record.to_dict())


def _record(
    kind: Any,
    cycle: int,
    labels: int,
    accuracy: float,
    config: RunConfig | TuneConfig,
    values: Mapping[str, Any] | None = None,
) -> CycleRecord:
    searched = kind == "tuned" or (isinstance(config, RunConfig) and cycle in config.search_cycles)
    search = config.max_budget if searched else 0
    return CycleRecord(
        kind=kind,
        cycle=cycle,
        n_labeled=labels,
        configuration=dict(config.hyperparameters) | dict(values or {}),
        tuned=kind == "tuned",
        validation={"accuracy": accuracy, "nll": 1 - accuracy, "epoch": 3} if search else None,
        test={
            "accuracy": accuracy,
            "nll": 1.2 - accuracy,
            "brier": 1.1 - accuracy,
            "ece": 0.3 * (1.1 - accuracy) ** 2,
        },
        epochs={"hpo": search, "fit": config.max_epochs},
        seconds={"fit": labels / 10, "hpo": float(search)},
    )


def records(folder: Path) -> list[dict[str, Any]]:
    """All lines of the runs of a study."""
    return [
        json.loads(line)
        for file in sorted(folder.glob("cells/*/cycles.jsonl"))
        for line in file.read_text().splitlines()
    ]
