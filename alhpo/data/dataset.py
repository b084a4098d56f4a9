"""Image data sets: a pool and an evaluation split of uint8 images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from alhpo.base.errors import DataError
from alhpo.data.batches import Rows
from alhpo.data.identity import held_out_by_identity, numbered
from alhpo.data.pixels import pixel_identity

#: Classes that a summary names.
SHOWN_CLASSES = 12
LAYOUTS = ("auto", "NHWC", "NCHW")
#: Images and pixel values per block when statistics are computed: 128 MiB as float64.
BLOCK_IMAGES, BLOCK_PIXELS = 4096, 2**24


@dataclass(frozen=True)
class ImageDataset:
    """A pool of images to label, and an evaluation split, which no decision may depend on.

    Attributes:
        name: name in tables and run folders.
        images: (N, H, W, C) uint8, the pool: a tensor, or files that are decoded when they are
            asked for (``FileImages``).
        labels: (N,) int64 true labels for simulation, or None if people will label.
        eval_images: (M, H, W, C) uint8, the evaluation split, likewise.
        eval_labels: (M,) int64 labels of the evaluation split.
        classes: names of the C classes, in the order of their labels.
        paths: the file of each pool image, or None if the images are not from files.
        augmentation: the meaning of the hyperparameter ``augmentation="auto"`` for this data.
        eval_paths: the file of each evaluation image, or None.
        known_identities: the identity of each pool image, if it is not that of its pixels. It
            stands for the content in every data set, as a hash of the file does: features in the
            cache are found by it.
        known_eval_identities: the identity of each evaluation image, likewise.
        skipped: files that were left out, each with the reason.
        notes: what a user should know about the images, a sentence each.

    Raises:
        DataError: an empty pool, or images and labels that do not fit each other.
    """

    name: str
    images: Rows
    labels: torch.Tensor | None
    eval_images: Rows
    eval_labels: torch.Tensor
    classes: tuple[str, ...]
    paths: tuple[str, ...] | None = None
    augmentation: str = "crop-flip"
    eval_paths: tuple[str, ...] | None = None
    known_identities: tuple[str, ...] | None = None
    known_eval_identities: tuple[str, ...] | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_classes(self.classes)
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
        for names, count in (
            (self.paths, n),
            (self.known_identities, n),
            (self.eval_paths, len(self.eval_images)),
            (self.known_eval_identities, len(self.eval_images)),
        ):
            if names is not None and len(names) != count:
                raise DataError(
                    f"Data set {self.name!r} has {len(names)} paths or identities of {count} "
                    "images; expected one for each."
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

    @cached_property
    def identities(self) -> tuple[str, ...]:
        """What each pool image is known by, whatever its place: SHA-256 of its file, or of its
        shape and pixels. Those of copies end in ":1", ":2", ..."""
        if self.known_identities is not None:
            return self.known_identities
        return _identities(self.images)

    @cached_property
    def eval_identities(self) -> tuple[str, ...]:
        """What each evaluation image is known by."""
        if self.known_eval_identities is not None:
            return self.known_eval_identities
        return _identities(self.eval_images)

    def summary(self) -> str:
        """The data set in one sentence: images, size, classes with their counts, evaluation."""
        height, width = self.image_size
        colours = "grey" if self.channels == 1 else "colour"
        text = (
            f"{self.name}: {len(self):,} images of {width} x {height} pixels ({colours}), "
            f"{len(self.eval_images):,} for evaluation, {self.num_classes} classes"
        )
        shown = list(self.classes[:SHOWN_CLASSES])
        if self.labels is not None:
            counts = torch.bincount(self.labels, minlength=self.num_classes).tolist()
            shown = [f"{name} {n:,}" for name, n in zip(shown, counts, strict=False)]
        more = ", ..." if self.num_classes > SHOWN_CLASSES else ""
        return f"{text} ({', '.join(shown)}{more})."

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel over the pool, of values scaled to [0, 1].

        A deviation below one grey level counts as 1, so that a channel that is constant in the pool
        does not blow up what differs from it later.
        """
        total = torch.zeros(self.channels, dtype=torch.int64)
        squares = torch.zeros(self.channels, dtype=torch.int64)
        for block in _blocks(self.images):
            values = block.long()
            total += values.sum((0, 1, 2))
            squares += values.square_().sum((0, 1, 2))
        count = math.prod(self.images.shape[:3])
        means, stds = [], []
        for first, second in zip(total.tolist(), squares.tolist(), strict=True):
            means.append(first / count / 255)
            variance = count * second - first * first  # exact, so 0 only if it is
            stds.append(math.sqrt(variance) / count / 255)
        return tuple(means), tuple(std if std >= 1 / 255 else 1.0 for std in stds)

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
            labels: N numbers or names (also of shape (N, 1)), or None if people will label; then
                metrics need ``eval_images``.
            eval_images: evaluation images, as ``images``. Without them, ``eval_fraction`` of a
                labelled pool is held out.
            eval_labels: one number or name per evaluation image.
            classes: names of the classes, or their number; labels are then names, or numbers from
                0. By default the classes are the labels that occur, sorted: the labels 3, 7 and 9
                are the classes "3", "7" and "9", which count as 0, 1 and 2.
            name: name in tables and run folders.
            layout: layout of four-dimensional images; "auto" finds the axis of length 1 or 3.
            augmentation: the meaning of the hyperparameter ``augmentation="auto"``: "none",
                "crop", "flip" or "crop-flip".
            eval_fraction: share that is held out if there are labels and no ``eval_images``. Each
                image is drawn by its content, whatever the others are.

        Raises:
            DataError: a type, shape or value is not legal; the message says which.
        """
        pool = _as_images(images, layout)
        given = None if labels is None else _as_labels(labels)
        if (eval_images is None) != (eval_labels is None):
            raise DataError(
                "Only one of eval_images and eval_labels is given. Give both, or neither."
            )
        held = None if eval_images is None else _as_images(eval_images, layout)
        told = None if eval_labels is None else _as_labels(eval_labels)
        names = _class_names(classes, [part for part in (given, told) if part is not None])
        empty = torch.empty(0, dtype=torch.int64)
        dataset = cls(
            name,
            pool,
            None if given is None else _numbers(given, names, classes is None),
            pool[:0] if held is None else held,
            empty if told is None else _numbers(told, names, classes is None),
            names,
            None,
            augmentation,
        )
        if held is None and dataset.labels is not None:
            return _hold_out(dataset, eval_fraction)
        return dataset


def _blocks(images: Rows) -> Iterator[torch.Tensor]:
    """The images, some at a time."""
    size = min(max(BLOCK_PIXELS // math.prod(images.shape[1:]), 1), BLOCK_IMAGES)
    return (images[start : start + size] for start in range(0, len(images), size))


def _identities(images: Rows) -> tuple[str, ...]:
    return numbered([pixel_identity(image) for block in _blocks(images) for image in block.numpy()])


def check_classes(classes: Sequence[str]) -> None:
    """Refuse class names that are empty, not text or there twice."""
    for name in classes:
        if not isinstance(name, str) or not name:
            raise DataError(f"A class is called {name!r}; expected a text of at least one letter.")
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if list(classes).count(name) > 1)
        raise DataError(f"Two classes are called {twice!r}; expected different names.")


def _class_names(
    classes: Sequence[str] | int | None, labels: Sequence[np.ndarray]
) -> tuple[str, ...]:
    if isinstance(classes, int):
        return tuple(str(i) for i in range(classes))
    if classes is not None:
        return tuple(classes)
    values = sorted({value for part in labels for value in np.unique(part).tolist()}, key=_order)
    if not values:
        raise DataError(
            "There are no labels, and classes is None. Give the classes by name or number."
        )
    if not isinstance(values[0], str) and values[0] < 0:
        raise DataError(
            f"There is a label {values[0]}; expected numbers from 0. Leave images that are not "
            "labelled out of the labelled ones, or name the classes."
        )
    return tuple(str(value) for value in values)


def _order(value: Any) -> tuple[bool, Any]:
    """Numbers by value, before texts by letter."""
    return (isinstance(value, str), value)


def _numbers(labels: np.ndarray, names: Sequence[str], occur: bool) -> torch.Tensor:
    """Labels as positions in ``names``. Numbers are that already, unless they just ``occur``."""
    if not occur and labels.dtype.kind != "U":
        return torch.from_numpy(labels.astype(np.int64))
    place = {name: number for number, name in enumerate(names)}
    unknown = [text for text in np.unique(labels).astype(str).tolist() if text not in place]
    if unknown:
        raise DataError(f"There is a label {unknown[0]!r}, but the classes are {', '.join(names)}.")
    return torch.tensor([place[text] for text in labels.astype(str).tolist()], dtype=torch.int64)


def _hold_out(dataset: ImageDataset, fraction: float) -> ImageDataset:
    assert dataset.labels is not None
    parts = held_out_by_identity(dataset.identities, fraction)
    kept, held = (torch.from_numpy(part) for part in parts)
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


def _as_labels(labels: Any) -> np.ndarray:
    """(N,) integers or texts."""
    try:
        array = np.asarray(labels.cpu() if isinstance(labels, torch.Tensor) else labels)
    except (TypeError, ValueError) as error:
        raise DataError(f"Labels cannot be read as one array: {error}.") from error
    if array.dtype == object and all(isinstance(value, str) for value in array.flat):
        array = array.astype(str)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iuU"):
        raise DataError(
            f"Labels have shape {array.shape} and type {array.dtype}; expected one integer or "
            "name per image."
        )
    return array if array.dtype.kind == "U" else array.astype(np.int64)


def _as_tensor(values: Any, what: str) -> torch.Tensor:
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{what} cannot be read as one array of numbers: {error}.") from error
