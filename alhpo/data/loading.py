"""Loading data sets into memory: digits, folders of images, and timm's data set factory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from filelock import FileLock
from PIL import Image, ImageOps
from torchvision.datasets import SVHN, ImageFolder

from alhpo.base.errors import DataError
from alhpo.base.schema import suggestion
from alhpo.base.seeding import numpy_generator
from alhpo.data.dataset import ImageDataset, evaluation_split

#: Side in pixels given to images of differing sizes when nothing else is asked for.
DEFAULT_SIZE = 224
TRAIN_FOLDERS = ("train", "training")
EVAL_FOLDERS = ("validation", "val", "valid", "eval", "evaluation", "test", "testing")
TIMM_PREFIXES = ("torch/", "hfds/", "hfids/", "tfds/", "wds/")
#: Share of the free memory that a data set may take.
MEMORY_SHARE = 0.8


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
) -> ImageDataset:
    """Load a data set into memory.

    Args:
        name: ``"digits"`` (scikit-learn's, 8 x 8, no download); a folder with one sub-folder per
            class, or with splits that hold them; or a name of timm's data set factory, such as
            ``"torch/cifar10"``, ``"torch/svhn"`` or ``"hfds/user/dataset"``.
        root: where timm's data sets are kept; by default ``~/.cache/alhpo/data``.
        train_split: the pool, as timm or the folder names it.
        eval_split: the evaluation split; timm resolves "validation" to the test set of
            torchvision's sets; a folder may call it val or test. A folder without one has
            ``eval_fraction`` of its images held out, always the same ones, as has digits.
        download: fetch a torchvision set that is not there.
        image_size: side in pixels; images are resized and centre-cropped to a square. By default
            the own size of the pool's images where they all agree, else 224.
        eval_fraction: share to hold out where there is no evaluation split.
        pool_size: keep a random subset of this many pool images, the same for every run seed.
        eval_size: likewise for the evaluation split.

    Raises:
        DataError: not found, not readable, or larger than the free memory (found out before
            anything is decoded).
    """
    for label, value in (
        ("image_size", image_size),
        ("pool_size", pool_size),
        ("eval_size", eval_size),
    ):
        if value is not None and value < 1:
            raise DataError(f"{label} is {value}; it must be at least 1.")
    train, held_out = _sources(
        name, root, train_split, eval_split, download, eval_fraction, pool_size, eval_size
    )
    shape = _common_shape(train, image_size)
    try:
        images, labels = _decode(train, shape, held_out.count, strict=image_size is None)
    except _DifferentImages as other:  # outside the sample that was looked at
        images, labels = _decode(train, other.shape, held_out.count)
    shape = (images.shape[1], images.shape[2], images.shape[3])
    eval_images, eval_labels = _decode(held_out, shape)
    classes = train.classes
    if classes is None:
        classes = [str(i) for i in range(int(torch.cat([labels, eval_labels]).max()) + 1)]
    short = name.split("/", 1)[1] if name.startswith(TIMM_PREFIXES) else Path(name).name
    return ImageDataset(
        short.replace("/", "-"),
        images,
        labels,
        eval_images,
        eval_labels,
        tuple(classes),
        train.paths,
        "crop" if name == "digits" else "crop-flip",
    )


@dataclass(frozen=True)
class DatasetSize:
    """What is known of a data set without decoding it.

    Attributes:
        pool: number of pool images.
        evaluation: number of evaluation images.
        shape: (height, width, channels) of an image.
        classes: number of classes.
    """

    pool: int
    evaluation: int
    shape: tuple[int, int, int]
    classes: int


#: Sizes of data sets that can be told before they are downloaded.
PUBLIC_SIZES = {
    "torch/cifar10": DatasetSize(50_000, 10_000, (32, 32, 3), 10),
    "torch/cifar100": DatasetSize(50_000, 10_000, (32, 32, 3), 100),
    "torch/svhn": DatasetSize(73_257, 26_032, (32, 32, 3), 10),
}


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
        DataError: not found, not readable, or not downloaded yet and none of ``PUBLIC_SIZES``.
    """
    if name in PUBLIC_SIZES and (train_split, eval_split) == ("train", "validation"):
        known = PUBLIC_SIZES[name]
        return DatasetSize(
            min(known.pool, pool_size or known.pool),
            min(known.evaluation, eval_size or known.evaluation),
            (image_size, image_size, known.shape[2]) if image_size else known.shape,
            known.classes,
        )
    train, held_out = _sources(
        name, root, train_split, eval_split, False, 0.2, pool_size, eval_size
    )
    classes = train.classes
    n_classes = len(classes) if classes else 1 + max(train.get(i)[1] for i in range(train.count))
    return DatasetSize(train.count, held_out.count, _common_shape(train, image_size), n_classes)


@dataclass(frozen=True)
class _Source:
    """Images still to be decoded: item i is (PIL image, label)."""

    where: str
    count: int
    get: Callable[[int], tuple[Image.Image, int]]
    classes: list[str] | None
    paths: tuple[str, ...] | None = None

    def pick(self, chosen: np.ndarray) -> _Source:
        paths = None if self.paths is None else tuple(self.paths[i] for i in chosen)
        get = self.get
        return replace(self, count=len(chosen), get=lambda i: get(int(chosen[i])), paths=paths)

    def subset(self, size: int | None, purpose: str) -> _Source:
        if size is None or size >= self.count:
            return self
        generator = numpy_generator("subset", purpose, self.count, size)
        return self.pick(np.sort(generator.choice(self.count, size, replace=False)))

    def with_classes(self, classes: Sequence[str]) -> _Source:
        """The same images with labels that count in ``classes``."""
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


def _sources(
    name: str,
    root: str | Path | None,
    train_split: str,
    eval_split: str,
    download: bool,
    eval_fraction: float,
    pool_size: int | None,
    eval_size: int | None,
) -> tuple[_Source, _Source]:
    """The pool and the evaluation split, still to be decoded."""
    if name == "digits":
        train, held_out = _digits(), None
    elif name.startswith(TIMM_PREFIXES):
        folder = Path(root or Path.home() / ".cache" / "alhpo" / "data").expanduser()
        train = _timm_source(name, folder, train_split, download)
        held_out = _timm_source(name, folder, eval_split, download)
    else:
        train, held_out = _folder_sources(name, train_split, eval_split)
    if held_out is None:
        kept, held = evaluation_split(train.count, eval_fraction)
        train, held_out = train.pick(kept), train.pick(held)
    elif train.classes is not None:
        held_out = held_out.with_classes(train.classes)
    return train.subset(pool_size, "pool"), held_out.subset(eval_size, "eval")


def _folder_sources(name: str, train_split: str, eval_split: str) -> tuple[_Source, _Source | None]:
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"Data set {name!r} is neither 'digits', nor a folder, nor a name of timm's factory "
            f"(which begin with {', '.join(TIMM_PREFIXES)}).{suggestion(name, ['digits'])} Where "
            "a folder was moved, give its new path."
        )
    present = [child.name for child in folder.iterdir() if child.is_dir()]

    def find(asked: str, known: tuple[str, ...]) -> Path | None:
        names = (asked, *known) if asked in known else (asked,)
        return next((folder / split for split in names if split in present), None)

    train = find(train_split, TRAIN_FOLDERS)
    if train is None:
        return _image_folder(folder), None
    held_out = find(eval_split, EVAL_FOLDERS)
    if held_out is None:
        raise DataError(
            f"{folder} has a split {train.name!r} but none called {eval_split!r}. "
            f"Its folders: {', '.join(sorted(present))}."
        )
    return _image_folder(train), _image_folder(held_out)


