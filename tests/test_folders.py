"""Folders and tables by example: what is recognised, and what is refused with the way out."""

import csv
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alhpo.base.errors import DataError
from alhpo.data.loading import dataset_size, load_dataset

SEEDS = iter(range(10**9))


def save(*paths):
    """A new image in each file."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.random.default_rng(next(SEEDS)).integers(0, 256, (4, 4, 3)).astype(np.uint8)
        Image.fromarray(array).save(path)


def classes_of(folder, *names, count=3):
    for name in names:
        save(*(folder / name / f"{number}.png" for number in range(count)))


def labelled(dataset):
    """The class of each image, by the name of its file."""
    names = [dataset.classes[label] for label in (*dataset.labels, *dataset.eval_labels)]
    paths = [Path(path).name for path in (*dataset.paths, *dataset.eval_paths)]
    return dict(zip(paths, names, strict=True))


def sizes(dataset):
    return len(dataset), len(dataset.eval_images)


# --- splits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        *[("Train", "Test"), ("TRAINING", "TESTING"), ("training", "Validation"), ("trn", "tst")],
        *[("seg_train", "seg_test"), ("Train", "VAL"), ("train_set", "test_set"), ("train", "Dev")],
    ],
)
def test_usual_splits_in_any_case(tmp_path, train, held_out):
    classes_of(tmp_path / train, "cat", "dog")
    classes_of(tmp_path / held_out, "cat", "dog", count=1)
    dataset = load_dataset(str(tmp_path))
    assert dataset.classes == ("cat", "dog") and sizes(dataset) == (6, 2)


@pytest.mark.parametrize("inner", [("seg_train", "seg_test"), ("Seg_Train", "SEG_TEST")])
def test_splits_in_a_folder_of_the_same_name(tmp_path, inner):
    classes_of(tmp_path / "seg_train" / inner[0], "sea", "ice")
    classes_of(tmp_path / "seg_test" / inner[1], "sea", "ice", count=1)
    dataset = load_dataset(str(tmp_path))
    assert dataset.classes == ("ice", "sea") and sizes(dataset) == (6, 2)


def test_a_split_that_is_there_comes_before_another_usual_name(tmp_path):
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        classes_of(tmp_path / split, "a", count=count)
    assert sizes(load_dataset(str(tmp_path))) == (3, 1)
    assert sizes(load_dataset(str(tmp_path), eval_split="TEST")) == (3, 2)


def test_a_class_called_train(tmp_path):
    classes_of(tmp_path, "plane", "train", "car")
    with pytest.raises(DataError, match=r"--val-split.*--train-split\) to '\.'"):
        load_dataset(str(tmp_path))
    dataset = load_dataset(str(tmp_path), train_split=".")
    assert dataset.classes == ("car", "plane", "train") and sum(sizes(dataset)) == 9


def test_classes_called_train_and_test_beside_others(tmp_path):
    classes_of(tmp_path, "train", "test", "boat")
    with pytest.raises(DataError, match=r"beside boat.*--train-split\) to '\.'"):
        load_dataset(str(tmp_path))
    assert load_dataset(str(tmp_path), train_split=".").classes == ("boat", "test", "train")


def test_a_class_called_test_is_a_class(tmp_path):
    classes_of(tmp_path, "test", "blood")
    assert load_dataset(str(tmp_path)).classes == ("blood", "test")


def test_splits_that_differ_in_case_alone(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "A").mkdir()
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("file names without case")
    for split in ("Train", "TRAIN", "val"):
        classes_of(tmp_path / "x" / split, "a", count=2)
    with pytest.raises(DataError, match=r"TRAIN, Train.*differ in case.*--train-split"):
        load_dataset(str(tmp_path / "x"))
    assert sizes(load_dataset(str(tmp_path / "x"), train_split="TRAIN")) == (2, 2)
    classes_of(tmp_path / "x" / "train", "a", count=3)
    assert sizes(load_dataset(str(tmp_path / "x"))) == (3, 2)


def test_folds_by_name(tmp_path):
    for number in range(1, 5):
        classes_of(tmp_path / f"fold{number}", "a", "b", count=number)
    dataset = load_dataset(str(tmp_path), train_split="fold3", eval_split="fold2")
    assert dataset.classes == ("a", "b") and sizes(dataset) == (6, 4)
    with pytest.raises(DataError, match=r"none called 'fold9'.*fold1, fold2, fold3, fold4"):
        load_dataset(str(tmp_path), train_split="fold3", eval_split="fold9")


@pytest.mark.parametrize("asked", ["fold9", "trian"])
def test_a_split_that_was_asked_for_is_not_silently_left(tmp_path, asked):
    classes_of(tmp_path / "train", "a")
    classes_of(tmp_path / "val", "a")
    with pytest.raises(DataError, match=f"{asked}.*train, val"):
        load_dataset(str(tmp_path), train_split=asked)


def test_an_evaluation_split_that_was_asked_for_is_not_silently_left(tmp_path):
    classes_of(tmp_path / "pets", "cat", "dog")
    with pytest.raises(DataError, match=r"no splits, so none called 'holdout'.*--val-split"):
        load_dataset(str(tmp_path / "pets"), eval_split="holdout")
    save(tmp_path / "1.png", tmp_path / "2.png")
    (tmp_path / "some.csv").write_text("path,label\n1.png,a\n2.png,a\n")
    with pytest.raises(DataError, match=r"no column with splits .* or 'holdout'"):
        load_dataset(str(tmp_path / "some.csv"), eval_split="holdout")


def test_splits_that_are_not_used_are_named(tmp_path):
    for split in ("seg_train", "seg_test", "val"):
        classes_of(tmp_path / split, "sea", "ice", count=1)
    save(tmp_path / "seg_pred" / "1.png")
    notes = load_dataset(str(tmp_path)).notes
    assert [note for note in notes if "seg_train and val are used, seg_pred, seg_test not" in note]


def test_loose_images_beside_class_folders_are_counted(tmp_path):
    classes_of(tmp_path, "cat", "dog")
    save(tmp_path / "one.png", tmp_path / "two.png", tmp_path / ".three.png")
    dataset = load_dataset(str(tmp_path))
    assert sum(sizes(dataset)) == 6
    assert [note for note in dataset.notes if "2 images beside the class folders" in note]


def test_empty_class_folders_keep_their_number(tmp_path):
    classes_of(tmp_path, "ant", "cat")
    (tmp_path / "bee" / "deep").mkdir(parents=True)
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "lost+found").mkdir()
    dataset = load_dataset(str(tmp_path))
    assert dataset.classes == ("ant", "bee", "cat")
    assert "cat" in labelled(dataset).values() and "bee" not in labelled(dataset).values()
    assert [note for note in dataset.notes if "without images: bee" in note]


def test_class_folders_without_any_image_name_what_is_there(tmp_path):
    for name in ("1.heic", "2.heic"):
        (tmp_path / "cat").mkdir(exist_ok=True)
        (tmp_path / "cat" / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"no images in its sub-folders cat.*2 \.heic.*Convert"):
        load_dataset(str(tmp_path))


# --- folders without labels ----------------------------------------------------------------------


def test_a_flat_folder_needs_classes(tmp_path):
    save(*(tmp_path / f"{number}.png" for number in range(4)))
    with pytest.raises(DataError, match=r"no labels.*classes=\[\.\.\.\]"):
        load_dataset(str(tmp_path))
    dataset = load_dataset(str(tmp_path), classes=["cat", "dog"])
    assert dataset.labels is None and sizes(dataset) == (4, 0)
    assert dataset.classes == ("cat", "dog")


@pytest.mark.parametrize("classes", [["a", "a"], ["a", ""], ["a", 3]])
def test_class_names_that_are_none(tmp_path, classes):
    save(tmp_path / "1.png")
    with pytest.raises(DataError, match="called"):
        load_dataset(str(tmp_path), classes=classes)


def test_classes_in_another_order_and_more_of_them(tmp_path):
    classes_of(tmp_path, "a", "b")
    dataset = load_dataset(str(tmp_path), classes=["b", "c", "a"])
    assert dataset.classes == ("b", "c", "a")
    assert labelled(dataset).keys() == {"0.png", "1.png", "2.png"}
    for path, label in zip(dataset.paths, dataset.labels, strict=True):
        assert Path(path).parent.name == dataset.classes[label]
    with pytest.raises(DataError, match="b"):
        load_dataset(str(tmp_path), classes=["a", "c"])


def test_a_pool_without_labels_beside_a_labelled_evaluation_split(tmp_path):
    save(tmp_path / "train" / "1.png", tmp_path / "train" / "2.png")
    classes_of(tmp_path / "val", "cat", "dog", count=1)
    dataset = load_dataset(str(tmp_path))
    assert dataset.labels is None and dataset.classes == ("cat", "dog") and sizes(dataset) == (2, 2)


@pytest.mark.parametrize("labelled_pool", [True, False])
def test_an_evaluation_split_without_labels_is_refused(tmp_path, labelled_pool):
    if labelled_pool:
        classes_of(tmp_path / "train", "cat", "dog")
    else:
        save(tmp_path / "train" / "1.png")
    save(tmp_path / "test" / "1.png")
    with pytest.raises(DataError, match=r"test has no labels.*--val-split"):
        load_dataset(str(tmp_path), classes=["cat", "dog"])


# --- where the folder is -------------------------------------------------------------------------


def test_ways_to_write_a_folder(tmp_path, monkeypatch):
    classes_of(tmp_path / "pets", "cat", "dog")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to("pets")
    ways = [
        "pets",
        "pets/",
        "./pets",
        "~/pets",
        "pets/../pets",
        f"{tmp_path}/pets//",
        "pets/cat/..",
    ]
    found = [load_dataset(way) for way in ways]
    assert {dataset.name for dataset in found} == {"pets"}
    assert len({dataset.identities for dataset in found}) == 1
    linked = load_dataset("link")
    assert linked.name == "link" and linked.identities == found[0].identities
    monkeypatch.chdir(tmp_path / "pets")
    here = load_dataset(".")
    assert here.name == "pets" and here.identities == found[0].identities


def test_a_user_who_does_not_exist():
    with pytest.raises(DataError, match="does not exist"):
        load_dataset("~no_such_user_at_all/pets")


@pytest.mark.skipif("__import__('os').geteuid() == 0", reason="root may read")
def test_a_folder_that_may_not_be_read(tmp_path):
    classes_of(tmp_path, "cat", "dog")
    (tmp_path / "cat").chmod(0)
    try:
        with pytest.raises(DataError, match=r"cat cannot be read \(Permission denied\)"):
            load_dataset(str(tmp_path))
    finally:
        (tmp_path / "cat").chmod(0o700)


# --- tables --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Four images in a folder ``images``."""
    save(*(tmp_path / "x" / "images" / f"{number}.png" for number in range(4)))
    return tmp_path / "x"


