"""Predictions for photos, by the model of a session or by one that was written as a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from alhpo.base.types import PoolOutputs
from alhpo.data.dataset import ImageDataset
from alhpo.sessions.datasets import shown_dataset
from alhpo.sessions.handover import Predicted
from alhpo.sessions.learning import best_classes
from alhpo.sessions.photos import Photos, find_photos
from alhpo.sessions.portable import load_model


def predict_with(
    model: str | os.PathLike[str], images: str | os.PathLike[str], *, device: str = "auto"
) -> list[Predicted]:
    """Predict the classes of photos by a model that ``Session.export`` wrote.

    Args:
        model: folder of the model.
        images: folder of photos, with its sub-folders, or a table of them.
        device: "auto" or a torch device.

    Raises:
        CheckpointError: the folder holds no model, or a damaged one.
        ConfigurationError: a device that is not there.
        DataError: no images.
    """
    loaded = load_model(Path(model).expanduser(), device)
    return predictions(
        find_photos(os.fspath(images)),
        loaded.predict,
        loaded.classes,
        loaded.image_shape,
        loaded.description["image_size"],
        decode=not loaded.encodes,
    )


def predictions(
    photos: Photos,
    predict: Callable[[ImageDataset], PoolOutputs],
    classes: Sequence[str],
    shape: Sequence[int],
    image_size: int | None,
    *,
    decode: bool,
) -> list[Predicted]:
    """Predictions in the order of the files, with copies, and with files that are no images.

    Args:
        photos: the photos.
        predict: the model, from the pool of a data set to its outputs.
        classes: names of its classes.
        shape, image_size, decode: see ``shown_dataset``.
    """
    dataset = shown_dataset(photos, shape, image_size, decode=decode)
    found = best_classes(predict(dataset), classes)
    by_image = dict(zip(dataset.identities, found, strict=True))
    done = [
        Predicted(name, image, *by_image[image])
        for name, image in photos.all_names.items()
        if image in by_image
    ]
    bad = [
        Predicted(photos.name(path), "", "", None, problem)
        for path, problem in (*photos.part.problems, *dataset.skipped)
    ]
    return sorted((*done, *bad), key=lambda one: one.path)
