"""MedMNIST's files by name and by path: their form, splits, sizes, classes and refusals."""

from __future__ import annotations

import functools
import hashlib
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from alhpo import ImageDataset, RunConfig, load_dataset
from alhpo.base.errors import DataError
from alhpo.data.loading import dataset_size
from alhpo.data.sources import DatasetSize, medmnist
from alhpo.data.zipped_arrays import ZippedRows
from alhpo.runs.data import size_of_data
from alhpo.testing import check_data_source

COUNTS = {"train": 30, "val": 11, "test": 12}


def arrays(classes=9, side=28, colour=True, column=True, seed=0):
    """The six arrays of a set."""
    generator, found = np.random.default_rng(seed), {}
    for split, n in COUNTS.items():
        shape = (n, side, side, 3) if colour else (n, side, side)
        found[f"{split}_images"] = generator.integers(0, 256, shape).astype(np.uint8)
        labels = generator.permutation(np.arange(n) % classes).astype(np.uint8)
        found[f"{split}_labels"] = labels[:, None] if column else labels
    return found


def save(file: Path, compressed=True, **content) -> Path:
    (np.savez_compressed if compressed else np.savez)(file, **content)
    return file


def refused(file, match, **settings):
    with pytest.raises(DataError, match=match) as error:
        load_dataset(str(file), download=False, **settings)
    return str(error.value)


# --- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("column", [True, False])
@pytest.mark.parametrize("compressed", [True, False])
def test_images_and_labels_are_those_of_the_arrays(tmp_path, colour, column, compressed):
    content = arrays(5, 20, colour, column)
    file = save(tmp_path / "mine.npz", compressed, **content)
    dataset = load_dataset(str(file))
    assert (dataset.name, dataset.channels) == ("mine", 3 if colour else 1)
    for images, split in ((dataset.images, "train"), (dataset.eval_images, "test")):
        expected = content[f"{split}_images"]
        assert np.array_equal(images.numpy().reshape(expected.shape), expected)
    assert dataset.labels.tolist() == content["train_labels"].ravel().tolist()
    assert dataset.eval_labels.tolist() == content["test_labels"].ravel().tolist()
    assert dataset_size(str(file)) == DatasetSize(30, 12, (20, 20, 3 if colour else 1), 5)
    check_data_source(str(file))


@pytest.mark.parametrize("name", ["pathmnist", "PathMNIST", "PATHMNIST"])
def test_a_set_by_its_name_in_any_case(tmp_path, name):
    save(tmp_path / "pathmnist.npz", **arrays())
    dataset = load_dataset(f"medmnist/{name}", root=tmp_path, download=False)
    assert (dataset.name, len(dataset), dataset.num_classes) == ("pathmnist", 30, 9)
    assert dataset.classes[5] == "smooth muscle" and dataset.augmentation == "crop-flip"


def test_a_set_conforms(tmp_path):
    save(tmp_path / "organcmnist.npz", **arrays(11, colour=False))
    check_data_source("medmnist/OrganCMNIST", root=tmp_path)
    check_data_source("medmnist/organcmnist", root=tmp_path, train_split="test", eval_split="val")


@pytest.mark.parametrize("size, side", [(64, 64), (128, 128), (28, 28), (None, 28), (40, 28)])
def test_the_file_of_the_size_asked_for(tmp_path, size, side):
    """Of sizes that have no file, the images of 28 pixels are resized."""
    for stored, seed in ((28, 0), (64, 1), (128, 2)):
        name = "pathmnist.npz" if stored == 28 else f"pathmnist_{stored}.npz"
        save(tmp_path / name, **arrays(side=stored, seed=seed))
    dataset = load_dataset("medmnist/pathmnist", root=tmp_path, image_size=size)
    plain = load_dataset(str(tmp_path / f"pathmnist{'' if side == 28 else f'_{side}'}.npz"))
    assert dataset.image_size == ((size or 28,) * 2) and plain.image_size == (side, side)
    assert dataset.identities == plain.identities and dataset.name == plain.name
    assert dataset.classes == plain.classes  # the file's name tells the set


def test_the_folder_of_medmnists_package_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".medmnist").mkdir()
    save(tmp_path / ".medmnist" / "pathmnist.npz", **arrays())
    assert len(load_dataset("medmnist/pathmnist", download=False)) == 30
    refused("medmnist/pathmnist", "is not there", root=tmp_path / "other")


def test_the_same_arrays_are_the_same_images(tmp_path):
    content = arrays(9)
    file = load_dataset(str(save(tmp_path / "some.npz", **content)))
    given = ImageDataset.from_arrays(
        content["train_images"],
        content["train_labels"],
        eval_images=content["test_images"],
        eval_labels=content["test_labels"],
    )
    assert file.identities == given.identities
    assert file.eval_identities == given.eval_identities
    assert file.classes == given.classes and torch.equal(file.labels, given.labels)


