"""What people hand in: a table, an export of Label Studio, or folders of classes.

Reading knows nothing of a session: which image, class and person is meant is decided later.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alhpo.base.errors import LabelError
from alhpo.data.facts import facts_of_files
from alhpo.data.sources.folder import images_below
from alhpo.data.tables import LABEL_COLUMNS, PATH_COLUMNS, TABLES, as_text, read_table
from alhpo.sessions.events import SKIP
from alhpo.sessions.spreadsheets import as_typed

#: The column, or the field of a task, with the identity of an image.
IDENTITY = "sha256"
#: Names of the column with the person, in any case.
PERSON_COLUMNS = ("by", "annotator", "completed_by")
#: The field of an annotation, and the column, with the time of its last change.
TIME = "updated_at"
#: Folders of ``ask --format folder``: photos to sort, and those of which nobody can tell the class.
TO_SORT, CANNOT_TELL = "_to_sort", "_cannot_tell"


@dataclass(frozen=True)
class Said:
    """One thing that a file says.

    Attributes:
        where: where it stands, for messages: "line 4".
        image: the identity of the image; "" if the file does not say it.
        path: the file of the image; "" if the file does not say it.
        answer: a class, ``SKIP`` or ``TAKE_BACK``.
        by: who says so; "" if the file does not say it.
        at: when, in ISO 8601 and UTC; "" if the file does not say it.
        problem: why it cannot be used; "" if it seems fine.
    """

    where: str
    image: str
    path: str
    answer: str
    by: str = ""
    at: str = ""
    problem: str = ""


def read_answers(path: Path) -> list[Said]:
    """What a file or folder says, without lines that are not filled in.

    If it says when, the order is that of time, and of each person the last word on an image.

    Args:
        path: a CSV or Parquet table with the columns label, and sha256 or path; a JSON export of
            Label Studio (JSON or JSON-MIN); or a folder with one sub-folder of images per class.

    Raises:
        LabelError: it is none of these.
        DataError: it cannot be read.
    """
    if path.is_dir():
        return _folders(path)
    if not path.is_file():
        raise LabelError(f"There is no file or folder {path}.")
    if path.suffix.lower() in TABLES:
        return _last_words(_table(path))
    if path.suffix.lower() == ".json":
        return _last_words(_label_studio(path))
    raise LabelError(
        f"{path.name} has another form than expected: a table (.csv, .parquet), a JSON export of "
        "Label Studio (.json), or a folder with one sub-folder for each class."
    )


def _last_words(said: list[Said]) -> list[Said]:
    """Exports differ in their order, and keep what somebody submitted or skipped before."""
    last: dict[tuple[str, ...], Said] = {}
    for number, one in enumerate(sorted(said, key=lambda one: one.at)):
        key = (one.image or one.path, one.by) if one.at else (str(number),)
        last.pop(key, None)
        last[key] = one
    return list(last.values())


def _table(path: Path) -> list[Said]:
    table = read_table(path)
    labels = table.column(LABEL_COLUMNS)
    images, names = table.column((IDENTITY,)), table.column(PATH_COLUMNS)
    if labels is None or (images is None and names is None):
        raise LabelError(
            f"{path} has the columns {', '.join(table.columns)}; expected label, and sha256 or "
            "path."
        )
    empty = [""] * len(labels)
    people, times = table.column(PERSON_COLUMNS) or empty, table.column((TIME,)) or empty
    answers = map(as_text, labels)
    rows = zip(table.lines, answers, images or empty, names or empty, people, times, strict=True)
    return [
        Said(
            f"line {line}",
            as_text(image),
            as_typed(as_text(name)),
            as_typed(label),
            _person(int(person) if str(person).isdecimal() else as_typed(as_text(person))),
            as_text(time),
        )
        for line, label, image, name, person, time in rows
        if label
    ]


def _folders(folder: Path) -> list[Said]:
    # hidden files and folders of tools are no answers, as for every folder of images
    files = images_below(folder).paths
    said = []
    for path, fact in zip(files, facts_of_files(files), strict=True):
        parts = Path(path).relative_to(folder).parts
        if len(parts) < 2 or parts[0] == TO_SORT:
            continue
        answer = SKIP if parts[0] == CANNOT_TELL else parts[0]
        said.append(Said("/".join(parts), fact.identity, path, answer, problem=fact.problem))
    return said


def _label_studio(path: Path) -> list[Said]:
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise ValueError("it is no list of tasks")
    except (OSError, ValueError) as error:
        raise LabelError(
            f"{path} is not a JSON export of Label Studio: {error}. Export the project as JSON, or "
            "as CSV."
        ) from error
    said: list[Said] = []
    for number, task in enumerate(tasks, 1):
        where = f"task {task.get('id', number)}"
        try:
            full = isinstance(task.get("data"), dict)
            said += _annotations(where, task) if full else _shortened(where, task)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            said.append(
                Said(where, "", "", "", problem=f"is not a task of Label Studio: {error!r}")
            )
    return said


def _annotations(where: str, task: Mapping[str, Any]) -> Iterator[Said]:
    """The annotations of a task in the format JSON."""
    image, path = _image_of(task["data"])
    for annotation in task.get("annotations") or []:
        by, at = _person(annotation.get("completed_by")), str(annotation.get(TIME) or "")
        if annotation.get("was_cancelled"):  # skipped; it may hold a choice nevertheless
            yield Said(where, image, path, SKIP, by, at)
            continue
        chosen = [
            choice
            for result in annotation.get("result") or []
            if result.get("type") == "choices"
            for choice in result["value"]["choices"]
        ]
        if len(chosen) == 1:
            yield Said(where, image, path, str(chosen[0]).strip(), by, at)
        elif chosen:
            many = f"has {len(chosen)} choices ({', '.join(map(str, chosen))}); expected one"
            yield Said(where, image, path, "", by, at, many)


def _shortened(where: str, task: Mapping[str, Any]) -> Iterator[Said]:
    """The annotation of an entry in the format JSON-MIN."""
    image, path = _image_of(task)
    chosen = task.get("label", task.get("choice"))
    if chosen is None:
        return
    by, at = _person(task.get("annotator")), str(task.get(TIME) or "")
    if isinstance(chosen, str):
        yield Said(where, image, path, chosen.strip(), by, at)
    else:
        yield Said(where, image, path, "", by, at, f"has the choices {chosen!r}; expected one")


def _image_of(data: Mapping[str, Any]) -> tuple[str, str]:
    return str(data.get(IDENTITY, "")), str(data.get("path", ""))


def _person(given: Any) -> str:
    """An email, or the number of a user, which is all that most exports have."""
    if isinstance(given, Mapping):
        given = given.get("email") or given.get("id")
    if given is None or given == "":
        return ""
    return f"user {given}" if isinstance(given, int) else str(given)
