"""Learning loss: a head, trained with the classifier, that predicts the loss of each image.

Yoo, Kweon: Learning Loss for Active Learning (CVPR 2019), sections 3.2 and 3.3.

The head is the sub-module ``loss_predictor`` of its model. It is trained, checkpointed and restored
with the model, and has no influence on the logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from alhpo.base.errors import ConfigurationError
from alhpo.base.seeding import isolated_torch_rng
from alhpo.hyperparameters import Hyperparameters
from alhpo.training.compute import Compute
from alhpo.training.epochs import TrainingLoss

#: Name of the head in its model.
HEAD = "loss_predictor"
#: Largest number of stages that the head uses (the paper: the four of ResNet-18).
STAGES = 4
#: Width of the hidden layer on each stage.
HIDDEN = 128
#: Margin of the ranking loss (ξ).
MARGIN = 1.0
#: Weight of the ranking loss (λ).
WEIGHT = 1.0
#: Share of the epochs after which the head no longer trains the classifier's layers (120 of 200).
JOINT_SHARE = 0.6
#: Settings of training with a head, for identities.
LOSS_PREDICTION = {"margin": MARGIN, "weight": WEIGHT, "joint_share": JOINT_SHARE}


class _Float32Linear(nn.Linear):
    """A linear layer outside autocast. Captured steps keep weights of this type in float32."""


class LossPredictor(nn.Module):
    """Global average pooling → FC(128) → ReLU on each stage, concatenated → FC(1).

    Args:
        stages: names of the model's sub-modules whose outputs are used.
        widths: number of channels of each stage.
        channels_last: whether the channels of 4-d outputs come last.
    """

    def __init__(self, stages: Sequence[str], widths: Sequence[int], channels_last: bool) -> None:
        super().__init__()
        self.stages = tuple(stages)
        self.channels_last = channels_last
        self.branches = nn.ModuleList(_Float32Linear(width, HIDDEN) for width in widths)
        self.score = _Float32Linear(HIDDEN * len(widths), 1)

    def forward(self, pooled: Sequence[torch.Tensor]) -> torch.Tensor:
        """(B,) predicted losses, float32, from the (B, width) averages of each stage."""
        with torch.autocast(pooled[0].device.type, enabled=False):
            branches = zip(self.branches, pooled, strict=True)
            hidden = [F.relu(branch(values.float())) for branch, values in branches]
            return self.score(torch.cat(hidden, dim=1)).squeeze(1)


def add_loss_predictor(model: nn.Module, input_shape: tuple[int, int, int], seed: int) -> None:
    """Give a timm model a head that predicts losses, as its sub-module ``loss_predictor``.

    It uses up to four stages, evenly spaced and ending with the last. The stages are those in
    timm's ``feature_info`` (for ResNets all but the stem), else the model's ``blocks``.

    Args:
        model: the model on the CPU; its weights and buffers stay the same.
        input_shape: (C, H, W) of its input.
        seed: seed of the head's random initial weights.

    Raises:
        ConfigurationError: the model has no stages, or they have no channels to average.
    """
    names = _stage_names(model)
    channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
    shapes = _stage_shapes(model, names, input_shape)
    if not names or not all(len(shape) in (3, 4) for shape in shapes):
        raise ConfigurationError(
            f"The model {type(model).__name__} has no stages (timm's feature_info) with feature "
            "maps to predict losses from. Choose a model with stages, such as 'resnet18', or a "
            "strategy that does not need predicted_losses."
        )
    axes = [_channel_axis(len(shape), channels_last) for shape in shapes]
    widths = [shape[axis] for shape, axis in zip(shapes, axes, strict=True)]
    with isolated_torch_rng(torch.device("cpu"), seed, "loss predictor"):
        model.add_module(HEAD, LossPredictor(names, widths, channels_last))


def head_is_finite(model: nn.Module) -> bool:
    """Whether the head's weights are finite; the head can diverge when the rest does not."""
    return all(bool(p.isfinite().all()) for p in getattr(model, HEAD).parameters())