def table(folder, text, name="labels.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return str(path)


PLAIN = "path,label\n0.png,cat\n1.png,dog\n2.png,dog\n3.png,cat\n"
LABELLED = {"0.png": "cat", "1.png": "dog", "2.png": "dog", "3.png": "cat"}


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.rstrip(),
        PLAIN.replace("\n", "\n\n"),
        PLAIN + ",\n , \n   \n",
        PLAIN.replace("path", "Filename").replace("label", "CLASS"),
        PLAIN.replace("path", "file"),
        PLAIN.replace("path", "image"),
        PLAIN.replace("path,label", " path , label "),
        PLAIN.replace("0.png", '"0.png"').replace("cat", ' "cat"'.strip()),
        "note,label,path\n" + '"a, ""b""\nc",cat,0.png\n,dog,1.png\n;,dog,2.png\n\t,cat,3.png\n',
        ",path,label\n0,0.png,cat\n1,1.png,dog\n2,2.png,dog\n3,3.png,cat\n",
    ],
)
def test_ways_to_write_a_table(folder, text):
    for where in (table(folder, text), str(folder)):
        dataset = load_dataset(where)
        assert labelled(dataset) == LABELLED and dataset.classes == ("cat", "dog")
        assert dataset.name == ("labels" if where.endswith(".csv") else "x")


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["1", "2", "3", "3"], ("1", "2", "3")),
        (["3", "7", "9", "3"], ("3", "7", "9")),
        (["10", "9", "2", "9"], ("2", "9", "10")),
        (["3.0", "10.0", "7.0", "3.0"], ("3", "7", "10")),
        (["1.5", "1.0", "2.0", "1.5"], ("1.0", "1.5", "2.0")),
        (["-1", "0", "1", "-1"], ("-1", "0", "1")),
        (["01", "1", "01", "2"], ("01", "1", "2")),
        (["b", "ä", "B", "a"], ("B", "a", "b", "ä")),
        (["1", "x", "10", "2"], ("1", "2", "10", "x")),
        (["a, b", "c", "c", "a, b"], ("a, b", "c")),
        (["None", "nan", "None", "nan"], ("None", "nan")),
    ],
)
def test_the_classes_are_what_the_labels_are(folder, labels, classes):
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["path", "label"], *([f"{n}.png", v] for n, v in enumerate(labels))])
    dataset = load_dataset(str(folder))
    assert dataset.classes == classes
    wanted = [v.removesuffix(".0") if "10.0" in labels else v for v in labels]
    assert labelled(dataset) == {f"{n}.png": v for n, v in enumerate(wanted)}


