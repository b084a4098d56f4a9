"""The facts of image files, kept in the cache while the files are as they were."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from alhpo.base.files import content_hash, write_text
from alhpo.data.cache import DAMAGED, attempt, cache_folder
from alhpo.data.pixels import RULES, ImageFacts
from alhpo.data.workers import inspect_files

#: A file that changed within this time of its reading may change again without another time stamp.
UNSAFE_NS = 2_000_000_000


def facts_of_files(paths: Sequence[str], *, verify: bool = False) -> list[ImageFacts]:
    """The facts of image files, in order. Files that are as they were are not read again.

    Args:
        paths: the files.
        verify: read all files.
    """
    if not paths:
        return []
    # no Path objects here: they take seconds of 60,000 files
    names = [os.path.abspath(path) for path in paths]  # noqa: PTH100
    folder = os.path.commonpath({os.path.dirname(name) for name in names})  # noqa: PTH120
    file = cache_folder() / "files" / f"{content_hash([folder])}.json"
    started = time.time_ns()
    marks = [_mark(path) for path in paths]
    known = _known_facts(file)
    facts: list[ImageFacts | None] = []
    for name, mark in zip(names, marks, strict=True):
        then, fact = known.get(name, (None, None))
        facts.append(fact if mark is not None and then == mark and not verify else None)
    missing = [row for row, fact in enumerate(facts) if fact is None]
    for row, fact in zip(missing, inspect_files([paths[row] for row in missing]), strict=True):
        facts[row] = fact
    found = [fact for fact in facts if fact is not None]
    if missing:
        others = {name: known[name] for name in known.keys() - set(names) if Path(name).exists()}
        # what is wrong with a file may be wrong with this process or this version of Pillow
        kept = others | {
            name: (mark, fact)
            for name, mark, fact in zip(names, marks, found, strict=True)
            if mark is not None and not fact.problem and mark[1] < started - UNSAFE_NS
        }
        content = {name: (mark, asdict(fact)) for name, (mark, fact) in kept.items()}
        attempt(lambda: write_text(file, json.dumps({"rules": RULES, "files": content})))
    return found


def _mark(path: str) -> list[int] | None:
    """What tells that a file changed: size, time of the change, inode."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _known_facts(file: Path) -> dict[str, tuple[list[int], ImageFacts]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["rules"] != RULES:
            return {}
        return {name: (mark, ImageFacts(**fact)) for name, (mark, fact) in content["files"].items()}
    except (OSError, *DAMAGED):  # not there, or damaged
        return {}