@contextmanager
def predicted_losses(model: nn.Module, *, detach: bool = False) -> Iterator[list[torch.Tensor]]:
    """Collect the head's predictions for every batch that goes through the model in the block.

    Args:
        model: a model with a head.
        detach: stop gradients from the head to the other layers.

    Yields:
        A list that grows by one (B,) float32 tensor per batch.
    """
    predictions: list[torch.Tensor] = []
    head = getattr(model, HEAD)
    pooled: dict[str, torch.Tensor] = {}

    def record(stage: str, output: torch.Tensor) -> None:
        axis = _channel_axis(output.ndim, head.channels_last)
        others = [d for d in range(1, output.ndim) if d != axis % output.ndim]
        average = output.float().mean(dim=others)
        pooled[stage] = average.detach() if detach else average
        if len(pooled) == len(head.stages):
            predictions.append(head([pooled[name] for name in head.stages]))
            pooled.clear()

    with _hooks(model, head.stages, record):
        yield predictions


def loss_at(progress: float) -> TrainingLoss:
    """The loss to minimise (eq. 3) when a share of the epochs, in [0, 1), has been trained.

    It is the mean classification loss plus λ = 1 times the ranking loss of the predictions. The
    ranking loss trains the head in all epochs, and the other layers in the first 60% of them.
    """
    return _JOINT if progress < JOINT_SHARE else _DETACHED


def _joint_loss(
    model: nn.Module,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    hp: Hyperparameters,
    compute: Compute,
    *,
    detach: bool,
) -> torch.Tensor:
    with predicted_losses(model, detach=detach) as predictions, compute.autocast():
        logits = model(inputs)
    losses = F.cross_entropy(
        logits.float(), labels, label_smoothing=hp.label_smoothing, reduction="none"
    )
    return losses.mean() + WEIGHT * ranking_loss(predictions[0], losses.detach())


#: Two objects, because a captured step is captured again for another loss.
_JOINT = partial(_joint_loss, detach=False)
_DETACHED = partial(_joint_loss, detach=True)


def ranking_loss(predicted: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    """Mean hinge loss of the order of the pairs (i, B − 1 − i), i < B/2 (eq. 2).

    A pair costs max(0, −s (l̂ᵢ − l̂ⱼ) + ξ), with s = 1 where lᵢ > lⱼ and −1 elsewhere, and the
    margin ξ = 1. The middle image of an odd batch is in no pair; the loss of one image is 0.

    Args:
        predicted: (B,) predicted losses l̂.
        losses: (B,) true losses l, without gradients.
    """
    pairs = len(losses) // 2
    difference = (predicted - predicted.flip(0))[:pairs]
    sign = torch.where((losses > losses.flip(0))[:pairs], 1.0, -1.0)
    return F.relu(MARGIN - sign * difference).sum() / max(pairs, 1)


def _stage_names(model: nn.Module) -> list[str]:
    info: Any = getattr(model, "feature_info", None)
    entries = getattr(info, "info", info) or ()  # a list, or timm's FeatureInfo
    names = [entry["module"] for entry in entries]
    if not names and isinstance(getattr(model, "blocks", None), nn.Module):  # ViTs of timm 0.9
        names = [f"blocks.{name}" for name, _ in model.get_submodule("blocks").named_children()]
    n = len(names)
    chosen = {math.ceil((k + 1) * n / STAGES) - 1 for k in range(STAGES)} if names else ()
    return [names[i] for i in sorted(chosen)]


def _stage_shapes(
    model: nn.Module, stages: Sequence[str], input_shape: tuple[int, int, int]
) -> list[tuple[int, ...]]:
    """Output shapes of the stages for a blank image; () for a stage that cannot be hooked."""
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(stages, ())
    if not set(stages) <= {name for name, _ in model.named_modules()}:
        return list(shapes.values())

    def record(stage: str, output: Any) -> None:
        shapes[stage] = tuple(output.shape) if isinstance(output, torch.Tensor) else ()

    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), _hooks(model, stages, record):
            model(torch.zeros(1, *input_shape))
    finally:
        model.train(training)
    return list(shapes.values())


@contextmanager
def _hooks(
    model: nn.Module, stages: Sequence[str], record: Callable[[str, Any], None]
) -> Iterator[None]:
    """Call ``record(stage, output)`` after each forward pass of a stage in the block."""
    with ExitStack() as stack:
        for stage in stages:
            handle = model.get_submodule(stage).register_forward_hook(
                lambda _module, _inputs, output, stage=stage: record(stage, output)
            )
            stack.callback(handle.remove)
        yield


def _channel_axis(ndim: int, channels_last: bool) -> int:
    return -1 if ndim == 3 or channels_last else 1
