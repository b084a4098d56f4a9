"""Image data sets in memory: decoded once into uint8 tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch
from PIL import Image, ImageOps
from torchvision.datasets import SVHN, ImageFolder

from alhpo.schema import suggestion
from alhpo.seeding import numpy_generator
from alhpo.types import DataError

#: Side in pixels given to images of differing sizes when nothing else is asked for.
DEFAULT_SIZE = 224
TRAIN_FOLDERS = ("train", "training")
EVAL_FOLDERS = ("validation", "val", "valid", "eval", "evaluation", "test", "testing")
TIMM_PREFIXES = ("torch/", "hfds/", "hfids/", "tfds/", "wds/")
#: Share of the free memory that a data set may take.
MEMORY_SHARE = 0.8


@dataclass(frozen=True)
class ImageDataset:
    """A pool of images to label and an evaluation split that no choice may depend on.

    Attributes:
        name: for tables and run folders.
        images: (N, H, W, C) uint8, the pool.
        labels: (N,) int64 true labels for simulation, or None where people will label.
        eval_images: (M, H, W, C) uint8.
        eval_labels: (M,) int64.
        classes: names of the C classes, in the order of their labels.
        paths: the file of each pool image, where it came from one.
        augmentation: what the hyperparameter ``augmentation="auto"`` means for this data.
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
            raise DataError(f"Data set {self.name!r} has no images in its pool.")
        for part, labels, count in (
            ("pool", self.labels, n),
            ("evaluation split", self.eval_labels, len(self.eval_images)),
        ):
            if labels is None:
                continue
            if len(labels) != count:
                raise DataError(
                    f"The {part} of {self.name!r} has {count} images but {len(labels)} labels."
                )
            if count and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
                raise DataError(
                    f"The labels of the {part} of {self.name!r} span {int(labels.min())} to "
                    f"{int(labels.max())}; with {len(self.classes)} classes they must lie in "
                    f"0 to {len(self.classes) - 1}."
                )
        if len(self.eval_images) and self.eval_images.shape[1:] != self.images.shape[1:]:
            raise DataError(
                f"Pool images of {self.name!r} have shape {tuple(self.images.shape[1:])}, those "
                f"of the evaluation split {tuple(self.eval_images.shape[1:])}; they must agree."
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
        for block in self.images.split(4096):
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
            labels: N integers, or None where people will label (then ``eval_images`` is needed
                to measure anything).
            eval_images: like ``images``; without it, ``eval_fraction`` of a labelled pool is
                held out.
            eval_labels: integers.
            classes: names or number of classes; by default the largest label + 1.
            name: for tables and run folders.
            layout: of four-dimensional images; "auto" tells them apart by the channel axis.
            augmentation: meaning of ``augmentation="auto"``.
            eval_fraction: share held out when there are labels and no ``eval_images``.

        Raises:
            DataError: another type, shape or range; the message says which.
        """
        pool = _as_images(images, layout)
        given = None if labels is None else _as_labels(labels)
        if (eval_images is None) != (eval_labels is None):
            raise DataError("eval_images and eval_labels come together: one of them is None.")
        if eval_images is not None:
            held_images, held_labels = _as_images(eval_images, layout), _as_labels(eval_labels)
        else:
            held_images, held_labels = pool[:0], torch.empty(0, dtype=torch.int64)
        known = [part for part in (given, held_labels) if part is not None and len(part)]
        if isinstance(classes, int):
            classes = [str(i) for i in range(classes)]
        if classes is None:
            if not known:
                raise DataError("Without any labels, classes=... must say what the classes are.")
            classes = [str(i) for i in range(int(torch.cat(known).max()) + 1)]
        dataset = cls(
            name, pool, given, held_images, held_labels, tuple(classes), None, augmentation
        )
        if eval_images is None and given is not None:
            return _hold_out(dataset, eval_fraction)
        return dataset


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
            ``eval_fraction`` of its images held out, always the same ones.
        download: fetch a torchvision set that is not there.
        image_size: side in pixels; images are resized and centre-cropped to a square. By default
            their own size where they all agree, else 224.
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
    if name == "digits":
        loaded = _digits(eval_fraction)
        return _subset(loaded, pool_size, eval_size)
    if name.startswith(TIMM_PREFIXES):
        folder = Path(root or Path.home() / ".cache" / "alhpo" / "data").expanduser()
        train = _timm_source(name, folder, train_split, download)
        held_out = _timm_source(name, folder, eval_split, download)
    else:
        train, held_out = _folder_sources(name, train_split, eval_split)
    train = train.subset(pool_size, "pool") if held_out is not None else train
    held_out = None if held_out is None else held_out.subset(eval_size, "eval")
    shape = _common_shape(train, image_size)
    images, labels = _decode(train, shape)
    classes = train.classes or [str(i) for i in range(int(labels.max()) + 1)]
    if held_out is None:
        eval_images, eval_labels = images[:0], labels[:0]
    else:
        eval_images, eval_labels = _decode(held_out.with_classes(classes), shape)
    short = Path(name).name if not name.startswith(TIMM_PREFIXES) else name.split("/", 1)[1]
    dataset = ImageDataset(
        short.replace("/", "-"),
        images,
        labels,
        eval_images,
        eval_labels,
        tuple(classes),
        train.paths,
    )
    if held_out is None:
        dataset = _subset(_hold_out(dataset, eval_fraction), pool_size, eval_size)
    return dataset


@dataclass(frozen=True)
class _Source:
    """Images still to be decoded: item i is (PIL image, label)."""

    where: str
    count: int
    get: Callable[[int], tuple[Image.Image, int]]
    classes: list[str] | None
    paths: tuple[str, ...] | None = None

    def subset(self, size: int | None, purpose: str) -> _Source:
        if size is None or size >= self.count:
            return self
        chosen = numpy_generator("subset", purpose, self.count, size).choice(
            self.count, size, replace=False
        )
        chosen.sort()
        paths = None if self.paths is None else tuple(self.paths[i] for i in chosen)
        get = self.get
        return replace(self, count=size, get=lambda i: get(int(chosen[i])), paths=paths)

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


def _folder_sources(name: str, train_split: str, eval_split: str) -> tuple[_Source, _Source | None]:
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"Data set {name!r} is neither 'digits', nor a folder, nor a name of timm's factory "
            f"(which begin with {', '.join(TIMM_PREFIXES)}).{suggestion(name, ['digits'])}"
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


def _image_folder(folder: Path) -> _Source:
    try:
        source = ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} holds no class sub-folders with images: {str(error).splitlines()[0]}"
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
    from timm.data import create_dataset

    where = f"{name} ({split})"
    try:
        if name == "torch/svhn":  # timm's factory leaves it out
            part = "train" if split in TRAIN_FOLDERS else "test"
            source: Any = SVHN(str(root), split=part, download=download)
        else:
            root.mkdir(parents=True, exist_ok=True)
            source = create_dataset(name, root=str(root), split=split, download=download)
    except Exception as error:
        raise DataError(
            f"timm could not make data set {name!r}, split {split!r}, in {root}: {error!r}. "
            "Check the name, the split and root, or allow the download."
        ) from error
    classes = getattr(source, "classes", None)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return _Source(where, len(source), lambda i: source[i], classes)
    items = list(source)
    return _Source(where, len(items), items.__getitem__, classes)


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


def _decode(source: _Source, shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    need = source.count * int(np.prod(shape))
    available = int(psutil.virtual_memory().available * MEMORY_SHARE)
    if need > available:
        raise DataError(
            f"{source.where} needs {need / 2**30:.1f} GiB of memory as {source.count} images of "
            f"{shape[0]} x {shape[1]} x {shape[2]} bytes, and {available / 2**30:.1f} GiB can be "
            "used. Choose a smaller image_size or pool_size."
        )
    height, width, channels = shape
    images = np.empty((source.count, *shape), dtype=np.uint8)
    labels = np.empty(source.count, dtype=np.int64)

    def read(index: int) -> None:
        image, label = source.get(index)
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
        images[index] = np.asarray(image, dtype=np.uint8).reshape(shape)
        labels[index] = label

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(read, range(source.count)):
            pass
    return torch.from_numpy(images), torch.from_numpy(labels)


def _digits(eval_fraction: float) -> ImageDataset:
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    images = torch.from_numpy(np.round(data.images * (255 / 16)).astype(np.uint8))[..., None]
    labels = torch.from_numpy(data.target.astype(np.int64))
    classes = tuple(str(i) for i in range(10))
    whole = ImageDataset("digits", images, labels, images[:0], labels[:0], classes, None, "crop")
    return _hold_out(whole, eval_fraction)


def _hold_out(dataset: ImageDataset, fraction: float) -> ImageDataset:
    """Move a share of the pool to the evaluation split; the same images for every run."""
    if not 0 < fraction < 1:
        raise DataError(f"eval_fraction is {fraction}; it must lie in (0, 1).")
    n = len(dataset)
    n_eval = min(max(round(fraction * n), 1), n - 1)
    if n_eval < 1:
        raise DataError(f"Data set {dataset.name!r} has {n} images, too few to hold some out.")
    order = numpy_generator("evaluation split", n).permutation(n)
    held, kept = _sorted_indices(order[:n_eval]), _sorted_indices(order[n_eval:])
    assert dataset.labels is not None
    return replace(
        dataset,
        images=dataset.images[kept],
        labels=dataset.labels[kept],
        eval_images=dataset.images[held],
        eval_labels=dataset.labels[held],
        paths=None if dataset.paths is None else tuple(dataset.paths[i] for i in kept.tolist()),
    )


def _subset(dataset: ImageDataset, pool_size: int | None, eval_size: int | None) -> ImageDataset:
    def choose(count: int, size: int | None, purpose: str) -> torch.Tensor:
        if size is None or size >= count:
            return torch.arange(count)
        chosen = numpy_generator("subset", purpose, count, size).choice(count, size, replace=False)
        return _sorted_indices(chosen)

    pool = choose(len(dataset), pool_size, "pool")
    held = choose(len(dataset.eval_images), eval_size, "eval")
    return replace(
        dataset,
        images=dataset.images[pool],
        labels=None if dataset.labels is None else dataset.labels[pool],
        eval_images=dataset.eval_images[held],
        eval_labels=dataset.eval_labels[held],
        paths=None if dataset.paths is None else tuple(dataset.paths[i] for i in pool.tolist()),
    )


def _sorted_indices(indices: Iterable[int]) -> torch.Tensor:
    return torch.from_numpy(np.sort(np.asarray(indices)).astype(np.int64))


def _as_images(images: Any, layout: str) -> torch.Tensor:
    tensor = torch.as_tensor(images)
    if tensor.dtype != torch.uint8:
        raise DataError(
            f"Images are {tensor.dtype}; uint8 values from 0 to 255 are expected. Scale and "
            "round them first; normalisation is done by the model's input pipeline."
        )
    if tensor.ndim == 3:
        tensor = tensor[..., None]
    if tensor.ndim != 4:
        raise DataError(
            f"Images have shape {tuple(tensor.shape)}; expected N x H x W, N x H x W x C or "
            "N x C x H x W."
        )
    if layout == "auto":
        last, first = tensor.shape[3] in (1, 3), tensor.shape[1] in (1, 3)
        if last == first:
            raise DataError(
                f"Cannot tell the channels of images of shape {tuple(tensor.shape)}: give "
                "layout='NHWC' or 'NCHW', with 1 or 3 channels."
            )
        layout = "NHWC" if last else "NCHW"
    if layout == "NCHW":
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.contiguous()


def _as_labels(labels: Any) -> torch.Tensor:
    tensor = torch.as_tensor(labels)
    if tensor.ndim != 1 or tensor.is_floating_point() or tensor.dtype == torch.bool:
        raise DataError(
            f"Labels have shape {tuple(tensor.shape)} and type {tensor.dtype}; expected one "
            "integer per image."
        )
    return tensor.to(torch.int64)
