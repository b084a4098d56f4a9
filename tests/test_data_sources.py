"""Data sources by name, and the suite that passes good ones and catches bad ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alhpo import RunConfig, load_dataset
from alhpo.base.errors import ConfigurationError, DataError
from alhpo.data.lazy import LazyImages
from alhpo.data.loading import dataset_size
from alhpo.data.sources import (
    DatasetSize,
    SourceData,
    data_source_names,
    register_data_source,
)
from alhpo.data.sources.registry import SOURCES
from alhpo.runs.data import load_data
from alhpo.testing import check_data_source


@pytest.fixture(autouse=True)
def _forgotten_afterwards():
    with SOURCES.temporary():
        yield


PIXELS = np.random.default_rng(0).integers(0, 256, (30, 6, 6, 3)).astype(np.uint8)
LABELS = np.arange(30) % 3


def images(part=slice(None)):
    return LazyImages.of_arrays("here", PIXELS[part], LABELS[part], ["a", "b", "c"])


def parts(options):
    return SourceData(images(slice(0, 20)), images(slice(20, 30)), "flip")


def test_a_registered_source_is_a_data_set_of_settings():
    register_data_source("mine")(parts)
    dataset = load_data(RunConfig.create({"dataset": "mine", "pool_size": 15}))
    assert (dataset.name, dataset.augmentation, len(dataset)) == ("mine", "flip", 15)
    assert dataset.classes == ("a", "b", "c")
    whole = load_dataset("mine")
    assert np.array_equal(whole.images.numpy(), PIXELS[:20])
    assert np.array_equal(whole.eval_images.numpy(), PIXELS[20:])
    assert dataset_size("mine", eval_size=4) == DatasetSize(20, 4, (6, 6, 3), 3)


def test_a_family_reads_what_follows_the_slash_and_the_splits_asked_for():
    asked = []

    @register_data_source("mine/N")
    def first(options):
        asked.append((options.member, options.train_split, options.eval_split, options.root))
        return SourceData(images(slice(0, int(options.member))), name=f"first-{options.member}")

    assert "mine/N" in data_source_names()
    dataset = load_dataset("mine/10", root="somewhere", train_split="t", eval_split="e")
    assert (dataset.name, len(dataset), len(dataset.eval_images)) == ("first-10", 8, 2)
    assert asked == [("10", "t", "e", Path("somewhere"))]
    with pytest.raises(ConfigurationError, match=r"'mine' belongs to .*first"):
        register_data_source("mine/M")(parts)


def test_files_are_read_by_the_source_of_their_ending(tmp_path):
    @register_data_source(".rows")
    def rows(options):
        pixels = np.frombuffer(options.path.read_bytes(), np.uint8).reshape(-1, 4, 4)
        return SourceData(LazyImages.of_arrays(options.name, pixels, np.arange(len(pixels)) % 2))

    (tmp_path / "some.ROWS").write_bytes(bytes(range(160)))
    dataset = load_dataset(str(tmp_path / "some.ROWS"))
    assert (len(dataset), len(dataset.eval_images), dataset.classes) == (8, 2, ("0", "1"))
    check_data_source(str(tmp_path / "some.ROWS"))
    (tmp_path / "some.txt").touch()
    with pytest.raises(
        DataError, match=r"nor a file .* \(\.csv, \.npz, \.parquet, \.rows\).*is a file"
    ):
        load_dataset(str(tmp_path / "some.txt"))


def test_a_size_is_told_before_anything_is_read():
    @register_data_source("far", size=lambda options: DatasetSize(100, 10, (6, 6, 3), 3))
    def far(options):
        raise DataError("not downloaded")

    assert dataset_size("far", pool_size=40) == DatasetSize(40, 10, (6, 6, 3), 3)


@pytest.mark.parametrize("name", ["digits", "torch/NAME", 3, ""])
def test_a_name_that_is_taken_or_no_text_is_refused(name):
    with pytest.raises((ConfigurationError, AttributeError)):
        register_data_source(name)(parts)


def test_a_class_is_no_source():
    with pytest.raises(ConfigurationError, match="a function \\(options\\) -> SourceData"):
        register_data_source("mine")(SourceData)


def test_sources_of_the_package_conform(tmp_path):
    for number in range(12):
        file = tmp_path / "pets" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS[number]).save(file)
    check_data_source(str(tmp_path / "pets"))
    check_data_source("digits")


def with_pool(**changes):
    return lambda options: SourceData(replace(images(), **changes))


CALLS = iter(range(10**6))
BAD = {
    "SourceData": lambda options: images(),
    "augmentation": lambda options: SourceData(images(), augmentation="twist"),
    "no images": with_pool(count=0),
    "distinct": with_pool(classes=["a", "a", "b"]),
    "label 2, of 2": with_pool(classes=["a", "b"]),
    "PIL image": with_pool(get=lambda i: (PIXELS[i], 0)),
    "integer from 0": with_pool(get=lambda i: (Image.fromarray(PIXELS[i]), "cat")),
    "mode F": with_pool(get=lambda i: (Image.new("F", (4, 4)), 0)),
    "other images": with_pool(get=lambda i: (Image.new("L", (4, 4), next(CALLS) % 251), 0)),
    "images or labels": with_pool(get=lambda i: (Image.new("L", (4, 4)), next(CALLS) % 3)),
    "told to be": with_pool(shape=(6, 6, 1)),
    "whole process": lambda options: (torch.rand(1), SourceData(images()))[1],
    "classes that the pool lacks": lambda options: SourceData(
        replace(images(), classes=["a", "b", "c"]), replace(images(), classes=["a", "b", "d"])
    ),
}


@pytest.mark.parametrize("rule", BAD)
def test_a_bad_source_is_caught(rule):
    register_data_source("bad")(BAD[rule])
    with pytest.raises(AssertionError, match=rule):
        check_data_source("bad")


def test_a_size_that_is_not_that_of_the_images_is_caught():
    register_data_source("bad", size=lambda options: DatasetSize(21, 10, (6, 6, 3), 3))(parts)
    with pytest.raises(AssertionError, match="is told to be of"):
        check_data_source("bad")