def test_a_table_without_labels(folder):
    where = table(folder, "path\n0.png\n2.png\n")
    with pytest.raises(DataError, match="no labels"):
        load_dataset(where)
    dataset = load_dataset(where, classes=["cat", "dog"])
    assert dataset.labels is None and sizes(dataset) == (2, 0)
    empty = table(folder, "path,label\n0.png,\n2.png, \n", "empty.csv")
    assert load_dataset(empty, classes=["cat", "dog"]).labels is None


@pytest.mark.parametrize("blank", ["", "\n\n"])
def test_some_labels_are_missing(folder, blank):
    where = table(folder, f"path,label\n{blank}0.png,cat\n1.png,\n")
    with pytest.raises(DataError, match=rf"no label in line {3 + len(blank)} \(1\.png\), but 1 "):
        load_dataset(where)


def test_a_line_with_other_fields_is_named_by_its_number_in_the_file(folder):
    where = table(folder, 'path,label\n\n0.png,"two\nlines"\n\n1.png,dog,3\n')
    with pytest.raises(DataError, match=r"line 6 has 3 fields; expected 2: path, label"):
        load_dataset(where)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("path,label\n", "has no lines"),
        ("a,b\n0.png,cat\n", "columns a, b; expected one with the image files, called path or"),
        ("path,label,Label\n0.png,cat,dog\n", "two columns called label"),
        ("path,label\n0.png,cat\ngone.png,dog\n,cat\n", "2 files .*gone.png.*--data-dir"),
    ],
)
def test_tables_that_are_refused(folder, text, message):
    with pytest.raises(DataError, match=message):
        load_dataset(table(folder, text))


