"""An .npz file of arrays in the form of MedMNIST.

train_images    (N, H, W) or (N, H, W, 3) uint8
train_labels    (N,) or (N, 1) integers
and the same of val and test
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from alhpo.base.errors import DataError
from alhpo.data.lazy import LazyImages
from alhpo.data.sources.source import TRAIN_SPLITS, DatasetSize, SourceData, SourceOptions
from alhpo.data.zipped_arrays import ZippedRows, array_names

SPLITS = ("train", "val", "test")


def read_npz(
    file: Path, options: SourceOptions, classes: Sequence[str] | None, augmentation: str
) -> SourceData:
    """The images in a file, of which the headers and the labels are read now.

    Args:
        file: the file.
        options: which splits are the pool and the evaluation split, see ``splits_of``.
        classes: names of the classes in the order of their labels; None if the labels that occur
            are the classes.
        augmentation: see ``SourceData``.

    Raises:
        DataError: the file cannot be read, lacks an array, or has images or labels of another form.
    """
    splits = splits_of(options)
    wanted = [f"{split}_{kind}" for split in splits for kind in ("images", "labels")]
    present = array_names(file)
    missing = [name for name in wanted if name not in present]
    if missing:
        raise DataError(
            f"{file} has the arrays {', '.join(present) or 'of none'}, and lacks "
            f"{', '.join(missing)}; expected images and labels of train, val and test, as "
            "train_images and train_labels."
        )
    images = [_images(file, split) for split in splits]
    labels = [_labels(file, split, len(rows)) for split, rows in zip(splits, images, strict=True)]
    if classes is None:
        values = np.unique(np.concatenate(labels))
        classes = [str(value) for value in values]
        labels = [np.searchsorted(values, part) for part in labels]
    for split, part in zip(splits, labels, strict=True):
        if part.size and not 0 <= part.min() <= part.max() < len(classes):
            raise DataError(
                f"{file}: {split}_labels span {part.min()} to {part.max()}; with {len(classes)} "
                f"classes, expected 0 to {len(classes) - 1}."
            )
    unused = [split for split in SPLITS if split not in splits and f"{split}_images" in present]
    note = f"{file.name}: {splits[0]} is the pool, {splits[1]} the evaluation split"
    note += f"; {', '.join(unused)} is not used (--val-split)." if unused else "."
    pool, evaluation = (
        _lazy(f"{file} ({split})", rows, part, classes, (note,))
        for split, rows, part in zip(splits, images, labels, strict=True)
    )
    return SourceData(pool, evaluation, augmentation, file.stem)


def npz_size(file: Path, options: SourceOptions, classes: Sequence[str] | None) -> DatasetSize:
    """The size of what ``read_npz`` would return, by the headers.

    Raises:
        DataError: see ``read_npz``.
    """
    data = read_npz(file, options, classes, "none")
    assert isinstance(data.pool, LazyImages) and data.pool.shape and data.pool.classes
    assert data.evaluation is not None
    return DatasetSize(
        data.pool.count, data.evaluation.count, data.pool.shape, len(data.pool.classes)
    )


def splits_of(options: SourceOptions) -> tuple[str, str]:
    """The splits that are the pool and the evaluation split.

    alhpo's default "validation" is the test split, as for torchvision's sets; "val" is val.

    Raises:
        DataError: another name, or the same split twice.
    """
    usual = dict.fromkeys(TRAIN_SPLITS, "train") | {split: split for split in SPLITS}
    usual["validation"] = "test"
    found = []
    for flag, asked in (
        ("train_split (--train-split)", options.train_split),
        ("eval_split (--val-split)", options.eval_split),
    ):
        if asked.lower() not in usual:
            raise DataError(
                f"{options.name} has no split {asked!r}. Set {flag} to one of {', '.join(SPLITS)}."
            )
        found.append(usual[asked.lower()])
    if found[0] == found[1]:
        raise DataError(
            f"The split {found[0]} of {options.name} would be both the pool and the evaluation "
            "split. Set train_split (--train-split) or eval_split (--val-split) to another of "
            f"{', '.join(SPLITS)}."
        )
    return found[0], found[1]


def _images(file: Path, split: str) -> ZippedRows:
    rows = ZippedRows(file, f"{split}_images")
    shape = rows.shape
    colour = len(shape) == 4 and shape[3] == 3
    if (len(shape) == 4 and not colour) or len(shape) == 5:
        raise DataError(
            f"{file}: {split}_images has shape {shape}, which are 3-D images; expected N x H x W "
            "or N x H x W x 3."
        )
    if not (len(shape) == 3 or colour) or rows.dtype != np.uint8:
        raise DataError(
            f"{file}: {split}_images has shape {shape} and type {rows.dtype}; expected N x H x W "
            "or N x H x W x 3 uint8."
        )
    return rows


def _labels(file: Path, split: str, count: int) -> np.ndarray:
    """(N,) int64."""
    rows = ZippedRows(file, f"{split}_labels")
    if len(rows.shape) == 2 and rows.shape[1] > 1:
        raise DataError(
            f"{file}: {split}_labels has shape {rows.shape}: it is multi-label, with "
            f"{rows.shape[1]} labels per image. alhpo classifies one label."
        )
    if rows.shape not in ((count,), (count, 1)) or rows.dtype.kind not in "iu":
        raise DataError(
            f"{file}: {split}_labels has shape {rows.shape} and type {rows.dtype}; expected one "
            f"integer for each of the {count} images."
        )
    return rows.whole().reshape(count).astype(np.int64)


def _lazy(
    where: str, rows: ZippedRows, labels: np.ndarray, classes: Sequence[str], notes: tuple[str, ...]
) -> LazyImages:
    shape = (rows.shape[1], rows.shape[2], 3 if len(rows.shape) == 4 else 1)
    return LazyImages(
        where,
        len(rows),
        lambda index: (Image.fromarray(rows[index]), int(labels[index])),
        classes,
        shape,
        notes,
    )
