"""Sessions whose photos people label in Label Studio: real exports, and a server that runs."""

from __future__ import annotations

import copy
import csv
import hashlib
import io
import json
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from label_studio_server import CannotInstall, install, running
from PIL import Image
from toy_models import toy_weights

from alhpo.base.errors import ConfigurationError
from alhpo.cli import main

CLASSES = ("cat", 'dog "puppy" & <co>')
#: Characters that mean something in addresses, XML or CSV.
PHOTOS = (
    "plain.png",
    "with space.png",
    "Bär.png",
    "hash#1.png",
    "what?.png",
    "100%.png",
    "a%20b.png",
    "deeper/cat&dog+1.png",
    *(f"{number}.png" for number in range(8)),
)
TOY = {"model": "alhpo_toy", "max_epochs": 2, "precision": "float32", "device": "cpu"}


@pytest.fixture(scope="session")
def label_studio():
    """A server, and the folder below which photos must lie."""
    with TemporaryDirectory() as folder:  # a gigabyte, which no failed test needs
        root, files = Path(folder, "root"), Path(folder, "server")
        root.mkdir()
        files.mkdir()
        try:
            command = install(Path(folder, "environment"))
        except CannotInstall as reason:
            pytest.skip(str(reason))
        with running(command, files, root) as server:
            yield server, root


def alhpo(*arguments) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def begin(session: Path, photos: Path, classes: Sequence[str]) -> None:
    """A session with a toy model."""
    folder = photos.parent
    (folder / "config.yaml").write_text(yaml.safe_dump(TOY | {"weights": toy_weights(folder)}))
    given = ("--images", photos, "--classes", ",".join(classes), "--config", folder / "config.yaml")
    alhpo("new", session, *given)


def table(session: Path) -> list[dict[str, str]]:
    """What is known of each photo."""
    file = session / "known.csv"
    alhpo("export", session, "--format", "csv", "--out", file)
    rows = list(csv.DictReader(io.StringIO(file.read_text("utf-8-sig"), newline="")))
    file.unlink()
    return rows


def known(session: Path) -> dict[str, tuple[str, str]]:
    """Label and status of the photos of which somebody said something, by their SHA-256."""
    said = [row for row in table(session) if row["status"] in ("labelled", "skipped")]
    return {row["sha256"]: (row["label"], row["status"]) for row in said}


def ask(session: Path, n: int, file: Path) -> list[dict[str, Any]]:
    alhpo("ask", session, "-n", n, "--format", "label-studio", "--out", file)
    return json.loads(file.read_text("utf-8"))


def data(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [task["data"] for task in tasks]


# --- exports of version 1.23.2 -------------------------------------------------------------------

EXPORTS = Path(__file__).parent / "data" / "label_studio"
CAT, DOG = "cat", 'dog "puppy" & co'
#: The photos of the exports. Two people labelled the fourth, user 2 later; user 1 skipped the third
#: and the fifth, which user 2 then labelled. Nobody looked at the sixth.
LABELS = {
    "accepted.bmp": CAT,
    "changed mind.bmp": DOG,
    "skipped.bmp": None,
    "zwei Ansichten ä.bmp": DOG,
    "skipped#then labelled.bmp": CAT,
    "untouched.bmp": None,
    "100%.bmp": DOG,
}


@pytest.fixture
def session(tmp_path) -> Path:
    """A session of the photos of the exports: grey pixels."""
    photos = tmp_path / "photos"
    photos.mkdir()
    header = b"BM" + struct.pack("<IHHI", 58, 0, 0, 54)
    header += struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 24, 0, 4, 2835, 2835, 0, 0)
    for grey, name in enumerate(LABELS):
        (photos / name).write_bytes(header + bytes([grey, grey, grey, 0]))
    begin(tmp_path / "session", photos, (CAT, DOG))
    return tmp_path / "session"


def by_name(session: Path) -> dict[str, str | None]:
    """The label of each photo by its name."""
    return {row["path"]: row["label"] or None for row in table(session)}


@pytest.mark.parametrize("name", ["export.json", "export_min.json", "export.csv"])
def test_every_form_of_an_export_says_the_same(session, name):
    alhpo("tell", session, EXPORTS / name)
    assert by_name(session) == LABELS
    status = alhpo("status", session)
    assert "by: user 1 4, user 2 2" in status
    for other in ("export.csv", "export_min.json"):
        assert "nothing new" in alhpo("tell", session, EXPORTS / other)
    alhpo("tell", session, EXPORTS / "export.json")
    assert "5 labelled" in alhpo("status", session) and "1 skipped" in alhpo("status", session)
    assert by_name(session) == LABELS


