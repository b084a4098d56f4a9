"""An epoch of a network: learning rate, optimizer, loss and steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from alhpo.base.seeding import Key, isolated_torch_rng
from alhpo.data.batches import DeviceRows
from alhpo.hyperparameters import Hyperparameters, OptimizerHyperparameters
from alhpo.training.compute import Compute

T = TypeVar("T")
R = TypeVar("R", bound=DeviceRows)


@dataclass(frozen=True)
class EpochOf(Generic[T, R]):
    """An epoch of a training to train, perhaps beside others; see ``Training.epoch``.

    Attributes:
        training: the training, changed in place.
        images: the training images, or their features, with labels.
        epoch: the epoch, from 0.
        key: names the random streams of the training.
    """

    training: T
    images: R
    epoch: int
    key: tuple[Key, ...]


def learning_rate(hp: OptimizerHyperparameters, epoch: float, max_epochs: int) -> float:
    """The learning rate at a point of training.

    Linear warm-up from 0.01 lr over ``warmup_epochs``, then the schedule over the other epochs.

    Args:
        hp: the hyperparameters; ``lr``, ``schedule`` and ``warmup_epochs`` are used.
        epoch: epochs trained so far, with the fraction of the current one.
        max_epochs: epochs of a full training.
    """
    warmup = hp.warmup_epochs
    if epoch < warmup:
        return hp.lr * (0.01 + 0.99 * epoch / warmup)
    progress = (epoch - warmup) / max(max_epochs - warmup, 1)
    if hp.schedule == "cosine":
        return hp.lr * 0.5 * (1 + math.cos(math.pi * progress))
    if hp.schedule == "step":
        return hp.lr * 0.1 ** ((progress >= 0.5) + (progress >= 0.75))
    return hp.lr


def learning_rates(
    hp: OptimizerHyperparameters, epoch: int, max_epochs: int, steps: int
) -> list[float]:
    """The learning rate of each step of an epoch, which changes with every step or epoch."""
    parts = [step / steps if hp.lr_steps == "step" else 0 for step in range(steps)]
    return [learning_rate(hp, epoch + part, max_epochs) for part in parts]


def make_optimizer(
    parameters: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
    hp: Hyperparameters,
    rate: torch.Tensor | None = None,
) -> torch.optim.Optimizer:
    """The torch optimizer of all trainable parameters, fused on CPU and CUDA.

    Args:
        parameters: those that do not require gradients are left out. Or torch's groups of
            parameters, in which ``lr_scale`` is a factor on the learning rate.
        hp: the hyperparameters.
        rate: a tensor that holds the learning rate, for steps that a CUDA graph captures; by
            default ``hp.lr``.
    """
    trained: list[Any] = [p for p in parameters if isinstance(p, dict) or p.requires_grad]
    first = trained[0]
    device = (first["params"][0] if isinstance(first, dict) else first).device.type
    options: dict[str, Any] = {
        "lr": hp.lr if rate is None else rate,
        "weight_decay": hp.weight_decay,
        "fused": device in ("cpu", "cuda"),
    }
    if hp.optimizer == "sgd":
        return torch.optim.SGD(trained, momentum=hp.momentum, nesterov=hp.nesterov, **options)
    kind = torch.optim.AdamW if hp.optimizer == "adamw" else torch.optim.Adam
    capturable = rate is not None and device == "cuda"
    return kind(trained, betas=(hp.momentum, 0.999), capturable=capturable, **options)


class TrainingLoss(Protocol):
    """The loss that training minimises."""

    def __call__(
        self,
        model: nn.Module,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        hp: Hyperparameters,
        compute: Compute,
    ) -> torch.Tensor:
        """The loss of a batch, with gradients.

        Args:
            model: in training mode.
            inputs: (B, C, H, W) float32.
            labels: (B,) int64.
            hp: the hyperparameters.
            compute: the context of the forward pass.
        """
        ...


def classification_loss(
    model: nn.Module,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    hp: Hyperparameters,
    compute: Compute,
) -> torch.Tensor:
    """The mean cross-entropy; a ``TrainingLoss``."""
    with compute.autocast():
        logits = model(inputs)
    return F.cross_entropy(logits.float(), labels, label_smoothing=hp.label_smoothing)


@dataclass(frozen=True)
class EpochSettings:
    """What the epochs of a network depend on, apart from its weights and images.

    Attributes:
        hp: the hyperparameters, with ``augmentation`` resolved.
        max_epochs: epochs of a full training, for schedules.
        compute: device and precision.
        loss_at: the loss to minimise when a share of the epochs, in [0, 1), is trained: one object
            for as long as the loss stays the same.
        intact: whether those weights of a model are finite that have no part in the loss.
    """

    hp: Hyperparameters
    max_epochs: int
    compute: Compute
    loss_at: Callable[[float], TrainingLoss]
    intact: Callable[[nn.Module], bool]

    def loss(self, epoch: int) -> TrainingLoss:
        """The loss to minimise in an epoch, from 0."""
        return self.loss_at(epoch / self.max_epochs)


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: DeviceRows,
    hp: Hyperparameters,
    compute: Compute,
    epoch: int,
    max_epochs: int,
    *key: Key,
    loss_function: TrainingLoss = classification_loss,
    set_mode: Callable[[nn.Module], object] = nn.Module.train,
) -> float:
    """Train one epoch.

    Args:
        model: trained in place.
        optimizer: of the model's parameters.
        images: the training images with labels.
        hp: the hyperparameters, with ``augmentation`` resolved.
        compute: device and precision.
        epoch: the epoch to train, from 0.
        max_epochs: epochs of a full training, for the schedule.
        key: names the random streams of this training, together with the epoch.
        loss_function: the loss to minimise.
        set_mode: puts the modules of the model into training mode, or some in evaluation mode.

    Returns:
        The mean training loss of the epoch; NaN or infinity after divergence.
    """
    set_mode(model)
    total = torch.zeros((), device=images.device)
    n_batches = 0
    steps = images.batches(hp.batch_size, hp.epoch_images)
    rates = learning_rates(hp, epoch, max_epochs, steps)
    batches = images.epoch(hp.batch_size, hp.augmentation, *key, epoch, images=hp.epoch_images)
    with isolated_torch_rng(compute.device, *key, "dropout", epoch):
        for inputs, labels in batches:
            for group in optimizer.param_groups:
                group["lr"] = rates[n_batches] * group.get("lr_scale", 1.0)
            loss = loss_function(model, inputs, labels, hp, compute)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach()
            n_batches += 1
    return float(total) / n_batches
