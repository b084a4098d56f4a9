"""The images of one part of a data set, decoded to one shape."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psutil
import torch

from alhpo.base.errors import DataError
from alhpo.base.seeding import numpy_generator
from alhpo.data.batches import Rows
from alhpo.data.identified import IdentifiedFiles, identified
from alhpo.data.identity import check_split, numbered
from alhpo.data.lazy import ImageFiles, LazyImages
from alhpo.data.pixels import UnreadableImage, as_shown, fitted, pixel_identity
from alhpo.data.stored_images import packed, stored_images
from alhpo.data.workers import decode_files, processors

#: Share of the free memory that images may take.
MEMORY_SHARE = 0.8
#: Side in pixels to which images of different sizes are resized by default.
DEFAULT_SIZE = 224
#: Images of a set without files that are looked at for the common size.
SAMPLE = 64

#: Which images are decoded together, and what to do if memory is too small for them.
ALL_IMAGES = (
    "pool and evaluation",
    "Choose a smaller image_size, pool_size or eval_size, or, for image files, a larger "
    "ALHPO_CACHE_GIB.",
)

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class LoadedPart:
    """The images of a part.

    Attributes:
        images: (N, H, W, C) uint8.
        labels: (N,) int64, or None if nobody labelled them yet.
        identities: identity of each image; None if it is that of its pixels.
        paths: the file of each image, or None if they are not files.
        problems: the files that cannot be used, each with the reason. They are not among the
            images.
    """

    images: Rows
    labels: torch.Tensor | None
    identities: tuple[str, ...] | None
    paths: tuple[str, ...] | None = None
    problems: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class FilePart(IdentifiedFiles):
    """Image files in the order of their identities, which can be decoded.

    Attributes:
        verify: whether to decode the images again even if they are in the cache.
    """

    verify: bool = False

    def decode(self, shape: Shape, more: int = 0) -> LoadedPart:
        """Decode all images to one shape, or take them from the cache.

        Args:
            shape: (height, width, channels).
            more: images of this shape that are decoded later, and need memory too.

        Raises:
            DataError: there is no room for them, neither in the cache nor in memory.
        """
        paths = self.images.paths
        if not paths:
            return self.loaded(torch.empty((0, *shape), dtype=torch.uint8))

        def fill(rows: Sequence[int], pixels: np.ndarray) -> list[str]:
            return decode_files(
                [paths[row] for row in rows], [self.facts[row].identity for row in rows], pixels
            )

        where = self.images.where
        stored = stored_images(self.identities, shape, where, fill, renew=self.verify)
        if stored is None:
            need_memory(where, self.count + more, shape, *ALL_IMAGES)
            pixels = np.empty((self.count, *shape), dtype=np.uint8)
            reasons = fill(range(self.count), pixels)
            pixels = packed(pixels, reasons)
        else:
            pixels, reasons = stored
        problems = [(path, reason) for path, reason in zip(paths, reasons, strict=True) if reason]
        readable = self.without((*self.problems, *problems))
        return readable.loaded(torch.from_numpy(pixels))

    def loaded(self, images: Rows) -> LoadedPart:
        """The part with these as its images."""
        labels = self.images.labels
        return LoadedPart(
            images,
            None if labels is None else torch.tensor(labels, dtype=torch.int64),
            tuple(self.identities),
            self.images.paths,
            self.problems,
        )


def file_part(images: ImageFiles, *, verify: bool = False) -> FilePart:
    """Identify image files, see ``identified``.

    Args:
        images: the files.
        verify: read all files, even those that seem unchanged.
    """
    return decodable(identified(images, verify=verify), verify=verify)


def decodable(files: IdentifiedFiles, *, verify: bool = False) -> FilePart:
    """Identified files as a part of a data set."""
    return FilePart(files.images, files.facts, files.problems, files.copies, verify)


@dataclass(frozen=True)
class OrderedPart:
    """Images without files, in the order of their source. Draws go by position."""

    images: LazyImages
    problems: tuple[tuple[str, str], ...] = ()

    @property
    def count(self) -> int:
        return self.images.count

    def split(self, fraction: float) -> tuple[OrderedPart, OrderedPart]:
        """A part to keep, and one to hold out."""
        kept, held = evaluation_split(self.count, fraction)
        return OrderedPart(self.images.pick(kept)), OrderedPart(self.images.pick(held))

    def subset(self, size: int | None, purpose: str) -> OrderedPart:
        """A random subset that is always the same for a ``purpose``; all if ``size`` is None."""
        if size is None or size >= self.count:
            return self
        generator = numpy_generator("subset", purpose, self.count, size)
        return OrderedPart(
            self.images.pick(np.sort(generator.choice(self.count, size, replace=False)))
        )

    def sizes(self) -> tuple[set[tuple[int, int]], bool]:
        """The sizes (height, width) that occur among some images, and whether these are grey; of
        images of a known shape, none is read."""
        if self.images.shape is not None:
            return {self.images.shape[:2]}, self.images.shape[2] == 1
        rows = np.unique(np.linspace(0, self.count - 1, min(self.count, SAMPLE)).astype(int))
        looked_at = [self._shown(int(row))[0] for row in rows]
        sizes = {(image.height, image.width) for image in looked_at}
        return sizes, all(image.mode == "L" for image in looked_at)

    def labels(self) -> list[int]:
        """The label of each image; every image is read for it."""
        return [self.images.get(row)[1] for row in range(self.count)]

    def decode(self, shape: Shape, more: int = 0, *, one_size: bool = False) -> LoadedPart:
        """Decode all images to one shape.

        Args:
            shape: (height, width, channels).
            more: images of this shape that are decoded later, and need memory too.
            one_size: ``shape`` is the size that all images should have.

        Raises:
            DataError: the images do not fit into the free memory, or one cannot be read.
            OtherImage: an image has another size than it should, or colours if ``shape`` is grey.
        """
        need_memory(self.images.where, self.count + more, shape, *ALL_IMAGES)
        pixels = np.empty((self.count, *shape), dtype=np.uint8)
        labels = np.empty(self.count, dtype=np.int64)
        changed: dict[int, str] = {}

        def read(row: int) -> None:
            image, label = self._shown(row)
            other_size = one_size and (image.height, image.width) != shape[:2]
            coloured = shape[2] == 1 and image.mode != "L"
            if other_size or coloured:
                height, width = (DEFAULT_SIZE, DEFAULT_SIZE) if other_size else shape[:2]
                raise OtherImage((height, width, 3 if coloured else shape[2]))
            pixels[row], labels[row] = fitted(image, shape), label
            if (image.height, image.width) != shape[:2] or len(image.getbands()) != shape[2]:
                changed[row] = pixel_identity(np.asarray(image))

        with ThreadPoolExecutor(processors()) as pool:
            for _ in pool.map(read, range(self.count)):
                pass
        loaded = LoadedPart(torch.from_numpy(pixels), torch.from_numpy(labels), None)
        if not changed:
            return loaded
        own = [changed.get(row) or pixel_identity(pixels[row]) for row in range(self.count)]
        return replace(loaded, identities=numbered(own))

    def _shown(self, row: int) -> tuple[Any, int]:
        image, label = self.images.get(row)
        try:
            return as_shown(image), label
        except UnreadableImage as error:
            raise DataError(
                f"Image {row} of {self.images.where} cannot be used: {error}."
            ) from error


class OtherImage(Exception):
    """An image has another shape than the sampled ones. ``shape`` suits them all."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.shape = shape


