"""What the runs of a folder found: read from their files and averaged over seeds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from alhpo.base.errors import DataError, error_line
from alhpo.base.files import Journal
from alhpo.base.types import CycleRecord
from alhpo.runs.identity import REPETITION_KEYS, SEARCH_KEYS
from alhpo.runs.modes import searches_ever

REQUIRED_KEYS = ("dataset", "model", "strategy", "hpo", "seed")


@dataclass(frozen=True)
class Run:
    """One run as its folder holds it.

    Attributes:
        name: path of its folder below the folder that was searched.
        finished: whether it wrote its ``run.json``.
        seed: what tells it from its repetitions.
        settings: everything in its configuration that matters beside the seed; nested settings
            have dotted names.
        records: its complete records, oldest first.
        fault: why its files cannot be read, in one line; then there are no settings and no
            records. "" for all others.
    """

    name: str
    finished: bool
    seed: Any
    settings: Mapping[str, Any]
    records: tuple[CycleRecord, ...]
    fault: str = ""

    @property
    def mode(self) -> str:
        """HPO mode and, where there is a search, its optimizer."""
        hpo = str(self.settings["hpo"])
        optimizer = self.settings.get("optimizer", "") if self.searches else ""
        return f"{hpo} {optimizer}".strip()

    @property
    def searches(self) -> bool:
        """Whether its HPO mode ever searches."""
        return searches_ever(str(self.settings["hpo"]))

    @property
    def effective_settings(self) -> dict[str, Any]:
        """The settings without those of a search, where there is none."""
        ignored = () if self.searches else SEARCH_KEYS
        return {k: v for k, v in self.settings.items() if k.split(".")[0] not in ignored}

    @property
    def identity(self) -> str:
        """The same for repetitions, and only for them."""
        return json.dumps(self.effective_settings, sort_keys=True, default=str)


@dataclass(frozen=True)
class Point:
    """Means over the seeds that have a record at this number of labels.

    Standard deviations have n − 1 in the denominator and are NaN for one seed. What was spent
    (``epochs_hpo``, ``epochs_fit``, ``seconds``) counts from the start of the run.
    """

    kind: str
    n_labeled: int
    seeds: int
    accuracy_mean: float
    accuracy_std: float
    nll_mean: float
    nll_std: float
    epochs_hpo: float
    epochs_fit: float
    seconds: float


@dataclass(frozen=True)
class Group:
    """Runs with the same settings but the seed.

    Attributes:
        dataset, model, strategy: as configured.
        mode: HPO mode and optimizer, and the settings that tell it from groups of the same name.
        settings: see ``Run``.
        seeds: number of runs.
        unfinished: how many of them are.
        curve: the cycles, by number of labels.
        final: the retraining after a final search, or None.
        auc: area under the mean curve over its range of labels; NaN for a single cycle.
        auc_std: over the seeds that have the whole curve.
    """

    dataset: str
    model: str
    strategy: str
    mode: str
    settings: Mapping[str, Any]
    seeds: int
    unfinished: int
    curve: tuple[Point, ...]
    final: Point | None
    auc: float
    auc_std: float

    @property
    def label(self) -> str:
        return f"{self.strategy}, {self.mode}"

    @property
    def last(self) -> Point:
        return self.final or self.curve[-1]


def load_runs(folder: str | Path) -> list[Run]:
    """Read every run that has begun under ``folder``, itself included.

    A run is a folder with ``cycles.jsonl`` or ``run.json``; it may have no complete record. One
    that is damaged does not stand in the way of the others: it comes with its ``fault``.

    Raises:
        DataError: no run with a complete record that can be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"There is no folder {folder}. Give a run's folder, or one that holds runs."
        )
    paths = {file.parent for name in ("cycles.jsonl", "run.json") for file in folder.rglob(name)}
    runs = [_read_run(path, folder) for path in sorted(paths)]
    if not any(run.records for run in runs):
        faults = "".join(f" {run.name} cannot be read: {run.fault}" for run in runs if run.fault)
        raise DataError(
            f"No results under {folder}: {len(runs)} run folders (config.yaml and cycles.jsonl), "
            f"none with a complete cycle. Give a run's folder, or one that holds runs.{faults}"
        )
    return runs


