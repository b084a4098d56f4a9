"""Reads labelled pools that a run, an ``ActiveLearner`` or dal-toolbox left on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import torch

from alhpo.base.errors import ConfigurationError, DataError, LabelError
from alhpo.base.files import Journal
from alhpo.base.formats import check_format
from alhpo.base.types import CycleRecord
from alhpo.data.dataset import ImageDataset
from alhpo.data.pool import Pool, read_queried_indices
from alhpo.hyperparameters import TrainingHyperparameters
from alhpo.runs.config_files import read_run_config
from alhpo.runs.data import check_dataset
from alhpo.runs.records import read_records
from alhpo.runs.settings import TuneConfig


@dataclass(frozen=True)
class LabeledCycle:
    """The labels of one cycle.

    Attributes:
        indices: pool indices, in the order of labelling.
        labels: the class of each image.
        drawn: pool indices that a strategy asked for, in that order, with the probability of each
            draw or None.
    """

    indices: list[int]
    labels: list[int]
    drawn: Mapping[int, float | None] = field(default_factory=dict)

    def first(self, n: int) -> LabeledCycle:
        """The first ``n`` labels."""
        kept = set(self.indices[:n])
        drawn = {index: p for index, p in self.drawn.items() if index in kept}
        return LabeledCycle(self.indices[:n], self.labels[:n], drawn)

    def label(self, pool: Pool, number: int) -> None:
        """Ask and tell them in a pool, as cycle ``number``."""
        probabilities = [p for p in self.drawn.values() if p is not None]
        known = len(probabilities) == len(self.drawn)
        pool.ask([*self.drawn], number, probabilities=probabilities if known else None)
        pool.tell(self.indices, self.labels, number)


@dataclass(frozen=True)
class LabeledPool:
    """A labelled pool, reduced to its first labels.

    Attributes:
        cycles: labels of each cycle.
        own: the pool's own hyperparameters.
    """

    cycles: Sequence[LabeledCycle]
    own: TrainingHyperparameters


def read_pool(config: TuneConfig, dataset: ImageDataset) -> LabeledPool:
    """Read the pool of a tuning, reduced to ``config.labels`` labels.

    Raises:
        ConfigurationError: no pool at this path, or none with this number of labels.
        DataError: the data set is not the run's.
        LabelError: the labels do not fit the data set.
    """
    source = Path(config.pool).expanduser()
    check_pool(source)
    if source.is_dir():
        return _read_folder(config, source, dataset)
    if dataset.labels is None:
        raise LabelError(
            f"{source} holds indices only, and data set {dataset.name!r} has no labels for them. "
            "Choose a data set with labels."
        )
    cycles = [
        LabeledCycle(indices, dataset.labels[torch.tensor(indices, dtype=torch.long)].tolist())
        for indices in read_queried_indices(source, len(dataset))
    ]
    n = sum(len(cycle.indices) for cycle in cycles)
    if n < config.labels:
        raise ConfigurationError(f"labels is {config.labels}, but {source} holds {n}. Lower it.")
    return LabeledPool(
        _first(cycles, config.labels), config.hyperparameter_class.create(config.hyperparameters)
    )


def _read_folder(config: TuneConfig, folder: Path, dataset: ImageDataset) -> LabeledPool:
    """The pool in the folder of a run, or of an ``ActiveLearner``."""
    check_format(folder)  # another one names the data otherwise
    if (folder / "dataset.json").exists():
        check_dataset(folder / "dataset.json", dataset)
    journal = Journal(folder / "labels.jsonl")
    pool = Pool(dataset.identities, dataset.classes, journal, paths=dataset.paths)
    if pool.missing:
        raise DataError(
            f"{len(pool.missing)} images of {journal.path} are not in the data set, such as "
            f"{next(path or image for image, path in pool.missing.items())}. Bring them back, or "
            "choose the data set that they belong to."
        )
    classes = dict(zip(pool.labeled.tolist(), pool.labels.tolist(), strict=True))
    complete = not len(pool.pending)  # else draws are missing between those that are here
    cycles = []
    for indices in pool.by_cycle().values():
        own = set(indices)
        drawn = {i: p if complete else None for i, p in pool.draws.items() if i in own}
        cycles.append(LabeledCycle(indices, [classes[index] for index in indices], drawn))
    records = records_by_labels(folder)
    if records is None:
        reached = [*accumulate(len(cycle.indices) for cycle in cycles)]
    else:
        reached = [*records]
    if config.labels not in reached:
        raise ConfigurationError(
            f"labels is {config.labels}, but the cycles of {folder} that are complete have "
            f"{', '.join(map(str, reached)) or 'none'}. Choose one of these numbers, or let the "
            "run go on."
        )
    if len(pool) < config.labels:
        raise LabelError(
            f"{folder / 'labels.jsonl'} holds {len(pool)} labels, but the run's records count "
            f"{config.labels}: the file was cut short or changed. Restore it from a copy."
        )
    own_hp = _own(config, folder, (records or {}).get(config.labels))
    return LabeledPool(_first(cycles, config.labels), own_hp)


def records_by_labels(folder: Path) -> dict[int, CycleRecord] | None:
    """The records of a run's cycles by number of labels; None if it is not a run folder."""
    if not (folder / "config.yaml").exists():
        return None
    records = read_records(folder / "cycles.jsonl")
    return {record.n_labeled: record for record in records if record.kind == "cycle"}


def _own(config: TuneConfig, folder: Path, record: CycleRecord | None) -> TrainingHyperparameters:
    """The pool's own hyperparameters; values of the settings that differ from the run's win."""
    if record is None:
        return config.hyperparameter_class.create(config.hyperparameters)
    run = read_run_config(folder / "config.yaml").hyperparameters
    given = {n: v for n, v in config.hyperparameters.items() if n not in run or run[n] != v}
    return config.hyperparameter_class.create(record.configuration, given)


def _first(cycles: Sequence[LabeledCycle], n: int) -> list[LabeledCycle]:
    """The first ``n`` labels, cycle by cycle."""
    kept = []
    for cycle in cycles:
        if n > 0:
            kept.append(cycle.first(n))
        n -= len(cycle.indices)
    return kept


def check_pool(source: Path) -> None:
    """Refuse a pool that is neither a folder with labels nor a JSON file."""
    if (source / "labels.jsonl").is_file() or (source.is_file() and source.suffix == ".json"):
        return
    raise ConfigurationError(
        f"There is no labelled pool at {source}. Give the folder of a run (it has a labels.jsonl), "
        "or a queried_indices.json of dal-toolbox."
    )
