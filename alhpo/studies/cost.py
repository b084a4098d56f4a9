"""The cost of cells: epochs and images, counted, and time, estimated from a measurement."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from alhpo.base.epoch_size import epoch_shape
from alhpo.data.dataset import ImageDataset
from alhpo.data.sources import DatasetSize
from alhpo.learner import ActiveLearner
from alhpo.runs.data import size_of_data
from alhpo.runs.setting_groups import DataSettings
from alhpo.runs.settings import RunConfig, TuneConfig
from alhpo.strategies import get_strategy, strategy_needs
from alhpo.studies.config import Cell
from alhpo.training.recipes import encodes
from alhpo.validation import get_validation

#: Training steps that are measured.
MEASURED_STEPS = 6
#: Hyperparameters that decide how long a step takes.
DECISIVE = ("batch_size", "train_from", "blocks", "stacks")
#: Initial weights as fast as any.
RANDOM_WEIGHTS = {"pretrained": False, "weights": None}
#: Batch size that is assumed for recipes without one.
UNKNOWN_BATCH = 32


@dataclass(frozen=True)
class Cost:
    """An upper limit of training and prediction, without training inside strategies but ``autoal``.

    Attributes:
        epochs: training epochs as in records: an epoch of a search counts once, whatever the number
            of validation splits.
        trained: images through forward and backward passes.
        predicted: images through forward passes only.
    """

    epochs: int = 0
    trained: int = 0
    predicted: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.epochs + other.epochs,
            self.trained + other.trained,
            self.predicted + other.predicted,
        )

    def seconds(self, speed: Speed) -> float:
        """The time it takes at a speed."""
        return self.trained / speed.trained + self.predicted / speed.predicted


@dataclass(frozen=True)
class Speed:
    """Images per second.

    Attributes:
        trained: through forward and backward passes and the optimizer's step.
        predicted: through forward passes only.
    """

    trained: float
    predicted: float


@dataclass(frozen=True)
class Estimate:
    """The cost of a cell, and the estimated time on this machine.

    Attributes:
        cell: the cell.
        cost: cost of the whole cell, including what is done already.
        speed: speed measured on this machine.
        seconds: time of ``cost`` at ``speed``, without optimizers, strategies, and the features of
            frozen networks and activations of untrained parts, which are computed once.
    """

    cell: Cell
    cost: Cost
    speed: Speed
    seconds: float


def estimate(cells: Sequence[Cell]) -> list[Estimate]:
    """Estimate the cost and time of cells. Each kind of training is measured for some seconds.

    Raises:
        DataError: a data set that is missing and whose size is not known.
    """
    sizes: dict[tuple[object, ...], DatasetSize] = {}
    speeds: dict[tuple[object, ...], Speed] = {}
    estimates = []
    for cell in cells:
        data = tuple(getattr(cell.config, name) for name in DataSettings.model_fields)
        if data not in sizes:
            sizes[data] = size_of_data(cell.config)
        kind = speed_key(cell, sizes[data])
        if kind not in speeds:
            speeds[kind] = measure_speed(cell, sizes[data])
        cost = cell_cost(cell, sizes[data])
        estimates.append(Estimate(cell, cost, speeds[kind], cost.seconds(speeds[kind])))
    return estimates


def cell_cost(cell: Cell, data: DatasetSize) -> Cost:
    """The cost of a cell on a data set of this size."""
    if isinstance(cell.config, RunConfig):
        return _run_cost(cell.config, data)
    return _tuning_cost(cell.config, data)


def speed_key(cell: Cell, data: DatasetSize) -> tuple[object, ...]:
    """Everything that the speed of a cell depends on."""
    config = cell.config
    decisive = (_configuration(config).get(name) for name in DECISIVE)
    model = (config.model, config.recipe, config.cifar_stem, config.input_size, *decisive)
    return (*model, config.device, config.precision, data.shape, data.classes)


def measure_speed(cell: Cell, data: DatasetSize) -> Speed:
    """Measure the speed of training and prediction on random images, or on features of them.

    It takes some seconds, with torch's current number of threads.
    """
    config = cell.config
    batch = _batch_size(config)
    given = {k: v for k, v in config.hyperparameters.items() if k in DECISIVE}
    frozen = encodes(config.recipe)
    n = batch if frozen else MEASURED_STEPS * batch  # encoding takes longer than training on it
    images = torch.randint(
        256, (n, *data.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    labels = torch.arange(n) % data.classes
    classes = tuple(map(str, range(data.classes)))
    dataset = ImageDataset("random", images, labels, images[:0], labels[:0], classes)
    learner = ActiveLearner.of(
        config,
        dataset,
        strategy="random",
        hyperparameters=given,
        **({} if frozen or config.recipe == "finetune" else RANDOM_WEIGHTS),
    )
    learner.prepare()
    learner.label_initial(n)
    ends: list[float] = []
    learner.fit(max_epochs=2, callback=lambda _: ends.append(time.perf_counter()))  # 1st warms up
    learner.predict(np.arange(batch))
    start = time.perf_counter()
    learner.predict()
    return Speed(n / (ends[1] - ends[0]), n / (time.perf_counter() - start))


def _batch_size(config: RunConfig | TuneConfig) -> int:
    return _configuration(config).get("batch_size", UNKNOWN_BATCH)


def images_of_epoch(n: int, configuration: Mapping[str, Any]) -> int:
    """Images trained on in an epoch over ``n`` images: ``n`` with hyperparameters that have no
    batches, and those of records before ``epoch_images`` dropped the last one."""
    batch_size = configuration.get("batch_size")
    if batch_size is None:
        return n
    return math.prod(epoch_shape(n, batch_size, configuration.get("epoch_images", "drop")))


def images_of_search_epoch(scheme: str, n: int, configuration: Mapping[str, Any]) -> int:
    """Images trained on in an epoch of a search on ``n`` labels, in all its validation splits."""
    return sum(images_of_epoch(size, configuration) for size, _ in split_sizes(scheme, n))


def _run_cost(config: RunConfig, data: DatasetSize) -> Cost:
    total = Cost()
    sizes = config.sizes
    searching = config.search_cycles
    needs = strategy_needs(get_strategy(config.strategy))
    tested = data.evaluation if config.measures_test else 0
    for cycle, n in enumerate(sizes):
        evaluated = n in config.evaluated_sizes
        if cycle in searching:
            total += _search_cost(config, n, config.search_budget(cycle), tested)
        elif config.validate_fixed and evaluated:
            total += _search_cost(config, n, config.max_epochs, tested)
        if evaluated:
            total += _fit_cost(config, n, data)
        if n < sizes[-1] and needs:
            total += Cost(predicted=min(data.pool - n, config.query_subset or data.pool) + n)
        if n < sizes[-1] and "strategy_weights" in needs:
            total += _autoal_cost(config, n, min(data.pool - n, config.query_subset or data.pool))
    if config.mode.final_search:
        budget = config.search_budget(len(sizes) - 1, final=True)
        if config.measures_once:  # the last cycle has trained that part of it
            budget -= config.max_epochs
        total += _search_cost(config, sizes[-1], budget, tested)
        total += _fit_cost(config, sizes[-1], data)
    return total


def _tuning_cost(config: TuneConfig, data: DatasetSize) -> Cost:
    tested = data.evaluation if config.measure_test else 0
    total = _search_cost(config, config.labels, config.max_budget, tested)
    return total + _fit_cost(config, config.labels, data)


def _fit_cost(config: RunConfig | TuneConfig, n: int, data: DatasetSize) -> Cost:
    images = config.max_epochs * images_of_epoch(n, _configuration(config))
    return Cost(config.max_epochs, images, data.evaluation)


def _autoal_cost(config: RunConfig, n: int, candidates: int) -> Cost:
    """Of the networks that weigh strategies: a pass over half of the labels trains one of them, and
    in the search the other predicts."""
    fit = config.autoal_fit_epochs or config.max_epochs
    search = config.autoal_search_epochs or 2 * config.max_epochs
    half = n - n // 2
    trained = config.autoal_cycles * (fit * (n // 2) + search * half)
    return Cost(trained=trained, predicted=config.autoal_cycles * (search + 1) * half + candidates)


def _search_cost(config: RunConfig | TuneConfig, n: int, epochs: int, tested: int) -> Cost:
    """Of a search, with ``tested`` images on which every trial is measured in its last epoch, if
    all are trained to the end."""
    splits = split_sizes(config.validation, n)
    trained = images_of_search_epoch(config.validation, n, _configuration(config))
    predicted = sum(held_out for _, held_out in splits)
    trials = epochs // config.max_epochs
    return Cost(epochs, epochs * trained, epochs * predicted + trials * len(splits) * tested)


def _configuration(config: RunConfig | TuneConfig) -> dict[str, Any]:
    """The fixed hyperparameters, which stand for those that a search tries."""
    return config.hyperparameter_class.create(config.hyperparameters).model_dump()


@functools.lru_cache
def split_sizes(scheme: str, n: int) -> tuple[tuple[int, int], ...]:
    """The images in the training part and in the validation part of each split of ``n`` labelled
    images by a validation scheme."""
    labels = np.zeros(n, dtype=np.int64)
    splits = get_validation(scheme).splits(labels, np.random.default_rng(0))
    return tuple((len(training), len(held_out)) for training, held_out in splits)
