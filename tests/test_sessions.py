"""Sessions: photos become a labelled set and a model, with people in the loop."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from killing import changed, continued, in_memory, in_process, states_of
from session_examples import (
    CLASSES,
    TOY,
    all_commands,
    fill_in,
    make_photos,
    new_session,
    other_commands,
    read_table,
    seen,
    truth,
)
from sklearn.metrics import cohen_kappa_score
from toy_models import random_weights, toy_weights

from alhpo import Session
from alhpo.base.errors import (
    AlhpoError,
    CheckpointError,
    ConfigurationError,
    DataError,
    DivergedError,
    LabelError,
    RunLockedError,
)
from alhpo.base.files import exclusive
from alhpo.cli import main
from alhpo.sessions.events import SKIP, TAKE_BACK
from alhpo.sessions.predicting import predict_with
from alhpo.sessions.settings import SessionSettings
from alhpo.sessions.spreadsheets import as_typed, harmless
from alhpo.sessions.status import what_accuracy_means


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ALHPO_CACHE", str(tmp_path_factory.mktemp("cache")))


def command(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def by_number(session: Session, numbers) -> dict[str, str]:
    """Answers, the true ones, for the photos with these numbers."""
    return {f"IMG_{number}.png": truth(f"IMG_{number}.png") for number in numbers}


# ------------------------------------------------------------------------------- from end to end


def test_photos_become_a_labelled_set_and_a_model_by_commands(tmp_path):
    photos, place = tmp_path / "photos", tmp_path / "session"
    make_photos(photos / "card", range(20))
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in TOY.items() if value]
    flags = [flag for flag in flags if "hyperparameters" not in flag]
    said = command(
        "new", place, "--images", photos, "--classes", ",".join(CLASSES), "--eval", 0.2,
        "--hp", "batch_size=4", *flags,
    )  # fmt: skip
    assert said.startswith("20 photos: 0 labelled, 0 asked for, ")
    assert "classes: cat 0, dog 0, fox 0" in said

    first = tmp_path / "first.csv"
    assert "6 photos to label: " in command("ask", place, "-n", 6, "--out", first)
    fill_in(first, {5: ""})
    assert command("tell", place, first, "--dry-run", "--by", "anna") == (
        "would be recorded: 5 labelled\n"
    )
    assert command("tell", place, first, "--by", "anna") == "5 labelled\n"

    # photos are renamed, removed and added while people label
    (photos / "card").rename(photos / "moved")
    gone = read_table(first)[0]["path"].replace("card", "moved")
    content = (photos / gone).read_bytes()
    (photos / gone).unlink()
    make_photos(photos / "new", range(20, 26))
    said = command("status", place)
    assert said.startswith("25 photos: 4 labelled, 1 asked for, ")
    assert "labelled, but not there now: 1 photo" in said

    again = tmp_path / "again.csv"
    command("ask", place, "--pending", "--out", again)
    assert [line["path"] for line in read_table(again)] == [
        read_table(first)[5]["path"].replace("card", "moved")
    ]
    fill_in(again)
    assert command("tell", place, again, "--by", "ben") == "1 labelled\n"
    assert "no photo" not in command("ask", place, "-n", 3, "--evaluation")
    fill_in(place / "asked" / "ask_0005.csv")
    command("tell", place, place / "asked" / "ask_0005.csv")
    said = command("ask", place, "-n", 5)
    assert "5 labels  test " in said

    lines = read_table(place / "asked" / "ask_0008.csv")
    assert all(
        line["predicted"] in CLASSES and 0 < float(line["probability"]) <= 1 for line in lines
    )
    assert [int(line["rank"]) for line in lines] == [1, 2, 3, 4, 5]
    (photos / "back").mkdir()
    (photos / "back" / "another name.png").write_bytes(content)

    table = tmp_path / "labels.csv"
    command("export", place, "--out", table)
    rows = read_table(table)
    assert len(rows) == 26
    known = [row for row in rows if row["label"]]
    assert len(known) == 9
    for row in known:
        if row["path"] != "back/another name.png":  # which no longer says its number
            assert row["label"] == truth(row["path"])
    returned = next(row for row in rows if row["path"] == "back/another name.png")
    assert returned["label"] == truth(gone)
    assert {row["status"] for row in rows} == {"labelled", "evaluation", "asked", "open"}

    said = command("predict", place, photos / "new", "--out", tmp_path / "predictions.csv")
    assert "\n6 predictions: " in said
    command("export", place, "--format", "model", "--out", tmp_path / "model")
    shutil.rmtree(place)
    command(
        "predict", "--model", tmp_path / "model", photos / "new", "--out", tmp_path / "without.csv"
    )
    assert (tmp_path / "without.csv").read_bytes() == (tmp_path / "predictions.csv").read_bytes()


def check_goes_elsewhere(session, tmp_path, weights):
    """The exported model predicts as the session does, without the file of its weights."""
    session.tell(by_number(session, range(9)))
    assert len(session.ask(4)) == 4
    found = session.predict(tmp_path / "photos")
    session.export(tmp_path / "model", "model")
    Path(weights).unlink()
    assert predict_with(tmp_path / "model", tmp_path / "photos") == found


def test_a_frozen_network_gives_its_features_once_and_its_model_goes_elsewhere(tmp_path):
    weights = toy_weights(tmp_path)
    frozen = {
        "recipe": "frozen",
        "weights": weights,
        "strategy": "uherding",
        "validation": "kfold:3",
    }
    session = new_session(tmp_path, image_size=16, **frozen)
    check_goes_elsewhere(session, tmp_path, weights)
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    assert described["classes"] == list(CLASSES)
    assert described["labels"] == 9
    assert set(described["files"]) == {"model.safetensors", "backbone.safetensors"}


def test_a_fine_tuned_network_goes_elsewhere(tmp_path):
    weights = random_weights(tmp_path, "alhpo_stages", in_chans=3)
    session = new_session(
        tmp_path,
        model="alhpo_stages",
        recipe="finetune",
        weights=weights,
        strategy="uherding",
        hyperparameters={"batch_size": 4, "train_from": -2},
    )
    check_goes_elsewhere(session, tmp_path, weights)
    assert SessionSettings.create(TOY, {"images": "photos", "recipe": "finetune"}).pretrained


def test_a_session_without_labels_or_classes_chooses_by_features(tmp_path):
    session = new_session(tmp_path, classes=())
    questions = session.ask(4)
    assert len({question.image for question in questions}) == 4
    assert all(question.predicted == "" for question in questions)
    session.tell({question.image: "cat" for question in questions}, add_classes=True)
    assert session.classes == ("cat",)
    with pytest.raises(LabelError, match="at least two classes"):
        session.predict(tmp_path / "photos")
    assert len(session.ask(3)) == 3  # still by features, as there is nothing to tell apart


@pytest.mark.parametrize("form", ["folders", "table", "in the table of photos"])
def test_photos_that_have_labels_already(tmp_path, form):
    photos = tmp_path / "photos"
    make_photos(photos, range(9))
    lines = [f"IMG_{n}.png,{truth(f'IMG_{n}.png') if n < 6 else ''}" for n in range(9)]
    table = photos / "labels.csv"
    images, labels = photos, table
    if form == "folders":
        for number in range(6):
            name = f"IMG_{number}.png"
            (photos / truth(name)).mkdir(exist_ok=True)
            (photos / name).rename(photos / truth(name) / name)
        labels = photos
    else:
        table.write_text("path,label\n" + "\n".join(lines) + "\n")
        images = table if form == "in the table of photos" else photos
    session = Session.new(tmp_path / "session", images, labels=labels, **TOY)
    assert session.status().labelled == 6
    assert sorted(session.classes) == sorted(CLASSES)
    assert session.status().open == 3


# ------------------------------------------------------------------------- what people say counts


def test_a_correction_counts_from_the_next_fit_and_changes_no_record(tmp_path):
    session = new_session(tmp_path)
    session.tell(by_number(session, range(8)))
    session.ask(2)
    before = [event for event in session.events if event.event == "fitted"]
    order = list(session.labels)
    recorded = session.tell({"IMG_3.png": "fox"}, by="ben")
    assert recorded.counts == {"corrected": 1}
    session.ask(2)
    fits = [event for event in session.events if event.event == "fitted"]
    assert fits[:1] == before
    assert len(fits) == 2
    assert fits[1].record["n_labeled"] == 8
    assert fits[1].labels != fits[0].labels
    assert list(session.labels) == order  # so validation splits stay with their photos
    assert session.status().counts == {"cat": 2, "dog": 3, "fox": 3}


def test_without_news_no_model_is_fitted_and_a_lost_one_is_fitted_again(tmp_path):
    session = new_session(tmp_path)
    session.tell(by_number(session, range(8)))
    session.ask(2)
    found = session.predict(tmp_path / "photos")
    assert sum(event.event == "fitted" for event in session.events) == 1
    shutil.rmtree(session.path / "models")
    assert session.predict(tmp_path / "photos") == found
    assert sum(event.event == "fitted" for event in session.events) == 1


def test_an_old_file_undoes_no_correction(tmp_path):
    session = new_session(tmp_path)
    file = tmp_path / "answers.csv"
    session.ask(4, out=file)
    fill_in(file)
    session.tell(file, by="anna")
    path = read_table(file)[0]["path"]
    other = next(name for name in CLASSES if name != truth(path))
    session.tell({path: other}, by="anna")
    recorded = session.tell(file, by="anna")
    assert (recorded.counts, recorded.unchanged, recorded.number) == ({}, 3, 0)
    assert recorded.earlier == (f"line 2: {path} is {other!r} since 'anna' said {truth(path)!r}",)
    assert session.tell(file, by="anna", again=True).counts == {"corrected": 1}
    assert set(session.labels.values()) <= set(CLASSES)
    assert session.tell(file, by="ben").counts == {"labelled": 4}  # who agrees, which is news


def test_skipped_and_withdrawn_photos(tmp_path):
    session = new_session(tmp_path)
    first, second, third = session.ask(3)
    session.tell({first.path: SKIP, second.path: "cat", third.path: TAKE_BACK}, by="anna")
    status = session.status()
    assert (status.skipped, status.labelled, status.pending, status.open) == (1, 1, 0, 16)
    later = {question.image for question in session.ask(16)}
    assert first.image not in later  # nobody could tell
    assert third.image in later
    with pytest.raises(LabelError, match="No photo is left to ask for: 1 are labelled"):
        session.ask(1)
    session.tell({first.path: "dog"}, by="ben")  # who can
    assert session.labels[first.image] == "dog"
    session.tell({first.path: SKIP}, by="anna", again=True)
    assert session.labels[first.image] == "dog"  # of one who can and one who cannot, one knows
    session.tell({second.path: TAKE_BACK})
    assert second.image not in session.labels


def test_undo_takes_back_one_telling_after_the_other(tmp_path):
    session = new_session(tmp_path)
    session.tell(by_number(session, range(4)))
    session.tell({"IMG_0.png": "fox"})
    session.add_classes(["owl"])
    assert session.classes == (*CLASSES, "owl")
    session.undo()
    assert session.classes == CLASSES
    session.undo()
    assert len(session.labels) == 4
    assert session.status().counts["cat"] == 2
    assert command("undo", session.path).startswith("undone: 4 answers of ")
    assert Session(session.path).labels == {}
    with pytest.raises(LabelError, match="Nothing was told that could be undone"):
        session.undo()
    assert session.tell(by_number(session, range(4))).counts == {"labelled": 4}


def test_who_labelled_what_and_how_often_people_agree(tmp_path):
    session = new_session(tmp_path)
    ours = {f"IMG_{n}.png": CLASSES[n % 3] for n in range(12)}
    theirs = {name: CLASSES[(n + (n > 8)) % 3] for n, name in enumerate(ours)}
    session.tell(ours, by="anna")
    session.tell(theirs | {"IMG_15.png": "cat"}, by="ben")
    status = session.status()
    assert status.people == {"anna": 12, "ben": 13}
    (agreement,) = status.agreement
    assert agreement.people == ("anna", "ben")
    assert (agreement.photos, agreement.share) == (12, 9 / 12)
    assert agreement.kappa == cohen_kappa_score(list(ours.values()), list(theirs.values()))
    assert "anna and ben agree on 75 % of 12 photos, kappa 0.6" in command("status", session.path)


ANSWERS = st.sampled_from([*CLASSES, SKIP, TAKE_BACK, "undo"])
SAYINGS = st.lists(st.tuples(st.sampled_from("AB"), st.integers(0, 2), ANSWERS), max_size=14)


@settings(max_examples=40, deadline=None)
@given(SAYINGS)
def test_the_state_is_what_a_plain_reading_of_the_events_says(sayings):
    """Against a list of what was said, from which what was undone is struck out."""
    with in_memory(Path()) as memory, pytest.MonkeyPatch.context() as patch:
        folder = Path(memory, "state")
        shutil.rmtree(folder, ignore_errors=True)
        patch.setenv("ALHPO_CACHE", str(folder / "cache"))
        session = new_session(folder, 3)
        names = [f"IMG_{number}.png" for number in range(3)]
        hashes = [_sha(folder / "photos" / name) for name in names]
        images = dict(zip(names, hashes, strict=True))
        said: list[list[tuple[str, int, str]]] = []
        for person, number, answer in sayings:
            if answer == "undo":
                if said:
                    session.undo()
                    said.pop()
                continue
            recorded = session.tell({names[number]: answer}, by=person, again=True)
            if recorded.number:
                said.append([(person, number, answer)])
        expected: dict[int, list[tuple[str, str]]] = {}
        for ((person, number, answer),) in said:
            history = expected.setdefault(number, [])
            history[:] = [one for one in history if one[0] != person]
            history.append((person, answer))
            if answer == TAKE_BACK:
                history.clear()
        labels = {
            images[names[number]]: [a for _, a in history if a != SKIP][-1]
            for number, history in expected.items()
            if any(a != SKIP for _, a in history)
        }
        skipped = sum(bool(h) and all(a == SKIP for _, a in h) for h in expected.values())
        assert session.labels == labels
        assert Session(session.path).labels == labels
        assert session.status().skipped == skipped


def _sha(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


# ------------------------------------------------------------------------------- files of people


def test_every_problem_is_named_by_line_and_nothing_is_recorded(tmp_path):
    session = new_session(tmp_path)
    make_photos(tmp_path / "photos" / "other", [30])
    (tmp_path / "photos" / "deep").mkdir()
    make_photos(tmp_path / "photos" / "deep", [31])
    (tmp_path / "photos" / "deep" / "IMG_31.png").rename(
        tmp_path / "photos" / "deep" / "IMG_30.png"
    )
    file = tmp_path / "answers.csv"
    file.write_text(
        "Path;Label\nIMG_0.png;cat\nIMG_1.png;dgo\nno.png;cat\n\nIMG_30.png;cat\nIMG_2.png;\n"
        "IMG_0.png;dog\n"
    )
    before = (session.path / "events.jsonl").read_bytes()
    with pytest.raises(LabelError) as caught:
        session.tell(file)
    lines = str(caught.value).splitlines()
    assert lines[0] == "Nothing was recorded, as 4 of 5 answers cannot be used:"
    assert lines[1] == "  line 3: label 'dgo' is no class (cat, dog, fox). Did you mean 'dog'?"
    assert lines[2].startswith("  line 4: no.png is not a photo of the session.")
    assert lines[3].startswith(
        "  line 6: IMG_30.png may be each of deep/IMG_30.png, other/IMG_30.png"
    )
    assert lines[4] == "  line 8: says 'dog', but line 2 says 'cat' of the same photo"
    assert (session.path / "events.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "path", ["IMG_0.png", "./IMG_0.png", "deeper/IMG_4.png", r"deeper\IMG_4.png", "IMG_4.png"]
)
def test_a_photo_is_meant_by_its_path_or_by_its_name_alone(tmp_path, path):
    make_photos(tmp_path / "photos" / "deeper", [4])
    session = new_session(tmp_path, 3)
    session.tell({path: "cat"})
    absolute = tmp_path / "photos" / ("IMG_0.png" if "0" in path else "deeper/IMG_4.png")
    assert list(session.labels) == [_sha(absolute)]
    assert session.tell({str(absolute): "cat"}).unchanged == 1


def test_photos_in_folders_of_classes(tmp_path):
    session = new_session(tmp_path)
    out = tmp_path / "sort"
    session.ask(5, out=out, format="folder")
    copies = sorted((out / "_to_sort").iterdir())
    assert [path.name.split("_")[0] for path in copies] == ["1", "2", "3", "4", "5"]
    for path, place in zip(copies, ("cat", "dog", "_cannot_tell"), strict=False):
        path.rename(out / place / path.name)
    recorded = session.tell(out)
    assert recorded.counts == {"labelled": 2, "skipped": 1}
    session.export(tmp_path / "sorted", "folders")
    assert sorted(p.parent.name for p in (tmp_path / "sorted").rglob("*.png")) == ["cat", "dog"]


def test_the_names_of_files_and_classes_are_text(tmp_path):
    (tmp_path / "photos").mkdir()
    make_photos(tmp_path, [0, 1])
    hostile = ['=HYPERLINK("http:x","y").png', "+1.png"]
    for number, name in enumerate(hostile):
        (tmp_path / f"IMG_{number}.png").rename(tmp_path / "photos" / name)
    classes = ["=1+1", "<b>bold</b>", "../up", "x,y;z", "'quoted'"]
    session = Session.new(tmp_path / "session", tmp_path / "photos", classes=classes, **TOY)
    file = tmp_path / "q.csv"
    session.ask(2, out=file)
    raw = list(csv.reader(file.read_text(encoding="utf-8-sig").splitlines()))
    assert sorted(row[0] for row in raw[1:]) == sorted(f"'{name}" for name in hostile)
    rows = read_table(file)
    rows[0]["label"], rows[1]["label"] = "'=1+1", "'quoted'"
    for row in rows:
        row["sha256"] = ""  # so that the path counts
    with file.open("w", encoding="utf-8", newline="") as target:
        writer = csv.DictWriter(target, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert session.tell(file).counts == {"labelled": 2}
    assert set(session.labels.values()) == {"=1+1", "'quoted'"}
    for form in ("folder", "folders"):
        with pytest.raises(ConfigurationError, match="cannot be the name of a folder"):
            (
                session.ask(1, out=tmp_path / "f", format=form)
                if form == "folder"
                else session.export(tmp_path / "f", form)
            )
    assert not (tmp_path / "f").exists()
    for name in (SKIP, TAKE_BACK, " cat", "", "a\nb"):
        with pytest.raises(ConfigurationError, match="A class is called"):
            session.add_classes([name])


@given(st.text())
def test_what_is_made_harmless_is_read_as_it_was(text):
    assert as_typed(harmless(text)) == text
    assert not harmless(text).startswith(("=", "+", "-", "@", "\t", "\r"))


def test_numbers_and_dates_of_spreadsheets(tmp_path):
    session = new_session(tmp_path, classes=["3", "10", "007"])
    file = tmp_path / "answers.csv"
    file.write_text("path,label\nIMG_0.png,3.0\nIMG_1.png,10\nIMG_2.png,007\n")
    session.tell(file)
    assert list(session.labels.values()) == ["3", "10", "007"]
    file.write_text("path,label\nIMG_3.png,7\n")
    with pytest.raises(LabelError, match=r"label '7' is no class"):
        session.tell(file)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "x", "has another form than expected"),
        ("a.csv", "name,x\n1,2\n", "expected label, and sha256 or path"),
        ("a.csv", "", "is empty"),
        ("a.json", "{", "is not a JSON export of Label Studio"),
        ("a.json", '{"a": 1}', "it is no list of tasks"),
        ("missing.csv", None, "There is no file or folder"),
    ],
)
def test_files_that_are_no_answers_are_refused(tmp_path, name, content, message):
    session = new_session(tmp_path, 3)
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(AlhpoError, match=message):
        session.tell(tmp_path / name)


# ------------------------------------------------------------------------------------ evaluation


def test_photos_kept_for_evaluation_are_never_trained_on(tmp_path):
    session = new_session(tmp_path, 24, eval=0.3)
    kept = session.status().kept
    assert 0 < kept < 24
    asked = {question.image for question in session.ask(24 - kept)}
    assert len(asked) == 24 - kept
    questions = session.ask(100, evaluation=True)
    assert len(questions) == kept
    assert not asked & {question.image for question in questions}
    with pytest.raises(LabelError, match=f"All {kept} photos that are kept"):
        session.ask(1, evaluation=True)
    session.tell({f"IMG_{n}.png": truth(f"IMG_{n}.png") for n in range(24)})
    with pytest.raises(LabelError, match="No photo is left"):
        session.ask(1)
    fitted = session.events[-1]
    assert (fitted.record["n_labeled"], fitted.evaluated) == (24 - kept, kept)
    assert set(fitted.record["test"]) >= {"accuracy", "nll"}
    make_photos(tmp_path / "photos", range(24, 48))  # others do not change which are kept
    assert {q.image for q in questions} <= set(_kept(session))


def _kept(session: Session) -> list[str]:
    session.export(session.path / "kept.csv")
    return [
        row["sha256"]
        for row in read_table(session.path / "kept.csv")
        if row["status"] == "evaluation"
    ]


def test_given_evaluation_images_and_what_accuracy_means(tmp_path):
    for number in range(30, 36):
        make_photos(tmp_path / "test" / truth(f"IMG_{number}.png"), [number])
    session = new_session(tmp_path, eval=tmp_path / "test")
    session.tell(by_number(session, range(8)))
    session.ask(1)
    assert session.events[-2].evaluated == 6
    status = session.status()
    assert "as far as those are like them" in what_accuracy_means(status, str(tmp_path / "test"))
    assert "is no accuracy to expect of new photos" in what_accuracy_means(status, None)
    assert "Nothing is measured" in what_accuracy_means(status, "0.1")
    with pytest.raises(LabelError, match="No photo is kept for evaluation"):
        session.ask(1, evaluation=True)
    for number in range(36, 39):
        make_photos(tmp_path / "test" / "owl", [number])
    with pytest.raises(DataError, match="owl"):
        session.ask(1)


def test_evaluation_images_of_a_table_and_a_class_called_train(tmp_path):
    make_photos(tmp_path / "test" / "train", range(30, 36))
    make_photos(tmp_path / "test" / "bus", range(36, 39))
    table = tmp_path / "test" / "some.csv"
    table.write_text("path,label\n" + "".join(f"train/IMG_{n}.png,train\n" for n in range(30, 34)))
    for name, place, number in (("a", tmp_path / "test", 9), ("b", table, 4)):
        session = new_session(tmp_path / name, 9, classes=["train", "bus"], eval=place)
        session.tell({f"IMG_{n}.png": ("train", "bus")[n % 2] for n in range(8)})
        session.ask(1)
        assert session.events[-2].evaluated == number
    (tmp_path / "test" / "bus" / "IMG_36.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cannot be used:\n.*IMG_36\.png"):
        Session(tmp_path / "a" / "session").ask(1)


def test_training_that_diverges_is_said_and_nobody_waits(tmp_path):
    session = new_session(tmp_path, hyperparameters={"lr": 1e25, "batch_size": 4})
    session.tell(by_number(session, range(8)))
    with pytest.warns(UserWarning, match="Training diverged, so the photos are chosen at random"):
        assert len(session.ask(3)) == 3
    assert session.events[-2].record["diverged"]
    assert "DIVERGED" in command("status", session.path)
    with pytest.raises(DivergedError, match=r"Lower lr in session\.yaml"):
        session.predict(tmp_path / "photos")


# --------------------------------------------------------------------------- searches and settings


def test_an_hpo_mode_searches_and_later_searches_know_the_earlier(tmp_path):
    search = {"hpo": "every:2", "optimizer": "random", "max_budget": 4, "num_configurations": 3}
    session = new_session(tmp_path, 24, **search)
    session.tell({"IMG_0.png": "cat"})
    session.ask(1)  # of one class: nothing to fit
    for start in range(3, 15, 4):
        session.tell(by_number(session, range(start, start + 4)))
        session.ask(1)
    fits = [event.record for event in session.events if event.event == "fitted"]
    assert [fit["tuned"] for fit in fits] == [True, False, True]
    assert fits[1]["configuration"] == fits[0]["configuration"]
    assert [fit["cycle"] for fit in fits] == [0, 1, 2]
    assert [fit["epochs"]["hpo"] for fit in fits] == [4, 2, 4]


def test_too_few_labels_for_validation_are_said(tmp_path):
    session = new_session(tmp_path, hpo="per-cycle", optimizer="random", validation="kfold:5")
    session.tell(by_number(session, range(3)))
    with pytest.warns(UserWarning, match="No search with 3 labels"):
        session.ask(2)
    assert session.events[-2].record["validation"] is None
    session.tell(by_number(session, range(3, 9)))
    session.ask(2)
    assert session.events[-2].record["tuned"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hpo": "final"}, "A session has no last cycle"),
        ({"hpo": "at:100"}, "No cycle has 100 labels"),
        ({"strategy": "boss"}, "for simulations only"),
        ({"model": "resnte18"}, "resnet18"),
        ({"eval": "1.5"}, "expected a share"),
        ({"eval": "missing"}, "missing"),
        ({"classes": ["?"]}, "A class is called"),
        ({"start": "warm"}, "start"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(tmp_path, given, message):
    with pytest.raises(AlhpoError, match=message):
        new_session(tmp_path, 3, **given)
    assert not (tmp_path / "session").exists()


def test_a_session_needs_photos_and_a_place_of_its_own(tmp_path):
    with pytest.raises(DataError, match="There are no images at"):
        Session.new(tmp_path / "session", tmp_path / "nothing", **TOY)
    session = new_session(tmp_path, 3)
    with pytest.raises(ConfigurationError, match=r"There is a session in .* already"):
        new_session(tmp_path, 3)
    with pytest.raises(ConfigurationError, match="There is no session in"):
        Session(tmp_path)
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"correct the line images: in .*session\.yaml"):
        session.status()
    file = session.path / "session.yaml"
    values = yaml.safe_load(file.read_text()) | {"images": str(tmp_path / "elsewhere")}
    file.write_text(yaml.safe_dump(values))
    assert Session(session.path).status().photos == 3


def test_other_settings_make_another_model(tmp_path):
    session = new_session(tmp_path)
    session.tell(by_number(session, range(8)))
    session.ask(1)
    file = session.path / "session.yaml"
    values = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(values | {"hyperparameters": {"lr": 0.02, "batch_size": 4}}))
    session = Session(session.path)
    session.ask(1)
    fits = [event.record["configuration"] for event in session.events if event.event == "fitted"]
    assert fits[0]["lr"] != fits[1]["lr"] == 0.02


def test_names_and_other_photos_change_nothing_of_a_fit(tmp_path):
    frozen = {"recipe": "frozen", "weights": toy_weights(tmp_path), "validation": "kfold:3"}
    session = new_session(tmp_path, image_size=16, **frozen)
    session.tell(by_number(session, range(9)))
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "session", copy / "session")
    session.ask(1)
    photos = tmp_path / "photos"
    for number in (0, 5, 8):
        (photos / f"IMG_{number}.png").rename(photos / f"z{number}.png")
    make_photos(photos / "new", range(40, 50))
    other = Session(copy / "session")
    other.ask(1)
    ours, theirs = session.events[-2].record, other.events[-2].record
    assert ours["validation"] == theirs["validation"]
    assert ours["configuration"] == theirs["configuration"]


def test_labels_that_models_disagree_with_come_first(tmp_path):
    session = new_session(
        tmp_path, 45, max_epochs=20, hyperparameters={"lr": 0.05, "batch_size": 8}
    )
    session.tell(by_number(session, range(45)))
    wrong = {f"IMG_{n}.png": CLASSES[(n + 1) % 3] for n in (4, 17, 30)}
    session.tell(wrong)
    out = tmp_path / "review.csv"
    questions = session.review(3, out=out)
    assert {question.path for question in questions} == set(wrong)
    assert all(
        question.label == wrong[question.path] != question.predicted for question in questions
    )
    fill_in(out)
    assert session.tell(out, again=True).counts == {"corrected": 3}


def test_a_damaged_model_or_another_folder_is_refused(tmp_path):
    session = new_session(tmp_path)
    session.tell(by_number(session, range(6)))
    session.export(tmp_path / "model", "model")
    with pytest.raises(ConfigurationError, match="is there already"):
        session.export(tmp_path / "model", "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is damaged"):
        predict_with(tmp_path / "model", tmp_path / "photos")
    session.export(tmp_path / "other", "model")
    with pytest.raises(ConfigurationError, match="Device 'mps:9'"):
        predict_with(tmp_path / "other", tmp_path / "photos", device="mps:9")
    with pytest.raises(CheckpointError, match="holds no model that alhpo wrote"):
        predict_with(tmp_path, tmp_path / "photos")


def test_files_that_are_no_photos_are_named_and_harm_nothing(tmp_path):
    session = new_session(tmp_path)
    (tmp_path / "photos" / "broken.png").write_bytes(b"no image")
    shutil.copy(tmp_path / "photos" / "IMG_0.png", tmp_path / "photos" / "copy.png")
    status = session.status()
    assert [Path(path).name for path, _ in status.problems] == ["broken.png"]
    assert status.copies == 1
    assert len(session.ask(18)) == 18
    session.tell({"copy.png": "cat", **by_number(session, range(1, 6))})
    assert session.labels[_sha(tmp_path / "photos" / "IMG_0.png")] == "cat"
    predictions = session.predict(tmp_path / "photos")
    assert len(predictions) == 20
    assert [one.path for one in predictions if one.problem] == ["broken.png"]
    same = {one.path: one.label for one in predictions}
    assert same["copy.png"] == same["IMG_0.png"]


# --------------------------------------------------------------------------- kills and many at once


@pytest.mark.slow
@pytest.mark.parametrize("commands", [all_commands, other_commands])
def test_a_session_killed_anywhere_loses_nothing_and_does_nothing_twice(tmp_path, commands):
    with in_memory(tmp_path) as memory:
        photos, folder = memory / "photos", memory / "killed"
        make_photos(photos, range(12))
        folder.mkdir()
        job = partial(commands, folder, photos)
        if commands is other_commands:
            labels = memory / "labels.csv"
            lines = [f"IMG_{number}.png,{truth(f'IMG_{number}.png')}\n" for number in range(8)]
            labels.write_text("path,label\n" + "".join(lines))
            job = partial(commands, folder, photos, labels)
        states = states_of(job, folder)
        in_process(job).result()
        expected = seen(folder)
        wrong = []
        for number, ended in enumerate(continued(job, folder, states, seen)):
            if ended.error or ended.value[1] != expected:
                after = changed(states[max(0, number - 1)], states[number])
                wrong.append(f"{number}, after {after}: {ended.traceback or 'other records'}")
        assert not wrong, f"{len(wrong)} of {len(states)} states\n" + "\n".join(wrong[:5])


def test_a_question_whose_file_was_not_written_is_written_and_not_asked_twice(tmp_path):
    session = new_session(tmp_path)
    asked = session.ask(3, out=tmp_path / "q.csv")
    (tmp_path / "q.csv").unlink()  # as if the command was killed before
    assert session.ask(5, out=tmp_path / "other.csv") == asked
    assert read_table(tmp_path / "q.csv")[0]["sha256"] == asked[0].image
    assert not (tmp_path / "other.csv").exists()
    (tmp_path / "q.csv").unlink()
    session.tell({asked[0].path: "cat"})  # somebody had the file
    assert len(session.ask(5, out=tmp_path / "other.csv")) == 5
    assert not (tmp_path / "q.csv").exists()


def test_one_process_fits_while_others_tell(tmp_path):
    session = new_session(tmp_path)
    with exclusive(session.path):
        answers = [
            threading.Thread(target=Session(session.path).tell, args=({f"IMG_{n}.png": "cat"},))
            for n in range(6)
        ]
        for thread in answers:
            thread.start()
        for thread in answers:
            thread.join()
        failed = []

        def ask() -> None:
            try:
                Session(session.path).ask(1)
            except RunLockedError as error:
                failed.append(str(error))

        other = threading.Thread(target=ask)
        other.start()
        other.join()
    assert len(session.labels) == 6
    assert len(failed) == 1
    numbers = [json.loads(line)["event"] for line in (session.path / "events.jsonl").open()]
    assert numbers == ["begun", *["told"] * 6]


def test_damaged_events_are_refused_by_line(tmp_path):
    session = new_session(tmp_path, 3)
    session.tell({"IMG_0.png": "cat"})
    file = session.path / "events.jsonl"
    with file.open("a") as events:
        events.write('{"event": "told", "at": "x"')  # cut short by a kill
    assert len(Session(session.path).labels) == 1
    session.tell({"IMG_1.png": "dog"})
    assert len(Session(session.path).labels) == 2
    with file.open("a") as events:
        events.write('{"event": "sold"}\n')
    with pytest.raises(DataError, match=r"line 4 is not an event of a session"):
        Session(session.path)


def test_what_only_looks_at_files_imports_nothing_heavy(tmp_path):
    session = new_session(tmp_path, 4)
    code = (
        "import sys; from alhpo import Session; s = Session(sys.argv[1]); s.status();"
        "s.tell({'IMG_0.png': 'cat'}); s.undo(); s.export(sys.argv[1] + '.csv');"
        "print(sorted({'torch', 'timm', 'ConfigSpace', 'pandas', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(session.path)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
