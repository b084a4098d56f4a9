"""What a study has found so far, as tidy tables, from the folders of its cells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from alhpo.studies.config import Cell, StudyConfig

State = Literal["finished", "unfinished", "failed", "missing"]


@dataclass(frozen=True)
class CellState:
    """How far a cell has come.

    Attributes:
        cell: the cell.
        state: "finished"; "failed" where the latest attempt left a traceback; "unfinished" where
            there are files but no end; "missing" where there is nothing.
        records: complete records, for a run its cycles.
        failure: the last line of the traceback, of a failed cell; else "".
    """

    cell: Cell
    state: State
    records: int
    failure: str = ""


@dataclass(frozen=True)
class StudyResults:
    """A study and everything its cells have recorded.

    All frames have the columns ``cell`` (index of the cell), ``dataset``, ``model``, ``strategy``,
    ``seed``, ``setting`` (the names on all other axes of the grid, in words, which make the
    groups of columns in tables) and one column per axis of the grid, with the names that the
    values have there.

    Attributes:
        study: its settings.
        path: its folder, where it lies now.
        cells: all of its cells, whether they have begun or not.
        curves: one row per run and cycle: ``kind`` ("cycle" or "final"), ``cycle``, ``n_labeled``,
            ``accuracy`` (share), ``nll``, ``brier``, ``ece``, ``validation`` (accuracy),
            ``diverged``; and what the run had spent by then: ``epochs_hpo``, ``epochs_fit``,
            ``images`` (epochs times images trained on), ``seconds``.
        tuned: one row per finished tuning of a labelled pool: ``tuning`` (the names on the axes
            of the tuning's grid, in words), ``n_labeled``, ``validation_scheme`` and the columns
            of ``curves``, but for what was spent by this tuning alone; ``configuration``.
        trials: one row per configuration that a tuning trained to the end: ``tuning``,
            ``n_labeled``, ``validation_scheme``, ``metric_name``, ``configuration_id``,
            ``configuration``, ``epoch``, ``metric``, ``accuracy``, ``nll``,
            ``accuracy_unweighted``, ``nll_unweighted``, ``test_accuracy``, ``test_nll``,
            ``selected``; NaN for what was not measured.
        settings: the values of ``setting`` in the order of the grid.
        tunings: those of ``tuning``.
        strategies: those of ``strategy``.
    """

    study: StudyConfig
    path: Path
    cells: tuple[CellState, ...]
    curves: pd.DataFrame
    tuned: pd.DataFrame
    trials: pd.DataFrame
    settings: tuple[str, ...]
    tunings: tuple[str, ...]
    strategies: tuple[str, ...]

    @property
    def finished(self) -> int:
        """How many cells are."""
        return sum(one.state == "finished" for one in self.cells)


def load_study_results(folder: str | Path) -> StudyResults:
    """Read a study's folder, wherever it lies now and however far it is.

    Raises:
        ConfigurationError: no study in the folder, or settings that cannot be used.
        DataError: a file of a cell that cannot be read.
    """
    raise NotImplementedError
