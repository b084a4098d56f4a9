"""The format of the folders that alhpo writes: runs, searches, studies, tunings, labelled pools,
sessions.

Every such folder gets a ``format.json`` before any other file. Only reports read a folder of
another format; only the version that wrote it continues it.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from alhpo.base.errors import DataError, FormatError
from alhpo.base.files import write_json

#: The format of this version. A new number means: earlier folders cannot be continued exactly.
FORMAT = 6
FILE = "format.json"
#: A folder that was begun has at least one of these files.
_BEGUN = (
    *("labels.jsonl", "cycles.jsonl", "dataset.json", "journal.jsonl", "study.yaml"),
    "events.jsonl",
)


def claim_format(folder: Path) -> None:
    """Give a new folder this format; check that a folder that was begun has it.

    Raises:
        FormatError: the folder has another format; the message names the version that wrote it.
        DataError: its ``format.json`` is damaged.
    """
    if not check_format(folder):
        write_json(folder / FILE, {"format": FORMAT, "alhpo": version("alhpo")})


def check_format(folder: Path) -> bool:
    """Whether the folder was begun, in this format; False for a new folder.

    Raises:
        FormatError, DataError: as ``claim_format``.
    """
    file = folder / FILE
    # look before reading format.json, which is written first: another process may begin it now
    begun = [name for name in _BEGUN if (folder / name).exists()]
    if file.exists():
        number, writer = _read(file)
        if number != FORMAT:
            raise _other_format(folder, f"is of format {number}", writer)
        return True
    if begun:
        raise _other_format(folder, f"has {begun[0]} but no {FILE}, so it is of format 1", "0.1.0")
    return False


def _read(file: Path) -> tuple[int, str]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return int(content["format"]), str(content["alhpo"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} does not say what format its folder has ({error!r}). Restore it from a copy, "
            "or choose another folder to begin anew."
        ) from error


def _other_format(folder: Path, what: str, writer: str) -> FormatError:
    return FormatError(
        f"{folder} {what}, which alhpo {writer} continues; this is alhpo {version('alhpo')}, with "
        f"format {FORMAT}. Install alhpo {writer} to go on, or choose another folder to begin "
        "anew. Reports read it as it is."
    )
