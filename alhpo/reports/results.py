"""What a study has found so far, as tidy tables, from the folders of its cells."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from alhpo.base.errors import DataError, error_line
from alhpo.base.files import Journal
from alhpo.base.types import CycleRecord
from alhpo.runs.results import read_record, read_run
from alhpo.runs.settings import RunConfig, TuneConfig
from alhpo.studies.config import Cell, StudyConfig, expand, load_study
from alhpo.studies.cost import split_sizes
from alhpo.tuning.record import SearchJournal

State = Literal["finished", "unfinished", "failed", "damaged", "missing"]

#: What a row says of the cell it comes from.
PLACE = ["cell", "dataset", "model", "strategy", "seed", "setting"]
#: The column names of what active learning and of what a search after it found.
ACTIVE, TUNED, WITHIN = "AL", "BO", "BO in the run"
OTHERWISE_TUNED = "HPO"
#: Optimizers that model the objective.
BAYESIAN = frozenset({"tpe", "dyhpo", "hpo4dl-dyhpo"})

SCORES = ["accuracy", "nll", "brier", "ece"]
SPENT = ["epochs_hpo", "epochs_fit", "images", "seconds"]
RECORD = ["n_labeled", "configuration", *SCORES, "validation", "diverged", *SPENT]
CURVES = [*PLACE, "kind", "cycle", *RECORD]
TUNINGS = [*PLACE, "tuning", "validation_scheme", *RECORD]
UNWEIGHTED = ["accuracy_unweighted", "nll_unweighted"]
MEASURED = ["accuracy", "nll", *UNWEIGHTED, "test_accuracy", "test_nll"]
TRIALS = [
    *PLACE,
    *["tuning", "validation_scheme", "n_labeled", "metric_name"],
    *["configuration_id", "configuration", "epoch", "selected", "metric", *MEASURED],
]


@dataclass(frozen=True)
class CellState:
    """How far a cell has come.

    Attributes:
        cell: the cell.
        state: "finished"; "failed" where the latest attempt left a traceback; "damaged" where a
            file cannot be read, and then none of its rows is in the tables; "unfinished" where
            there are files but no end; "missing" where there is nothing.
        records: complete records, for a run its cycles.
        failure: the last line of the traceback, of a failed cell; what cannot be read, of a
            damaged one; else "".
    """

    cell: Cell
    state: State
    records: int
    failure: str = ""


@dataclass(frozen=True)
class StudyResults:
    """A study and everything its cells have recorded.

    All frames have the columns ``cell`` (index of the cell), ``dataset``, ``model``, ``strategy``
    (the names on these axes, or the configured), ``seed`` (the run's, what pairs of values have in
    common) and ``setting`` (the names on all other axes of the grid, in words, which head the
    groups of columns in tables; "" without such axes); and besides one column per axis of the
    grids, with "run." or "tune." before its name.

    Attributes:
        study: its settings.
        path: its folder, where it lies now.
        cells: all of its cells, whether they have begun or not; a cell's index is its place.
        curves: one row per run and record: ``kind`` ("cycle" or "final"), ``cycle``,
            ``n_labeled``, ``configuration`` (a mapping), ``accuracy`` (share), ``nll``, ``brier``,
            ``ece``, ``validation`` (accuracy), ``diverged``; and what the run had spent by then:
            ``epochs_hpo``, ``epochs_fit``, ``images`` (trained on, each as often as it was),
            ``seconds``.
        tuned: one row per finished tuning of a labelled pool: ``tuning`` ("BO" and the names on
            the axes of the tuning's grid), ``validation_scheme``, and the columns of ``curves``
            from ``n_labeled`` on, with what this tuning spent.
        trials: one row per configuration that a tuning trained to the end, finished or not:
            ``tuning``, ``validation_scheme``, ``n_labeled``, ``metric_name`` and ``metric`` (what
            was maximised), ``configuration_id``, ``configuration``, ``epoch``, ``selected``
            (whether it is what the tuning chose), ``accuracy``, ``nll``, ``accuracy_unweighted``,
            ``nll_unweighted`` (of validation), ``test_accuracy``, ``test_nll``; NaN for what was
            not measured.
        expected: what ``outcomes`` will have at the end, one row per cell and ``column``, for runs
            at their last number of labels: ``PLACE``, ``column``, ``n_labeled``.
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
    expected: pd.DataFrame
    settings: tuple[str, ...]
    tunings: tuple[str, ...]
    strategies: tuple[str, ...]

    @property
    def finished(self) -> int:
        """How many cells are."""
        return sum(one.state == "finished" for one in self.cells)

    @functools.cached_property
    def outcomes(self) -> pd.DataFrame:
        """All test results in one frame, one row per record of a run or a tuning.

        The columns are ``PLACE``, ``column`` ("AL" for cycles, "BO in the run" for the retraining
        after a final search, else the tuning's name), ``n_labeled``, ``diverged`` and the
        scores.
        """
        kinds = {"cycle": ACTIVE, "final": WITHIN}
        columns = [*PLACE, "column", "n_labeled", "diverged", *SCORES, *SPENT]
        rows = [row | {"column": kinds[row["kind"]]} for row in self.curves.to_dict("records")]
        rows += [row | {"column": row["tuning"]} for row in self.tuned.to_dict("records")]
        return pd.DataFrame(rows, columns=pd.Index(columns))

    def run_of(self, index: int) -> RunConfig:
        """The settings of a run, or of the run whose pool a tuning is of."""
        cell = self.cells[index].cell
        config = cell.config if cell.run is None else self.cells[cell.run].cell.config
        assert isinstance(config, RunConfig)
        return config


def load_study_results(folder: str | Path) -> StudyResults:
    """Read a study's folder, wherever it lies now and however far it is.

    Raises:
        ConfigurationError: no study in the folder, or settings that cannot be used.
    """
    path = Path(folder).expanduser()
    study = load_study(path, output_dir=str(path))
    cells = expand(study)
    places = _places(cells)
    names = _tuning_names([cell for cell in cells if cell.kind == "tune"])
    states: list[CellState] = []
    curves: list[dict[str, Any]] = []
    tuned: list[dict[str, Any]] = []
    trials: list[dict[str, Any]] = []
    expected: list[dict[str, Any]] = []
    for cell, place in zip(cells, places, strict=True):
        config = cell.config
        rows: list[dict[str, Any]] = []
        tried: list[dict[str, Any]] = []
        fault = ""
        try:
            if isinstance(config, RunConfig):
                rows = _curve(cell.path, config)
            else:
                record = _tuning_record(cell.path / "tune.json")
                tried = _trials(cell.path, config, record)
                rows = [] if record is None else [_record_row(record, config)]
        except (DataError, OSError) as error:
            fault = error_line(error)
        if isinstance(config, RunConfig):
            curves += [place | row for row in rows]
            columns = [ACTIVE, WITHIN] if config.mode.final_search else [ACTIVE]
            labels = config.budget
        else:
            what = {"tuning": names[cell.index], "validation_scheme": config.validation}
            tuned += [place | what | row for row in rows]
            trials += [place | what | row for row in tried]
            columns, labels = [names[cell.index]], config.labels
        expected += [place | {"column": column, "n_labeled": labels} for column in columns]
        states.append(CellState(cell, "damaged", 0, fault) if fault else _state(cell, len(rows)))
    return StudyResults(
        study=study,
        path=path,
        cells=tuple(states),
        curves=_frame(curves, CURVES),
        tuned=_frame(tuned, TUNINGS),
        trials=_frame(trials, TRIALS),
        expected=_frame(expected, [*PLACE, "column", "n_labeled"]),
        settings=tuple(dict.fromkeys(place["setting"] for place in places)),
        tunings=tuple(dict.fromkeys(names.values())),
        strategies=tuple(dict.fromkeys(place["strategy"] for place in places)),
    )


def _frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Rows as a frame that has at least these columns, and those first."""
    others = dict.fromkeys(name for row in rows for name in row if name not in columns)
    return pd.DataFrame(list(rows), columns=pd.Index([*columns, *others]))


def _places(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The columns that say of each cell where it is in the study."""
    runs = [cell for cell in cells if cell.kind == "run"]
    axes = _heading([c.coordinates for c in runs], {"dataset", "model", "strategy", "seed"})
    places = []
    for cell in cells:
        run = cell if cell.run is None else cells[cell.run]
        config, names = run.config, run.coordinates
        assert isinstance(config, RunConfig)
        data = Path(config.dataset)  # tables do not tell where a folder is
        place = {
            "cell": cell.index,
            "dataset": data.name if data.expanduser().is_absolute() else config.dataset,
            "model": config.model,
            "strategy": config.strategy,
            "setting": _words(names, axes),
        }
        place |= {name: names[name] for name in ("dataset", "model", "strategy") if name in names}
        place |= {f"run.{name}": value for name, value in names.items()}
        place |= {k: v for k, v in cell.coordinates.items() if k.startswith("tune.")}
        places.append(place | {"seed": config.seed})
    return places


def _tuning_names(tunings: Sequence[Cell]) -> dict[int, str]:
    """What each tuning's column is called, by the cell's index."""
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
    """The paper's name for a search where it is one by a model of the objective, else "HPO"."""
    return TUNED if cell.config.optimizer in BAYESIAN else OTHERWISE_TUNED


def _heading(points: Sequence[Mapping[str, str]], others: set[str]) -> list[str]:
    """The axes that head columns: those that vary, or all where none does."""
    axes = [name for name in (points[0] if points else {}) if name not in others]
    return [name for name in axes if len({point[name] for point in points}) > 1] or axes


def _words(point: Mapping[str, str], axes: Iterable[str]) -> str:
    """Values on axes; a bare number or switch with the name of its axis."""
    return ", ".join(
        point[axis]
        if any(map(str.isalpha, point[axis])) and point[axis] not in ("True", "False")
        else f"{axis} {point[axis]}"
        for axis in axes
    )


def _state(cell: Cell, records: int) -> CellState:
    failed = cell.path / "failed.txt"
    if cell.finished:
        return CellState(cell, "finished", records)
    if failed.exists():
        lines = failed.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return CellState(cell, "failed", records, lines[-1].strip() if lines else "")
    begun = cell.path.is_dir() and any(entry.is_file() for entry in cell.path.iterdir())
    return CellState(cell, "unfinished" if begun else "missing", records)


def _curve(path: Path, config: RunConfig) -> list[dict[str, Any]]:
    """The records of a run, with what it had spent by each."""
    rows = []
    spent = np.zeros(len(SPENT))
    for record in read_run(path):
        row = _record_row(record, config)
        spent = spent + [row[name] for name in SPENT]
        rows.append(row | dict(zip(SPENT, spent.tolist(), strict=True)))
    return rows


def _tuning_record(file: Path) -> CycleRecord | None:
    if not file.exists():
        return None
    try:
        entry = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}") from error
    return read_record(entry, str(file))


