"""Images that are not decoded yet: what a data source returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alhpo.base.errors import DataError
from alhpo.data.pixels import UnreadableImage, read_file


@dataclass(frozen=True)
class LazyImages:
    """Labelled images in an order of their own, that are not files.

    Attributes:
        where: what they are called in messages.
        count: the number of images.
        get: a function of a position from 0 to ``count - 1`` that returns the PIL image and its
            label, the same at every call. Several threads call it.
        classes: names of the classes in the order of their labels; None if only the labels tell
            how many classes there are.
        shape: (height, width, channels) of every image, with 1 or 3 channels, if it is known
            without reading one; so images that do not fit into memory are refused before that.
        notes: what a user should know about how they were found, a sentence each.
    """

    where: str
    count: int
    get: Callable[[int], tuple[Image.Image, int]]
    classes: Sequence[str] | None = None
    shape: tuple[int, int, int] | None = None
    notes: tuple[str, ...] = ()

    @staticmethod
    def of_files(
        where: str,
        paths: Sequence[str | Path],
        labels: Sequence[int] | np.ndarray | None,
        classes: Sequence[str] | None = None,
    ) -> ImageFiles:
        """Images that are files, with a label each; ``labels=None`` if nobody labelled them yet."""
        given = None if labels is None else tuple(int(label) for label in labels)
        return ImageFiles(where, tuple(map(str, paths)), given, classes)

    @classmethod
    def of_arrays(
        cls,
        where: str,
        images: np.ndarray,
        labels: Sequence[int] | np.ndarray,
        classes: Sequence[str] | None = None,
    ) -> LazyImages:
        """Images in an array of (N, H, W) or (N, H, W, 3) uint8, with N labels."""
        return cls(
            where,
            len(images),
            lambda index: (Image.fromarray(images[index]), int(labels[index])),
            classes,
        )

    def pick(self, chosen: np.ndarray) -> LazyImages:
        """The images at these positions, in that order."""
        get = self.get
        return replace(self, count=len(chosen), get=lambda i: get(int(chosen[i])))

    def with_classes(self, classes: Sequence[str]) -> LazyImages:
        """The same images, with labels that are positions in ``classes``.

        Raises:
            DataError: they have a class that is not among these.
        """
        target = _positions(self.where, self.classes, classes)
        if target is None:
            return self
        get = self.get

        def relabelled(index: int) -> tuple[Image.Image, int]:
            image, label = get(index)
            return image, target[label]

        return replace(self, get=relabelled, classes=list(classes))


@dataclass(frozen=True)
class ImageFiles:
    """Images that are files. They are read side by side, and kept by their content.

    Attributes:
        where: what they are called in messages.
        paths: the files.
        labels: the label of each, or None if nobody labelled them yet.
        classes: names of the classes in the order of their labels; None if only the labels tell
            how many classes there are.
        notes: what a user should know about how they were found, a sentence each.
    """

    where: str
    paths: tuple[str, ...]
    labels: tuple[int, ...] | None
    classes: Sequence[str] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.labels is not None and len(self.labels) != len(self.paths):
            raise DataError(
                f"{self.where} has {len(self.paths)} images but {len(self.labels)} labels; "
                "expected one label per image."
            )

    @property
    def count(self) -> int:
        """The number of images."""
        return len(self.paths)

    def get(self, index: int) -> tuple[Image.Image, int | None]:
        """One image as a viewer shows it, and its label.

        Raises:
            DataError: the file cannot be read as an image.
        """
        path = self.paths[index]
        try:
            shown = read_file(path)
        except UnreadableImage as error:
            raise DataError(f"{path} cannot be read as an image: {error}.") from error
        return shown, None if self.labels is None else self.labels[index]

    def pick(self, chosen: np.ndarray) -> ImageFiles:
        """The images at these positions, in that order."""
        rows = chosen.tolist()
        labels = None if self.labels is None else tuple(self.labels[row] for row in rows)
        return replace(self, paths=tuple(self.paths[row] for row in rows), labels=labels)

    def with_classes(self, classes: Sequence[str]) -> ImageFiles:
        """The same images, with labels that are positions in ``classes``.

        Raises:
            DataError: they have a class that is not among these.
        """
        target = _positions(self.where, self.classes, classes)
        if target is None:
            return self
        labels = None if self.labels is None else tuple(target[label] for label in self.labels)
        return replace(self, labels=labels, classes=list(classes))


def _positions(where: str, own: Sequence[str] | None, classes: Sequence[str]) -> Any:
    """The position in ``classes`` of each own class; None if they are the same."""
    if own is None or list(own) == list(classes):
        return None
    missing = [name for name in own if name not in classes]
    if missing:
        raise DataError(
            f"{where} has classes that the pool lacks: {', '.join(missing)}. "
            f"The pool's classes: {', '.join(classes)}."
        )
    return [list(classes).index(name) for name in own]
