"""A new run begins with what an earlier one did that differs from it in sizes and budgets only.

That is a run to fewer labels, or one that was interrupted. The new run gets the records of the
cycles in which it would do the same, and of the next cycle the fit and the searches. So it has the
records of a run that began anew. With ``extend``, it also gets searches with smaller budgets, which
go on with its own.

The earlier run stays as it is. What is taken over is first copied into ``.taking``, which is then
renamed to ``.taken``, and from there put in its place:

    earlier_run.json    the name of the earlier run, and the number of its records that were taken
    earlier_hpo/        searches that a cycle may find again; removed at the end
"""

from __future__ import annotations

import glob
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alhpo.base.errors import AlhpoError
from alhpo.base.files import Journal, exclusive, write_json, write_text
from alhpo.base.formats import check_format
from alhpo.base.types import CycleRecord
from alhpo.data.dataset import ImageDataset
from alhpo.runs.config_files import read_run_config
from alhpo.runs.data import check_dataset
from alhpo.runs.provenance import Sessions
from alhpo.runs.records import read_records
from alhpo.runs.search import epochs_in, is_measurement
from alhpo.runs.settings import RunConfig
from alhpo.training.compute import Compute

logger = logging.getLogger("alhpo.runs")

#: Settings in which the earlier run may differ.
DIFFERENT = ("budget", "max_budget", "total_budget", "evaluate_at", "extend")
SEARCHES = "earlier_hpo"
_TAKING, _TAKEN = ".taking", ".taken"
#: A run that was begun has one of these; after its first start it has all of those.
_BEGUN = ("dataset.json", "labels.jsonl", "cycles.jsonl")
_OF_BEGUN = ("dataset.json", "sessions.jsonl", "config.yaml")


def finish_taking_over(path: Path) -> None:
    """Put in its place what was taken over for the run in ``path``, if a kill prevented it."""
    taken = path / _TAKEN
    for entry in sorted(taken.iterdir()) if taken.exists() else []:
        entry.replace(path / entry.name)
    shutil.rmtree(taken, ignore_errors=True)
    shutil.rmtree(path / _TAKING, ignore_errors=True)


def take_over(config: RunConfig, path: Path, dataset: ImageDataset, compute: Compute) -> bool:
    """Take over from the earlier run that has most for a new one, if there is any.

    Args:
        config: settings of the new run.
        path: its folder; earlier runs lie beside it.
        dataset: its data.
        compute: its device and precision.

    Returns:
        Whether something was taken over; never for a run that was begun.
    """
    if any((path / name).exists() for name in _BEGUN):
        return False
    stem = path.name.rpartition("-")[0]
    found = []
    for other in sorted(path.parent.glob(f"{glob.escape(stem)}-*")):
        if other == path or not all((other / name).exists() for name in _OF_BEGUN):
            continue
        try:
            found.append((len(_usable(config, other, dataset, compute)), other))
        except AlhpoError as error:
            logger.info("Nothing is taken over from %s: %s", other, error)
    for _, other in sorted(found, key=lambda one: -one[0]):
        try:
            with exclusive(other):
                _copy(config, other, _usable(config, other, dataset, compute), path)
        except AlhpoError as error:
            logger.info("Nothing is taken over from %s: %s", other, error)
            continue
        finish_taking_over(path)
        return True
    return False


def _usable(
    config: RunConfig, other: Path, dataset: ImageDataset, compute: Compute
) -> list[CycleRecord]:
    """The records of another run that are those of the new one as well.

    Raises:
        AlhpoError: it is another run, or of other data, or was computed otherwise.
    """
    check_format(other)
    theirs = read_run_config(other / "config.yaml")
    ours = {name: getattr(config, name) for name in (*DIFFERENT, "output_dir")}
    if RunConfig.create(theirs.model_dump(), ours).name != config.name:
        raise AlhpoError("it has other settings")
    Sessions(other / "sessions.jsonl", config.search_packages).check(
        compute, image_size_known=False
    )
    check_dataset(other / "dataset.json", dataset)
    usable: list[CycleRecord] = []
    for record in read_records(other / "cycles.jsonl"):
        if record.kind != "cycle" or not _is_same(record, config, theirs, usable):
            break
        usable.append(record)
    _check_whole(other, usable)
    return usable


