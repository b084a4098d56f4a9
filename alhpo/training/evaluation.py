"""Evaluation and prediction of a recipe's model, block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from alhpo.base.types import Evaluation
from alhpo.data.batches import Blocks, DeviceRows
from alhpo.training.compute import Compute
from alhpo.training.recipes.recipe import Prediction, Recipe

#: Equal-width bins of the expected calibration error (Guo et al. 2017 use 15).
ECE_BINS = 15


@dataclass(frozen=True)
class ImageScores:
    """Scores of a model on each of n labelled images; float64, on the device.

    Attributes:
        correct: (n,) 1 where the largest logit is that of the label, else 0.
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
            weights: (n,) float64, not negative, with a positive sum; they are divided by it. None
                weights all images equally.
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


def score_images(recipe: Recipe, model: Any, images: DeviceRows, compute: Compute) -> ImageScores:
    """Scores on each labelled image, without augmentation, from one pass."""
    parts: list[tuple[torch.Tensor, ...]] = []
    for inputs, labels in images.blocks():
        assert labels is not None
        logits = recipe.predict(model, inputs, compute, features=False).logits
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


def evaluate(recipe: Recipe, model: Any, images: DeviceRows, compute: Compute) -> Evaluation:
    """Mean scores on labelled images, without augmentation, from one pass."""
    return score_images(recipe, model, images, compute).mean()


def predict(
    recipe: Recipe,
    model: Any,
    images: Blocks,
    compute: Compute,
    *,
    features: bool = True,
) -> Prediction:
    """Predict N images, from one pass over them; the result stays on the device.

    Args:
        recipe: the recipe of the model.
        model: a fitted model.
        images: the N images.
        compute: device and precision.
        features: whether features are needed; without, they may be None.
    """
    blocks = [
        recipe.predict(model, inputs, compute, features=features) for inputs, _ in images.blocks()
    ]
    logits = torch.cat([block.logits for block in blocks])
    return Prediction(
        logits,
        _joined([block.features for block in blocks]),
        _joined([block.predicted_losses for block in blocks]),
    )


def _joined(parts: list[torch.Tensor | None]) -> torch.Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if there else None
