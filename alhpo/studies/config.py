"""A study file: a grid of runs, and the tunings of their labelled pools."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml
from pydantic import Field

from alhpo.base.errors import ConfigurationError
from alhpo.base.schema import Settings, parse, suggestion, unknown_name
from alhpo.runs.config_files import read_config_file
from alhpo.runs.identity import SEARCH_KEYS
from alhpo.runs.settings import RunConfig, TuneConfig

Axis = list[Any] | dict[str, Any]
Exclusion = dict[str, Any]


class TunePart(Settings):
    """Tunings of the labelled pool of every run."""

    labels: list[int] = Field(min_length=1, description="Numbers of labels to tune at.")
    settings: dict[str, Any] = Field(
        default_factory=dict,
        description="Settings of `alhpo tune`; the others are those of the run.",
    )
    grid: dict[str, Axis] = Field(
        default_factory=dict, description="A grid over settings of `alhpo tune`."
    )
    exclude: list[Exclusion] = Field(
        default_factory=list,
        description="Points to leave out, by axes of both grids and labels.",
    )


class StudyConfig(Settings):
    """The contents of a study file.

    An axis of a grid is the name of a setting with a list of values, or with a mapping from names
    in tables to values. The values of an axis with any other name are mappings of settings. Values
    of ``hyperparameters`` are merged with those in ``settings``. An exclusion maps axes to a value
    or a list of values, by their names in tables; a point of the grid that matches an exclusion on
    all its axes is left out.
    """

    name: str = Field(description="Name of the study: letters, digits, '-', '_' and '.'.")
    description: str = Field("", description="Text for the report.")
    published: Literal["cifar10", "cifar100"] | None = Field(
        None, description="The published tables to compare with: cifar10 or cifar100."
    )
    output_dir: str | None = Field(
        None, description="Folder of the study; by default studies/NAME."
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="Settings of `alhpo run` for all cells."
    )
    grid: dict[str, Axis] = Field(
        default_factory=dict, description="Axes: settings with their values."
    )
    exclude: list[Exclusion] = Field(
        default_factory=list, description="Points of the grid to leave out."
    )
    tune: TunePart | None = None

    @pydantic.field_validator("name")
    @classmethod
    def _safe_name(cls, value: str) -> str:
        if not re.fullmatch(r"\w[\w.-]*", value):
            raise ValueError("expected letters, digits, '-', '_' and '.'")
        return value

    @property
    def path(self) -> Path:
        """The study's folder."""
        return Path(self.output_dir or f"studies/{self.name}").expanduser()


@dataclass(frozen=True)
class Cell:
    """One run of a study, or one tuning of a run's labelled pool.

    Attributes:
        index: number of the cell in the study, from 0; runs come first.
        config: settings of the cell.
        coordinates: name of the cell's value on each axis of the grid. A tuning also has "labels",
            and the axes of its own grid with the prefix "tune.".
        run: for a tuning, the index of its run; else None.
    """

    index: int
    config: RunConfig | TuneConfig
    coordinates: Mapping[str, str]
    run: int | None = None

    @property
    def kind(self) -> Literal["run", "tune"]:
        return "run" if isinstance(self.config, RunConfig) else "tune"

    @property
    def path(self) -> Path:
        """The folder of the run or tuning."""
        if isinstance(self.config, RunConfig):
            return Path(self.config.output_dir).expanduser() / self.config.name
        return self.config.path

    @property
    def finished(self) -> bool:
        """Whether the cell is finished."""
        return (self.path / ("run.json" if self.kind == "run" else "tune.json")).exists()

    @property
    def title(self) -> str:
        """Its coordinates as text, such as ``badge, HP 1, seed 0``."""
        return ", ".join(
            f"{axis.removeprefix('tune.')} {value}" if value.isdecimal() else value
            for axis, value in self.coordinates.items()
        )


