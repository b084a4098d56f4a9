"""Reads the records in a run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alhpo.base.errors import DataError
from alhpo.base.files import Journal
from alhpo.base.types import CycleRecord


def read_run(path: Path) -> list[CycleRecord]:
    """The complete records in a run's folder, oldest first.

    Raises:
        DataError: a line that is not a record, or another number of records than when the run was
            finished.
    """
    file = path / "cycles.jsonl"
    records = read_records(file)
    try:
        expected = json.loads((path / "run.json").read_text(encoding="utf-8"))["records"]
    except (OSError, ValueError, KeyError, TypeError):  # unfinished, or the count is unreadable
        expected = len(records)
    if expected != len(records):
        raise DataError(
            f"{file} holds {len(records)} records, but the run was finished with {expected}: the "
            "file was cut short or changed. Restore it from a copy."
        )
    if records and records[0].kind != "cycle":
        raise DataError(
            f"{file} does not begin with a cycle: it was changed. Restore it from a copy."
        )
    return records


def read_records(path: Path) -> list[CycleRecord]:
    """The complete records in a run's ``cycles.jsonl``, oldest first; none without the file.

    Raises:
        DataError: a line that is not a record.
    """
    entries = enumerate(Journal(path).read(), start=1)
    return [read_record(entry, f"{path}, line {line}") for line, entry in entries]


def read_record(entry: Any, where: str) -> CycleRecord:
    """A record from its JSON.

    Args:
        entry: result of ``CycleRecord.to_dict``.
        where: file and line, for the message.

    Raises:
        DataError: the entry is not a record.
    """
    try:
        record = CycleRecord.from_dict(entry)
        _check_numbers(record)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{where} is not a record of a cycle: {error!r}. Restore the file from a copy, or "
            "remove its folder to run anew."
        ) from error
    return record


def _check_numbers(record: CycleRecord) -> None:
    """Raise if a score or a count is not a number, or a fit has no scores."""
    validation = (record.validation or {}).get("accuracy")
    test = {} if record.test is None else record.test
    if record.fitted is not (record.test is not None):
        raise TypeError(f"fitted is {record.fitted!r} and test is {record.test!r}")
    for score in (*test.values(), validation):
        float(0 if score is None else score)
    float(sum([*record.seconds.values(), *record.epochs.values()]))
    if not isinstance(record.n_labeled, int):
        raise TypeError(f"n_labeled is {record.n_labeled!r}")
