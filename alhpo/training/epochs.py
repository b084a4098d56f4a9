"""Training epochs, evaluation and prediction of one model on one device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import nn
from torch.nn import functional as F

from alhpo.base.errors import ConfigurationError
from alhpo.base.seeding import Key, isolated_torch_rng
from alhpo.base.types import Evaluation
from alhpo.data.batches import DeviceImages, PoolImages
from alhpo.hyperparameters import Hyperparameters
from alhpo.models.timm_models import forward_features

Precision = Literal["auto", "float32", "bfloat16"]
#: Equal-width bins of the expected calibration error (Guo et al. 2017 use 15).
ECE_BINS = 15


@dataclass(frozen=True)
class Compute:
    """Where and how numbers are computed.

    Attributes:
        device: the torch device.
        precision: of convolutions and matrix products; bfloat16 runs under autocast.
        channels_last: memory order of images and weights.
    """

    device: torch.device
    precision: Literal["float32", "bfloat16"]
    channels_last: bool

    @classmethod
    def resolve(
        cls, device: str = "auto", precision: Precision = "auto", image_size: int = 32
    ) -> Compute:
        """Settings for this machine.

        Args:
            device: "auto" (CUDA where there is one, else the CPU), "cpu" or a CUDA device.
            precision: "auto" is bfloat16 on CUDA devices that have it and float32 elsewhere.
            image_size: longer side in pixels. Channels-last is chosen on CUDA, and on the CPU
                from 16 pixels on; below, it is the slower order there.

        Raises:
            ConfigurationError: a device that torch does not know, that is not there, or on which
                random streams cannot be seeded, such as mps.
        """
        name = device
        if device == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            target = torch.device(name)
            if target.type not in ("cpu", "cuda"):
                raise ConfigurationError(
                    f"Device {device!r} cannot be used: on devices of type {target.type!r} random "
                    "streams are not seeded, and scores need float64. Legal: auto, cpu, cuda, "
                    "cuda:1, ..."
                )
            torch.zeros(1, device=target).tolist()
        except (RuntimeError, AssertionError) as error:
            raise ConfigurationError(
                f"Device {device!r} cannot be used here ({str(error).splitlines()[0]}). "
                "Legal: auto, cpu, cuda, cuda:1, ..."
            ) from error
        if precision == "auto":
            fast = target.type == "cuda" and torch.cuda.is_bf16_supported()
            precision = "bfloat16" if fast else "float32"
        elif precision not in ("float32", "bfloat16"):
            raise ConfigurationError(
                f"Unknown precision {precision!r}. Legal: auto, float32, bfloat16."
            )
        return cls(target, precision, target.type == "cuda" or image_size >= 16)

    def autocast(self) -> torch.autocast:
        """The context in which the forward pass runs."""
        enabled = self.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def place(self, model: nn.Module) -> nn.Module:
        """The model on the device, its weights in the memory order of the images."""
        order = torch.channels_last if self.channels_last else torch.contiguous_format
        return model.to(device=self.device, memory_format=order)  # type: ignore[call-overload]


def learning_rate(hp: Hyperparameters, epoch: int, max_epochs: int) -> float:
    """The learning rate of an epoch; depends on nothing but its arguments.

    Linear warm-up from 0.01 lr over ``warmup_epochs``, then the schedule over what is left.

    Args:
        hp: ``lr``, ``schedule`` and ``warmup_epochs`` are read.
        epoch: from 0.
        max_epochs: the epoch at which a full training ends.
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


