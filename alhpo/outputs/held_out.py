"""Logits of labelled images by models that were not trained on them."""

from __future__ import annotations

import numpy as np
import torch

from alhpo.base.errors import ConfigurationError, DivergedError
from alhpo.base.protocols import ValidationScheme
from alhpo.base.seeding import numpy_generator
from alhpo.hyperparameters import TrainingHyperparameters
from alhpo.training.evaluation import predict
from alhpo.training.trainer import Task, Trainer, advance_together
from alhpo.validation import unweighted


def held_out_logits(
    task: Task, hp: TrainingHyperparameters, scheme: ValidationScheme, num_classes: int
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Train a model on the training part of each validation split, and predict the other part.

    Args:
        task: the labelled images and the length of training.
        hp: the hyperparameters.
        scheme: the scheme that splits the labelled images; weights play no part.
        num_classes: C.

    Returns:
        (V, C) float32 logits, (V,) int64 labels and (V,) positions among the labelled images, on
        the CPU, split after split; without rows if the scheme refuses so few labels.

    Raises:
        DivergedError: a training diverged.
    """
    scheme = unweighted(scheme)
    generator = numpy_generator(task.seed, "validation", scheme.name)
    try:
        splits = scheme.splits(task.labels.numpy(), generator)
    except ConfigurationError:
        nothing = np.empty(0, dtype=np.int64)
        return torch.empty(0, num_classes), torch.from_numpy(nothing), nothing
    parts = [task.device_images(training) for training, _ in splits]
    trainer = Trainer(task, hp, parts, scheme.name)
    while trainer.epoch < task.max_epochs and not trainer.diverged:
        advance_together([trainer])
    if trainer.diverged:
        raise DivergedError(
            "The strategy asked for predictions of labelled images that were held out, and the "
            f"training for them diverged by epoch {trainer.epoch} with {hp!r}.",
            trainer.epoch,
        )
    found = [
        predict(task.recipe, model, task.device_images(held_out), task.compute, features=False)
        for model, (_, held_out) in zip(trainer.models, splits, strict=True)
    ]
    places = np.concatenate([held_out for _, held_out in splits])
    logits = torch.cat([one.logits for one in found]).float().cpu()
    return logits, task.labels[torch.from_numpy(places)], places
