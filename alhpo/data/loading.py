"""Loading data sets into memory."""

from __future__ import annotations

from pathlib import Path

import torch

from alhpo.base.errors import DataError
from alhpo.data.dataset import ImageDataset, evaluation_split
from alhpo.data.decoding import DifferentImages, LazyImages, common_shape, decode
from alhpo.data.sources import DatasetSize, SourceData, SourceOptions, find_source


def load_dataset(
    name: str,
    *,
    root: str | Path | None = None,
    train_split: str = "train",
    eval_split: str = "validation",
    download: bool = True,
    image_size: int | None = None,
    eval_fraction: float = 0.2,
    pool_size: int | None = None,
    eval_size: int | None = None,
) -> ImageDataset:
    """Load a data set into memory.

    Args:
        name: ``"digits"`` (scikit-learn's, 8 x 8, no download); a name of timm's data set factory,
            such as ``"torch/cifar10"``, ``"torch/svhn"`` or ``"hfds/user/dataset"``; the name of
            a registered data source; or a folder with one sub-folder per class, or with such
            sub-folders per split. A name wins over a folder; ``"./digits"`` is the folder.
        root: folder of downloaded data sets; by default ``~/.cache/alhpo/data``.
        train_split: name of the split that is the pool, in timm or in the folder.
        eval_split: name of the evaluation split. For torchvision's sets, timm takes the test set
            for "validation"; a folder may call it val or test. Without an evaluation split (digits,
            some folders), ``eval_fraction`` of the images is held out, always the same ones.
        download: whether a missing data set may be downloaded.
        image_size: side in pixels; images are resized and centre-cropped to a square. By default
            the size of the pool's images if they all have the same, else 224.
        eval_fraction: share to hold out if there is no evaluation split, 0.2 by default.
        pool_size: size of a random subset of the pool, the same for every run seed; None: all.
        eval_size: size of a random subset of the evaluation split; None: all.

    Raises:
        DataError: the data set is not found, cannot be read, or needs more than the free memory
            (which is checked before images are decoded).
        ConfigurationError: the data source is an installed plug-in that cannot be imported or
            used.
    """
    for label, value in (
        ("image_size", image_size),
        ("pool_size", pool_size),
        ("eval_size", eval_size),
    ):
        if value is not None and value < 1:
            raise DataError(f"Argument {label} is {value!r}; expected at least 1.")
    data = find_source(name)(_options(name, root, train_split, eval_split, download))
    pool, held_out = _parts(data, eval_fraction, pool_size, eval_size)
    shape = common_shape(pool, image_size)
    try:
        images, labels = decode(pool, shape, held_out.count, strict=image_size is None)
    except DifferentImages as other:  # not in the sample
        images, labels = decode(pool, other.shape, held_out.count)
    shape = (images.shape[1], images.shape[2], images.shape[3])
    eval_images, eval_labels = decode(held_out, shape)
    classes = pool.classes
    if classes is None:
        classes = [str(i) for i in range(int(torch.cat([labels, eval_labels]).max()) + 1)]
    return ImageDataset(
        data.name or Path(name).name,
        images,
        labels,
        eval_images,
        eval_labels,
        tuple(classes),
        pool.paths,
        data.augmentation,
    )


def dataset_size(
    name: str,
    *,
    root: str | Path | None = None,
    train_split: str = "train",
    eval_split: str = "validation",
    image_size: int | None = None,
    pool_size: int | None = None,
    eval_size: int | None = None,
) -> DatasetSize:
    """The size of a data set as ``load_dataset`` would load it, without downloading or decoding it.

    Args: see ``load_dataset``.

    Raises:
        DataError: the data set is not found, cannot be read, or is not downloaded and of unknown
            size.
        ConfigurationError: see ``load_dataset``.
    """
    source = find_source(name)
    options = _options(name, root, train_split, eval_split, False)
    tell = getattr(source, "size", None)
    known = tell(options) if tell else None
    if known is not None:
        return DatasetSize(
            min(known.pool, pool_size or known.pool),
            min(known.evaluation, eval_size or known.evaluation),
            (image_size, image_size, known.shape[2]) if image_size else known.shape,
            known.classes,
        )
    pool, held_out = _parts(source(options), 0.2, pool_size, eval_size)
    classes = pool.classes
    n_classes = len(classes) if classes else 1 + max(pool.get(i)[1] for i in range(pool.count))
    return DatasetSize(pool.count, held_out.count, common_shape(pool, image_size), n_classes)


def _options(
    name: str, root: str | Path | None, train_split: str, eval_split: str, download: bool
) -> SourceOptions:
    folder = Path(root or Path.home() / ".cache" / "alhpo" / "data").expanduser()
    return SourceOptions(name, folder, train_split, eval_split, download)


def _parts(
    data: SourceData, eval_fraction: float, pool_size: int | None, eval_size: int | None
) -> tuple[LazyImages, LazyImages]:
    """The pool and the evaluation split, or subsets of the sizes that were asked for."""
    pool, held_out = data.pool, data.evaluation
    if held_out is None:
        kept, held = evaluation_split(pool.count, eval_fraction)
        pool, held_out = pool.pick(kept), pool.pick(held)
    elif pool.classes is not None:
        held_out = held_out.with_classes(pool.classes)
    return pool.subset(pool_size, "pool"), held_out.subset(eval_size, "eval")
