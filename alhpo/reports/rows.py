"""Reads the folder of one cell into rows of tidy tables."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alhpo.base.errors import ConfigurationError, DataError
from alhpo.base.files import Journal
from alhpo.base.metrics import SCORES
from alhpo.base.types import CycleRecord
from alhpo.reports.findings import ACTIVE, GAINED, MEASURED, SPENT, WITHIN
from alhpo.runs.records import read_record, read_run
from alhpo.runs.settings import RunConfig, TuneConfig
from alhpo.studies.cost import images_of_epoch, images_of_search_epoch
from alhpo.tuning.record import SearchJournal

Row = dict[str, Any]


@dataclass(frozen=True)
class CellRows:
    """The rows of one cell for the frames of the findings of the same names, without its place.

    ``records`` are those of ``curves`` for a run, those of ``tuned`` for a tuning; ``complete`` is
    the number of complete records, with those of cycles without an evaluation.
    """

    complete: int = 0
    records: list[Row] = field(default_factory=list)
    trials: list[Row] = field(default_factory=list)
    searches: list[Row] = field(default_factory=list)
    hyperparameters: list[Row] = field(default_factory=list)
    arms: list[Row] = field(default_factory=list)


def run_rows(path: Path, config: RunConfig) -> CellRows:
    """The records of a run with an evaluation, with the epochs, images and seconds spent so far;
    its searches, and the hyperparameters that they searched, over these records; and what the
    strategies did that its strategy asked.

    Raises:
        DataError: a file that cannot be read.
    """
    records, rows = read_run(path), []
    spent = np.zeros(len(SPENT))
    for record in records:
        row = _record_row(record, config)
        spent = spent + [row[name] for name in SPENT]
        if record.fitted:
            rows.append(row | dict(zip(SPENT, spent.tolist(), strict=True)))
    fitted = [record for record in records if record.fitted]
    tuned = [record for record in fitted if record.tuned]
    return CellRows(
        complete=len(records),
        records=rows,
        searches=[_search_row(record, config) for record in tuned],
        hyperparameters=_hyperparameter_rows(fitted, _searched_space(path)) if tuned else [],
        arms=[
            {"n_labeled": record.n_labeled, "arm": arm, **numbers}
            for record in records
            for arm, numbers in (record.arms or {}).items()
        ],
    )


def _hyperparameter_rows(records: Sequence[CycleRecord], logs: Mapping[str, bool]) -> list[Row]:
    return [
        {
            "kind": record.kind,
            "cycle": record.cycle,
            "n_labeled": record.n_labeled,
            "hyperparameter": name,
            "value": record.configuration[name],
            "log": log,
        }
        for record in records
        for name, log in logs.items()
        if name in record.configuration
    ]


def _searched_space(path: Path) -> dict[str, bool]:
    """Hyperparameters in the space of a run's searches, and whether each is on a log scale; empty
    if no search is in the folder."""
    for file in sorted(path.glob("hpo/cycle_*/experiment_*/configuration_space.json")):
        try:
            space = json.loads(file.read_text(encoding="utf-8"))
            found = {one["name"]: bool(one["log"]) for one in space if one["type"] != "Constant"}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file} is not a space: {error!r}. Restore it from a copy.") from error
        if found:  # else it is of the measurement of one configuration
            return found
    return {}


def tuning_rows(path: Path, config: TuneConfig) -> CellRows:
    """The record of a tuning and its search, if finished, and the configurations trained to the
    end, in order.

    The pool's own hyperparameters, which are tried first, are an experiment of their own.

    Raises:
        DataError: a file that cannot be read.
    """
    record = _tuning_record(path / "tune.json")
    files = path.glob("hpo/experiment_*/journal.jsonl")
    searches = [SearchJournal(Journal(file)).read().suggestions for file in sorted(files)]
    trials = []
    for suggestion in itertools.chain(*sorted(searches, key=len)):
        ids = suggestion.configuration_ids
        known = dict(zip(ids, suggestion.configurations, strict=True))
        for outcome in suggestion.outcomes:
            if outcome.epoch == config.max_epochs:
                configuration = known[outcome.configuration_id]
                trials.append(
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
    if record is None:
        return CellRows(trials=trials)
    return CellRows(1, [_record_row(record, config)], trials, [_search_row(record, config)])


def _tuning_record(file: Path) -> CycleRecord | None:
    if not file.exists():
        return None
    try:
        entry = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}. Restore it from a copy.") from error
    return read_record(entry, str(file))


def _record_row(record: CycleRecord, config: RunConfig | TuneConfig) -> Row:
    hpo, fit = (int(record.epochs.get(part, 0)) for part in ("hpo", "fit"))
    n, test = record.n_labeled, record.test or {}
    return {
        "kind": record.kind,
        "cycle": record.cycle,
        "n_labeled": n,
        "configuration": dict(record.configuration),
        **{name: _number(test.get(name)) for name in SCORES},
        "validation": _number((record.validation or {}).get("accuracy")),
        "diverged": record.diverged,
        "epochs_hpo": hpo,
        "epochs_fit": fit,
        "images": fit * images_of_epoch(n, record.configuration) + _searched(hpo, record, config),
        "seconds": float(sum(record.seconds.values())),
    }


def _search_row(record: CycleRecord, config: RunConfig | TuneConfig) -> Row:
    gained = record.search or {}
    return {
        "search": {"cycle": ACTIVE, "final": WITHIN}.get(record.kind),
        "n_labeled": record.n_labeled,
        "metric_name": config.metric,
        "epochs": int(record.epochs.get("hpo", 0)),
        **{name: _number(gained.get(name)) for name in GAINED},
    }


def _searched(epochs: int, record: CycleRecord, config: RunConfig | TuneConfig) -> float:
    """Images trained on in the epochs of a search."""
    if not epochs:
        return 0
    n, configuration = record.n_labeled, record.configuration
    try:
        return epochs * images_of_search_epoch(config.validation, n, configuration)
    except ConfigurationError:  # the scheme of a plug-in that is not installed
        return math.nan


def _same(configuration: Mapping[str, Any], record: CycleRecord) -> bool:
    """Whether a configuration is the recorded one; switches of a space are text."""
    chosen = record.configuration
    return all(str(chosen.get(name)) == str(value) for name, value in configuration.items())


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
