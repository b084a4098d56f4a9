"""Training of the models of one trial, with one checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alhpo.base.digests import digest
from alhpo.base.errors import CheckpointError
from alhpo.data.batches import DeviceRows, RowFormat
from alhpo.hyperparameters import TrainingHyperparameters
from alhpo.training.checkpoints import read_checkpoint, write_checkpoint
from alhpo.training.compute import Compute
from alhpo.training.epochs import EpochOf
from alhpo.training.recipes.recipe import Recipe, Training, TrainsTogether


@dataclass(frozen=True)
class Task:
    """A training, apart from its hyperparameters: images, recipe and settings.

    Attributes:
        inputs: (L, ...), what the recipe's models take of the labelled images, in the order of
            labelling: (L, H, W, C) uint8 images, or (L, D) features.
        labels: (L,) int64.
        recipe: the recipe, with the initial weights.
        form: how ``inputs`` become model input.
        compute: device and precision.
        max_epochs: epochs of a full training.
        seed: seed of the random streams of order, augmentation and dropout.
        augmentation: meaning of ``augmentation="auto"``.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    recipe: Recipe
    form: RowFormat
    compute: Compute
    max_epochs: int
    seed: int
    augmentation: str

    @cached_property
    def labeled_set(self) -> str:
        """Identity of the labelled images: a hash of their pixels and labels, in order."""
        return digest(self.inputs, self.labels)

    @property
    def together(self) -> TrainsTogether | None:
        """The recipe, if it trains several models side by side here."""
        recipe = self.recipe
        if isinstance(recipe, TrainsTogether) and recipe.trains_together(self.compute):
            return recipe
        return None

    @property
    def training(self) -> dict[str, Any]:
        """Settings that results depend on, apart from images, model and hyperparameters."""
        return {
            "max_epochs": self.max_epochs,
            "seed": self.seed,
            "precision": self.compute.precision,
            "channels_last": self.compute.channels_last,
            **({"steps": "captured"} if self.compute.captured else {}),
            **self.form.identity,
            **self.recipe.settings,
        }

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that results depend on, apart from the hyperparameters."""
        return {
            "labeled_set": self.labeled_set,
            "model": {**self.recipe.identity, "weights": self.recipe.weights},
            "training": self.training,
        }

    def device_images(self, positions: np.ndarray) -> DeviceRows:
        """The labelled images at these positions, on the device, without a copy."""
        return self._on_device.part(torch.from_numpy(np.asarray(positions, dtype=np.int64)))

    @cached_property
    def _on_device(self) -> DeviceRows:
        return self.form.on_device(self.inputs, self.labels, self.compute.device)


class Trainer:
    """Trains one model per training set with one configuration, epoch by epoch.

    Every model starts from the recipe's weights. An epoch depends only on the task, the
    configuration, the split and the epoch number. So training resumed from a checkpoint gives the
    same weights as without interruption, bit by bit on one CPU with the same number of threads.

    Args:
        task: images, recipe and settings.
        hp: the hyperparameters.
        parts: the training images of each model.
        scheme: name of the validation scheme that made the parts.
    """

    def __init__(
        self, task: Task, hp: TrainingHyperparameters, parts: Sequence[DeviceRows], scheme: str
    ) -> None:
        self.hp = hp
        self.epoch = 0
        self.diverged = False
        self._task = task
        self._parts = parts
        self._scheme = scheme
        self._resolved = resolved = hp.resolved(task.augmentation)
        self._trainings = [
            task.recipe.start(resolved, task.max_epochs, task.compute) for _ in parts
        ]

    @property
    def models(self) -> list[Any]:
        """The current model of each part."""
        return [training.model for training in self._trainings]

    def advance(self) -> float:
        """Train every model one epoch, each by itself.

        Returns:
            The mean training loss over the models. After divergence it is NaN, ``diverged`` is
            set, and nothing is trained any more.
        """
        losses = []
        for one in self._next_epochs():
            losses.append(one.training.epoch(one.images, one.epoch, *one.key))
            if not math.isfinite(losses[-1]):
                break
        return self._advanced(losses)

    def _next_epochs(self) -> list[EpochOf[Training, DeviceRows]]:
        if self.diverged:
            return []
        pairs = zip(self._trainings, self._parts, strict=True)
        return [
            EpochOf(training, images, self.epoch, (self._task.seed, split))
            for split, (training, images) in enumerate(pairs)
        ]

    def _advanced(self, losses: list[float]) -> float:
        self.diverged = self.diverged or not all(map(math.isfinite, losses))
        self.epoch += 1
        return math.nan if self.diverged else sum(losses) / len(losses)

    @property
    def nbytes(self) -> int:
        """Bytes of memory of the trainings."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def save(self, folder: Path) -> None:
        """Write the state to ``folder``. A crash leaves the previous state or this one."""
        tensors = {} if self.diverged else self._tensors()
        state = {"epoch": self.epoch, "diverged": self.diverged}
        write_checkpoint(folder, tensors, self._identity() | state)

    def load(self, folder: Path) -> None:
        """Load the state in ``folder``.

        Raises:
            CheckpointError: the checkpoint is missing, damaged, or of another training.
        """
        tensors, description = read_checkpoint(folder)
        advice = "Give each trial a checkpoint_path of its own."
        check_parts(description, self._identity(), folder, advice)
        self.epoch = description["epoch"]
        self.diverged = description["diverged"]
        if self.diverged:
            return
        for split, training in enumerate(self._trainings):
            training.restore(split_tensors(tensors, split))

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {
            f"{split}.{name}": tensor
            for split, training in enumerate(self._trainings)
            for name, tensor in training.tensors().items()
        }

    def _identity(self) -> dict[str, Any]:
        return {
            "configuration": self._resolved.model_dump(),
            "validation_scheme": self._scheme,
            **self._task.identity,
        }


