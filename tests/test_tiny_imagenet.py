"""TinyImageNet's folder: labels of val by annotation, class names by words, test without labels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from alhpo import load_dataset
from alhpo.base.errors import DataError
from alhpo.data.loading import dataset_size
from alhpo.data.sources import DatasetSize
from alhpo.testing import check_data_source

WNIDS = ["n03", "n01", "n02"]  # not sorted, as in wnids.txt
WORDS = {"n01": "crane, bird", "n02": "goldfish, Carassius auratus", "n03": "crane", "n99": "crane"}
#: The class of each image of val.
VAL = {f"val_{i}.JPEG": WNIDS[i * 2 % 3] for i in range(9)}


def draw(file, number, grey=False):
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8) if grey else (8, 8, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=100, subsampling=0)


@pytest.fixture
def tiny(tmp_path):
    """A tree of the form of tiny-imagenet-200, with three classes and grey images among others."""
    folder = tmp_path / "tiny-imagenet-200"
    for number, wnid in enumerate(WNIDS):
        for i in range(4):
            file = folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG"
            draw(file, 100 * number + i, grey=i == 0)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("n01_0.JPEG\t0\t0\t62\t62\n")
    for i, name in enumerate(VAL):
        draw(folder / "val" / "images" / name, 1000 + i, grey=i == 0)
    lines = [f"{name}\t{wnid}\t0\t32\t44\t62\n" for name, wnid in VAL.items()]
    shuffled = np.random.default_rng(0).permutation(lines)
    (folder / "val" / "val_annotations.txt").write_text("".join(shuffled))
    draw(folder / "test" / "images" / "test_0.JPEG", 2000)
    (folder / "wnids.txt").write_text("\n".join(WNIDS))
    words = "".join(f"{wnid}\t{text}\n" for wnid, text in WORDS.items())
    (folder / "words.txt").write_text(words)
    return folder


def labels_of(paths, labels, classes):
    return {path.rpartition("/")[2]: classes[label] for path, label in zip(paths, labels, strict=1)}


def check(dataset):
    words = {"n01": "crane (n01)", "n02": "goldfish", "n03": "crane (n03)"}
    assert dataset.classes == ("crane (n01)", "goldfish", "crane (n03)")  # of the sorted ids
    assert dataset.images.shape == (12, 8, 8, 3) and dataset.augmentation == "crop-flip"
    pool = labels_of(dataset.paths, dataset.labels, dataset.classes)
    assert pool == {f"{w}_{i}.JPEG": words[w] for w in WNIDS for i in range(4)}
    held_out = labels_of(dataset.eval_paths, dataset.eval_labels, dataset.classes)
    assert held_out == {name: words[wnid] for name, wnid in VAL.items()}


def test_by_name_and_by_path(tiny):
    named = load_dataset("tiny-imagenet", root=tiny.parent)
    check(named)
    check(load_dataset(str(tiny)))
    assert named.name == "tiny-imagenet"
    check_data_source("tiny-imagenet", root=tiny.parent)
    check_data_source(str(tiny))


def test_val_by_classes_as_many_have_moved_it(tiny):
    images = tiny / "val" / "images"
    for name, wnid in VAL.items():
        (tiny / "val" / wnid).mkdir(exist_ok=True)
        (images / name).rename(tiny / "val" / wnid / name)
    images.rmdir()
    check(load_dataset("tiny-imagenet", root=tiny.parent))  # annotations may be left


def test_the_test_split_has_no_labels(tiny):
    for name in ("tiny-imagenet", str(tiny)):
        with pytest.raises(DataError, match=r"test.* has no labels.*--val-split"):
            load_dataset(name, root=tiny.parent, eval_split="test")


def test_classes_without_words_keep_their_ids(tiny):
    (tiny / "words.txt").unlink()
    assert load_dataset(str(tiny)).classes == ("n01", "n02", "n03")


def test_a_class_of_val_that_the_pool_lacks(tiny):
    with (tiny / "val" / "val_annotations.txt").open("a") as file:
        file.write("val_0.JPEG\tn07\t0\t0\t1\t1\n")
    with pytest.raises(DataError, match="classes that the pool lacks: n07"):
        load_dataset(str(tiny))


def test_an_annotated_image_that_is_not_there_is_named(tiny):
    (tiny / "val" / "images" / "val_4.JPEG").unlink()
    with pytest.raises(DataError, match=r"val_4\.JPEG: No such file"):
        load_dataset(str(tiny))


@pytest.mark.parametrize("file", ["words.txt", "val/val_annotations.txt"])
def test_a_line_without_tabs_is_named(tiny, file):
    (tiny / file).write_text("n01\tcrane\nn02 goldfish\n")
    with pytest.raises(DataError, match=r"txt, line 2: 'n02 goldfish'.*tabs"):
        load_dataset(str(tiny))


def test_the_size_is_known_before_the_download(tmp_path, tiny):
    whole = DatasetSize(100_000, 10_000, (64, 64, 3), 200)
    assert dataset_size("tiny-imagenet", root=tmp_path / "none") == whole
    assert dataset_size("tiny-imagenet", root=tiny.parent) == DatasetSize(12, 9, (8, 8, 3), 3)


def test_a_missing_folder_is_named_with_its_archive(tmp_path):
    with pytest.raises(DataError, match=r"tiny-imagenet-200 is not there.*\.zip.*--data-dir"):
        load_dataset("tiny-imagenet", root=tmp_path)
    with pytest.raises(DataError, match="Did you mean 'tiny-imagenet'"):
        load_dataset("tinyimagenet", root=tmp_path)
