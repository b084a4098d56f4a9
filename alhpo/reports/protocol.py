"""Differences of settings from a published protocol, in a sentence each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from alhpo.base.files import Journal
from alhpo.hyperparameters import Hyperparameters
from alhpo.reports.findings import Findings
from alhpo.reports.published import published_tables, sources
from alhpo.runs.settings import RunConfig, TuneConfig
from alhpo.studies.config import Cell, expand, load_study

#: Settings that change what is measured, in the order in which differences are told.
DATA = ["train_split", "val_split", "image_size"]
MODEL = [
    *("recipe", "model", "pretrained", "weights", "init", "cifar_stem", "input_size"),
    *("dropout", "train_dropout"),
]
RUN = [
    *("initial", "initial_size", "acquisition_size", "budget", "query_subset", "start"),
    "max_epochs",
]
TUNE = ["model", "max_epochs", "optimizer", "space", "validation", "metric"]
#: What the published settings vary.
VARIED = {"lr", "weight_decay"}


def protocol_differences(findings: Findings, which: str, datasets: Sequence[str]) -> list[str]:
    """Differences of the settings from the published protocol, which is a shipped study."""
    protocol = expand(load_study(f"paper-{which}"))
    here = {
        int(cell)
        for cell, name in zip(findings.expected["cell"], findings.expected["dataset"], strict=True)
        if name in datasets
    }
    cells = [one.cell for one in findings.cells if one.cell.index in here]
    runs = [cell.config for cell in cells if isinstance(cell.config, RunConfig)]
    tunings = [cell.config for cell in cells if isinstance(cell.config, TuneConfig)]
    their_run = next(c.config for c in protocol if isinstance(c.config, RunConfig))
    their_tuning = next(c.config for c in protocol if isinstance(c.config, TuneConfig))
    lines = _data_differences(cells, their_run)
    for name in [*DATA, *MODEL, *RUN, "hpo"]:
        if name != "cifar_stem" or any(run.cifar_stem is False for run in runs):
            lines += _differs(name, [getattr(run, name) for run in runs], getattr(their_run, name))
    lines += _hyperparameter_differences(runs, their_run)
    published = published_tables(which)
    missing = set(published["strategy"]) - {run.strategy for run in runs}
    if missing:
        lines.append(f"Strategies that were published but are not here: {_list(sorted(missing))}.")
    seeds = {run.seed for run in runs}
    lines += _differs("repetitions", [len(seeds)], sources()["data"]["repetitions"])
    lines += _tuning_differences(runs, tunings, their_tuning)
    precisions = {
        session.get("precision")
        for cell in cells
        for session in Journal(cell.path / "sessions.jsonl").read()
    }
    if "bfloat16" in precisions:
        lines.append("precision: bfloat16 at least in part; published with float32.")
    return lines


def _data_differences(cells: Sequence[Cell], theirs: RunConfig) -> list[str]:
    lines = []
    if others := sorted({cell.config.dataset for cell in cells} - {theirs.dataset}):
        files = [name for name in others if name[0] in "/~."]
        names = [Path(name).name if name in files else name for name in others]
        pixels = " Image files, above all JPEG, can hold other pixels than the original arrays."
        lines.append(
            f"Data: {_list(names)} here, {theirs.dataset} published.{pixels if files else ''}"
        )
    known = sources()["data"]
    sizes: dict[str, list[Any]] = {"pool": [], "evaluation": [], "shape": []}
    for cell in cells:
        file = cell.path / "dataset.json"
        if file.exists():
            content = json.loads(file.read_text(encoding="utf-8"))
            sizes["pool"].append(content["images"][0])
            sizes["shape"].append(content["images"][1:])
            sizes["evaluation"].append(content["eval_images"][0])
    if not sizes["pool"]:
        sizes["pool"] = [cell.config.pool_size for cell in cells if cell.config.pool_size]
        sizes["evaluation"] = [cell.config.eval_size for cell in cells if cell.config.eval_size]
    titles = {"pool": "images in the pool", "evaluation": "evaluation images", "shape": "pixels"}
    for name, title in titles.items():
        lines += _differs(title, sizes[name], known[name]) if sizes[name] else []
    return lines


def _hyperparameter_differences(runs: Sequence[RunConfig], theirs: RunConfig) -> list[str]:
    published = Hyperparameters.create(theirs.hyperparameters).model_dump(exclude=VARIED)
    ours = [Hyperparameters.create(run.hyperparameters).model_dump() for run in runs]
    lines = []
    for name, value in published.items():
        lines += _differs(name, [one[name] for one in ours], value)
    return lines


def _tuning_differences(
    runs: Sequence[RunConfig], tunings: Sequence[TuneConfig], theirs: TuneConfig
) -> list[str]:
    if not tunings:
        return ["Labelled pools are not tuned here; published with a search on each."]
    lines = []
    for name in TUNE:
        ours = [getattr(tuning, name) for tuning in tunings]
        if name in ("model", "max_epochs") and set(ours) <= {getattr(run, name) for run in runs}:
            continue  # told of the runs
        lines += _differs(f"tuning, {name}", ours, getattr(theirs, name))
    images = [
        Hyperparameters.create(one.hyperparameters).epoch_images for one in (*tunings, theirs)
    ]
    lines += _differs("tuning, epoch_images", images[:-1], images[-1])
    trials = [tuning.max_budget / tuning.max_epochs for tuning in tunings]
    lines += _differs(
        "tuning, budget in full trainings",
        [round(number, 1) for number in trials],
        theirs.max_budget / theirs.max_epochs,
    )
    return lines


def _differs(name: str, ours: Sequence[Any], theirs: Any) -> list[str]:
    """A sentence if any of our values differs from theirs."""
    if not ours or all(value == theirs for value in ours):
        return []
    return [f"{name}: {_list(map(_text, ours))} here, {_text(theirs)} published."]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "×".join(map(str, value))
    if isinstance(value, int | float):
        return f"{value:,.10g}"
    return "unset" if value is None else str(value)


def _list(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))
