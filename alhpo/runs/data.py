"""The data set of a run or a tuning: loads it, records it, and notices when it changed."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch

from alhpo.base.errors import AlhpoError, DataError, FormatError
from alhpo.base.files import canonical_json, write_text
from alhpo.base.formats import check_format
from alhpo.data.dataset import ImageDataset
from alhpo.data.loading import dataset_size, load_dataset
from alhpo.data.sources import DatasetSize
from alhpo.runs.setting_groups import DataSettings
from alhpo.runs.settings import RunConfig, TuneConfig
from alhpo.training.recipes import encodes


def load_data(settings: RunConfig | TuneConfig) -> ImageDataset:
    """The data set that the settings name. Image files are decoded, unless the recipe encodes them.

    Raises:
        DataError: it cannot be loaded.
    """
    return load_dataset(**_loading(settings))


class SharedData:
    """Data sets that several threads use: each is loaded once for all that use it at a time.

    A data set is kept while it is in use, and the last one that was asked for until another is.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_use: WeakValueDictionary[str, ImageDataset] = WeakValueDictionary()
        self._last: ImageDataset | None = None

    def load(self, settings: RunConfig | TuneConfig) -> ImageDataset:
        """The data set that the settings name, as ``load_data`` returns it.

        Data sets are loaded one after the other.

        Raises:
            DataError: it cannot be loaded.
        """
        key = canonical_json(_loading(settings))
        with self._lock:
            found = self._in_use.get(key)
            if found is None:
                self._last = None  # its memory may be needed
                found = self._in_use[key] = load_data(settings)
            self._last = found
        return found


def size_of_data(settings: DataSettings) -> DatasetSize:
    """The size of that data set, without downloading or decoding it.

    Raises:
        DataError: not found, or neither downloaded nor of a known size.
    """
    return dataset_size(**_arguments(settings))


def _loading(settings: RunConfig | TuneConfig) -> dict[str, Any]:
    """The arguments of ``load_dataset``."""
    return {
        **_arguments(settings),
        "download": settings.download,
        "on_error": settings.on_error,
        "verify": settings.verify,
        "decode": not encodes(settings.recipe),
    }


def _arguments(settings: DataSettings) -> dict[str, Any]:
    return {
        "name": settings.dataset,
        "root": settings.data_dir,
        "train_split": settings.train_split,
        "eval_split": settings.val_split,
        "image_size": settings.image_size,
        "pool_size": settings.pool_size,
        "eval_size": settings.eval_size,
    }


def same_data(settings: DataSettings) -> str:
    """A text that is the same for settings of the same data set."""
    return canonical_json([_arguments(settings), settings.on_error])


def check_dataset(path: Path, dataset: ImageDataset) -> None:
    """Record the images and labels of a run, or compare them with the recorded ones.

    Raises:
        DataError: the run began with other data (the message tells what is missing, new or
            changed), or the record cannot be read.
    """
    mine = _record_of(dataset)
    if not path.exists():
        write_text(path, canonical_json(mine) + "\n")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [
            f"{name.replace('_', ' ')} {before[name]}, now {mine[name]}"
            for name in ("image_shape", "classes")
            if before[name] != mine[name]
        ]
        for name in ("pool", "evaluation"):
            changed += _changes(name, before[name], mine[name])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} does not tell which data the run began with ({error!r}). Restore the file "
            "from a copy, or remove it if the data is surely the same."
        ) from error
    if changed:
        raise DataError(
            f"The run in {path.parent} began with other data: {'; '.join(changed)}. Restore the "
            "data, or choose another output_dir."
        )


def check_data_of_finished(
    path: Path, settings: RunConfig | TuneConfig, dataset: ImageDataset | None = None
) -> None:
    """Compare the data of a finished run with the recorded ones.

    Data that cannot be loaded any more is a warning: the results are there. The record of another
    version's format is not compared.

    Args:
        path: the record that ``check_dataset`` wrote.
        settings: where the data set is.
        dataset: the data set, if it was given instead.

    Raises:
        DataError: the data changed, or the record cannot be read.
    """
    try:
        check_format(path.parent)
    except FormatError:
        return
    if dataset is None:
        try:
            dataset = load_data(settings.model_copy(update={"download": False}))
        except AlhpoError as error:
            warnings.warn(
                f"{path.parent} is finished, and its data cannot be compared: {error}",
                stacklevel=2,
            )
            return
    check_dataset(path, dataset)


def _record_of(dataset: ImageDataset) -> dict[str, Any]:
    def part(
        identities: Sequence[str], labels: torch.Tensor | None, paths: Sequence[str] | None
    ) -> dict[str, Any]:
        return {
            "identities": list(identities),
            "labels": None if labels is None else labels.tolist(),
            "paths": None if paths is None else list(paths),
        }

    return {
        "image_shape": list(dataset.images.shape[1:]),
        "classes": list(dataset.classes),
        "pool": part(dataset.identities, dataset.labels, dataset.paths),
        "evaluation": part(dataset.eval_identities, dataset.eval_labels, dataset.eval_paths),
        "skipped": [list(file) for file in dataset.skipped],
    }


def _changes(name: str, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two records of the images of a part, in words."""
    if (before["identities"], before["labels"]) == (now["identities"], now["labels"]):
        return []
    files = [
        dict(zip(part["identities"], part["paths"] or part["identities"], strict=True))
        for part in (before, now)
    ]
    lost = [file for image, file in files[0].items() if image not in files[1]]
    new = [file for image, file in files[1].items() if image not in files[0]]
    changed = [file for file in lost if file in set(new)]
    labels = [
        dict(zip(part["identities"], part["labels"] or [], strict=False)) for part in (before, now)
    ]
    relabelled = [
        files[1][image]
        for image, label in labels[0].items()
        if image in labels[1] and labels[1][image] != label
    ]
    kinds = {
        "missing": [file for file in lost if file not in changed],
        "new": [file for file in new if file not in changed],
        "changed": changed,
        "with another label": relabelled,
    }
    found = [f"{len(those)} {kind} ({those[0]})" for kind, those in kinds.items() if those]
    return [f"in the {name} {', '.join(found) or 'the same images in another order'}"]


def need_evaluation_split(dataset: ImageDataset) -> None:
    """Refuse a data set without evaluation split.

    Raises:
        DataError: the data set has no evaluation images.
    """
    if not len(dataset.eval_images):
        raise DataError(
            f"Data set {dataset.name!r} has no evaluation split; expected one with images. "
            "Give eval_images, or use ActiveLearner."
        )
