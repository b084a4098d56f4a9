"""The protocol of data sources: a function of options that returns images, not yet decoded."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from alhpo.data.lazy import ImageFiles, LazyImages

#: Usual names of the split that is the pool, and of the evaluation split.
TRAIN_SPLITS = ("train", "training", "trn", "train_set", "seg_train")
EVAL_SPLITS = (
    *("validation", "val", "valid", "eval", "evaluation", "dev", "val_set", "seg_val"),
    *("test", "testing", "tst", "test_set", "seg_test"),
)
#: Usual names of splits without labels, which are not used.
OTHER_SPLITS = ("pred", "seg_pred", "unlabeled", "unlabelled", "extra")


def user_path(name: str) -> Path:
    """A path as a user writes it: ``~`` is the home folder."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 - Path's raises if there is no such user


@dataclass(frozen=True)
class SourceOptions:
    """The data set that a user asks for.

    Attributes:
        name: as the user wrote it: ``"digits"``, ``"torch/cifar10"``, a path.
        root: folder of downloaded and converted data sets.
        train_split: name of the split that is the pool.
        eval_split: name of the evaluation split.
        download: whether missing data may be downloaded.
        given_root: ``root`` if the user gave one, else None.
        image_size: side in pixels that images are going to have, for sources that have images of
            several sizes; None: their own.
    """

    name: str
    root: Path
    train_split: str = "train"
    eval_split: str = "validation"
    download: bool = True
    given_root: Path | None = None
    image_size: int | None = None

    @property
    def member(self) -> str:
        """The text after the first slash of the name: ``"cifar10"`` of ``"torch/cifar10"``."""
        return self.name.partition("/")[2]

    @property
    def path(self) -> Path:
        """The name as a path."""
        return user_path(self.name)


def download_lock(options: SourceOptions) -> AbstractContextManager[Any]:
    """A block in which data is downloaded: of several processes of a study, one does it and the
    others wait. Without ``options.download``, nobody waits."""
    if not options.download:
        return nullcontext()
    options.root.mkdir(parents=True, exist_ok=True)
    return FileLock(options.root / ".download.lock")


@dataclass(frozen=True)
class SourceData:
    """The data set that a source returns.

    Attributes:
        pool: the images to label.
        evaluation: the evaluation split; if None, a share of the pool is held out.
        augmentation: the meaning of the hyperparameter ``augmentation="auto"`` for these images:
            ``"crop-flip"``, ``"crop"``, ``"flip"`` or ``"none"``, or with ``"-rotate"``.
        name: name in tables and folders; by default the last part of ``SourceOptions.name``.
    """

    pool: LazyImages | ImageFiles
    evaluation: LazyImages | ImageFiles | None = None
    augmentation: str = "crop-flip"
    name: str | None = None


@dataclass(frozen=True)
class DatasetSize:
    """The size of a data set, which is known before decoding.

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


class DataSource(Protocol):
    """Finds the images of a data set. A plain function with this signature is a data source.

    A source that knows sizes before a download may have an attribute ``size``: a function of
    ``SourceOptions`` that returns a ``DatasetSize``, or None if the data set must be read.
    """

    def __call__(self, options: SourceOptions) -> SourceData:
        """
        Args:
            options: the data set that a user asks for.

        Raises:
            DataError: the data set is not there, or is not what was expected.
        """
        ...
