"""One trial's models, trained side by side and checkpointed as one resumable unit."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from alhpo.base.digests import digest
from alhpo.base.errors import CheckpointError
from alhpo.data.batches import DeviceImages, InputFormat
from alhpo.hyperparameters import Hyperparameters
from alhpo.models.timm_models import weights_hash
from alhpo.training.checkpoints import (
    read_checkpoint,
    restore_training,
    training_tensors,
    write_checkpoint,
)
from alhpo.training.epochs import Compute, classification_loss, make_optimizer, train_epoch
from alhpo.training.loss_prediction import (
    LOSS_PREDICTION,
    has_loss_predictor,
    head_is_finite,
    joint_loss,
)


@dataclass(frozen=True)
class Task:
    """What is trained on, apart from the hyperparameters.

    Attributes:
        images: (L, H, W, C) uint8, the labelled images in the order of labelling.
        labels: (L,) int64.
        template: the model with the weights every training starts from, on the CPU; where it has a
            head that predicts losses, that is trained too.
        model: identity of the model, as a JSON-able mapping.
        form: how images become model input.
        compute: device and precision.
        max_epochs: length of a full training.
        seed: names the random streams of order, augmentation and dropout.
        augmentation: what ``augmentation="auto"`` means.
    """

    images: torch.Tensor
    labels: torch.Tensor
    template: nn.Module
    model: Mapping[str, Any]
    form: InputFormat
    compute: Compute
    max_epochs: int
    seed: int
    augmentation: str

    @cached_property
    def labeled_set(self) -> str:
        """Identity of the labelled images: a hash of their pixels and labels, in order."""
        return digest(self.images, self.labels)

    @property
    def training(self) -> dict[str, Any]:
        """How training goes, apart from the images, the model and the hyperparameters."""
        training: dict[str, Any] = {
            "max_epochs": self.max_epochs,
            "seed": self.seed,
            "precision": self.compute.precision,
            "channels_last": self.compute.channels_last,
            "mean": list(self.form.mean),
            "std": list(self.form.std),
            "size": None if self.form.size is None else list(self.form.size),
        }
        if has_loss_predictor(self.template):
            training["loss_prediction"] = LOSS_PREDICTION
        return training

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the results of training depend on, apart from the hyperparameters."""
        return {
            "labeled_set": self.labeled_set,
            "model": dict(self.model) | {"weights": weights_hash(self.template)},
            "training": self.training,
        }

    def resolved(self, hp: Hyperparameters) -> Hyperparameters:
        """The hyperparameters with what "auto" means for these images."""
        if hp.augmentation != "auto":
            return hp
        return hp.model_copy(update={"augmentation": self.augmentation})

    def device_images(self, positions: np.ndarray) -> DeviceImages:
        """The labelled images at these positions, on the device; all such sets share memory."""
        return self._on_device.part(torch.from_numpy(np.asarray(positions, dtype=np.int64)))

    @cached_property
    def _on_device(self) -> DeviceImages:
        return DeviceImages(self.images, self.labels, self.form, self.compute.device)


class Trainer:
    """Models trained with one configuration on one or more training sets, epoch by epoch.

    Every model starts from the task's weights. What happens in an epoch depends on the task, the
    configuration, the split and the epoch only, so that training resumed from a checkpoint is
    training uninterrupted, bit by bit on one CPU with one number of threads.

    Args:
        task: what is trained on.
        hp: the hyperparameters.
        parts: the training images of each model.
        scheme: identity of the validation scheme that made the parts.
    """

    def __init__(
        self, task: Task, hp: Hyperparameters, parts: Sequence[DeviceImages], scheme: str
    ) -> None:
        self.hp = hp
        self.epoch = 0
        self.diverged = False
        self._task = task
        self._parts = parts
        self._scheme = scheme
        self._resolved = hp = task.resolved(hp)
        joint = has_loss_predictor(task.template)
        self._loss_function = joint_loss if joint else classification_loss
        self.models = [task.compute.place(copy.deepcopy(task.template)) for _ in parts]
        self._optimizers = [make_optimizer(model, hp) for model in self.models]

    def advance(self) -> float:
        """Train every model one epoch.

        Returns:
            The mean training loss over the models; not finite (and ``diverged`` set) after
            divergence, from when on nothing is trained any more.
        """
        losses = []
        for split, (model, optimizer, images) in enumerate(
            zip(self.models, self._optimizers, self._parts, strict=True)
        ):
            if self.diverged:
                break
            loss = train_epoch(
                model,
                optimizer,
                images,
                self._resolved,
                self._task.compute,
                self.epoch,
                self._task.max_epochs,
                self._task.seed,
                split,
                loss_function=self._loss_function,
            )
            losses.append(loss)
            self.diverged = not (math.isfinite(loss) and head_is_finite(model))
        self.epoch += 1
        return math.nan if self.diverged else sum(losses) / len(losses)

    @property
    def nbytes(self) -> int:
        """Memory that the models and optimizers take, in bytes."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def save(self, folder: Path) -> None:
        """Write the state to ``folder``; a crash leaves the previous state or this one."""
        tensors = {} if self.diverged else self._tensors()
        state = {"epoch": self.epoch, "diverged": self.diverged}
        write_checkpoint(folder, tensors, self._identity() | state)

    def load(self, folder: Path) -> None:
        """Take up the state in ``folder``.

        Raises:
            CheckpointError: it is missing, damaged, or of other training than this.
        """
        tensors, description = read_checkpoint(folder)
        advice = "Give each trial a checkpoint_path of its own."
        check_parts(description, self._identity(), folder, advice)
        self.epoch = description["epoch"]
        self.diverged = description["diverged"]
        if self.diverged:
            return
        for split, (model, optimizer) in enumerate(zip(self.models, self._optimizers, strict=True)):
            restore_training(tensors, f"{split}.", model, optimizer)

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = {}
        for split, (model, optimizer) in enumerate(zip(self.models, self._optimizers, strict=True)):
            tensors |= training_tensors(f"{split}.", model, optimizer)
        return tensors

    def _identity(self) -> dict[str, Any]:
        return {
            "configuration": self._resolved.model_dump(),
            "validation_scheme": self._scheme,
            **self._task.identity,
        }


def check_parts(
    description: Mapping[str, Any], expected: Mapping[str, Any], folder: Path, advice: str
) -> None:
    """Refuse a checkpoint that is of other training.

    Args:
        description: of the checkpoint.
        expected: the parts of it that must be as given here.
        folder: of the checkpoint.
        advice: what to do, for the message.

    Raises:
        CheckpointError: with what differs.
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
        return f"{theirs!r}, asked for is {mine!r}"
    keys = [key for key in mine if theirs.get(key) != mine[key]]
    return ", ".join(f"{key}={theirs.get(key)!r} (asked for: {mine[key]!r})" for key in keys)
