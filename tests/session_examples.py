"""Photos, settings and jobs of sessions that take a fraction of a second."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import toy_models  # noqa: F401 - a network that trains in milliseconds, registered with timm
from PIL import Image

import alhpo.training.final_fit
from alhpo import Session
from alhpo.base.errors import ConfigurationError

CLASSES = ("cat", "dog", "fox")
TOY: dict[str, Any] = {
    "model": "alhpo_toy",
    "recipe": "network",
    "strategy": "margin",
    "initial": "centroids",
    "query_subset": None,
    "image_size": 8,
    "max_epochs": 2,
    "precision": "float32",
    "device": "cpu",
    "validation": "holdout:0.3",
    "hyperparameters": {"batch_size": 4},
}


def truth(name: str) -> str:
    """The class of a photo by the number in the name of its file, wherever it lies."""
    return CLASSES[int(Path(name).stem.split("_")[-1]) % 3]


def make_photos(folder: Path, numbers: range | list[int]) -> None:
    """Photos of mixed sizes, some turned by EXIF, with a bright bar that tells the class."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        generator = np.random.default_rng(number)
        height, width = ((12, 16), (16, 12), (10, 10))[number // 3 % 3]
        pixels = generator.integers(0, 120, (height, width, 3), dtype=np.uint8)
        third = width // 3
        bar = number % 3
        pixels[:, bar * third : (bar + 1) * third] += 110
        image, exif = Image.fromarray(pixels), Image.Exif()
        if number % 4 == 1:
            exif[0x0112] = 3
            image = image.transpose(Image.Transpose.ROTATE_180)
        image.save(folder / f"IMG_{number}.png", exif=exif)


def new_session(folder: Path, photos: int = 18, **settings: Any) -> Session:
    make_photos(folder / "photos", range(photos))
    given = TOY | {"classes": CLASSES, "by": "anna"} | settings
    return Session.new(folder / "session", folder / "photos", **given)


def fill_in(file: Path, answers: dict[int, str] | None = None, rows: int | None = None) -> None:
    """Write the true classes, or these answers by row, into a table of questions."""
    with file.open(encoding="utf-8-sig", newline="") as source:
        lines = list(csv.DictReader(source))
    for number, line in enumerate(lines[:rows]):
        line["label"] = (answers or {}).get(number, truth(line["path"]))
    with file.open("w", encoding="utf-8", newline="") as target:
        writer = csv.DictWriter(target, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def read_table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8-sig", newline="") as source:
        return list(csv.DictReader(source))


# ---------------------------------------------------------------------------- jobs that are killed


def prepare(folder: Path) -> None:
    """Speed up the process, which is a test's own, and keep the cache out of what is looked at."""
    torch.set_num_threads(1)
    os.fsync = lambda _: None
    os.environ["ALHPO_CACHE"] = str(folder.parent / "cache")
    alhpo.training.final_fit.CHECKPOINT_SECONDS = 0.0


def all_commands(folder: Path, photos: Path) -> None:
    """A session from its beginning to its end; done again, it goes on where it was killed."""
    prepare(folder)
    place = folder / "session"
    try:
        session = Session.new(place, photos, **(TOY | {"classes": CLASSES, "by": "anna"}))
    except ConfigurationError:  # it was begun
        session = Session(place)
    steps = [event.event for event in session.events]
    if steps.count("asked") < 1 or not (place / "asked" / "one.csv").exists():
        session.ask(6, out=place / "asked" / "one.csv", by="anna")
    session.tell({name: truth(name) for name in first_names(session)}, by="anna")
    if steps.count("asked") < 2 or not (place / "asked" / "two").exists():
        session.ask(4, out=place / "asked" / "two", format="folder", by="anna")
    if not (folder / "labels").exists():
        session.export(folder / "labels", "folders")
    if not (folder / "model").exists():
        session.export(folder / "model", "model")


def other_commands(folder: Path, photos: Path, labels: Path) -> None:
    """A session that begins with labels, for Label Studio, with evaluation and a second look."""
    prepare(folder)
    place = folder / "session"
    settings = TOY | {"eval": "0.5", "validation": "kfold:3", "by": "anna"}
    try:
        session = Session.new(place, photos, labels=labels, **settings)
    except ConfigurationError:  # it was begun
        session = Session(place)
    steps = [event.event for event in session.events]
    if steps.count("told") < 1:
        session.tell({"IMG_0.png": "dog"}, by="ben")
    if steps.count("undone") < 1:
        session.undo(by="ben")
    for number, evaluation in enumerate((True, False), 1):
        tasks = place / "asked" / f"{number}.json"
        if steps.count("asked") < number or not tasks.exists():
            session.ask(2, out=tasks, format="label-studio", evaluation=evaluation, by="anna")
    for name, write in {
        "review.csv": lambda out: session.review(5, out=out),
        "labels.csv": session.export,
        "tasks.json": lambda out: session.export(out, "label-studio"),
        "model": lambda out: session.export(out, "model"),
    }.items():
        if not (folder / name).exists():
            write(folder / name)


def first_names(session: Session) -> list[str]:
    return next(list(event.paths) for event in session.events if event.event == "asked")


def seen(folder: Path) -> Any:
    """All that a session came to, without times."""
    events = [
        json.loads(line) for line in (folder / "session" / "events.jsonl").read_text().splitlines()
    ]
    for event in events:
        event.pop("at")
        if event["event"] == "fitted":
            event["record"].pop("seconds")
            event["record"].pop("epochs")  # of a search, those that a killed process trained too
    files = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "hpo" not in path.parts and not path.name.endswith(".lock")
    )
    model = (folder / "model" / "model.safetensors").read_bytes()
    return events, [name for name in files if not name.endswith(".tmp")], model