def _check_whole(other: Path, records: Sequence[CycleRecord]) -> None:
    """Refuse a run that lacks labels or searches of these records, its first ones."""
    n = len(records)
    asked = [one for one in Journal(other / "labels.jsonl").read() if one["event"] == "ask"]
    found = sum(len(entry["images"]) for entry in asked if entry["cycle"] <= n)
    if records and found != records[-1].n_labeled + len(records[-1].queried):
        raise AlhpoError(f"its labels.jsonl holds {found} images, which do not fit its records")
    for cycle, record in enumerate(records):
        if epochs_in(other / "hpo" / f"cycle_{cycle:03d}") < record.epochs["hpo"]:
            raise AlhpoError(f"searches of its cycle {cycle} were cut short or removed")


def _is_same(
    record: CycleRecord, config: RunConfig, theirs: RunConfig, before: Sequence[CycleRecord]
) -> bool:
    """Whether a cycle of another run is that of the new one, if those before it are."""
    cycle, sizes = len(before), config.sizes
    if cycle >= len(sizes) or record.n_labeled != sizes[cycle]:
        return False
    queried = sizes[cycle + 1] - sizes[cycle] if cycle + 1 < len(sizes) else 0
    fitted = sizes[cycle] in config.evaluated_sizes
    tuned = fitted and config.mode.searches(cycle, sizes, tuple(before))
    if (len(record.queried), record.fitted, record.tuned) != (queried, fitted, tuned):
        return False
    return not tuned or config.search_budget(cycle) == theirs.search_budget(cycle)


def _copy(config: RunConfig, other: Path, records: Sequence[CycleRecord], path: Path) -> None:
    """Copy what the new run takes over into ``.taken``."""
    staged, n = path / _TAKING, len(records)
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    _copy_lines(other, staged, "cycles.jsonl", lambda number, _: number < n)
    _copy_lines(other, staged, "labels.jsonl", lambda _, entry: entry["cycle"] <= n)
    shutil.copyfile(other / "sessions.jsonl", staged / "sessions.jsonl")
    for cycle in (n - 1, n):  # a warm start goes on from the fit before
        fit = f"fit/cycle_{cycle:03d}"
        if (other / fit).exists():
            shutil.copytree(other / fit, staged / fit)
    for experiment in sorted(other.glob("hpo/cycle_*/experiment_*")):
        cycle = int(experiment.parent.name.removeprefix("cycle_"))
        recorded = cycle < n and _is_of(records[cycle], experiment)
        place = staged / ("hpo" if recorded else SEARCHES) / experiment.parent.name
        checkpoints = shutil.ignore_patterns("trials", ".*")
        shutil.copytree(experiment, place / experiment.name, ignore=checkpoints)
    write_json(staged / "earlier_run.json", {"run": other.name, "records": n})
    staged.rename(path / _TAKEN)
    logger.info("The first %d records are those of %s.", n, other)


def _is_of(record: CycleRecord, experiment: Path) -> bool:
    """Whether a search is of a recorded cycle, and not of the final search after it."""
    return record.tuned or (record.epochs["hpo"] > 0 and is_measurement(experiment))


def _copy_lines(other: Path, staged: Path, name: str, keep: Any) -> None:
    """Copy the entries of a journal for which ``keep(number, entry)`` is true, as they are."""
    entries = Journal(other / name).read()
    lines = (other / name).read_text(encoding="utf-8").split("\n") if entries else []
    kept = [lines[number] for number, entry in enumerate(entries) if keep(number, entry)]
    if kept:
        write_text(staged / name, "\n".join(kept) + "\n")