class _ClassFolders(ImageFolder):
    """Images by class; hidden folders, as notebooks and file managers leave them, are none."""

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        folders = (entry.name for entry in Path(directory).iterdir() if entry.is_dir())
        classes = sorted(name for name in folders if not name.startswith("."))
        if not classes:
            raise DataError(
                f"{directory} holds no class sub-folders with images; one for each class is "
                "expected."
            )
        return classes, {name: number for number, name in enumerate(classes)}


def _image_folder(folder: Path) -> _Source:
    try:
        source = _ClassFolders(str(folder))
    except FileNotFoundError as error:
        reason = str(error).splitlines()[0].replace("Found no valid file", "There is no image")
        raise DataError(
            f"{folder} must hold one sub-folder of images per class. {reason}. Add images there, "
            "or remove what is no class."
        ) from error
    files = [path for path, _ in source.samples]

    def get(index: int) -> tuple[Image.Image, int]:
        path, label = source.samples[index]
        try:
            with Image.open(path) as image:
                image.load()
                return image, label
        except OSError as error:
            raise DataError(f"{path} cannot be read as an image: {error}") from error

    return _Source(str(folder), len(files), get, source.classes, tuple(files))


def _timm_source(name: str, root: Path, split: str, download: bool) -> _Source:
    from timm.data.dataset_factory import create_dataset

    where = f"{name} ({split})"
    # several processes of a study may come here at once: one downloads, the others wait
    lock = FileLock(root / ".download.lock") if download else nullcontext()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with lock:
            if name == "torch/svhn":  # timm's factory leaves it out
                part = "train" if split in TRAIN_FOLDERS else "test"
                source: Any = SVHN(str(root), split=part, download=download)
            else:
                source = create_dataset(name, root=str(root), split=split, download=download)
    except Exception as error:
        raise DataError(
            f"timm could not make data set {name!r}, split {split!r}, in {root}: {error!r}. "
            "Check the name, the split and root, or allow the download."
        ) from error
    classes = getattr(source, "classes", None) or _counted_classes(source)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return _Source(where, len(source), lambda i: source[i], classes)
    items = list(source)
    return _Source(where, len(items), items.__getitem__, classes)


