"""Reads a study or a folder of runs into findings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alhpo.base.errors import DataError, error_line
from alhpo.reports.findings import (
    ACTIVE,
    ARMS,
    CURVES,
    EXPECTED,
    HYPERPARAMETERS,
    SEARCHES,
    TRIALS,
    TUNINGS,
    WITHIN,
    CellState,
    Findings,
    Grid,
    to_frame,
)
from alhpo.reports.found_runs import grid_of_runs, run_folders
from alhpo.reports.places import places, tuning_names
from alhpo.reports.rows import CellRows, Row, run_rows, tuning_rows
from alhpo.runs.modes import recorded_mode
from alhpo.runs.settings import RunConfig
from alhpo.studies.config import Cell, expand, load_study


def load_findings(folder: str | Path) -> Findings:
    """Read a study or the runs of a folder, finished or not.

    A folder with a ``study.yaml`` is a study. Any other is searched for runs at any depth, itself
    included. Settings that differ among the runs are the axes of their grid, runs that differ only
    in the seed are repetitions, and tunings in their folders are also cells. Plug-ins that the runs
    used need not be installed.

    Raises:
        ConfigurationError: a study whose settings cannot be used.
        DataError: no folder, or nothing in it to report; the message tells what was found.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise DataError(
            f"There is no folder {path}. Give the folder of a study or a run, or one with runs."
        )
    is_study = (path / "study.yaml").is_file()
    return _read(_grid_of_study(path) if is_study else grid_of_runs(path))


def _grid_of_study(path: Path) -> Grid:
    study = load_study(path, output_dir=str(path))
    cells = expand(study)
    known = {cell.path for cell in cells}
    others = [run.relative_to(path).as_posix() for run in run_folders(path) if run not in known]
    remarks = []
    if others:
        named = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if others[5:] else "")
        remarks = [
            f"{len(others)} run{'s are' if others[1:] else ' is'} in the folder but not in the "
            f"study's grid, so not in this report: {named}. For one run: alhpo report FOLDER."
        ]
    return Grid(
        kind="study",
        title=study.name,
        description=study.description,
        path=path,
        settings=(path / "study.yaml").read_text(encoding="utf-8").strip(),
        cells=tuple(cells),
        names=tuple(f"cell {cell.index}, {cell.title or cell.path.name}" for cell in cells),
        published=study.published,
        remarks=tuple(remarks),
    )


def _read(grid: Grid) -> Findings:
    """Records of all cells as rows, with their places in the grid."""
    where = places(grid.cells)
    tunings = tuning_names(grid.cells)
    states: list[CellState] = []
    curves: list[Row] = []
    tuned: list[Row] = []
    trials: list[Row] = []
    searches: list[Row] = []
    hyperparameters: list[Row] = []
    arms: list[Row] = []
    expected: list[Row] = []
    for cell, name, place in zip(grid.cells, grid.names, where, strict=True):
        config = cell.config
        rows = CellRows()
        fault = ""
        try:
            if isinstance(config, RunConfig):
                rows = run_rows(cell.path, config)
            else:
                rows = tuning_rows(cell.path, config)
        except (DataError, OSError) as error:
            fault = error_line(error)
        if isinstance(config, RunConfig):
            curves += _at(place, rows.records)
            searches += _at(place, rows.searches)
            hyperparameters += _at(place, rows.hyperparameters)
            arms += _at(place, rows.arms)
            due = {ACTIVE: config.evaluated_sizes[-1]}
            if recorded_mode(config.hpo).final_search:
                due[WITHIN] = config.budget
        else:
            what = {"tuning": tunings[cell.index], "validation_scheme": config.validation}
            tuned += _at(place | what, rows.records)
            trials += _at(place | what, rows.trials)
            searches += [place | row | {"search": tunings[cell.index]} for row in rows.searches]
            due = {tunings[cell.index]: config.labels}
        expected += [place | {"column": column, "n_labeled": n} for column, n in due.items()]
        states.append(_state(cell, name, rows.complete, fault))
    return Findings(
        grid=grid,
        cells=tuple(states),
        curves=to_frame(curves, CURVES),
        tuned=to_frame(tuned, TUNINGS),
        trials=to_frame(trials, TRIALS),
        searches=to_frame(searches, SEARCHES),
        hyperparameters=to_frame(hyperparameters, HYPERPARAMETERS),
        arms=to_frame(arms, ARMS),
        expected=to_frame(expected, EXPECTED),
        settings=tuple(dict.fromkeys(place["setting"] for place in where)),
        tunings=tuple(dict.fromkeys(tunings.values())),
        strategies=tuple(dict.fromkeys(place["strategy"] for place in where)),
    )


def _at(place: dict[str, Any], rows: Sequence[Row]) -> list[Row]:
    return [place | row for row in rows]


def _state(cell: Cell, name: str, records: int, fault: str) -> CellState:
    failed = cell.path / "failed.txt"
    if fault:
        return CellState(cell, name, "damaged", 0, fault)
    if cell.finished:
        return CellState(cell, name, "finished", records)
    if failed.exists():
        lines = failed.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return CellState(cell, name, "failed", records, lines[-1].strip() if lines else "")
    begun = cell.path.is_dir() and any(entry.is_file() for entry in cell.path.iterdir())
    return CellState(cell, name, "unfinished" if begun else "missing", records)
