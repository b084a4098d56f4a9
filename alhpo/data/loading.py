"""Loading data sets: find, identify, split, decode."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from alhpo.base.errors import DataError
from alhpo.base.plain import counted
from alhpo.data.dataset import ImageDataset, check_classes
from alhpo.data.decoding import (
    DEFAULT_SIZE,
    FilePart,
    LoadedPart,
    OrderedPart,
    OtherImage,
    Part,
    Shape,
    part_of,
)
from alhpo.data.file_images import FileImages
from alhpo.data.lazy import ImageFiles, LazyImages
from alhpo.data.notes import listed, part_notes, source_notes
from alhpo.data.sources import DatasetSize, SourceOptions, find_source

OnError = Literal["raise", "skip"]


def load_dataset(
    name: str,
    *,
    root: str | Path | None = None,
    train_split: str = "train",
    eval_split: str = "validation",
    download: bool = True,
    image_size: int | None = None,
    eval_fraction: float = 0.2,
    pool_size: int | None = None,
    eval_size: int | None = None,
    classes: Sequence[str] | None = None,
    on_error: OnError = "raise",
    verify: bool = False,
    decode: bool = True,
) -> ImageDataset:
    """Load a data set.

    Image files are decoded once and then mapped from a cache, which all processes share.

    Args:
        name: ``"digits"`` (scikit-learn's, 8 x 8, no download); a name of timm's data set factory,
            such as ``"torch/cifar10"``, ``"torch/svhn"`` or ``"hfds/user/dataset"``;
            ``"medmnist/pathmnist"`` and the like; ``"tiny-imagenet"``; the name of
            a registered data source; a folder with one sub-folder per class, or with such
            sub-folders per split, or of images without labels; a table (.csv, .parquet); or arrays
            of MedMNIST's form (.npz). A name wins over a folder; ``"./digits"`` is the folder.
        root: folder of downloaded data sets, by default ``~/.cache/alhpo/data``; of a table, the
            folder that its paths are relative to, by default its own.
        train_split: name of the split that is the pool, in timm or in the folder. ``"."`` reads a
            folder whose sub-folders are all classes.
        eval_split: name of the evaluation split. For torchvision's sets, timm takes the test set
            for "validation", and so does alhpo for MedMNIST's ("val" is another split); a folder
            may call it val or test. Without an evaluation split (digits, some folders),
            ``eval_fraction`` of the images is held out, always the same ones.
        download: whether a missing data set may be downloaded.
        image_size: side in pixels; images are resized and centre-cropped to a square. By default
            the size of the pool's images if they all have the same, else 224.
        eval_fraction: share to hold out if there is no evaluation split, 0.2 by default. Image
            files are drawn one by one, by their content, so the share is met on average.
        pool_size: size of a random subset of the pool, the same for every run seed; None: all.
        eval_size: size of a random subset of the evaluation split; None: all.
        classes: names of the classes in the order of their numbers, all that the data set has or
            more; needed for images without labels. None: those of the data set.
        on_error: "raise" refuses a data set with files that cannot be read, or that have the same
            content and different labels; "skip" goes on without them (``ImageDataset.skipped``).
        verify: read and decode all files again, even those that seem unchanged.
        decode: whether to decode image files now. If not, ``images`` and ``eval_images`` are
            ``FileImages``, which decode a file whenever it is asked for: for ``recipe="frozen"``,
            which looks at each image once. Files that can be opened and not decoded are then
            found when they are asked for, whatever ``on_error`` is.

    Raises:
        DataError: the data set is not found, has files that cannot be used (all are named), or
            needs more than the free memory.
        ConfigurationError: the data source is an installed plug-in that cannot be imported or
            used.
    """
    if on_error not in ("raise", "skip"):
        raise DataError(f"Argument on_error is {on_error!r}. Legal: raise, skip.")
    found = find_data(
        _options(name, root, train_split, eval_split, download, image_size),
        image_size=image_size,
        eval_fraction=eval_fraction,
        pool_size=pool_size,
        eval_size=eval_size,
        classes=classes,
        verify=verify,
    )
    return found.dataset(decode=decode, on_error=on_error)


@dataclass(frozen=True)
class FoundData:
    """A data set whose images are found and identified, and not decoded yet.

    Attributes:
        name: name in tables and folders.
        pool: the pool.
        evaluation: the evaluation split; it may be empty.
        classes: names of the classes; None if only the labels tell how many there are.
        augmentation: the meaning of the hyperparameter ``augmentation="auto"``.
        shape: (height, width, channels) of a decoded image.
        image_size: the side of an image that was asked for.
        one_size: whether ``shape`` is the size that the pool's images seem to have.
        notes: what a user should know about the images, a sentence each.
    """

    name: str
    pool: Part
    evaluation: Part
    classes: Sequence[str] | None
    augmentation: str
    shape: Shape
    image_size: int | None
    one_size: bool
    notes: tuple[str, ...]

    def dataset(self, *, decode: bool, on_error: OnError = "raise") -> ImageDataset:
        """The data set.

        Args:
            decode: whether to decode image files now.
            on_error: see ``load_dataset``.

        Raises:
            DataError: see ``load_dataset``.
        """
        pool, held_out = self.load(decode=decode)
        where = self.pool.images.where
        skipped = tuple(dict.fromkeys((*pool.problems, *held_out.problems)))
        if skipped and on_error == "raise":
            raise DataError(
                f"{counted(len(skipped), 'file')} of {where} cannot be used as an image:"
                f"{listed(skipped)}\nRepair or remove them, or set on_error to skip (--on-error "
                "skip) to go on without them."
            )
        if not len(pool.images):
            raise DataError(f"No image of the pool of {where} can be used:{listed(skipped)}")
        labels, eval_labels = pool.labels, held_out.labels
        assert eval_labels is not None
        names = self.classes
        if names is None:
            known = eval_labels if labels is None else torch.cat([labels, eval_labels])
            names = [str(i) for i in range(int(known.max()) + 1)]
        notes = self.notes
        if skipped:
            notes = (*notes, f"{counted(len(skipped), 'file')} left out, as they cannot be used.")
        return ImageDataset(
            self.name,
            pool.images,
            labels,
            held_out.images,
            eval_labels,
            tuple(names),
            pool.paths,
            self.augmentation,
            eval_paths=held_out.paths,
            known_identities=pool.identities,
            known_eval_identities=held_out.identities,
            skipped=skipped,
            notes=notes,
        )

    def load(self, *, decode: bool) -> tuple[LoadedPart, LoadedPart]:
        """The pool and the evaluation split.

        Args:
            decode: whether to decode image files now. Others are decoded anyway.

        Raises:
            DataError: there is no room for them, or an image that is no file cannot be read.
        """
        pool, held_out = (
            self._undecoded(part) if isinstance(part, FilePart) and not decode else None
            for part in (self.pool, self.evaluation)
        )
        try:
            more = self.evaluation.count if held_out is None else 0
            if isinstance(self.pool, OrderedPart):
                pool = self.pool.decode(self.shape, more, one_size=self.one_size)
            pool = pool or self.pool.decode(self.shape, more)
            held_out = held_out or self.evaluation.decode(self.shape)
        except OtherImage as other:  # the shape of images without files is that of a sample
            return replace(self, shape=other.shape, one_size=False).load(decode=decode)
        if decode and isinstance(self.pool, FilePart) and len(pool.images):
            readable = self.pool.without(pool.problems)
            others = self.evaluation
            if isinstance(others, FilePart):
                others = others.without(held_out.problems)
            shape = _common_shape(readable, others, self.image_size)
            if shape != self.shape:  # only files that cannot be read had another size or colours
                others = replace(self, pool=readable, evaluation=others, shape=shape)
                return others.load(decode=True)
        return pool, held_out

    def _undecoded(self, part: FilePart) -> LoadedPart:
        files, asked = part.images, self.image_size is not None
        return part.loaded(FileImages(files.where, self.shape, asked, files.paths, part.identities))


def find_data(
    options: SourceOptions,
    *,
    image_size: int | None = None,
    eval_fraction: float = 0.2,
    pool_size: int | None = None,
    eval_size: int | None = None,
    classes: Sequence[str] | None = None,
    verify: bool = False,
) -> FoundData:
    """Find and identify the images of a data set, without decoding them.

    Args:
        options: the data set. The others: see ``load_dataset``.

    Raises:
        DataError: the data set is not found, or has no images that can be read.
        ConfigurationError: see ``load_dataset``.
    """
    for label, value in (
        ("image_size", image_size),
        ("pool_size", pool_size),
        ("eval_size", eval_size),
    ):
        if value is not None and value < 1:
            raise DataError(f"Argument {label} is {value!r}; expected at least 1.")
    data = find_source(options.name)(options)
    images, others = data.pool, data.evaluation
    if isinstance(others, ImageFiles) and others.labels is None:
        raise DataError(
            f"The evaluation split {others.where} has no labels, so nothing can be measured on it. "
            f"Set eval_split (--val-split) to a split with labels, or load {images.where} alone."
        )
    names = _classes(images, others, classes)
    if names is not None:
        images = images.with_classes(names)
        others = None if others is None else others.with_classes(names)
    pool = part_of(images, verify=verify)
    held_out = part_of(others or ImageFiles(images.where, (), ()), verify=verify)
    if not pool.count:
        problems = (*pool.problems, *held_out.problems)
        raise DataError(f"{images.where} has no images; expected at least one.{listed(problems)}")
    if others is None and not (isinstance(images, ImageFiles) and images.labels is None):
        try:
            pool, held_out = pool.split(eval_fraction)
        except DataError as error:
            raise DataError(f"{error}{listed(pool.problems)}") from error
    notes = (*source_notes(data.pool, data.evaluation), *part_notes(pool, held_out))
    pool, held_out = pool.subset(pool_size, "pool"), held_out.subset(eval_size, "eval")
    shape = _common_shape(pool, held_out, image_size)
    if image_size is None and len(pool.sizes()[0]) > 1:
        notes = (
            *notes,
            f"The images have different sizes: they are scaled and cropped to {shape[1]} x "
            f"{shape[0]} pixels (image_size).",
        )
    return FoundData(
        data.name or Path(os.path.abspath(options.path)).name,  # noqa: PTH100 - "." and ".."
        pool,
        held_out,
        names,
        data.augmentation,
        shape,
        image_size,
        image_size is None and shape[:2] != (DEFAULT_SIZE, DEFAULT_SIZE),
        notes,
    )


def dataset_size(
    name: str,
    *,
    root: str | Path | None = None,
    train_split: str = "train",
    eval_split: str = "validation",
    image_size: int | None = None,
    pool_size: int | None = None,
    eval_size: int | None = None,
) -> DatasetSize:
    """The size of a data set as ``load_dataset`` would load it, without downloading or decoding it.

    Args: see ``load_dataset``.

    Raises:
        DataError: the data set is not found, cannot be read, or is not downloaded and of unknown
            size.
        ConfigurationError: see ``load_dataset``.
    """
    tell = getattr(find_source(name), "size", None)
    options = _options(name, root, train_split, eval_split, False, image_size)
    known = tell(options) if tell else None
    if known is not None:
        return DatasetSize(
            min(known.pool, pool_size or known.pool),
            min(known.evaluation, eval_size or known.evaluation),
            (image_size, image_size, known.shape[2]) if image_size else known.shape,
            known.classes,
        )
    found = find_data(options, image_size=image_size, pool_size=pool_size, eval_size=eval_size)
    pool, classes = found.pool, found.classes
    if classes is None:
        labels = pool.labels() if isinstance(pool, OrderedPart) else pool.images.labels
        classes = range(1 + max(labels or (0,)))
    return DatasetSize(pool.count, found.evaluation.count, found.shape, len(classes))


def _options(
    name: str,
    root: str | Path | None,
    train_split: str,
    eval_split: str,
    download: bool,
    image_size: int | None,
) -> SourceOptions:
    given = None if root is None else Path(root).expanduser()
    folder = given or Path.home() / ".cache" / "alhpo" / "data"
    return SourceOptions(name, folder, train_split, eval_split, download, given, image_size)


def _classes(
    pool: ImageFiles | LazyImages,
    evaluation: ImageFiles | LazyImages | None,
    given: Sequence[str] | None,
) -> Sequence[str] | None:
    """The names of the classes, or None if only labels that are still to be read tell them."""
    if given is not None:
        check_classes(given)
        return list(given)
    if isinstance(pool, ImageFiles) and pool.labels is None:
        if evaluation is None or evaluation.classes is None:
            raise DataError(
                f"{pool.where} has no labels, so its classes are not known. Give their names: "
                "classes=[...]."
            )
        return evaluation.classes
    if pool.classes is not None:
        check_classes(pool.classes)
    return pool.classes


def _common_shape(pool: Part, evaluation: Part, image_size: int | None) -> Shape:
    """The shape to decode all images to: the pool's size if it has one, grey if all images are."""
    sizes, grey = pool.sizes()
    if evaluation.count:
        grey = grey and evaluation.sizes()[1]
    channels = 1 if grey else 3
    if image_size is not None:
        return image_size, image_size, channels
    height, width = sizes.pop() if len(sizes) == 1 else (DEFAULT_SIZE, DEFAULT_SIZE)
    return height, width, channels
