"""The conformance suite for data sources."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

from alhpo.base.errors import DataError
from alhpo.data.lazy import ImageFiles, LazyImages
from alhpo.data.loading import dataset_size, load_dataset
from alhpo.data.pixels import UnreadableImage, as_shown
from alhpo.data.sources import SourceData, SourceOptions, find_source
from alhpo.hyperparameters import Augmentation
from alhpo.testing.process_state import global_seed, process_left_alone, require

#: The number of images of each split that are checked.
LOOKED_AT = 100
AUGMENTATIONS = tuple(name for name in get_args(Augmentation) if name != "auto")


def check_data_source(
    name: str,
    *,
    root: str | Path | None = None,
    train_split: str = "train",
    eval_split: str = "validation",
) -> None:
    """Check that a data source describes its images correctly and always returns the same ones.

    Both splits have images. Each image is a PIL image with 8 or 16 bits per channel, of the
    ``shape`` that is told of its part, if one is, and has a label from 0, below the number of
    classes if the classes are named. At every call, from any thread and with any global seed, the
    source returns the same images. The state of the process does not change. A ``size`` known
    without reading is correct. ``load_dataset`` gives the same data set twice. An unknown split is
    refused with a ``DataError`` or treated as any other.

    Args:
        name: name of a data set whose images are on disk; nothing is downloaded. Register a source
            written in Python first.
        root: see ``load_dataset``.
        train_split: see ``load_dataset``.
        eval_split: see ``load_dataset``.

    Raises:
        AssertionError: the message is the broken rule.
    """
    source = find_source(name)
    where = f"Data source {name!r}"
    folder = Path(root or Path.home() / ".cache" / "alhpo" / "data").expanduser()
    options = SourceOptions(name, folder, train_split, eval_split, download=False)
    with process_left_alone(where):
        data = source(options)
    require(isinstance(data, SourceData), f"{where} must give a SourceData, not {data!r}.")
    legal = data.augmentation in AUGMENTATIONS
    require(legal, f"{where}: augmentation {data.augmentation!r}; legal: {AUGMENTATIONS}.")
    again = []
    for seed in (1, 2):
        with global_seed(seed):
            again.append(source(options))
    for part in ("pool", "evaluation"):
        images = getattr(data, part)
        if part == "pool" or images is not None:
            others = [getattr(other, part) for other in again]
            _check_images(images, others, f"{where}, {part}")
    if data.evaluation is not None and data.pool.classes is not None:
        try:
            data.evaluation.with_classes(data.pool.classes)
        except DataError as error:
            raise AssertionError(f"{where}: {error}") from error
    _check_loading(name, where, data, options)


def _check_images(images: Any, others: list[Any], where: str) -> None:
    known = isinstance(images, LazyImages | ImageFiles)
    require(known, f"{where} must be LazyImages or ImageFiles, not {images!r}.")
    require(images.count > 0, f"{where} has no images.")
    if images.classes is not None:
        names = list(images.classes)
        text = all(isinstance(name, str) for name in names)
        distinct = len(set(names)) == len(names) > 0
        require(text and distinct, f"{where}: classes must be distinct texts, not {names!r}.")
    chosen = np.unique(np.linspace(0, images.count - 1, min(images.count, LOOKED_AT)).astype(int))
    first = [_content(images, i, where) for i in chosen.tolist()]
    for other in others:
        same = other.count == images.count and _paths(other) == _paths(images)
        same = same and list(other.classes or ()) == list(images.classes or ())
        require(same, f"{where}: asked again, it has other images, paths or classes.")
        read = functools.partial(_content, other, where=where)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(read, chosen[::-1].tolist()))
        require(found[::-1] == first, f"{where}: asked again, it gives other images or labels.")


def _paths(images: Any) -> tuple[str, ...]:
    return images.paths if isinstance(images, ImageFiles) else ()


def _content(images: LazyImages, index: int, where: str) -> tuple[Any, ...]:
    """The content of an image, after a check of it."""
    image, label = images.get(index)
    where = f"{where}, image {index}"
    require(isinstance(image, Image.Image), f"{where} must be a PIL image, not {image!r}.")
    try:
        shown = as_shown(image)
    except UnreadableImage as error:
        raise AssertionError(f"{where} cannot be shown: {error}.") from error
    if label is None and isinstance(images, ImageFiles) and images.labels is None:
        return image.mode, image.size, image.tobytes(), label
    whole = isinstance(label, int | np.integer) and not isinstance(label, bool) and label >= 0
    require(whole, f"{where} has the label {label!r}; expected an integer from 0.")
    if images.classes is not None:
        known = label < len(images.classes)
        require(known, f"{where} has the label {label}, of {len(images.classes)} classes.")
    if isinstance(images, LazyImages) and images.shape is not None:
        shape = (shown.height, shown.width, len(shown.getbands()))
        require(shape == images.shape, f"{where} is told to be {images.shape}, and is {shape}.")
    return image.mode, image.size, image.tobytes(), int(label)


def _check_loading(name: str, where: str, data: SourceData, options: SourceOptions) -> None:
    arguments: dict[str, Any] = {
        "root": options.root,
        "train_split": options.train_split,
        "eval_split": options.eval_split,
        "pool_size": LOOKED_AT,
        "eval_size": LOOKED_AT,
    }
    size = dataset_size(name, **arguments)
    first, second = (load_dataset(name, download=False, **arguments) for _ in range(2))
    same = all(
        np.array_equal(getattr(first, part).numpy(), getattr(second, part).numpy())
        for part in ("images", "labels", "eval_images", "eval_labels")
    )
    require(same and first.paths == second.paths, f"{where}: loaded twice, it is not the same.")
    counts = (size.pool, size.evaluation, size.classes)
    loaded = (len(first), len(first.eval_images), first.num_classes)
    require(counts == loaded, f"{where} is told to be of {size}, and has {loaded}.")
    tell = getattr(find_source(name), "size", None)
    told = tell(options) if tell else None
    if told is not None and data.evaluation is not None:
        whole = (data.pool.count, data.evaluation.count)
        require((told.pool, told.evaluation) == whole, f"{where}: tells {told}, and has {whole}.")