def test_tables_that_are_not_text(folder):
    for encoding in ("utf-16", "latin-1"):
        where = table(folder, "path,label\n0.png,Käse\n1.png,dog\n", encoding=encoding)
        with pytest.raises(DataError, match="cannot be read as a CSV table"):
            load_dataset(where)


def test_names_that_no_file_can_have(folder):
    where = table(folder, f"image,label\n{'x' * 5000},cat\n1.png,dog\n")
    with pytest.raises(DataError, match="names 1 file"):
        load_dataset(where)


@pytest.mark.parametrize("column", ["split", "Set", "SUBSET", "partition"])
@pytest.mark.parametrize(("train", "held_out"), [("train", "val"), ("Training", "TEST")])
def test_a_column_of_splits(folder, column, train, held_out):
    lines = [f"{n}.png,{'ab'[n % 2]},{held_out if n == 3 else train}" for n in range(4)]
    dataset = load_dataset(table(folder, "\n".join([f"path,label,{column}", *lines])))
    assert sizes(dataset) == (3, 1) and Path(dataset.eval_paths[0]).name == "3.png"
    assert dataset.classes == ("a", "b")


def test_splits_of_a_table_by_name(folder):
    lines = [f"{n}.png,a,fold{n // 2}" for n in range(4)]
    where = table(folder, "\n".join(["path,label,split", *lines]))
    with pytest.raises(DataError, match=r"splits fold0, fold1\. Set train_split \(--train-split\)"):
        load_dataset(where)
    with pytest.raises(DataError, match=r"splits fold0, fold1\. Set eval_split \(--val-split\)"):
        load_dataset(where, train_split="fold1")
    dataset = load_dataset(where, train_split="FOLD1", eval_split="fold0")
    assert {Path(path).name for path in dataset.paths} == {"2.png", "3.png"}


