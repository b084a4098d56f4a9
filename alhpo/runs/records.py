"""What a run recorded, cycle by cycle, as its folder holds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alhpo.base.errors import DataError
from alhpo.base.files import Journal
from alhpo.base.types import CycleRecord


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
        _check_numbers(record)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{where} is no record of a cycle: {error!r}. Restore the file from a copy, or remove "
            "its folder to run anew."
        ) from error
    return record


def _check_numbers(record: CycleRecord) -> None:
    """Fail where a score or a count is none."""
    validation = (record.validation or {}).get("accuracy")
    for score in (*record.test.values(), validation):
        float(0 if score is None else score)
    float(sum([*record.seconds.values(), *record.epochs.values()]))
    if not isinstance(record.n_labeled, int):
        raise TypeError(f"n_labeled is {record.n_labeled!r}")
