"""What a data source is: a function from what was asked for to images still to be decoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from alhpo.data.decoding import LazyImages

#: Usual names of the split that is the pool, and of the evaluation split.
TRAIN_SPLITS = ("train", "training")
EVAL_SPLITS = ("validation", "val", "valid", "eval", "evaluation", "test", "testing")


@dataclass(frozen=True)
class SourceOptions:
    """What was asked for.

    Attributes:
        name: the data set, as the user wrote it: ``"digits"``, ``"torch/cifar10"``, a path.
        root: folder for data sets that are downloaded or kept in a form of their own.
        train_split: the pool's split.
        eval_split: the evaluation split.
        download: whether what is missing may be downloaded.
    """

    name: str
    root: Path
    train_split: str = "train"
    eval_split: str = "validation"
    download: bool = True

    @property
    def member(self) -> str:
        """What follows the first slash of the name, as ``"cifar10"`` of ``"torch/cifar10"``."""
        return self.name.partition("/")[2]

    @property
    def path(self) -> Path:
        """The name as a path."""
        return Path(self.name).expanduser()


@dataclass(frozen=True)
class SourceData:
    """What a source has.

    Attributes:
        pool: the images to label.
        evaluation: the evaluation split; where None, a share of the pool is held out.
        augmentation: what the hyperparameter ``augmentation="auto"`` means for these images:
            ``"crop-flip"``, ``"crop"``, ``"flip"`` or ``"none"``.
        name: of the data set, for tables and folders; by default the last part of what was asked
            for.
    """

    pool: LazyImages
    evaluation: LazyImages | None = None
    augmentation: str = "crop-flip"
    name: str | None = None


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


class DataSource(Protocol):
    """Finds the images of a data set; a plain function with this signature will do.

    A source that knows its size without reading anything, as before a download, carries it as
    ``size``: a function from ``SourceOptions`` to a ``DatasetSize``, or to None where it has to be
    read after all.
    """

    def __call__(self, options: SourceOptions) -> SourceData:
        """
        Args:
            options: what was asked for.

        Raises:
            DataError: not there, or not what was expected.
        """
        ...