def shipped_studies() -> list[str]:
    """Names of the studies shipped with alhpo."""
    files = (resources.files("alhpo.studies") / "shipped").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def load_study(file: str | Path, **overrides: Any) -> StudyConfig:
    """Read a study.

    Args:
        file: a YAML file, the folder of a study, or the name of a shipped study.
        overrides: fields that replace those of the file, unless they are None.

    Raises:
        ConfigurationError: an unknown file or study, or settings that cannot be used.
    """
    path = Path(file)
    overrides = {name: value for name, value in overrides.items() if value is not None}
    if (path / "study.yaml").is_file():  # the folder may have been moved
        overrides = {"output_dir": str(path)} | overrides
        path = path / "study.yaml"
    if path.is_file():
        values = read_config_file(path)
    elif str(file) in shipped_studies():
        shipped = resources.files("alhpo.studies") / "shipped" / f"{file}.yaml"
        values = yaml.safe_load(shipped.read_text(encoding="utf-8"))
    else:
        raise ConfigurationError(
            f"Unknown study {str(file)!r}.{suggestion(str(file), shipped_studies())} Legal: a YAML "
            f"file, the folder of a study, or one of {', '.join(shipped_studies())}."
        )
    values |= overrides
    return parse(StudyConfig, values, "study setting")


def expand(study: StudyConfig) -> list[Cell]:
    """All cells of a study: the runs, then the tunings of their pools.

    The seed varies slowest, so the first part of a study is a whole repetition. Points of the grid
    that are the same run (such as two optimizers where nothing is searched) are one cell, with the
    names of the first point.

    Raises:
        ConfigurationError: settings of a cell that cannot be used, with the cell; an exclusion that
            is not in the grid; or exclusions that leave no cell.
    """
    cells: dict[Path, Cell] = {}
    folder = str(study.path / "cells")
    axes = _names(study.grid, RunConfig)
    is_excluded = _exclusion(study.exclude, axes)
    points: dict[int, list[dict[str, str]]] = {}  # that each run stands for
    for point, settings in _points(study.grid, study.settings, RunConfig):
        if is_excluded(point):
            continue
        with _in_cell(point):
            config = RunConfig.create(settings, {"output_dir": folder})
        cell = Cell(len(cells), config, point)
        first = cells.setdefault(cell.path, cell)
        points.setdefault(first.index, []).append(point)
        if study.tune:
            _check_same_search(first.config, config)
    if not cells:
        raise ConfigurationError("exclude leaves no cell of the study. Remove an entry.")
    if study.tune:
        _add_tunings(cells, study.tune, axes, points)
    return list(cells.values())


def _add_tunings(
    cells: dict[Path, Cell],
    tune: TunePart,
    axes: Mapping[str, list[str]],
    points: Mapping[int, Sequence[Mapping[str, str]]],
) -> None:
    """Add the tunings of the runs' labelled pools to the cells."""
    axes = {**axes, "labels": [str(n) for n in tune.labels], **_names(tune.grid, TuneConfig)}
    is_excluded = _exclusion(tune.exclude, axes)
    runs = list(cells.values())
    for run in runs:
        assert isinstance(run.config, RunConfig)
        for labels in tune.labels:
            for point, settings in _points(tune.grid, tune.settings, TuneConfig):
                stood_for = ({**p, "labels": str(labels), **point} for p in points[run.index])
                if all(map(is_excluded, stood_for)):
                    continue
                names = {f"tune.{axis}": value for axis, value in point.items()}
                names = {**run.coordinates, "labels": str(labels), **names}
                with _in_cell(names):
                    config = _tuning(run.config, run.path, labels, settings)
                cell = Cell(len(cells), config, names, run.index)
                cells.setdefault(cell.path, cell)
    if len(cells) == len(runs):
        raise ConfigurationError(
            "exclude under tune leaves no tuning. Remove an entry, or leave out tune."
        )


def _names(
    grid: Mapping[str, Axis], schema: type[RunConfig] | type[TuneConfig]
) -> dict[str, list[str]]:
    """The names of the values on every axis."""
    return {
        axis: [name for name, _ in _choices(axis, values, schema)] for axis, values in grid.items()
    }


def _exclusion(
    exclude: Sequence[Exclusion], axes: Mapping[str, list[str]]
) -> Callable[[Mapping[str, str]], bool]:
    """A function that tells whether a point of the grid, by names, matches an exclusion."""
    rules = [
        {
            axis: [_text(value) for value in (values if isinstance(values, list) else [values])]
            for axis, values in rule.items()
        }
        for rule in exclude
    ]
    for rule in rules:
        if not rule:
            raise ConfigurationError(
                "An entry of exclude names no axis, so it excludes every point. Name one."
            )
        for axis, names in rule.items():
            if axis not in axes:
                raise unknown_name("axis in exclude", axis, axes)
            if not names:
                raise ConfigurationError(
                    f"An entry of exclude has no value for {axis!r}. Give one or more."
                )
            for name in names:
                if name not in axes[axis]:
                    raise unknown_name(f"value of {axis} in exclude", name, axes[axis])
    return lambda point: any(
        all(point[axis] in names for axis, names in rule.items()) for rule in rules
    )