def _counted_classes(source: Any) -> list[str] | None:
    """Classes by number, where the source tells all labels without decoding."""
    for attribute in ("targets", "labels"):
        labels = getattr(source, attribute, None)
        if labels is not None and len(labels):
            return [str(i) for i in range(int(np.max(labels)) + 1)]
    return None


def _digits() -> _Source:
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)
    return _Source(
        "digits",
        len(images),
        lambda i: (Image.fromarray(images[i]), int(data.target[i])),
        [str(i) for i in range(10)],
    )


class _DifferentImages(Exception):
    """An image that is not like those that were looked at; ``shape`` fits them all."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__(shape)
        self.shape = shape


def _common_shape(source: _Source, image_size: int | None) -> tuple[int, int, int]:
    """(height, width, channels) for all images, from a sample of them."""
    if source.count == 0:
        raise DataError(f"{source.where} has no images.")
    sample = np.unique(np.linspace(0, source.count - 1, min(source.count, 64)).astype(int))
    images = [source.get(int(i))[0] for i in sample]
    channels = 1 if all(image.mode in ("1", "L") for image in images) else 3
    if image_size is not None:
        return image_size, image_size, channels
    sizes = {image.size for image in images}
    if len(sizes) > 1:
        return DEFAULT_SIZE, DEFAULT_SIZE, channels
    width, height = sizes.pop()
    return height, width, channels


def _decode(
    source: _Source, shape: tuple[int, int, int], more: int = 0, *, strict: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """All images of a source, at a shape.

    Args:
        source: what to decode.
        shape: (height, width, channels).
        more: further images of this shape that are to be decoded later and must fit too.
        strict: raise _DifferentImages for an image of another size, unless all are resized to
            ``DEFAULT_SIZE``; and for a coloured one where ``shape`` is grey.
    """
    need = (source.count + more) * int(np.prod(shape))
    available = int(psutil.virtual_memory().available * MEMORY_SHARE)
    if need > available:
        raise DataError(
            f"{source.where} needs {need / 2**30:.1f} GiB of memory as {source.count + more} "
            f"images (pool and evaluation) of {shape[0]} x {shape[1]} x {shape[2]} bytes, and "
            f"{available / 2**30:.1f} GiB can be used. Choose a smaller image_size, pool_size or "
            "eval_size."
        )
    height, width, channels = shape
    resized = (height, width) == (DEFAULT_SIZE, DEFAULT_SIZE)
    images = np.empty((source.count, *shape), dtype=np.uint8)
    labels = np.empty(source.count, dtype=np.int64)

    def read(index: int) -> None:
        image, label = source.get(index)
        if image.mode.startswith(("I", "F")):
            raise DataError(
                f"Image {index} of {source.where} has pixels of mode {image.mode}; 8 bits per "
                "channel are expected. Convert the images first."
            )
        coloured = channels == 1 and image.mode not in ("1", "L")
        if strict and (coloured or (image.size != (width, height) and not resized)):
            depth = 3 if coloured else channels
            if image.size == (width, height) or resized:
                raise _DifferentImages((height, width, depth))
            raise _DifferentImages((DEFAULT_SIZE, DEFAULT_SIZE, depth))
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
        images[index] = np.asarray(image, dtype=np.uint8).reshape(shape)
        labels[index] = label

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(read, range(source.count)):
            pass
    return torch.from_numpy(images), torch.from_numpy(labels)