def test_classes_of_other_files_are_the_labels_that_occur(tmp_path):
    content = arrays(3)
    for split in COUNTS:
        content[f"{split}_labels"] = content[f"{split}_labels"] * 4 + 3
    dataset = load_dataset(str(save(tmp_path / "some.npz", **content)))
    assert dataset.classes == ("3", "7", "11") and int(dataset.labels.max()) == 2


def test_a_subset_of_the_pool_is_that_of_all_images(tmp_path):
    file = str(save(tmp_path / "some.npz", **arrays()))
    small, whole = load_dataset(file, pool_size=7, eval_size=3), load_dataset(file)
    assert len(small) == 7 and len(small.eval_images) == 3
    assert set(small.identities) < set(whole.identities)
    assert load_dataset(file, pool_size=7).identities == small.identities


# --- splits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked, split", [({}, "test"), ({"eval_split": "test"}, "test"), ({"eval_split": "val"}, "val")]
)
def test_the_test_split_evaluates_unless_val_is_asked_for(tmp_path, asked, split):
    content = arrays()
    save(tmp_path / "pathmnist.npz", **content)
    dataset = load_dataset("medmnist/pathmnist", root=tmp_path, **asked)
    assert np.array_equal(dataset.eval_images.numpy(), content[f"{split}_images"])
    unused = "val" if split == "test" else "test"
    assert any(f"{split} the evaluation split; {unused} is not used" in n for n in dataset.notes)


def test_the_default_of_a_run_is_the_test_split(tmp_path):
    save(tmp_path / "pathmnist.npz", **arrays())
    config = RunConfig.create({"dataset": "medmnist/pathmnist", "data_dir": str(tmp_path)})
    assert size_of_data(config).evaluation == COUNTS["test"]


def test_splits_that_are_refused(tmp_path):
    file = save(tmp_path / "some.npz", **arrays())
    refused(file, "no split 'dev'.*--val-split.*train, val, test", eval_split="dev")
    refused(file, "both the pool and the evaluation", train_split="test")
    refused("medmnist/pathmnist", "no split 'extra'", train_split="extra", root=tmp_path)


# --- sizes before a download ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, settings, size",
    [
        ("pathmnist", {}, DatasetSize(89_996, 7_180, (28, 28, 3), 9)),
        ("OrganCMNIST", {}, DatasetSize(12_975, 8_216, (28, 28, 1), 11)),
        ("tissuemnist", {"image_size": 64}, DatasetSize(165_466, 47_280, (64, 64, 1), 8)),
        ("pathmnist", {"eval_split": "val"}, DatasetSize(89_996, 10_004, (28, 28, 3), 9)),
        ("pathmnist", {"pool_size": 10}, DatasetSize(10, 7_180, (28, 28, 3), 9)),
    ],
)
def test_sizes_are_known_before_the_download(tmp_path, name, settings, size):
    assert dataset_size(f"medmnist/{name}", root=tmp_path, **settings) == size


def test_the_table_of_sets():
    """Every set has its facts, and left and right are classes only where nothing is flipped."""
    for name, facts in medmnist.medmnist_sets().items():
        assert set(facts["images"]) == {"train", "val", "test"} and facts["channels"] in (1, 3)
        assert all(len(facts["md5"][side]) == 32 for side in medmnist.SIZES)
        assert len(set(facts["classes"])) == len(facts["classes"]) > 1
        sided = any("left" in label for label in facts["classes"])
        assert (medmnist._augmentation(name) == "crop") == sided
    md5 = {name: facts["md5"][28] for name, facts in medmnist.medmnist_sets().items()}
    assert md5["pathmnist"] == "a8b06965200029087d5bd730944a56c1"
    assert md5["organcmnist"] == "b9ceb9546e10131b32923c5bbeaea2b1"
    assert md5["tissuemnist"] == "ebe78ee8b05294063de985d821c1c34b"


# --- refusals ------------------------------------------------------------------------------------


def test_a_missing_file_is_named_with_its_page_and_folder(tmp_path):
    message = refused("medmnist/PathMNIST", "not there", root=tmp_path, image_size=64)
    assert "https://zenodo.org/records/10519652" in message
    assert "pathmnist_64.npz" in message and str(tmp_path) in message and "--data-dir" in message


@pytest.mark.parametrize(
    "name, match",
    [
        ("ChestMNIST", "'medmnist/ChestMNIST' is multi-label, with 14 labels"),
        ("organmnist3d", "'medmnist/organmnist3d' has 3-D images"),
        ("pathmnst", "Did you mean 'pathmnist'.*organcmnist"),
        ("", "no data set 'medmnist/'.*pathmnist"),
    ],
)
def test_names_that_are_refused(tmp_path, name, match):
    refused(f"medmnist/{name}", match, root=tmp_path)
    with pytest.raises(DataError, match=match):
        dataset_size(f"medmnist/{name}", root=tmp_path)


