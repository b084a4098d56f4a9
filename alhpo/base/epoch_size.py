"""How many images an epoch has, and in which batches."""

from __future__ import annotations

from typing import Literal

#: "fill": all images, filled up to full batches by images that are then seen twice; "drop": all but
#: those of a last, smaller batch; a number of images, cut to full batches.
EpochImages = Literal["fill", "drop"] | int


def epoch_shape(n: int, batch_size: int, images: EpochImages = "fill") -> tuple[int, int]:
    """The shape of an epoch.

    Args:
        n: images to train on, at least 1.
        batch_size: images per step, at least 2.
        images: see ``EpochImages``. With "drop", fewer images than a batch are one smaller batch,
            in which a single image is twice, because batch norm needs two. A number below
            ``batch_size`` is one full batch.

    Returns:
        The number of steps, and the number of images in each.
    """
    if images == "drop":
        n = max(n, 2)
        size = min(batch_size, n)
        return n // size, size
    if images == "fill":
        return -(-n // batch_size), batch_size
    return max(images // batch_size, 1), batch_size
