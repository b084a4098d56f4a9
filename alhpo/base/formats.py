"""The format of the folders that alhpo writes: runs, searches, studies, tunings, labelled pools.

Every such folder has a ``format.json`` from its first moment. What another format means is not
guessed: a folder of another one is read by reports, and continued by the version that wrote it.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from alhpo.base.errors import DataError, FormatError
from alhpo.base.files import write_json

#: The format of this version. It changes when a folder begun before could not be continued exactly.
FORMAT = 2
FILE = "format.json"
#: Files of which a folder that was begun has at least one.
_BEGUN = ("labels.jsonl", "cycles.jsonl", "dataset.json", "journal.jsonl", "study.yaml")


def claim_format(folder: Path) -> None:
    """Mark a new folder as one of this format, or see to it that a begun one is.

    Raises:
        FormatError: the folder is of another format; the message names the version for it.
        DataError: its ``format.json`` is damaged.
    """
    if not check_format(folder):
        write_json(folder / FILE, {"format": FORMAT, "alhpo": version("alhpo")})


def check_format(folder: Path) -> bool:
    """Whether the folder is marked as one of this format; False for one that was not begun.

    Raises:
        FormatError, DataError: as ``claim_format``.
    """
    file = folder / FILE
    # looked for before format.json, which is written first: two processes may begin it at once
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
