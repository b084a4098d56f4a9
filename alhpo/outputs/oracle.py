"""Oracle strategies, which retrain with labels that nobody gave yet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from alhpo.base.errors import ConfigurationError
from alhpo.base.protocols import Strategy
from alhpo.base.types import Evaluation
from alhpo.data.batches import DeviceRows
from alhpo.data.dataset import ImageDataset
from alhpo.hyperparameters import TrainingHyperparameters
from alhpo.strategies import strategy_name, strategy_needs
from alhpo.training.evaluation import evaluate
from alhpo.training.final_fit import ALL_LABELS
from alhpo.training.inputs import ModelInputs
from alhpo.training.trainer import Task, Trainer, advance_together

#: Models that are trained at the same time, where the recipe trains several side by side.
_TOGETHER = 20


def check_oracle(strategy: Strategy, dataset: ImageDataset) -> None:
    """Refuse an oracle strategy for a data set without labels or evaluation split.

    Raises:
        ConfigurationError: the strategy needs ``retrain`` or ``true_labels``, and the data set
            cannot offer it.
    """
    simulated = dataset.labels is not None and len(dataset.eval_images) > 0
    if strategy_needs(strategy) & {"retrain", "true_labels"} and not simulated:
        raise ConfigurationError(
            f"Strategy {strategy_name(strategy)!r} is an oracle: it looks at labels that nobody "
            f"gave yet, and at the evaluation split. Data set {dataset.name!r} lacks "
            "labels or an evaluation split; choose another strategy."
        )


def retrained(
    task: Task,
    hp: TrainingHyperparameters,
    dataset: ImageDataset,
    inputs: ModelInputs,
    labeled: torch.Tensor,
    batches: Sequence[Sequence[int]],
    evaluation: DeviceRows,
) -> list[Evaluation]:
    """Train on the labelled images and each batch, and evaluate: ``PoolOutputs.retrain``.

    All models begin with the same weights, and batches of one size are trained with the same random
    streams.

    Args:
        task: the training on the labelled images alone, with its seed and length.
        hp: the hyperparameters.
        dataset: with labels.
        inputs: the data set as the model takes it.
        labeled: (L,) int64, pool indices of the labelled images.
        batches: pool indices to add, one set for each model.
        evaluation: the evaluation split.

    Returns:
        The scores on the evaluation split, one for each batch; those of the uniform prediction
        after divergence.

    Raises:
        ConfigurationError: a batch with indices outside the pool, given twice, or labelled already.
    """
    sets = [_with_batch(labeled, batch, len(dataset)) for batch in batches]
    if not sets:
        return []
    images = torch.cat(sets).unique()
    assert dataset.labels is not None  # check_oracle
    task = replace(task, inputs=inputs.pool[images], labels=dataset.labels[images])
    positions = [torch.searchsorted(images, one).numpy() for one in sets]
    count = 1 if task.together is None else _TOGETHER
    results: list[Evaluation] = []
    for start in range(0, len(sets), count):
        trainers = [
            Trainer(task, hp, [task.device_images(one)], ALL_LABELS)
            for one in positions[start : start + count]
        ]
        for _ in range(task.max_epochs):
            advance_together(trainers)
        results += (_evaluated(trainer, task, evaluation, dataset) for trainer in trainers)
    return results


def _with_batch(labeled: torch.Tensor, batch: Sequence[int], pool_size: int) -> torch.Tensor:
    """The pool indices of the labelled images and a batch."""
    added = torch.as_tensor(batch, dtype=torch.int64)
    together = torch.cat([labeled, added]) if added.ndim == 1 else added
    inside = added.ndim == 1 and bool(((added >= 0) & (added < pool_size)).all())
    if not inside or len(together.unique()) < len(together):
        raise ConfigurationError(
            f"retrain was given the batch {batch!r}; expected are batches of pool indices without "
            "labels, each once."
        )
    return together


def _evaluated(
    trainer: Trainer, task: Task, evaluation: DeviceRows, dataset: ImageDataset
) -> Evaluation:
    if not trainer.diverged:
        result = evaluate(task.recipe, trainer.models[0], evaluation, task.compute)
        if math.isfinite(result.nll):
            return result
    return Evaluation.uniform(dataset.num_classes)
