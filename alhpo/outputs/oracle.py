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
from alhpo.training.final_fit import fitted_model
from alhpo.training.inputs import ModelInputs
from alhpo.training.trainer import Task


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
    indices: Sequence[int],
    evaluation: DeviceRows,
) -> Evaluation:
    """Train on the labelled images and some more, and evaluate: ``PoolOutputs.retrain``.

    Sets of one size are trained with the same random streams.

    Args:
        task: the training on the labelled images alone, with its seed and length.
        hp: the hyperparameters.
        dataset: with labels.
        inputs: the data set as the model takes it.
        labeled: (L,) int64, pool indices of the labelled images.
        indices: pool indices to add.
        evaluation: the evaluation split.

    Returns:
        The scores on the evaluation split; those of the uniform prediction after divergence.

    Raises:
        ConfigurationError: ``indices`` outside the pool, given twice, or labelled already.
    """
    added = torch.as_tensor(indices, dtype=torch.int64)
    together = torch.cat([labeled, added])
    inside = added.ndim == 1 and bool(((added >= 0) & (added < len(dataset))).all())
    if not inside or len(together.unique()) < len(together):
        raise ConfigurationError(
            f"retrain was given {indices!r}; expected are pool indices without labels, each once."
        )
    assert dataset.labels is not None  # check_oracle
    task = replace(task, inputs=inputs.pool[together], labels=dataset.labels[together])
    model, _ = fitted_model(task, hp)
    if model is not None:
        result = evaluate(task.recipe, model, evaluation, task.compute)
        if math.isfinite(result.nll):
            return result
    return Evaluation.uniform(dataset.num_classes)
