"""The fit of one model on all labels: trained, continued after an interruption, and loaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alhpo.base.errors import CheckpointError, ConfigurationError
from alhpo.hyperparameters import TrainingHyperparameters
from alhpo.training.checkpoints import read_checkpoint
from alhpo.training.compute import Compute
from alhpo.training.recipes.recipe import Recipe
from alhpo.training.trainer import Task, Trainer, check_parts, split_tensors

#: The validation scheme in the checkpoint of a fit.
ALL_LABELS = "none"
#: Seconds between checkpoints.
CHECKPOINT_SECONDS = 30.0


def fitted_model(
    task: Task,
    hp: TrainingHyperparameters,
    folder: Path | None = None,
    callback: Callable[[int], None] | None = None,
) -> tuple[Any, int]:
    """Train a model on all images of the task.

    Args:
        task: images and settings of the training.
        hp: the hyperparameters.
        folder: folder of the checkpoint. The same fit is continued from it; a checkpoint that is
            damaged or of another training is replaced. None: no checkpoint.
        callback: called after every epoch with the number of epochs trained so far.

    Returns:
        The model, or None if training diverged; and the number of epochs trained.
    """
    parts = [task.device_images(np.arange(len(task.labels)))]
    trainer = Trainer(task, hp, parts, ALL_LABELS)
    if folder is not None:
        try:
            trainer.load(folder)
        except CheckpointError:
            trainer = Trainer(task, hp, parts, ALL_LABELS)
    saved, last = trainer.epoch, time.monotonic()
    while trainer.epoch < task.max_epochs and not trainer.diverged:
        trainer.advance()
        if callback:
            callback(trainer.epoch)
        if folder is not None and time.monotonic() - last > CHECKPOINT_SECONDS:
            trainer.save(folder)
            saved, last = trainer.epoch, time.monotonic()
    if folder is not None and saved != trainer.epoch:
        trainer.save(folder)
    return None if trainer.diverged else trainer.models[0], trainer.epoch


def fit_identity(task: Task, hp: TrainingHyperparameters) -> dict[str, Any]:
    """The parts of a checkpoint's description that identify a fit, apart from the model."""
    return {
        "validation_scheme": ALL_LABELS,
        "configuration": hp.resolved(task.augmentation).model_dump(),
        "labeled_set": task.labeled_set,
        "training": task.training,
    }


def saved_model(
    folder: Path,
    recipe: Recipe,
    compute: Compute,
    expected: Mapping[str, Any] | None = None,
) -> tuple[Any, TrainingHyperparameters, int]:
    """Load the model from the checkpoint of a fit, or of the first split of a trial.

    Args:
        folder: folder of the checkpoint.
        recipe: the recipe of the model.
        compute: device and precision.
        expected: parts that the checkpoint's description must have, such as the configuration.

    Returns:
        The model on the device, its hyperparameters, and the epochs of its full training.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or is of an interrupted fit, of
            another architecture, or not of the expected fit.
    """
    tensors, description = read_checkpoint(folder)
    try:
        _check_model(description, recipe.identity, expected or {}, folder)
        hp = recipe.hyperparameters.create(description["configuration"])
        max_epochs = description["training"]["max_epochs"]
        training = recipe.start(hp, max_epochs, compute)
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"The checkpoint in {folder} is not of a fit or a trial: it lacks {error}. Give the "
            "folder of one."
        ) from error
    except ConfigurationError as error:
        raise CheckpointError(
            f"The checkpoint in {folder} is of another recipe or version of alhpo. {error}"
        ) from error
    try:
        training.restore(split_tensors(tensors, 0))
    except CheckpointError as error:  # one was trained with a head that predicts losses
        raise CheckpointError(
            f"The model in {folder} was trained for another strategy or recipe. {error}"
        ) from error
    return training.model, hp, max_epochs


def _check_model(
    description: Mapping[str, Any],
    identity: Mapping[str, Any],
    expected: Mapping[str, Any],
    folder: Path,
) -> None:
    theirs = {n: v for n, v in description["model"].items() if n != "weights"}
    if theirs != identity:
        raise CheckpointError(
            f"The model in {folder} is {theirs}; expected is this learner's, {identity}. Give the "
            "folder of such a model."
        )
    check_parts(description, expected, folder, "Give the folder of that fit.")
    if description["diverged"]:
        raise CheckpointError(f"The training in {folder} diverged, so it has no model. Fit again.")
    epoch, end = description["epoch"], description["training"]["max_epochs"]
    if description["validation_scheme"] == ALL_LABELS and epoch < end:
        raise CheckpointError(
            f"The fit in {folder} was interrupted after epoch {epoch} of {end}. Fit again with "
            "this checkpoint_path to continue it, then restore."
        )