def test_the_last_of_a_persons_annotations_counts(session, tmp_path):
    """Also of those that skip, and of a task that was imported twice."""
    tasks = json.loads((EXPORTS / "export.json").read_text("utf-8"))
    for task in tasks:
        for annotation in task["annotations"]:
            annotation["completed_by"] = 1
    [again] = [task for task in tasks if task["data"]["path"] == "accepted.bmp"]
    again = copy.deepcopy(again)
    again["annotations"][0] |= {"updated_at": "2126-01-01T00:00:00Z", "was_cancelled": True}
    file = tmp_path / "one.json"
    file.write_text(json.dumps([again, *tasks]), "utf-8")
    alhpo("tell", session, file)
    assert by_name(session) == LABELS | {"accepted.bmp": None}


@pytest.mark.parametrize(
    ("name", "refused"), [("US$5", "$5"), ("$image", "$image"), ("5 $", None), ("$ (dollar)", None)]
)
def test_classes_that_the_page_would_change_are_refused(session, tmp_path, name, refused):
    other, out, photos = tmp_path / "other", tmp_path / "tasks.json", tmp_path / "photos"
    begin(other, photos, ("cat", name))
    arguments = ["ask", other, "-n", 1, "--format", "label-studio", "--out", out]
    if refused is None:
        alhpo(*arguments)
        return
    with pytest.raises(ConfigurationError, match=f"(?s){re.escape(name)}.*{re.escape(refused)}"):
        CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert not out.exists()


# --- a server that runs --------------------------------------------------------------------------


@pytest.mark.slow
def test_what_people_say_in_label_studio_is_what_the_session_knows(label_studio, tmp_path):
    server, root = label_studio
    photos = root / "photos"
    for seed, name in enumerate(PHOTOS):
        array = np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(photos / name)
    session = tmp_path / "session"
    begin(session, photos, CLASSES)

    # Nothing is known yet: photos without predictions, in the order in which they are wanted.
    asked = ask(session, 8, tmp_path / "first.json")
    project = server.new_project("photos", (tmp_path / "first.xml").read_text("utf-8"), photos)
    project.import_tasks(asked)
    listed = project.tasks("tasks:id")
    assert data(listed) == data(asked)
    for task in listed:
        shown = server.request("GET", task["data"]["image"])
        assert hashlib.sha256(shown).hexdigest() == task["data"]["sha256"]
    assert project.next_task()["id"] == listed[0]["id"]

    cat, dog = CLASSES
    images = [task["data"]["sha256"] for task in listed]
    first, second, unclear, unclear_to_one, fifth, sixth, later, untouched = (
        task["id"] for task in listed
    )
    mistaken = project.annotate(first, cat)
    project.correct(project.annotate(second, cat), dog)
    project.annotate(unclear, cat, skip=True)
    project.annotate(unclear_to_one, skip=True, by=server.new_person("second@example.org"))
    project.annotate(unclear_to_one, dog)
    project.annotate(fifth, skip=True)
    project.annotate(fifth, dog)
    project.annotate(fifth, cat)  # the last of three
    project.annotate(sixth, dog)
    alhpo("tell", session, project.export("JSON", tmp_path / "export.json"))
    labels = dict(zip(images, (cat, dog, None, dog, cat, dog), strict=False))
    expected = {
        image: ("", "skipped") if label is None else (label, "labelled")
        for image, label in labels.items()
    }
    assert known(session) == expected

    # No form of the same export says anything new.
    events = (session / "events.jsonl").read_bytes()
    for kind, name in (("JSON", "again.json"), ("JSON_MIN", "min.json"), ("CSV", "export.csv")):
        alhpo("tell", session, project.export(kind, tmp_path / name))
        assert (session / "events.jsonl").read_bytes() == events

    # Now the model predicts: its class is chosen beforehand, and its scores order the list.
    project.annotate(later, cat)
    project.annotate(untouched, skip=True)
    project.correct(mistaken, dog)
    expected |= {
        images[0]: (dog, "labelled"),
        images[6]: (cat, "labelled"),
        images[7]: ("", "skipped"),
    }
    for file, n in ((tmp_path / "second.json", 4), (tmp_path / "third.json", 3)):
        more = ask(session, n, file)
        assert not {task["data"]["sha256"] for task in more} & set(images)
        images += [task["data"]["sha256"] for task in more]
        project.import_tasks(more)
        by_score = data(project.tasks("-tasks:predictions_score"))
        assert [one for one in by_score if one["sha256"] in images[-n:]] == data(more)
        wanted = project.tasks("tasks:id")[-n:]
        assert data(wanted) == data(more)
        for task in wanted:
            assert project.next_task()["id"] == task["id"]
            [prediction] = project.next_task()["predictions"]
            [result] = prediction["result"]
            [accepted] = result["value"]["choices"]
            project.annotate(task["id"], accepted)
            expected[task["data"]["sha256"]] = (accepted, "labelled")
        alhpo("tell", session, project.export("JSON", file.with_suffix(".export.json")))
        assert known(session) == expected
