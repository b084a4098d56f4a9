"""TinyImageNet: 100,000 training and 10,000 validation images of 200 classes, 64 x 64 pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from alhpo.base.errors import DataError
from alhpo.data.sources.folder import read_folder
from alhpo.data.sources.registry import register_data_source
from alhpo.data.sources.source import (
    EVAL_SPLITS,
    TRAIN_SPLITS,
    DatasetSize,
    SourceData,
    SourceOptions,
)

#: The archive, whose images are for research that is not commercial.
ARCHIVE = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
SIZE = DatasetSize(100_000, 10_000, (64, 64, 3), 200)


def _folder(options: SourceOptions) -> Path:
    return options.root / "tiny-imagenet-200"


def _size(options: SourceOptions) -> DatasetSize | None:
    asked = (options.train_split.lower(), options.eval_split.lower())
    usual = asked[0] in TRAIN_SPLITS and asked[1] in EVAL_SPLITS and asked[1] != "test"
    return SIZE if usual and not _folder(options).is_dir() else None


@register_data_source("tiny-imagenet", size=_size)
def tiny_imagenet(options: SourceOptions) -> SourceData:
    """The folder ``tiny-imagenet-200`` in ``options.root``, see ``read_folder``.

    Raises:
        DataError: it is not there, or a split that was asked for is missing or has no labels.
    """
    folder = _folder(options)
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not there. Download {ARCHIVE} and unpack it into {options.root}, or set "
            "root (--data-dir) to the folder that has tiny-imagenet-200."
        )
    return replace(read_folder(replace(options, name=str(folder))), name="tiny-imagenet")
