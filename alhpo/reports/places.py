"""Names of cells in tables: their places in the grid, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alhpo.runs.settings import RunConfig
from alhpo.studies.config import Cell

#: Names of table columns: results of a tuning by a model-based optimizer, and by another.
TUNED, OTHERWISE_TUNED = "BO", "HPO"
#: Optimizers that model the objective.
BAYESIAN = frozenset({"tpe", "dyhpo", "hpo4dl-dyhpo"})


def places(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The columns that describe the place of each cell in the grid."""
    runs = [cell for cell in cells if cell.kind == "run"]
    points = [cell.coordinates for cell in runs]
    axes = _heading(points, {"dataset", "model", "strategy", "seed"})
    if _told_apart_without("evaluate_at", points):  # it changes no score
        axes = [name for name in axes if name != "evaluate_at"]
    found = []
    for cell in cells:
        run = cell if cell.run is None else cells[cell.run]
        config, names = run.config, run.coordinates
        assert isinstance(config, RunConfig)
        place = {
            "cell": cell.index,
            "dataset": data_name(config.dataset),
            "model": config.model,
            "strategy": config.strategy,
            "setting": _words(names, axes),
        }
        place |= {name: names[name] for name in ("dataset", "model", "strategy") if name in names}
        place |= {f"run.{name}": value for name, value in names.items()}
        place |= {k: v for k, v in cell.coordinates.items() if k.startswith("tune.")}
        found.append(place | {"seed": config.seed})
    return found


def data_name(dataset: str) -> str:
    """Name of a data set for tables, without the path of a folder."""
    path = Path(dataset)
    return path.name if path.expanduser().is_absolute() else dataset


def tuning_names(cells: Sequence[Cell]) -> dict[int, str]:
    """Name of each tuning's column, by the index of the cell."""
    tunings = [cell for cell in cells if cell.kind == "tune"]
    points = [
        {
            name.removeprefix("tune."): value
            for name, value in cell.coordinates.items()
            if name.startswith("tune.")
        }
        for cell in tunings
    ]
    axes = _heading(points, {"seed"})
    return {
        cell.index: " ".join(filter(None, [_kind(cell), _words(point, axes)]))
        for cell, point in zip(tunings, points, strict=True)
    }


def _kind(cell: Cell) -> str:
    """The paper's name "BO" for optimizers that model the objective, else "HPO"."""
    return TUNED if cell.config.optimizer in BAYESIAN else OTHERWISE_TUNED


def _heading(points: Sequence[Mapping[str, str]], others: set[str]) -> list[str]:
    """The axes in column names: those that vary, or all if none does."""
    every = dict.fromkeys(name for point in points for name in point)
    axes = [name for name in every if name not in others]
    return [name for name in axes if len({point.get(name) for point in points}) > 1] or axes


def _told_apart_without(axis: str, points: Sequence[Mapping[str, str]]) -> bool:
    return len({tuple((k, v) for k, v in p.items() if k != axis) for p in points}) == len(points)


def _words(point: Mapping[str, str], axes: Iterable[str]) -> str:
    """Values on the axes; numbers and switches with the name of the axis."""
    return ", ".join(
        point[axis]
        if any(map(str.isalpha, point[axis])) and point[axis] not in ("True", "False")
        else f"{axis} {point[axis]}"
        for axis in axes
        if axis in point
    )
