"""Makes a grid of the runs of a folder, from their settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from alhpo.base.errors import DataError, error_line
from alhpo.reports.axes import Found, axis_name, by_size, shown_value, telling_settings, varying
from alhpo.reports.findings import Grid
from alhpo.reports.places import data_name
from alhpo.reports.recorded import read_settings
from alhpo.runs.identity import REPETITION_KEYS
from alhpo.runs.records import read_run
from alhpo.runs.settings import RunConfig, TuneConfig
from alhpo.studies.config import Cell


@dataclass(frozen=True)
class FoundCell(Cell):
    """A run or a tuning with the folder in which it was found."""

    folder: Path = Path()

    @property
    def path(self) -> Path:
        return self.folder


def run_folders(folder: Path) -> list[Path]:
    """Folders of all runs with records, at any depth, including ``folder`` itself."""
    names = ("cycles.jsonl", "run.json")
    return sorted({file.parent for name in names for file in folder.rglob(name)})


def grid_of_runs(folder: Path) -> Grid:
    """The runs of a folder, and the tunings in their folders, as the cells of a grid.

    Settings that differ within a data set, model and strategy are its axes. Of copies (the same
    seed and settings, ``evaluate_at`` aside) one counts: a finished one before others, then the one
    with most evaluations, then the first.

    Raises:
        DataError: the folder has no run whose files can be read.
    """
    paths = run_folders(folder)
    if not paths:
        raise DataError(_nothing(folder))
    runs: list[Found] = []
    left_out: dict[str, str] = {}
    for path in paths:
        name = folder.resolve().name if path == folder else path.relative_to(folder).as_posix()
        try:
            config, others = read_settings(path / "config.yaml", RunConfig)
            records = sum(record.fitted for record in read_run(path))
            runs.append(Found(name, path, config, telling_settings(config, others), records))
        except (DataError, OSError) as error:
            left_out[name] = f"damaged: {error_line(error)}"
    for name in _copies(runs):
        left_out[name] = "another run has its settings and seed"
    runs = [run for run in runs if run.name not in left_out]
    if not runs:
        told = " ".join(f"{name}: {why}" for name, why in left_out.items())
        raise DataError(f"Nothing to report in {folder}: no run has files that can be read. {told}")
    names = _data_names(runs)
    part = _by(lambda run: (run.config.dataset, run.config.model))
    row = _by(lambda run: (run.config.dataset, run.config.model, run.settings["strategy"]))
    axes = varying(row(runs))
    runs.sort(key=lambda run: _order(run, axes, names))
    cells = [_run_cell(i, run, runs, axes, names) for i, run in enumerate(runs)]
    tunings = [_tunings(run, left_out) for run in runs]
    cells += _tuning_cells(cells, tunings)
    found = [*runs, *(tuning for same in tunings for tuning in same)]
    confounded = [name for name in varying(part(runs)) if name not in {*axes, "strategy"}]
    return Grid(
        kind="runs",
        title=folder.resolve().name,
        description="",
        path=folder,
        settings=_settings_text(runs),
        cells=tuple(cells),
        names=tuple(f"{one.name} ({c.title})" for one, c in zip(found, cells, strict=True)),
        left_out=tuple(f"{name}: left out, {why}" for name, why in sorted(left_out.items())),
        remarks=(*_told_apart(confounded), *_of_studies(paths, folder)),
    )


def _nothing(folder: Path) -> str:
    tunings = len(list(folder.rglob("tune.json")))
    searches = len(list(folder.rglob("configuration_space.json")))
    held = [f"{tunings} tunings of labelled pools (tune.json)"] * bool(tunings)
    held += [f"{searches} searches (configuration_space.json)"] * bool(searches)
    told = f" It holds {' and '.join(held)}, which are reported with their run." if held else ""
    return (
        f"Nothing to report in {folder}: it is not a study (study.yaml) and holds no run "
        f"(config.yaml and cycles.jsonl).{told} Give the folder of a study or a run, or a folder "
        "with runs."
    )


def _copies(runs: Sequence[Found]) -> Iterator[str]:
    seen = set()
    for run in sorted(runs, key=lambda run: (not run.finished, -run.records, run.name)):
        effective = {name: value for name, value in run.settings.items() if run.has(name)}
        key = json.dumps([effective, run.config.seed], sort_keys=True, default=str)
        if key in seen:
            yield run.name
        seen.add(key)


def _by(key: Callable[[Found], Any]) -> Callable[[Sequence[Found]], list[list[Found]]]:
    """A function that groups runs by a key."""

    def grouped(found: Sequence[Found]) -> list[list[Found]]:
        groups: dict[Any, list[Found]] = {}
        for one in found:
            groups.setdefault(key(one), []).append(one)
        return list(groups.values())

    return grouped


def _data_names(runs: Sequence[Found]) -> dict[str, str]:
    """Short names of the data sets; full paths if two folders have the same name."""
    shown = {run.config.dataset: data_name(run.config.dataset) for run in runs}
    return {d: d if list(shown.values()).count(name) > 1 else name for d, name in shown.items()}


def _run_cell(
    index: int, run: Found, runs: Sequence[Found], axes: Sequence[str], names: Mapping[str, str]
) -> FoundCell:
    config = run.config
    assert isinstance(config, RunConfig)
    point = {"dataset": names[config.dataset]} if len(names) > 1 else {}
    if len({one.config.model for one in runs}) > 1:
        point["model"] = config.model
    point["strategy"] = config.strategy
    point |= {axis_name(name): shown_value(run, name) for name in axes if run.has(name)}
    return FoundCell(index, config, point | {"seed": str(config.seed)}, folder=run.path)


def _tunings(run: Found, left_out: dict[str, str]) -> list[Found]:
    """The tunings in a run's folder; damaged ones are added to ``left_out``."""
    found = []
    for file in sorted(run.path.glob("tune/*/config.yaml")):
        name = f"{run.name}/{file.parent.relative_to(run.path).as_posix()}"
        try:
            config, others = read_settings(file, TuneConfig)
            found.append(Found(name, file.parent, config, telling_settings(config, others)))
        except (DataError, OSError) as error:
            left_out[name] = f"damaged: {error_line(error)}"
    return found