def changed(**changes):
    return {key: value for key, value in (arrays() | changes).items() if value is not None}


BAD = {
    "multi-label, with 14 labels": changed(train_labels=np.zeros((30, 14), np.uint8)),
    "3-D images": changed(train_images=np.zeros((30, 28, 28, 28), np.uint8)),
    "3-D": changed(train_images=np.zeros((30, 4, 4, 4, 3), np.uint8)),
    "lacks test_images, test_labels": changed(test_images=None, test_labels=None),
    "type float32; expected N x H": changed(train_images=np.zeros((30, 4, 4), np.float32)),
    r"shape \(30, 4\)": changed(train_images=np.zeros((30, 4), np.uint8)),
    "one integer for each of the 30 images": changed(train_labels=np.zeros((29, 1), np.uint8)),
    "type float64; expected one": changed(train_labels=np.zeros(30)),
    "type object": changed(train_labels=np.array(["a"] * 30, dtype=object)),
    "span 0 to 9; with 9 classes": changed(train_labels=np.arange(30) % 10),
    "span -1 to 8; with 9 classes": changed(test_labels=np.arange(12) % 10 - 1),
    "Fortran order": changed(train_images=np.zeros((28, 28, 30), np.uint8).T),
}


@pytest.mark.parametrize("match", BAD)
def test_files_of_another_form_are_refused(tmp_path, match):
    file = save(tmp_path / "pathmnist.npz", **BAD[match])
    assert str(file) in refused(file, match)


@pytest.mark.parametrize("keep", [0, 40, 0.5, 0.99])
def test_damaged_files_are_named(tmp_path, keep):
    file = save(tmp_path / "some.npz", **arrays())
    content = file.read_bytes()
    file.write_bytes(content[: keep if keep >= 1 else int(keep * len(content))])
    refused(file, r"some\.npz cannot be read.*get it again")


def test_damage_within_an_array_is_found(tmp_path):
    file = save(tmp_path / "some.npz", compressed=False, **arrays(side=200))
    content = bytearray(file.read_bytes())
    content[1_000_000] ^= 255
    file.write_bytes(content)
    refused(file, r"some\.npz cannot be read.*CRC")


# --- memory --------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_before_it_is_read(tmp_path, monkeypatch):
    file = str(save(tmp_path / "some.npz", **arrays(side=100)))
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: type("", (), {"available": 35 * 100 * 100 * 3 / 0.8})
    )
    with monkeypatch.context() as patch:
        patch.setattr(ZippedRows, "_read", lambda *_: pytest.fail("rows were read"))
        refused(file, "42 images .* of 100 x 100 x 3 bytes.*pool_size")
    assert len(load_dataset(file, pool_size=20)) == 20  # as the message advises


def test_a_file_is_read_some_blocks_at_a_time(tmp_path, monkeypatch):
    content = arrays(side=50)
    file = save(tmp_path / "some.npz", **content)
    monkeypatch.setattr("alhpo.data.zipped_arrays.BLOCK_BYTES", 4 * 50 * 50 * 3)
    rows, expected = ZippedRows(file, "train_images"), content["train_images"]
    for order in (range(30), reversed(range(30)), [29, 0, 17, 3, 3]):
        assert all(np.array_equal(rows[row], expected[row]) for row in order)
    assert len(rows._blocks) == 8 and len(rows) == 30 and sum(1 for _ in rows) == 30
    assert np.array_equal(load_dataset(str(file)).images.numpy(), expected)


# --- download ------------------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The one file of a page that a server on this machine shows."""
    files = tmp_path / "page" / "files"
    files.mkdir(parents=True)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=files.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(medmnist, "PAGE", f"http://127.0.0.1:{server.server_port}")
        yield save(files / "pathmnist.npz", **arrays())
        server.shutdown()
        thread.join()


def test_a_missing_file_is_downloaded_once_and_checked(tmp_path, page, monkeypatch):
    facts = medmnist.medmnist_sets()["pathmnist"]
    refused("medmnist/pathmnist", "not there.*allow the download", root=tmp_path / "data")
    with pytest.raises(DataError, match=r"could not be downloaded.*Download pathmnist\.npz from"):
        load_dataset("medmnist/pathmnist", root=tmp_path / "data")  # another MD5
    assert not (tmp_path / "data" / "pathmnist.npz").exists()
    digest = hashlib.md5(page.read_bytes()).hexdigest()
    monkeypatch.setitem(facts, "md5", facts["md5"] | {28: digest})
    first = load_dataset("medmnist/PathMNIST", root=tmp_path / "data")
    page.unlink()
    assert load_dataset("medmnist/pathmnist", root=tmp_path / "data").identities == first.identities
    assert {file.name for file in (tmp_path / "data").iterdir()} <= {
        "pathmnist.npz",
        ".download.lock",
    }
