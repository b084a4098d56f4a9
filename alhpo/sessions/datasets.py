"""Photos as data sets, for models to train on and to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from alhpo.base.errors import DataError
from alhpo.data.dataset import ImageDataset
from alhpo.data.decoding import DEFAULT_SIZE, FilePart, decodable
from alhpo.data.loading import FoundData
from alhpo.sessions.photos import Photos, given_evaluation, kept_for_evaluation

#: The class of a data set that has none yet.
NO_CLASS = "(none)"


def dataset_of(
    name: str,
    photos: Photos,
    labels: dict[str, str],
    classes: Sequence[str],
    eval_setting: str | None,
    image_size: int | None,
    *,
    decode: bool,
) -> ImageDataset:
    """The photos as a pool without labels, and the evaluation images that have some.

    Args:
        name: name of the data set.
        photos: the photos.
        labels: class of each labelled photo.
        classes: all classes.
        eval_setting: the setting ``eval``.
        image_size: side in pixels; None for 224, whatever the sizes of the photos are, so that it
            stays as photos come and go.
        decode: whether to decode the photos now.

    Raises:
        DataError: the evaluation images cannot be used, or there is no room for the pixels.
    """
    identities = photos.part.identities
    evaluation = given_evaluation(eval_setting, classes)
    kept = kept_for_evaluation(identities, eval_setting)
    apart = kept if evaluation is None else {*evaluation.identities}
    files = decodable(photos.part)
    pool = files.pick(np.array([r for r, i in enumerate(identities) if i not in apart], int))
    if evaluation is not None:
        labelled = decodable(evaluation)
    else:
        rows = [r for r, image in enumerate(identities) if image in kept and image in labels]
        part = files.pick(np.array(rows, dtype=int))
        numbers = tuple(classes.index(labels[identities[row]]) for row in rows)
        labelled = replace(part, images=replace(part.images, labels=numbers, classes=list(classes)))
    if not pool.count:
        raise DataError(
            f"All {len(photos)} photos are kept for evaluation (eval: {eval_setting}); expected "
            "some to label. Lower the share, or add photos."
        )
    side = image_size or DEFAULT_SIZE
    grey = pool.sizes()[1] and (not labelled.count or labelled.sizes()[1])
    shape = (side, side, 1 if grey else 3)
    return _dataset(name, pool, labelled, classes, shape, image_size, decode)


def shown_dataset(
    photos: Photos, shape: Sequence[int], image_size: int | None, *, decode: bool
) -> ImageDataset:
    """Photos as a pool of images of this shape, for a model to look at.

    Args:
        photos: the photos.
        shape: (height, width, channels).
        image_size: the side that a user asked for; with None, a network that is not trained takes
            its own.
        decode: whether to decode them now.
    """
    part = decodable(photos.part)
    nothing = part.pick(np.array([], dtype=int))
    nothing = replace(nothing, images=replace(nothing.images, labels=(), classes=[NO_CLASS]))
    return _dataset(photos.root.name, part, nothing, [NO_CLASS], shape, image_size, decode)


def _dataset(
    name: str,
    pool: FilePart,
    evaluation: FilePart,
    classes: Sequence[str],
    shape: Sequence[int],
    image_size: int | None,
    decode: bool,
) -> ImageDataset:
    """Files that are no images are told elsewhere; those that cannot be decoded are left out."""
    height, width, channels = shape
    found = FoundData(
        name=name,
        pool=replace(pool, problems=()),
        evaluation=replace(evaluation, problems=()),
        classes=list(classes),
        augmentation="crop-flip",
        shape=(height, width, channels),
        image_size=image_size,
        one_size=False,
        notes=(),
    )
    return found.dataset(decode=decode, on_error="skip")