def make_optimizer(model: nn.Module, hp: Hyperparameters) -> torch.optim.Optimizer:
    """The torch optimizer, on all parameters, with fused steps where the device has them."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    fused = parameters[0].device.type in ("cpu", "cuda")
    if hp.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=hp.lr,
            momentum=hp.momentum,
            weight_decay=hp.weight_decay,
            nesterov=hp.nesterov,
            fused=fused,
        )
    kind = torch.optim.AdamW if hp.optimizer == "adamw" else torch.optim.Adam
    return kind(
        parameters,
        lr=hp.lr,
        betas=(hp.momentum, 0.999),
        weight_decay=hp.weight_decay,
        fused=fused,
    )


class TrainingLoss(Protocol):
    """What training minimises on a batch."""

    def __call__(
        self,
        model: nn.Module,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        hp: Hyperparameters,
        compute: Compute,
        progress: float,
    ) -> torch.Tensor:
        """The loss of a batch, with gradients.

        Args:
            model: in training mode.
            inputs: (B, C, H, W) float32.
            labels: (B,) int64.
            hp: the hyperparameters.
            compute: the context of the forward pass.
            progress: share of the full training's epochs that are done, in [0, 1).
        """
        ...


def classification_loss(
    model: nn.Module,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    hp: Hyperparameters,
    compute: Compute,
    progress: float,
) -> torch.Tensor:
    """The mean cross-entropy; a ``TrainingLoss``."""
    with compute.autocast():
        logits = model(inputs)
    return F.cross_entropy(logits.float(), labels, label_smoothing=hp.label_smoothing)


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: DeviceImages,
    hp: Hyperparameters,
    compute: Compute,
    epoch: int,
    max_epochs: int,
    *key: Key,
    loss_function: TrainingLoss = classification_loss,
) -> float:
    """Train one epoch.

    Args:
        model: trained in place.
        optimizer: of the model's parameters.
        images: the training images with labels.
        hp: the hyperparameters, with ``augmentation`` resolved.
        compute: device and precision.
        epoch: the epoch to train, from 0.
        max_epochs: length of a full training, for the schedule.
        key: names the random streams of this training; the epoch is added to it.
        loss_function: what is minimised.

    Returns:
        The mean training loss of the epoch; NaN or infinity after divergence.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(hp, epoch, max_epochs)
    model.train()
    total = torch.zeros((), device=images.device)
    n_batches = 0
    with isolated_torch_rng(compute.device, *key, "dropout", epoch):
        for inputs, labels in images.epoch(hp.batch_size, hp.augmentation, *key, epoch):
            loss = loss_function(model, inputs, labels, hp, compute, epoch / max_epochs)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach()
            n_batches += 1
    return float(total) / n_batches


@contextmanager
def _inference(model: nn.Module, compute: Compute) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), compute.autocast():
            yield
    finally:
        model.train(training)


@dataclass(frozen=True)
class ImageScores:
    """How a model does on each of n labelled images; float64, on the device.

    Attributes:
        correct: (n,) 1 where the label is the class of the largest output, else 0.
        nll: (n,) negative log-likelihood of the label, in nats.
        brier: (n,) squared distance of the probabilities from the one-hot label.
        confidence: (n,) the largest probability.
    """

    correct: torch.Tensor
    nll: torch.Tensor
    brier: torch.Tensor
    confidence: torch.Tensor

    def mean(self, weights: torch.Tensor | None = None) -> Evaluation:
        """The mean over the images.

        Args:
            weights: (n,) float64 of each image, not negative, with a positive sum; the mean is
                divided by that sum. None weighs all alike.
        """
        n = len(self.correct)
        share = torch.full_like(self.nll, 1 / n) if weights is None else weights / weights.sum()
        upper_edges = (self.confidence.nan_to_num() * ECE_BINS).ceil()
        bins = upper_edges.clamp(1, ECE_BINS)[:, None] == self._bin_numbers()
        gaps = (share * (self.correct - self.confidence))[:, None] * bins
        accuracy = self.correct.sum() / n if weights is None else (share * self.correct).sum()
        nll = self.nll.sum() / n if weights is None else (share * self.nll).sum()
        scores = (accuracy, nll, (share * self.brier).sum(), gaps.sum(0).abs().sum())
        accuracy, nll, brier, ece = torch.stack(scores).tolist()
        return Evaluation(accuracy, nll, n, brier, ece)

    def _bin_numbers(self) -> torch.Tensor:
        return torch.arange(1, ECE_BINS + 1, device=self.confidence.device)


def score_images(model: nn.Module, images: DeviceImages, compute: Compute) -> ImageScores:
    """How the model does on each labelled image, unaugmented, from one pass."""
    parts: list[tuple[torch.Tensor, ...]] = []
    with _inference(model, compute):
        for inputs, labels in images.blocks():
            assert labels is not None
            logits = model(inputs).float()
            probabilities = logits.double().softmax(1)
            errors = probabilities - F.one_hot(labels, probabilities.shape[1])
            parts.append(
                (
                    (logits.argmax(1) == labels).double(),
                    F.cross_entropy(logits, labels, reduction="none").double(),
                    errors.square().sum(1),
                    probabilities.amax(1),
                )
            )
    return ImageScores(*(torch.cat(part) for part in zip(*parts, strict=True)))


def evaluate(model: nn.Module, images: DeviceImages, compute: Compute) -> Evaluation:
    """How the model does on labelled images in the mean, unaugmented, from one pass."""
    return score_images(model, images, compute).mean()


def predict(
    model: nn.Module,
    images: DeviceImages | PoolImages,
    compute: Compute,
    *,
    features: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits (N, C) and, unless switched off, penultimate features (N, D), float32, on the device,
    from one pass over the images."""
    logits_parts, feature_parts = [], []
    with _inference(model, compute):
        for inputs, _ in images.blocks():
            if features:
                logits, hidden = forward_features(model, inputs)
                feature_parts.append(hidden)
            else:
                logits = model(inputs).float()
            logits_parts.append(logits)
    return torch.cat(logits_parts), torch.cat(feature_parts) if features else None
