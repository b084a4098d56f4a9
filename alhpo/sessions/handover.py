"""What people get: questions to answer, and labels to use elsewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from alhpo.base.errors import ConfigurationError
from alhpo.base.files import write_text
from alhpo.base.schema import unknown_name
from alhpo.sessions.answers import CANNOT_TELL, IDENTITY, TO_SORT
from alhpo.sessions.spreadsheets import csv_text

#: Where Label Studio serves files of the machine that it runs on.
LOCAL_FILES = "/data/local-files/?d="
#: Who predicts, always the same: a project of Label Studio shows what one model says, and sorts by
#: that, and that is the one whose predictions it was given first.
MODEL = "alhpo"
#: What the page of Label Studio replaces in the name of a class by a field of the task.
_FIELD_OF_TASK = re.compile(r"\$[\w\[\].{}]+", re.ASCII)


@dataclass(frozen=True)
class Question:
    """A photo that somebody is to label, or that somebody did label.

    Attributes:
        path: the file relative to the folder of photos, with slashes.
        image: SHA-256 of the file.
        file: the file.
        rank: 1 for the photo that is wanted most.
        predicted: the class that the model takes it for; "" without a model.
        probability: the model's probability of that class; None without a model.
        label: the class that it has; "" without one.
        by: who gave the label.
    """

    path: str
    image: str
    file: str
    rank: int
    predicted: str = ""
    probability: float | None = None
    label: str = ""
    by: str = ""


@dataclass(frozen=True)
class Predicted:
    """The prediction for a photo.

    Attributes:
        path: the file relative to the folder of the photos, with slashes.
        image: SHA-256 of the file; "" if it cannot be read at all.
        label: the most probable class; "" if the file is no image.
        probability: its probability; None if the file is no image.
        problem: why the file is no image.
    """

    path: str
    image: str
    label: str
    probability: float | None
    problem: str = ""


def free_place(out: Path) -> None:
    """Refuse to write over what is there.

    Raises:
        ConfigurationError: there is something.
    """
    if os.path.lexists(out):
        raise ConfigurationError(
            f"{out} is there already. Choose another --out, or move it away first."
        )


def interface_of(tasks: Path) -> Path:
    """Where the labelling interface stands, for Label Studio, beside its tasks."""
    return tasks.with_suffix(".xml")


def write_questions(
    questions: Sequence[Question],
    out: Path,
    form: str,
    classes: Sequence[str],
    image_url: str,
) -> None:
    """Write questions for people, whole or not at all.

    Args:
        questions: the questions, the photo that is wanted most first.
        out: the file or folder, which must not exist.
        form: "csv", "label-studio" or "folder".
        classes: names of the classes.
        image_url: for Label Studio: what stands before the path of a photo in its address.
    """
    write: Callable[[], None] = {
        "csv": lambda: write_text(out, _table(questions)),
        "label-studio": lambda: _write_tasks(questions, out, classes, image_url),
        "folder": lambda: _write_folder(questions, out, classes),
    }[form]
    write()


def check_format(form: str, legal: Sequence[str], classes: Sequence[str]) -> None:
    """Refuse an unknown format, or classes that it cannot hold.

    Raises:
        ConfigurationError: the message says what is legal.
    """
    if form not in legal:
        raise unknown_name("format", form, legal)
    if form == "label-studio":
        for name in classes:
            if field := _FIELD_OF_TASK.search(name):
                raise ConfigurationError(
                    f"In class {name!r} the page of Label Studio would put something else for "
                    f"{field[0]!r}. Use format csv."
                )
    if form not in ("folder", "folders"):
        return
    for name in classes:
        if not is_folder_name(name):
            raise ConfigurationError(
                f"Class {name!r} cannot be the name of a folder on every system. Use format csv."
            )
    lower = [name.lower() for name in classes]
    if len(set(lower)) < len(lower):
        raise ConfigurationError(
            f"Two of the classes {', '.join(classes)} differ in case alone, which folders do not "
            "tell apart on every system. Use format csv."
        )


def is_folder_name(name: str) -> bool:
    """Whether a folder can have this name on Linux, macOS and Windows, and is not taken."""
    reserved = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(10))}
    return not (
        set(name) & set('/\\:*?"<>|')
        or any(ord(letter) < 32 for letter in name)
        or name.startswith((".", "_", "#", "$", "@"))
        or name.endswith((".", " "))
        or name.lower().split(".")[0] in reserved
        or len(name.encode()) > 200
    )


def _table(questions: Sequence[Question]) -> str:
    columns = ("path", "label", "predicted", "probability", "rank", IDENTITY)
    rows = [
        (q.path, q.label, q.predicted, q.probability, q.rank, q.image)  # None is an empty field
        for q in questions
    ]
    return csv_text(columns, rows)


def _write_tasks(
    questions: Sequence[Question],
    out: Path,
    classes: Sequence[str],
    image_url: str,
) -> None:
    """Tasks of Label Studio in the order of their ranks, after the labelling interface in a file
    beside them."""
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in classes)
    interface = (
        "<View>\n"
        '  <Image name="image" value="$image"/>\n'
        '  <Choices name="label" toName="image" choice="single" required="true">\n'
        f"{choices}\n"
        "  </Choices>\n"
        "</View>\n"
    )
    write_text(interface_of(out), interface)
    tasks = [_task(question, image_url) for question in questions]
    write_text(out, json.dumps(tasks, indent=1, ensure_ascii=False) + "\n")


def _task(question: Question, image_url: str) -> dict[str, Any]:
    def choice(name: str) -> list[dict[str, Any]]:
        place = {"from_name": "label", "to_name": "image", "type": "choices"}
        return [{**place, "value": {"choices": [name]}}]

    task: dict[str, Any] = {
        "data": {
            "image": image_url + quote(question.path),
            "path": question.path,
            IDENTITY: question.image,
        }
    }
    if question.label:
        task["annotations"] = [{"result": choice(question.label)}]
    if question.predicted:
        score = 1 / question.rank  # in [0, 1], and the list sorts by it
        result = choice(question.predicted)
        task["predictions"] = [{"model_version": MODEL, "score": score, "result": result}]
    return task


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder that appears with all that is in it, or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.parent / f".{out.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_folder(questions: Sequence[Question], out: Path, classes: Sequence[str]) -> None:
    """Copies of the photos, to be moved into the folders of their classes."""
    with new_folder(out) as folder:
        for name in (*classes, CANNOT_TELL, TO_SORT):
            (folder / name).mkdir()
        width = len(str(len(questions)))
        for question in questions:
            name = f"{question.rank:0{width}d}_{os.path.basename(question.file)}"  # noqa: PTH119
            shutil.copyfile(question.file, folder / TO_SORT / name)


def write_labels_table(rows: Sequence[Sequence[Any]], out: Path) -> None:
    """All photos with what is known of them: path, label, status, by, sha256."""
    write_text(out, csv_text(("path", "label", "status", "by", IDENTITY), rows))


def write_class_folders(questions: Sequence[Question], out: Path, classes: Sequence[str]) -> None:
    """Copies of the labelled photos in one folder per class, as data sets are."""
    with new_folder(out) as folder:
        for name in classes:
            (folder / name).mkdir()
        for question in questions:
            path = Path(question.file)
            target = folder / question.label / path.name
            if target.exists():  # photos of two folders with the same name
                target = target.with_name(f"{path.stem}_{question.image[:12]}{path.suffix}")
            shutil.copyfile(path, target)


def write_label_studio(questions: Sequence[Question], out: Path, image_url: str) -> None:
    """Labelled photos as tasks of Label Studio with their labels as annotations."""
    tasks = [_task(question, image_url) for question in questions]
    write_text(out, json.dumps(tasks, indent=1, ensure_ascii=False) + "\n")


def write_predictions(found: Sequence[Predicted], out: Path) -> None:
    """A table of predictions: path, label, probability, problem, sha256."""
    rows = [(p.path, p.label, p.probability, p.problem, p.image) for p in found]
    write_text(out, csv_text(("path", "label", "probability", "problem", IDENTITY), rows))