def repeated_runs(runs: Iterable[Run]) -> list[Run]:
    """Runs with the settings and the seed of another, such as copies; ``summarise`` skips them.

    Of each such set the run that is finished, else has most records, else comes first, stays.
    """
    seen = set()
    repeated = []
    readable = (run for run in runs if not run.fault)
    for run in sorted(readable, key=lambda run: (not run.finished, -len(run.records), run.name)):
        key = (run.identity, str(run.seed))
        repeated += [run] * (key in seen)
        seen.add(key)
    return sorted(repeated, key=lambda run: run.name)


def summarise(runs: Sequence[Run]) -> list[Group]:
    """Average over seeds; runs that differ in any other setting are never averaged.

    Seeds that stopped early count where they have a record. A value that is missing or NaN for a
    seed makes the mean NaN. Random sampling and fixed hyperparameters come first.
    """
    repeated = {run.name for run in repeated_runs(runs)}
    by_identity: dict[str, list[Run]] = {}
    for run in runs:
        if run.records and run.name not in repeated:
            by_identity.setdefault(run.identity, []).append(run)
    firsts = [same[0] for same in by_identity.values()]
    groups = [_group(same, _distinguishing_mode(same[0], firsts)) for same in by_identity.values()]
    return sorted(groups, key=_reading_order)


def to_frame(summary: Iterable[Group]) -> pd.DataFrame:
    """One row per group, kind and number of labels."""
    rows = []
    for group in summary:
        names = ("dataset", "model", "strategy", "mode", "label")
        head = {name: getattr(group, name) for name in names}
        for point in (*group.curve, *([group.final] if group.final else [])):
            rows.append(head | asdict(point) | {"auc": group.auc, "auc_std": group.auc_std})
    return pd.DataFrame(rows)


