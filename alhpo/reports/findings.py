"""Records of a study, or of the runs of a folder, as tidy tables."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from alhpo.base.metrics import SCORES, VALIDATED
from alhpo.runs.settings import RunConfig
from alhpo.studies.config import Cell

State = Literal["finished", "failed", "damaged", "unfinished", "missing"]

#: Columns that describe the cell of a row.
PLACE = ["cell", "dataset", "model", "strategy", "seed", "setting"]
#: Names of table columns: results of active learning, and of a final search in the run.
ACTIVE, WITHIN = "AL", "BO in the run"

SPENT = ["epochs_hpo", "epochs_fit", "images", "seconds"]
RECORD = ["n_labeled", "configuration", *SCORES, "validation", "diverged", *SPENT]
CURVES = [*PLACE, "kind", "cycle", *RECORD]
TUNINGS = [*PLACE, "tuning", "validation_scheme", *RECORD]
MEASURED = [
    *VALIDATED,
    *(f"{name}_unweighted" for name in VALIDATED),
    *(f"test_{name}" for name in VALIDATED),
]
TRIALS = [
    *PLACE,
    *["tuning", "validation_scheme", "n_labeled", "metric_name"],
    *["configuration_id", "configuration", "epoch", "selected", "metric", *MEASURED],
]
GAINED = [
    *("current", "found", "paired_gain", "paired_error", "adopted", "replaced"),
    *("current_test", "adopted_test"),
]
SEARCHES = [*PLACE, "search", "n_labeled", "metric_name", "epochs", *GAINED]
HYPERPARAMETERS = [*PLACE, "kind", "cycle", "n_labeled", "hyperparameter", "value", "log"]
ARMS = [*PLACE, "n_labeled", "arm", "weight", "weight_of_picks", "share_of_picks"]
EXPECTED = [*PLACE, "column", "n_labeled"]


@dataclass(frozen=True)
class CellState:
    """The state of a cell.

    Attributes:
        cell: the cell.
        name: its number or folder, with its place in the grid.
        state: "finished"; "failed" if the last attempt left a traceback; "damaged" if a file cannot
            be read (no table has its rows); "unfinished" if it has begun; else "missing".
        records: number of complete records.
        failure: last line of the traceback of a failed cell; the error of a damaged one; else "".
    """

    cell: Cell
    name: str
    state: State
    records: int
    failure: str = ""

    @property
    def told(self) -> str:
        """Its name, how far it has come, and its failure."""
        done = []
        if isinstance(self.cell.config, RunConfig) and self.state in ("unfinished", "failed"):
            cycles = len(self.cell.config.sizes)
            done = [f"{min(self.records, cycles)} of {cycles} cycles"]
        told = "; ".join([*done, *filter(None, [self.failure])])
        return f"{self.name}: {told}" if told else self.name


@dataclass(frozen=True)
class Grid:
    """The cells of a folder, and remarks about what else it holds.

    Attributes:
        kind: "study", or "runs" for a folder of runs whose grid comes from their settings.
        title: its name.
        description: its description; "" without one.
        path: its folder now.
        settings: YAML: the study's file, or the common and the different settings of the runs.
        cells: all cells, begun or not, in the order of their index.
        names: a name for each cell.
        published: the published tables named in the study's file; else None.
        left_out: a sentence for each run that is left out.
        remarks: other remarks, a sentence each.
    """

    kind: Literal["study", "runs"]
    title: str
    description: str
    path: Path
    settings: str
    cells: tuple[Cell, ...]
    names: tuple[str, ...]
    published: str | None = None
    left_out: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def noun(self) -> str:
        """What its cells are called."""
        if self.kind == "study":
            return "cells"
        return "runs and tunings" if any(cell.kind == "tune" for cell in self.cells) else "runs"


@dataclass(frozen=True)
class Findings:
    """Everything recorded in a study or a folder of runs.

    All frames have the columns ``cell`` (index of the cell), ``dataset``, ``model``, ``strategy``
    (the names on these axes, or the configured), ``seed`` (the run's, what pairs of values have in
    common) and ``setting`` (the names on all other axes of the grid, in words, which head the
    groups of columns in tables; "" without such axes); and besides one column per axis of the
    grids, with "run." or "tune." before its name.

    Attributes:
        grid: the cells and what they are of.
        cells: how far each has come, in the grid's order.
        curves: one row per run and record with an evaluation: ``kind`` ("cycle" or "final"),
            ``cycle``, ``n_labeled``, ``configuration`` (a mapping), the test scores ``accuracy``
            (share),
            ``balanced_accuracy``, ``macro_f1``, ``nll``, ``brier``, ``ece`` (NaN where an older
            version did not record it), ``validation`` (accuracy), ``diverged``; and what the run
            had spent by then: ``epochs_hpo``, ``epochs_fit``, ``images`` (trained on, each as often
            as it was; NaN after a search with a validation scheme that is not registered here),
            ``seconds``.
        tuned: one row per finished tuning of a labelled pool: ``tuning`` ("BO" and the names on
            the axes of the tuning's grid), ``validation_scheme``, and the columns of ``curves``
            from ``n_labeled`` on, with what this tuning spent.
        trials: one row per configuration that a tuning trained to the end, finished or not:
            ``tuning``, ``validation_scheme``, ``n_labeled``, ``metric_name`` and ``metric`` (what
            was maximised), ``configuration_id``, ``configuration``, ``epoch``, ``selected``
            (whether it is what the tuning chose), the scores of validation ``accuracy``,
            ``balanced_accuracy``, ``macro_f1`` and ``nll``, the same with the suffix
            ``_unweighted`` and, on the evaluation split, with the prefix ``test_``; NaN for what
            was not measured.
        searches: one row per finished search, in runs and in tunings: ``search`` ("AL" in a cycle,
            "BO in the run" after the last one, else the tuning's name), ``n_labeled``,
            ``metric_name`` (what was maximised), ``epochs`` (spent), the metric ``current`` of the
            configuration before the search and ``adopted`` of the one that it left, and
            ``current_test`` and ``adopted_test`` on the evaluation split; NaN for what was not
            measured or recorded.
        hyperparameters: one row per hyperparameter of the space and row of ``curves`` of a run that
            searched:
            ``kind``, ``cycle``, ``n_labeled``, ``hyperparameter``, ``value`` (of the record's
            configuration), ``log`` (whether the space has it on a log scale).
        arms: one row per strategy that the run's strategy asked (``arm``) and query: ``n_labeled``,
            ``weight`` (the mean over the images that any of them chose), ``weight_of_picks`` (the
            mean over the query) and ``share_of_picks`` (the share of the query that it had chosen).
        expected: what ``outcomes`` will have at the end, one row per cell and ``column``, for runs
            at the last number of labels that they evaluate: ``PLACE``, ``column``, ``n_labeled``.
        settings: the values of ``setting`` in the order of the grid.
        tunings: those of ``tuning``.
        strategies: those of ``strategy``.
    """

    grid: Grid
    cells: tuple[CellState, ...]
    curves: pd.DataFrame
    tuned: pd.DataFrame
    trials: pd.DataFrame
    searches: pd.DataFrame
    hyperparameters: pd.DataFrame
    arms: pd.DataFrame
    expected: pd.DataFrame
    settings: tuple[str, ...]
    tunings: tuple[str, ...]
    strategies: tuple[str, ...]

    @property
    def finished(self) -> int:
        """Number of finished cells."""
        return sum(one.state == "finished" for one in self.cells)

    @property
    def counts(self) -> dict[State, str]:
        """Number of cells in each state that has some, in words."""
        states = [one.state for one in self.cells]
        told = f"of {len(states)} {self.grid.noun}"
        return {s: f"{states.count(s)} {told} {s}" for s in get_args(State) if s in states}

    @property
    def incomplete(self) -> list[str]:
        """Lines about the cells that are not finished: why, or how far they have come."""
        lines = [
            f"{one.state}: {one.told}"
            for state in get_args(State)
            for one in self.cells
            if one.state == state and state not in ("finished", "missing")
        ]
        missing = [str(one.cell.index) for one in self.cells if one.state == "missing"]
        return [*lines, *([f"missing: cells {', '.join(missing)}"] if missing else [])]

    @functools.cached_property
    def outcomes(self) -> pd.DataFrame:
        """All test results in one frame, one row per record of a run or a tuning.

        The columns are ``PLACE``, ``column`` ("AL" for cycles, "BO in the run" for the retraining
        after a final search, else the tuning's name), ``n_labeled``, ``diverged``, the
        scores and what was spent.
        """
        kinds = {"cycle": ACTIVE, "final": WITHIN}
        columns = [*PLACE, "column", "n_labeled", "diverged", *SCORES, *SPENT]
        rows = [row | {"column": kinds[row["kind"]]} for row in self.curves.to_dict("records")]
        rows += [row | {"column": row["tuning"]} for row in self.tuned.to_dict("records")]
        return pd.DataFrame(rows, columns=pd.Index(columns))

    def run_of(self, index: int) -> RunConfig:
        """Settings of a run, or of a tuning's run."""
        cell = self.cells[index].cell
        config = cell.config if cell.run is None else self.cells[cell.run].cell.config
        assert isinstance(config, RunConfig)
        return config


def to_frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Rows as a frame with these columns first."""
    others = dict.fromkeys(name for row in rows for name in row if name not in columns)
    return pd.DataFrame(list(rows), columns=pd.Index([*columns, *others]))