def _tuning(run: RunConfig, folder: Path, labels: int, settings: Mapping[str, Any]) -> TuneConfig:
    sizes = run.sizes
    if labels not in sizes:
        raise ConfigurationError(
            f"Setting 'labels' of tune has {labels}; expected numbers of labels that a cycle "
            f"of the run has. Legal: {', '.join(map(str, sizes))}."
        )
    own = {"pool", "labels", "output_dir"} & set(settings)
    if own:
        raise ConfigurationError(
            f"{', '.join(sorted(own))} cannot be among the settings of tune. Remove it."
        )
    hyperparameters = run.hyperparameters | _mapping(settings.get("hyperparameters"))
    return TuneConfig.of_run(
        run, folder, **{**settings, "labels": labels, "hyperparameters": hyperparameters}
    )


def _points(
    grid: Mapping[str, Axis], shared: Mapping[str, Any], schema: type[RunConfig] | type[TuneConfig]
) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """The names and the settings of every point of a grid."""
    axes = {name: _choices(name, axis, schema) for name, axis in grid.items()}
    order = sorted(axes, key=lambda name: name != "seed")
    for combination in itertools.product(*(axes[name] for name in order)):
        chosen = dict(zip(order, combination, strict=True))
        settings = dict(shared)
        for name in axes:
            for key, value in chosen[name][1].items():
                if key == "hyperparameters":
                    value = {**_mapping(settings.get(key)), **_mapping(value)}
                settings[key] = value
        yield {name: chosen[name][0] for name in axes}, settings


def _check_same_search(first: RunConfig | TuneConfig, other: RunConfig) -> None:
    """Refuse points of a grid that are the same run with different searches in its tunings."""
    search = sorted(SEARCH_KEYS & set(TuneConfig.model_fields))
    different = [name for name in search if getattr(first, name) != getattr(other, name)]
    if different:
        raise ConfigurationError(
            f"Runs that differ only in {', '.join(different)} are the same run, because they do "
            "not search. For tunings that differ in it, write the axis under tune: grid:."
        )


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value or {}, dict):
        raise ConfigurationError(
            f"hyperparameters is {value!r}; expected a mapping, such as {{lr: 0.01}}."
        )
    return value or {}


def _choices(
    name: str, axis: Axis, schema: type[RunConfig] | type[TuneConfig]
) -> Sequence[tuple[str, dict[str, Any]]]:
    """Names and settings of the values on one axis."""
    if not axis:
        raise ConfigurationError(f"Axis {name!r} of the grid has no values. Give one or more.")
    if name in ("output_dir", "pool", "labels"):
        raise ConfigurationError(f"Setting {name!r} cannot be an axis of the grid. Remove it.")
    named = list(axis.items()) if isinstance(axis, dict) else [(_text(v), v) for v in axis]
    doubled = {label for label, _ in named if sum(other == label for other, _ in named) > 1}
    if doubled:
        raise ConfigurationError(
            f"Axis {name!r} has {', '.join(sorted(doubled))} twice. Remove one."
        )
    if name in schema.model_fields:
        if name == "hyperparameters" and not all(isinstance(v, dict) for _, v in named):
            raise ConfigurationError(
                "A value of axis 'hyperparameters' is not a mapping; expected mappings, such "
                "as 'HP 1: {lr: 0.001, weight_decay: 0.05}'."
            )
        return [(str(label), {name: value}) for label, value in named]
    if isinstance(axis, dict) and all(isinstance(value, dict) for value in axis.values()):
        return [(str(label), value) for label, value in named]
    raise unknown_name("axis of the grid", name, schema.model_fields)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)


class _in_cell:
    """Put the cell before the message of a ConfigurationError from the block."""

    def __init__(self, point: Mapping[str, str]) -> None:
        self._point = point

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ConfigurationError):
            where = ", ".join(f"{axis} {value}" for axis, value in self._point.items())
            raise ConfigurationError(f"Cell {where or 'without axes'}: {error}") from None