def _tuning_cells(runs: Sequence[FoundCell], tunings: Sequence[Sequence[Found]]) -> list[FoundCell]:
    groups: dict[Any, list[Found]] = {}  # by what they may be repetitions in
    for run, found in zip(runs, tunings, strict=True):
        point = {name: value for name, value in run.coordinates.items() if name != "seed"}
        for tuning in found:
            key = json.dumps([point, run.config.dataset, run.config.model, _labels(tuning)])
            groups.setdefault(key, []).append(tuning)
    axes = varying(groups.values())
    cells: list[FoundCell] = []
    for run, found in zip(runs, tunings, strict=True):
        for tuning in found:
            point = {**run.coordinates, "labels": str(_labels(tuning))}
            point |= {f"tune.{axis_name(name)}": shown_value(tuning, name) for name in axes}
            index = len(runs) + len(cells)
            cells.append(FoundCell(index, tuning.config, point, run.index, tuning.path))
    return cells


def _labels(tuning: Found) -> int:
    assert isinstance(tuning.config, TuneConfig)
    return tuning.config.labels


def _order(run: Found, axes: Sequence[str], names: Mapping[str, str]) -> tuple[Any, ...]:
    """Random sampling and fixed hyperparameters first, numbers by size, seeds together."""
    config = run.config
    assert isinstance(config, RunConfig)
    strategy = (config.strategy != "random", config.strategy)
    values = [by_size(run.settings.get(name)) for name in axes]
    return (
        *(names[config.dataset], config.model, *strategy),
        *(config.hpo != "fixed", values, config.seed),
    )


def _settings_text(runs: Sequence[Found]) -> str:
    """Common settings of the runs, and the values of the different ones, as YAML."""
    values = [run.config.model_dump(exclude=set(REPETITION_KEYS - {"seed"})) for run in runs]
    shared: dict[str, Any] = {}
    different: dict[str, list[Any]] = {}
    for name in values[0]:
        distinct = {json.dumps(one[name], sort_keys=True): one[name] for one in values}
        if len(distinct) > 1:
            different[name] = list(distinct.values())
        else:
            shared[name] = values[0][name]
    told = {"settings": shared} | ({"different": different} if different else {})
    return yaml.safe_dump(told, sort_keys=False).strip()


def _told_apart(confounded: Sequence[str]) -> list[str]:
    if not confounded:
        return []
    names = ", ".join(map(axis_name, confounded))
    return [f"The compared strategies also differ in other settings: {names}."]


def _of_studies(paths: Sequence[Path], folder: Path) -> Iterator[str]:
    """A remark for each study below the folder whose cells are among the runs."""
    studies: dict[Path, int] = {}
    for path in paths:
        for parent in path.relative_to(folder).parents:
            if parent != Path() and (folder / parent / "study.yaml").is_file():
                studies[parent] = studies.get(parent, 0) + 1
                break
    for study, count in studies.items():
        yield (
            f"{count} run{'s are cells' if count > 1 else ' is a cell'} of the study in "
            f"{study.as_posix()}. For the study's own report, give that folder to alhpo report."
        )