def varying_settings(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the settings that are not the same in all, sorted."""
    names = sorted({name for one in settings for name in one})
    return [name for name in names if len({_text(one, name) for one in settings}) > 1]


def _read_run(path: Path, root: Path) -> Run:
    name = root.resolve().name if path == root else path.relative_to(root).as_posix()
    finished = (path / "run.json").exists()
    try:
        config, records = _read_config(path / "config.yaml"), read_run(path)
    except (DataError, OSError) as error:
        return Run(name, finished, None, {}, (), fault=error_line(error))
    settings = _flat({k: v for k, v in config.items() if k not in REPETITION_KEYS})
    return Run(name, finished, config["seed"], settings, tuple(records))


def _read_config(config_path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(config_path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise DataError(f"{config_path} is not YAML: {error}") from error
    config = config if isinstance(config, dict) else {}
    if missing := [key for key in REQUIRED_KEYS if key not in config]:
        raise DataError(
            f"{config_path} lacks {', '.join(missing)}; a run's configuration is a mapping that "
            f"has {', '.join(REQUIRED_KEYS)}."
        )
    return config


def read_run(path: Path) -> list[CycleRecord]:
    """The complete records of a run's folder, oldest first.

    Raises:
        DataError: a line that is no record, or other records than the run was finished with.
    """
    file = path / "cycles.jsonl"
    records = read_records(file)
    try:
        expected = json.loads((path / "run.json").read_text(encoding="utf-8"))["records"]
    except (OSError, ValueError, KeyError, TypeError):  # unfinished, or the count is not known
        expected = len(records)
    if expected != len(records):
        raise DataError(
            f"{file} holds {len(records)} records, but the run was finished with {expected}: it "
            "was cut short or changed. Restore it from a copy."
        )
    if records and records[0].kind != "cycle":
        raise DataError(f"{file} does not begin with a cycle: it was changed. Restore it.")
    return records


def read_records(path: Path) -> list[CycleRecord]:
    """The complete records in a run's ``cycles.jsonl``, oldest first; none where there is no file.

    Raises:
        DataError: a line that is no record.
    """
    entries = enumerate(Journal(path).read(), start=1)
    return [read_record(entry, f"{path}, line {line}") for line, entry in entries]


def read_record(entry: Any, where: str) -> CycleRecord:
    """A record from its JSON.

    Args:
        entry: what ``CycleRecord.to_dict`` gave.
        where: for the message.

    Raises:
        DataError: it is none.
    """
    try:
        record = CycleRecord.from_dict(entry)
        _measurements(record)
        scores = (*record.test.values(), (record.validation or {}).get("accuracy"))
        _ = [float(score) for score in scores if score is not None]
        if not isinstance(record.n_labeled, int):
            raise TypeError(f"n_labeled is {record.n_labeled!r}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{where} is no record of a cycle: {error!r}. Restore the file from a copy, or remove "
            "its folder to run anew."
        ) from error
    return record


def _measurements(record: CycleRecord) -> list[float]:
    """Accuracy, NLL, then what the record spent: HPO epochs, fit epochs, seconds."""
    test = [record.test.get(name) for name in ("accuracy", "nll")]
    spent = [record.epochs.get(name, 0) for name in ("hpo", "fit")]
    values = (*test, *spent, sum(record.seconds.values()))
    return [float("nan") if value is None else float(value) for value in values]


def _group(runs: Sequence[Run], mode: str) -> Group:
    measured: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for run in runs:
        values = np.array([_measurements(record) for record in run.records])
        values[:, 2:] = values[:, 2:].cumsum(axis=0)
        for record, row in zip(run.records, values, strict=True):
            measured.setdefault((record.kind, record.n_labeled), {})[run.name] = row
    points = [_point(*key, list(measured[key].values())) for key in sorted(measured)]
    curve = tuple(point for point in points if point.kind == "cycle")
    labels = [point.n_labeled for point in curve]
    seeds = [
        [measured["cycle", n][run.name][0] for n in labels]
        for run in runs
        if all(run.name in measured["cycle", n] for n in labels)
    ]
    settings = runs[0].settings
    return Group(
        **{name: str(settings[name]) for name in ("dataset", "model", "strategy")},
        mode=mode,
        settings=settings,
        seeds=len(runs),
        unfinished=sum(not run.finished for run in runs),
        curve=curve,
        final=next((point for point in points if point.kind == "final"), None),
        auc=_area(labels, [point.accuracy_mean for point in curve]),
        auc_std=_std([_area(labels, values) for values in seeds]),
    )


def _point(kind: str, n_labeled: int, rows: Sequence[np.ndarray]) -> Point:
    accuracy, nll, *spent = (float(mean) for mean in np.mean(rows, axis=0))
    stds = [_std([row[column] for row in rows]) for column in (0, 1)]
    return Point(kind, n_labeled, len(rows), accuracy, stds[0], nll, stds[1], *spent)


def _std(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def _area(labels: Sequence[int], values: Sequence[float]) -> float:
    if len(labels) < 2:
        return float("nan")
    x, y = np.asarray(labels, float), np.asarray(values, float)
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) / (x[-1] - x[0]))


def _distinguishing_mode(run: Run, others: Iterable[Run]) -> str:
    """The run's mode, with the settings that tell it from others of the same name."""
    names = [(one.mode, *(one.settings[key] for key in REQUIRED_KEYS[:3])) for one in others]
    own = (run.mode, *(run.settings[key] for key in REQUIRED_KEYS[:3]))
    alike = [one.effective_settings for one, name in zip(others, names, strict=True) if name == own]
    extra = (f"{name}={_text(run.settings, name)}" for name in varying_settings(alike))
    return ", ".join([run.mode, *extra])


def _reading_order(group: Group) -> tuple[Any, ...]:
    strategy, mode = group.strategy, group.mode
    numbers_by_size = [int(t) if t.isdecimal() else t for t in re.split(r"(\d+)", mode)]
    searching = searches_ever(str(group.settings["hpo"]))
    baselines_first = (strategy != "random", strategy, searching)
    return (group.dataset, group.model, *baselines_first, numbers_by_size)


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested settings by dotted names; 1.0 and 1 are the same setting."""
    if isinstance(value, Mapping) and value:
        inner = ((f"{name}.{key}" if name else str(key), item) for key, item in value.items())
        return {key: leaf for path, item in inner for key, leaf in _flat(item, path).items()}
    return {name: int(value) if isinstance(value, float) and value.is_integer() else value}


def _text(settings: Mapping[str, Any], name: str) -> str:
    if name not in settings:
        return "unset"
    value = settings[name]
    return value if isinstance(value, str) else json.dumps(value, default=str)
