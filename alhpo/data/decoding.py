"""Images that are not decoded yet, and decoding them all to one shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image, ImageOps

from alhpo.base.errors import DataError
from alhpo.base.seeding import numpy_generator

#: Side in pixels to which images of different sizes are resized by default.
DEFAULT_SIZE = 224
#: Share of the free memory that a data set may take.
MEMORY_SHARE = 0.8


@dataclass(frozen=True)
class LazyImages:
    """Labelled images that are not decoded yet.

    Attributes:
        where: what they are called in messages.
        count: the number of images.
        get: a function of a position from 0 to ``count - 1`` that returns the PIL image and its
            label, the same at every call. Several threads call it.
        classes: names of the classes in the order of their labels; None if only the labels tell
            how many classes there are.
        paths: the file of each image, or None if they are not files.
    """

    where: str
    count: int
    get: Callable[[int], tuple[Image.Image, int]]
    classes: Sequence[str] | None = None
    paths: tuple[str, ...] | None = None

    @classmethod
    def of_files(
        cls,
        where: str,
        paths: Sequence[str | Path],
        labels: Sequence[int] | np.ndarray,
        classes: Sequence[str] | None = None,
    ) -> LazyImages:
        """Images that are files, with a label each.

        Raises:
            DataError: raised by ``get`` for a file that cannot be read as an image.
        """
        files = tuple(map(str, paths))

        def get(index: int) -> tuple[Image.Image, int]:
            try:
                with Image.open(files[index]) as image:
                    image.load()
                    return image, int(labels[index])
            except OSError as error:
                raise DataError(f"{files[index]} cannot be read as an image: {error}") from error

        return cls(where, len(files), get, classes, files)

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
        paths = None if self.paths is None else tuple(self.paths[i] for i in chosen)
        get = self.get
        return replace(self, count=len(chosen), get=lambda i: get(int(chosen[i])), paths=paths)

    def subset(self, size: int | None, purpose: str) -> LazyImages:
        """A random subset, in the same order; always the same for a ``purpose``. All images if
        ``size`` is None."""
        if size is None or size >= self.count:
            return self
        generator = numpy_generator("subset", purpose, self.count, size)
        return self.pick(np.sort(generator.choice(self.count, size, replace=False)))

    def with_classes(self, classes: Sequence[str]) -> LazyImages:
        """The same images, with labels that are positions in ``classes``.

        Raises:
            DataError: they have a class that is not among these.
        """
        if self.classes is None or list(self.classes) == list(classes):
            return self
        missing = [name for name in self.classes if name not in classes]
        if missing:
            raise DataError(
                f"{self.where} has classes that the pool lacks: {', '.join(missing)}. "
                f"The pool's classes: {', '.join(classes)}."
            )
        target = [list(classes).index(name) for name in self.classes]
        get = self.get

        def relabelled(index: int) -> tuple[Image.Image, int]:
            image, label = get(index)
            return image, target[label]

        return replace(self, get=relabelled, classes=list(classes))


def common_shape(images: LazyImages, image_size: int | None) -> tuple[int, int, int]:
    """The (height, width, channels) to decode all images to, from a sample of them.

    Args:
        images: the images, of which some are decoded.
        image_size: side in pixels. None: the size of the sampled images if it is the same for all,
            else ``DEFAULT_SIZE``.

    Raises:
        DataError: there are no images.
    """
    if images.count == 0:
        raise DataError(f"{images.where} has no images; expected at least one.")
    sample = np.unique(np.linspace(0, images.count - 1, min(images.count, 64)).astype(int))
    looked_at = [images.get(int(i))[0] for i in sample]
    channels = 1 if all(image.mode in ("1", "L") for image in looked_at) else 3
    if image_size is not None:
        return image_size, image_size, channels
    sizes = {image.size for image in looked_at}
    if len(sizes) > 1:
        return DEFAULT_SIZE, DEFAULT_SIZE, channels
    width, height = sizes.pop()
    return height, width, channels


class DifferentImages(Exception):
    """An image has another shape than the sampled ones. ``shape`` suits them all."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__(shape)
        self.shape = shape


def decode(
    images: LazyImages, shape: tuple[int, int, int], more: int = 0, *, strict: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode all images to one shape.

    Args:
        images: the images to decode.
        shape: (height, width, channels) of the result.
        more: number of images of this shape that are decoded later and need memory too.
        strict: raise ``DifferentImages`` for an image of another size, unless all are resized to
            ``DEFAULT_SIZE``, and for a coloured image if ``shape`` has one channel.

    Returns:
        (N, height, width, channels) uint8 and (N,) int64 labels.

    Raises:
        DataError: the images do not fit into the free memory, or one cannot be read.
    """
    need = (images.count + more) * int(np.prod(shape))
    available = int(psutil.virtual_memory().available * MEMORY_SHARE)
    if need > available:
        raise DataError(
            f"{images.where} needs {need / 2**30:.1f} GiB of memory as {images.count + more} "
            f"images (pool and evaluation) of {shape[0]} x {shape[1]} x {shape[2]} bytes, but only "
            f"{available / 2**30:.1f} GiB can be used. Choose a smaller image_size, pool_size or "
            "eval_size."
        )
    height, width, channels = shape
    resized = (height, width) == (DEFAULT_SIZE, DEFAULT_SIZE)
    pixels = np.empty((images.count, *shape), dtype=np.uint8)
    labels = np.empty(images.count, dtype=np.int64)

    def read(index: int) -> None:
        image, label = images.get(index)
        if image.mode.startswith(("I", "F")):
            raise DataError(
                f"Image {index} of {images.where} has pixels of mode {image.mode}; expected 8 bits "
                "per channel. Convert the images first."
            )
        coloured = channels == 1 and image.mode not in ("1", "L")
        if strict and (coloured or (image.size != (width, height) and not resized)):
            depth = 3 if coloured else channels
            if image.size == (width, height) or resized:
                raise DifferentImages((height, width, depth))
            raise DifferentImages((DEFAULT_SIZE, DEFAULT_SIZE, depth))
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
        pixels[index] = np.asarray(image, dtype=np.uint8).reshape(shape)
        labels[index] = label

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(read, range(images.count)):
            pass
    return torch.from_numpy(pixels), torch.from_numpy(labels)