Part = FilePart | OrderedPart


def part_of(images: ImageFiles | LazyImages, *, verify: bool = False) -> Part:
    """The images of a source, ready to be split, drawn from and decoded."""
    if isinstance(images, ImageFiles):
        return file_part(images, verify=verify)
    return OrderedPart(images)


def evaluation_split(n: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Ascending positions of images kept in the pool and held out for evaluation.

    The same arguments always give the same split.

    Raises:
        DataError: the fraction is not in (0, 1), or there are fewer than two images.
    """
    check_split(n, fraction)
    n_held = min(max(round(fraction * n), 1), n - 1)
    order = numpy_generator("evaluation split", n).permutation(n)
    return np.sort(order[n_held:]), np.sort(order[:n_held])


def need_memory(where: str, count: int, shape: Shape, which: str, advice: str) -> None:
    """Refuse images that do not fit into the free memory.

    Args:
        where: what they are called in messages.
        count: the number of images.
        shape: (height, width, channels) of each.
        which: which images these are.
        advice: what to do.

    Raises:
        DataError: they do not fit.
    """
    need = count * int(np.prod(shape))
    available = int(psutil.virtual_memory().available * MEMORY_SHARE)
    if need > available:
        raise DataError(
            f"{where} needs {need / 2**30:.1f} GiB of memory as {count} images ({which}) of "
            f"{shape[0]} x {shape[1]} x {shape[2]} bytes, but only {available / 2**30:.1f} GiB can "
            f"be used. {advice}"
        )
