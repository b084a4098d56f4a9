"""Image data sets in memory, as uint8 tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from alhpo.base.errors import DataError
from alhpo.base.seeding import numpy_generator

LAYOUTS = ("auto", "NHWC", "NCHW")
#: Images and pixel values per block when statistics are computed: 128 MiB as float64.
BLOCK_IMAGES, BLOCK_PIXELS = 4096, 2**24


@dataclass(frozen=True)
class ImageDataset:
    """A pool of images to label, and an evaluation split, which no decision may depend on.

    Attributes:
        name: name in tables and run folders.
        images: (N, H, W, C) uint8, the pool.
        labels: (N,) int64 true labels for simulation, or None if people will label.
        eval_images: (M, H, W, C) uint8, the evaluation split.
        eval_labels: (M,) int64 labels of the evaluation split.
        classes: names of the C classes, in the order of their labels.
        paths: the file of each pool image, or None if the images are not from files.
        augmentation: the meaning of the hyperparameter ``augmentation="auto"`` for this data.

    Raises:
        DataError: an empty pool, or images and labels that do not fit each other.
    """

    name: str
    images: torch.Tensor
    labels: torch.Tensor | None
    eval_images: torch.Tensor
    eval_labels: torch.Tensor
    classes: tuple[str, ...]
    paths: tuple[str, ...] | None = None
    augmentation: str = "crop-flip"

    def __post_init__(self) -> None:
        n = len(self.images)
        if n == 0:
            raise DataError(
                f"Data set {self.name!r} has no images in its pool; expected at least one."
            )
        for part, labels, count in (
            ("pool", self.labels, n),
            ("evaluation split", self.eval_labels, len(self.eval_images)),
        ):
            if labels is None:
                continue
            if len(labels) != count:
                raise DataError(
                    f"The {part} of {self.name!r} has {count} images but {len(labels)} labels; "
                    "expected one label per image."
                )
            if count and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
                raise DataError(
                    f"The labels of the {part} of {self.name!r} span {int(labels.min())} to "
                    f"{int(labels.max())}; with {len(self.classes)} classes, expected 0 to "
                    f"{len(self.classes) - 1}."
                )
        if len(self.eval_images) and self.eval_images.shape[1:] != self.images.shape[1:]:
            raise DataError(
                f"Pool images of {self.name!r} have shape {tuple(self.images.shape[1:])}, those "
                f"of the evaluation split {tuple(self.eval_images.shape[1:])}; expected one shape."
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return int(self.images.shape[1]), int(self.images.shape[2])

    @property
    def channels(self) -> int:
        return int(self.images.shape[3])

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel over the pool, of values scaled to [0, 1]."""
        total = torch.zeros(self.channels, dtype=torch.float64)
        squares = torch.zeros(self.channels, dtype=torch.float64)
        size = min(max(BLOCK_PIXELS // self.images[0].numel(), 1), BLOCK_IMAGES)
        for block in self.images.split(size):
            values = block.double().div_(255)
            total += values.sum((0, 1, 2))
            squares += values.square_().sum((0, 1, 2))
        count = self.images[..., 0].numel()
        mean = total / count
        std = (squares / count - mean.square()).clamp_min(0).sqrt()
        return tuple(mean.tolist()), tuple(value or 1.0 for value in std.tolist())

    @classmethod
    def from_arrays(
        cls,
        images: Any,
        labels: Any = None,
        *,
        eval_images: Any = None,
        eval_labels: Any = None,
        classes: Sequence[str] | int | None = None,
        name: str = "arrays",
        layout: Literal["auto", "NHWC", "NCHW"] = "auto",
        augmentation: str = "crop-flip",
        eval_fraction: float = 0.2,
    ) -> ImageDataset:
        """A data set from arrays or tensors.

        Args:
            images: uint8, N x H x W, N x H x W x C or N x C x H x W with 1 or 3 channels.
            labels: N integers, or None if people will label; then metrics need ``eval_images``.
            eval_images: evaluation images, as ``images``. Without them, ``eval_fraction`` of a
                labelled pool is held out.
            eval_labels: one integer per evaluation image.
            classes: names or number of classes; by default the largest label + 1.
            name: name in tables and run folders.
            layout: layout of four-dimensional images; "auto" finds the axis of length 1 or 3.
            augmentation: the meaning of the hyperparameter ``augmentation="auto"``: "none",
                "crop", "flip" or "crop-flip".
            eval_fraction: share that is held out if there are labels and no ``eval_images``.

        Raises:
            DataError: a type, shape or value is not legal; the message says which.
        """
        pool = _as_images(images, layout)
        given = None if labels is None else _as_labels(labels)
        if (eval_images is None) != (eval_labels is None):
            raise DataError(
                "Only one of eval_images and eval_labels is given. Give both, or neither."
            )
        if eval_images is not None:
            held_images, held_labels = _as_images(eval_images, layout), _as_labels(eval_labels)
        else:
            held_images, held_labels = pool[:0], torch.empty(0, dtype=torch.int64)
        known = [part for part in (given, held_labels) if part is not None and len(part)]
        if isinstance(classes, int):
            classes = [str(i) for i in range(classes)]
        if classes is None:
            if not known:
                raise DataError(
                    "There are no labels, and classes is None. Give the classes by name or number."
                )
            classes = [str(i) for i in range(int(torch.cat(known).max()) + 1)]
        dataset = cls(
            name, pool, given, held_images, held_labels, tuple(classes), None, augmentation
        )
        if eval_images is None and given is not None:
            return _hold_out(dataset, eval_fraction)
        return dataset


def evaluation_split(n: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Ascending indices of images kept in the pool and held out for evaluation.

    The same arguments always give the same split.

    Raises:
        DataError: the fraction is not in (0, 1), or there are fewer than two images.
    """
    if not 0 < fraction < 1:
        raise DataError(f"Argument eval_fraction is {fraction!r}; expected a number in (0, 1).")
    if n < 2:
        raise DataError(
            f"{n} images are too few to hold some out for evaluation; expected at least 2."
        )
    n_held = min(max(round(fraction * n), 1), n - 1)
    order = numpy_generator("evaluation split", n).permutation(n)
    return np.sort(order[n_held:]), np.sort(order[:n_held])


def _hold_out(dataset: ImageDataset, fraction: float) -> ImageDataset:
    assert dataset.labels is not None
    kept, held = (torch.from_numpy(part) for part in evaluation_split(len(dataset), fraction))
    return replace(
        dataset,
        images=dataset.images[kept],
        labels=dataset.labels[kept],
        eval_images=dataset.images[held],
        eval_labels=dataset.labels[held],
    )


def _as_images(images: Any, layout: str) -> torch.Tensor:
    if layout not in LAYOUTS:
        raise DataError(f"Unknown layout {layout!r}. Legal: {', '.join(LAYOUTS)}.")
    tensor = _as_tensor(images, "Images")
    if tensor.dtype != torch.uint8:
        raise DataError(
            f"Images are {tensor.dtype}; expected uint8 values from 0 to 255. Scale and round them "
            "first. They are normalised for the model later."
        )
    if tensor.ndim == 3:
        return tensor[..., None].contiguous()
    if tensor.ndim != 4:
        raise DataError(
            f"Images have shape {tuple(tensor.shape)}; expected N x H x W, N x H x W x C or "
            "N x C x H x W."
        )
    if layout == "auto":
        last, first = tensor.shape[3] in (1, 3), tensor.shape[1] in (1, 3)
        if last == first:
            raise DataError(
                f"Images have shape {tuple(tensor.shape)}; it is not clear which axis holds the "
                "channels. Give layout='NHWC' or 'NCHW', with 1 or 3 channels."
            )
        layout = "NHWC" if last else "NCHW"
    if layout == "NCHW":
        tensor = tensor.permute(0, 2, 3, 1)
    if tensor.shape[3] not in (1, 3):
        raise DataError(
            f"Images of layout {layout} and shape {tuple(tensor.shape)} have {tensor.shape[3]} "
            "channels; expected 1 or 3."
        )
    return tensor.contiguous()


def _as_labels(labels: Any) -> torch.Tensor:
    tensor = _as_tensor(labels, "Labels")
    if tensor.ndim != 1 or tensor.is_floating_point() or tensor.dtype == torch.bool:
        raise DataError(
            f"Labels have shape {tuple(tensor.shape)} and type {tensor.dtype}; expected one "
            "integer per image."
        )
    return tensor.to(torch.int64)


def _as_tensor(values: Any, what: str) -> torch.Tensor:
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{what} cannot be read as one array of numbers: {error}.") from error