def test_a_table_of_splits_without_labels_is_refused(folder):
    where = table(folder, "path,split\n0.png,train\n1.png,val\n")
    with pytest.raises(DataError, match=r"no labels.*--val-split"):
        load_dataset(where, classes=["a", "b"])


def test_where_the_paths_of_a_table_lead(folder, tmp_path, monkeypatch):
    beside = table(folder, PLAIN.replace("0.png", "images/0.png").replace("\n1", "\nimages/1"))
    with pytest.raises(DataError, match="names 2 files that are not in"):
        load_dataset(beside)
    whole = PLAIN
    for number in range(4):
        whole = whole.replace(f"\n{number}", f"\nimages/{number}")
    assert labelled(load_dataset(table(folder, whole, "a.csv"))) == LABELLED
    absolute = PLAIN
    for number in range(4):
        absolute = absolute.replace(f"\n{number}", f"\n{folder}/images/{number}")
    assert labelled(load_dataset(table(tmp_path, absolute, "b.csv"))) == LABELLED
    far = table(tmp_path, PLAIN, "c.csv")
    with pytest.raises(DataError, match=r"4 files that are not in .*0\.png, 1\.png.*root"):
        load_dataset(far)
    assert labelled(load_dataset(far, root=folder / "images")) == LABELLED
    monkeypatch.setenv("HOME", str(tmp_path))
    assert labelled(load_dataset("~/c.csv", root="~/x/images")) == LABELLED
    monkeypatch.chdir(tmp_path)
    assert labelled(load_dataset("c.csv", root="x/images")) == LABELLED
    assert dataset_size("c.csv", root="x/images").classes == 2


def test_endings_of_tables_in_any_case(folder):
    assert labelled(load_dataset(table(folder, PLAIN, "LIST.CSV"))) == LABELLED


def test_a_table_beside_class_folders_is_said_and_can_be_left(folder):
    classes_of(folder, "sun", "moon")
    table(folder, PLAIN)
    dataset = load_dataset(str(folder))
    assert dataset.classes == ("cat", "dog")
    assert [n for n in dataset.notes if "labels.csv" in n and "--train-split" in n]
    assert load_dataset(str(folder), train_split=".").classes == ("images", "moon", "sun")


def test_a_table_that_is_something_else_says_how_to_leave_it(tmp_path):
    classes_of(tmp_path, "sun", "moon")
    (tmp_path / "metadata.csv").write_text("camera,year\nA,2020\n")
    with pytest.raises(DataError, match=r"columns camera, year.*--train-split"):
        load_dataset(str(tmp_path))
    assert load_dataset(str(tmp_path), train_split=".").classes == ("moon", "sun")


def test_the_same_file_twice_in_a_table(folder):
    dataset = load_dataset(table(folder, PLAIN + "0.png,cat\n"))
    assert sum(sizes(dataset)) == 4
    assert [note for note in dataset.notes if "1 file left out" in note]
    with pytest.raises(DataError, match=r"0\.png: labelled 'dog', and a file with the same"):
        load_dataset(table(folder, PLAIN + "0.png,dog\n"))


def test_damaged_and_wanted_files_of_a_table(folder):
    (folder / "images" / "1.png").write_bytes(b"")
    where = table(folder, PLAIN)
    with pytest.raises(DataError, match=r"1\.png: the file is empty"):
        load_dataset(where)
    rest = labelled(load_dataset(where, on_error="skip"))
    assert rest == {name: label for name, label in LABELLED.items() if name != "1.png"}


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow")
def test_parquet(folder):
    import pyarrow
    from pyarrow import parquet

    columns = {"path": [f"{n}.png" for n in range(4)], "label": [3.0, 7.0, 3.0, 10.0]}
    parquet.write_table(pyarrow.table(columns), folder / "labels.parquet")
    assert load_dataset(str(folder)).classes == ("3", "7", "10")


def test_parquet_without_pyarrow(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # an import of it fails
    (folder / "labels.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"pip install 'alhpo\[parquet\]'"):
        load_dataset(str(folder))