def advance_together(trainers: Sequence[Trainer]) -> list[float]:
    """Train an epoch of several trainers of one task, side by side if the recipe can.

    Returns:
        What ``Trainer.advance`` returns for each. A recipe that trains side by side may round
        otherwise than there.
    """
    recipe = trainers[0]._task.together
    if recipe is None:
        return [trainer.advance() for trainer in trainers]
    epochs = [trainer._next_epochs() for trainer in trainers]
    losses = iter(recipe.train_together([one for own in epochs for one in own]))
    return [
        trainer._advanced([next(losses) for _ in own])
        for trainer, own in zip(trainers, epochs, strict=True)
    ]


def split_tensors(tensors: Mapping[str, torch.Tensor], split: int) -> dict[str, torch.Tensor]:
    """The tensors of one split, without the prefix of their names."""
    start = f"{split}."
    return {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}


def check_parts(
    description: Mapping[str, Any], expected: Mapping[str, Any], folder: Path, advice: str
) -> None:
    """Refuse a checkpoint of another training.

    Args:
        description: description in the checkpoint.
        expected: parts that it must have, with their values.
        folder: folder of the checkpoint.
        advice: last sentence of the message: what to do.

    Raises:
        CheckpointError: a part differs; the message tells which.
    """
    for part, mine in expected.items():
        theirs = description.get(part)
        if theirs != mine:
            raise CheckpointError(
                f"The checkpoint in {folder} is of another {part.replace('_', ' ')}: it has "
                f"{_difference(theirs, mine)}. {advice}"
            )


def _difference(theirs: Any, mine: Any) -> str:
    if not (isinstance(theirs, Mapping) and isinstance(mine, Mapping)):
        return f"{theirs!r} (asked for: {mine!r})"
    keys = [key for key in mine if theirs.get(key) != mine[key]]
    return ", ".join(f"{key}={theirs.get(key)!r} (asked for: {mine[key]!r})" for key in keys)