def _record_row(record: CycleRecord, config: RunConfig | TuneConfig) -> dict[str, Any]:
    hpo, fit = (int(record.epochs.get(part, 0)) for part in ("hpo", "fit"))
    n = record.n_labeled
    _, searched, _ = split_sizes(config.validation, n) if hpo else (0, 0, 0)
    return {
        "kind": record.kind,
        "cycle": record.cycle,
        "n_labeled": n,
        "configuration": dict(record.configuration),
        **{name: _number(record.test.get(name)) for name in SCORES},
        "validation": _number((record.validation or {}).get("accuracy")),
        "diverged": record.diverged,
        "epochs_hpo": hpo,
        "epochs_fit": fit,
        "images": fit * n + hpo * searched,
        "seconds": float(sum(record.seconds.values())),
    }


def _trials(path: Path, config: TuneConfig, record: CycleRecord | None) -> list[dict[str, Any]]:
    """The configurations that a tuning trained to the end, in order.

    The pool's own hyperparameters, which it tries first, are an experiment of one suggestion.
    """
    files = path.glob("hpo/experiment_*/journal.jsonl")
    searches = [SearchJournal(Journal(file)).read().suggestions for file in sorted(files)]
    rows = []
    for suggestion in itertools.chain(*sorted(searches, key=len)):
        ids = suggestion.configuration_ids
        known = dict(zip(ids, suggestion.configurations, strict=True))
        for outcome in suggestion.outcomes:
            if outcome.epoch == config.max_epochs:
                configuration = known[outcome.configuration_id]
                rows.append(
                    {
                        "n_labeled": config.labels,
                        "metric_name": config.metric,
                        "configuration_id": outcome.configuration_id,
                        "configuration": configuration,
                        "epoch": outcome.epoch,
                        "selected": record is not None and _same(configuration, record),
                        "metric": _number(outcome.metric),
                        **{name: _number(outcome.result.get(name)) for name in MEASURED},
                    }
                )
    return rows


def _same(configuration: Mapping[str, Any], record: CycleRecord) -> bool:
    """Whether a configuration of a space, where switches are text, is the recorded one."""
    chosen = record.configuration
    return all(str(chosen.get(name)) == str(value) for name, value in configuration.items())


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
