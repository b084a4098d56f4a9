"""The conformance suite for launchers of the cells of a study."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alhpo.base.schema import parse
from alhpo.studies import StudyConfig, expand
from alhpo.studies.cell_runner import FAILURE, Outcome, run_cell
from alhpo.studies.config import Cell
from alhpo.studies.launch import Launcher, make_launcher
from alhpo.testing.process_state import require

_SETTINGS = {
    "model": "lcnet_035",
    "strategy": "random",
    "initial_size": 4,
    "acquisition_size": 4,
    "max_epochs": 1,
    "validate_fixed": False,
    "precision": "float32",
    "device": "cpu",
    "pool_size": 40,
    "eval_size": 20,
    "hyperparameters": {"batch_size": 4},
}


def check_launcher(name: str, options: Mapping[str, Any] | None = None) -> None:
    """Check that a launcher runs the cells of a study and returns the outcome of each.

    The launcher has room for at least one cell. Every submitted cell has one outcome, with the same
    cycles, queries and labels as in this process; the outcome of a failed cell has the reason.
    ``wait`` returns at once if no cell is running. ``close`` may be called twice, also while a cell
    is running. This takes some seconds: the cells train a small network.

    Args:
        name: name of the launcher. Register a launcher written in Python first.
        options: its options.

    Raises:
        AssertionError: the message is the broken rule.
    """
    with tempfile.TemporaryDirectory() as folder:
        here = _cells(Path(folder, "here"))
        for cell in here:
            run_cell(cell)
        cells = _cells(Path(folder, "there"))
        where = f"Launcher {name!r}"
        launcher = make_launcher(name, cells, options)
        try:
            require(launcher.capacity >= 1, f"{where} has room for {launcher.capacity} cells.")
            outcomes = _run(launcher, cells, where)
            require(launcher.wait(0) == [], f"{where}: outcomes of cells that nobody submitted.")
        finally:
            launcher.close()
        launcher.close()
        for cell, expected in zip(cells, here, strict=True):
            _check_outcome(outcomes[cell.index], cell, expected, where)
        ended = make_launcher(name, cells, options)
        ended.submit(_cells(Path(folder, "ended"))[0])
        ended.close()


def _cells(folder: Path) -> list[Cell]:
    """Two cells that can be run, and one whose budget exceeds its pool."""
    values = {"output_dir": str(folder), "settings": _SETTINGS, "grid": {"budget": [4, 8, 80]}}
    return expand(parse(StudyConfig, {"name": "check", **values}, "study setting"))


def _run(launcher: Launcher, cells: list[Cell], where: str) -> dict[int, Outcome]:
    waiting, running, outcomes = list(cells), set(), {}
    while waiting or running:
        while waiting and len(running) < launcher.capacity:
            launcher.submit(waiting[0])
            running.add(waiting.pop(0).index)
        found = launcher.wait()
        require(len(found) > 0, f"{where}: wait() without a timeout returned with no outcome.")
        for outcome in found:
            known = isinstance(outcome, Outcome) and outcome.cell in running
            require(known, f"{where}: {outcome!r} is not the outcome of a cell that is running.")
            running.remove(outcome.cell)
            outcomes[outcome.cell] = outcome
    return outcomes


def _check_outcome(outcome: Outcome, cell: Cell, expected: Cell, where: str) -> None:
    where = f"{where}, cell {cell.index}"
    status = "finished" if expected.finished else "failed"
    require(outcome.status == status, f"{where}: {outcome}; in this process it is {status}.")
    if status == "failed":
        told = bool(outcome.message) and (cell.path / FAILURE).exists()
        require(told, f"{where} failed, and its outcome or {FAILURE} does not say why.")
        return
    require(cell.finished, f"{where} is said to be finished, and its folder has no run.json.")
    same = _queries(cell) == _queries(expected)
    require(same, f"{where}: not the labels that the same cell asks for in this process.")


def _queries(cell: Cell) -> list[Any]:
    lines = (cell.path / "cycles.jsonl").read_text(encoding="utf-8").splitlines()
    return [(record["n_labeled"], record["queried"]) for record in map(json.loads, lines)]
