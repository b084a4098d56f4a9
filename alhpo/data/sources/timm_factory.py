"""The data sets of timm's factory: those of torchvision, Hugging Face and TensorFlow, and web
data sets."""

from __future__ import annotations

from typing import Any

import numpy as np

from alhpo.base.errors import DataError
from alhpo.data.lazy import LazyImages
from alhpo.data.sources.registry import register_data_source
from alhpo.data.sources.source import (
    TRAIN_SPLITS,
    DatasetSize,
    SourceData,
    SourceOptions,
    download_lock,
)

#: Sizes of data sets that are known before the download.
PUBLIC_SIZES = {
    "torch/cifar10": DatasetSize(50_000, 10_000, (32, 32, 3), 10),
    "torch/cifar100": DatasetSize(50_000, 10_000, (32, 32, 3), 100),
    "torch/svhn": DatasetSize(73_257, 26_032, (32, 32, 3), 10),
}
#: Sets, by the last part of their names, of digits and characters, which a flip turns into none.
WRITING = frozenset({"mnist", "qmnist", "kmnist", "emnist", "svhn", "svhn_cropped"})


def public_size(options: SourceOptions) -> DatasetSize | None:
    """The size of one of ``PUBLIC_SIZES`` with its usual splits, else None."""
    usual = (options.train_split, options.eval_split) == ("train", "validation")
    return PUBLIC_SIZES.get(options.name) if usual else None


@register_data_source("torch/NAME", size=public_size)
@register_data_source("hfds/USER/NAME")
@register_data_source("hfids/USER/NAME")
@register_data_source("tfds/NAME")
@register_data_source("wds/NAME")
def timm_factory(options: SourceOptions) -> SourceData:
    """Both splits, from timm's ``create_dataset``; and ``torch/svhn``, which timm lacks.

    Raises:
        DataError: timm cannot make the data set; the message gives timm's reason.
    """
    pool, evaluation = (
        _images(options, split) for split in (options.train_split, options.eval_split)
    )
    written = options.name.rpartition("/")[2].lower() in WRITING
    augmentation = "crop" if written else "crop-flip"
    return SourceData(pool, evaluation, augmentation, options.member.replace("/", "-"))


def _images(options: SourceOptions, split: str) -> LazyImages:
    from timm.data.dataset_factory import create_dataset
    from torchvision.datasets import SVHN

    name, root, download = options.name, options.root, options.download
    where = f"{name} ({split})"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with download_lock(options):
            if name == "torch/svhn":
                part = "train" if split in TRAIN_SPLITS else "test"
                source: Any = SVHN(str(root), split=part, download=download)
            else:
                source = create_dataset(name, root=str(root), split=split, download=download)
    except Exception as error:
        folder = f" For the folder of this name, write ./{name}." if options.path.is_dir() else ""
        raise DataError(
            f"timm could not make data set {name!r}, split {split!r}, in {root}: {error!r}. "
            f"Check the name, the split and root, or allow the download.{folder}"
        ) from error
    classes = getattr(source, "classes", None) or _counted_classes(source)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return LazyImages(where, len(source), lambda i: source[i], classes)
    items = list(source)
    return LazyImages(where, len(items), items.__getitem__, classes)


def _counted_classes(source: Any) -> list[str] | None:
    """Class names "0", "1", ..., if the source has all labels without decoding; else None."""
    for attribute in ("targets", "labels"):
        labels = getattr(source, attribute, None)
        if labels is not None and len(labels):
            return [str(i) for i in range(int(np.max(labels)) + 1)]
    return None
