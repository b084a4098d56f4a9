"""Loads the data set of a run or a tuning."""

from __future__ import annotations

from typing import Any

from alhpo.base.errors import DataError
from alhpo.data.dataset import ImageDataset
from alhpo.data.loading import dataset_size, load_dataset
from alhpo.data.sources import DatasetSize
from alhpo.runs.setting_groups import DataSettings


def load_data(settings: DataSettings) -> ImageDataset:
    """The data set that the settings name.

    Raises:
        DataError: it cannot be loaded.
    """
    return load_dataset(**_arguments(settings), download=settings.download)


def size_of_data(settings: DataSettings) -> DatasetSize:
    """The size of that data set, without downloading or decoding it.

    Raises:
        DataError: not found, or neither downloaded nor of a known size.
    """
    return dataset_size(**_arguments(settings))


def _arguments(settings: DataSettings) -> dict[str, Any]:
    return {
        "name": settings.dataset,
        "root": settings.data_dir,
        "train_split": settings.train_split,
        "eval_split": settings.val_split,
        "image_size": settings.image_size,
        "pool_size": settings.pool_size,
        "eval_size": settings.eval_size,
    }


def need_evaluation_split(dataset: ImageDataset) -> None:
    """Refuse a data set without evaluation split.

    Raises:
        DataError: the data set has no evaluation images.
    """
    if not len(dataset.eval_images):
        raise DataError(
            f"Data set {dataset.name!r} has no evaluation split; expected is one with images. "
            "Give eval_images, or use ActiveLearner."
        )
