"""Evaluation and prediction of a recipe's model, block by block."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from alhpo.base.types import Evaluation
from alhpo.data.batches import Blocks, DeviceRows
from alhpo.training.compute import Compute
from alhpo.training.recipes.recipe import (
    KeepsActivations,
    Prediction,
    PreparesInference,
    Recipe,
)

#: Equal-width bins of the expected calibration error (Guo et al. 2017 use 15).
ECE_BINS = 15


@dataclass(frozen=True)
class ImageScores:
    """What a model says of each of n labelled images; on the device.

    Attributes:
        labels: (n,) int64 classes.
        predictions: (n,) int64 classes with the largest logit.
        nll: (n,) float64 negative log-likelihood of the label, in nats.
        brier: (n,) float64 squared distance of the probabilities from the one-hot label.
        confidence: (n,) float64 largest probability.
        num_classes: C.
    """

    labels: torch.Tensor
    predictions: torch.Tensor
    nll: torch.Tensor
    brier: torch.Tensor
    confidence: torch.Tensor
    num_classes: int

    def mean(self, weights: torch.Tensor | None = None) -> Evaluation:
        """The scores of the images together.

        Args:
            weights: (n,) float64, not negative, with a positive sum; they are divided by it. None
                weights all images equally.
        """
        n = len(self.labels)
        correct = (self.predictions == self.labels).double()
        share = torch.full_like(self.nll, 1 / n) if weights is None else weights / weights.sum()
        # NaN stays NaN: it times "not in the bin" is NaN in every bin
        bins = (self.confidence * ECE_BINS).ceil().clamp(1, ECE_BINS)[
            :, None
        ] == self._bin_numbers()
        gaps = (share * (correct - self.confidence))[:, None] * bins
        accuracy = correct.sum() / n if weights is None else (share * correct).sum()
        nll = self.nll.sum() / n if weights is None else (share * self.nll).sum()
        scores = (accuracy, nll, (share * self.brier).sum(), gaps.sum(0).abs().sum())
        by_class = self._by_class(None if weights is None else share)
        accuracy, nll, brier, ece = torch.stack(scores).tolist()
        return Evaluation(accuracy, nll, n, brier, ece, *by_class)

    def _by_class(self, share: torch.Tensor | None) -> tuple[float, float]:
        """Balanced accuracy and macro-F1.

        On the CPU, where weights are added in a fixed order, and which is one transfer from a GPU
        instead of one for each count.
        """
        labels, predictions = self.labels.cpu().numpy(), self.predictions.cpu().numpy()
        right = labels == predictions
        counts = partial(_counts, num_classes=self.num_classes)
        true, said, hit = counts(labels), counts(predictions), counts(labels[right])
        occurring = sum(a + b > 0 for a, b in zip(true, said, strict=True))
        if share is not None:  # as scikit-learn: a class with weights of 0 occurs, and has F1 0
            shares = share.cpu().numpy()
            true, said = counts(labels, shares), counts(predictions, shares)
            hit = counts(labels[right], shares[right])
        recalls = [h / t for h, t in zip(hit, true, strict=True) if t]
        f1 = [2 * h / (t + s) for h, t, s in zip(hit, true, said, strict=True) if t + s]
        return sum(recalls) / len(recalls), sum(f1) / occurring

    def _bin_numbers(self) -> torch.Tensor:
        return torch.arange(1, ECE_BINS + 1, device=self.confidence.device)


def _counts(
    classes: np.ndarray, weights: np.ndarray | None = None, *, num_classes: int
) -> list[float]:
    """Of each class, how often it is there, or its weight. A list: for few classes the quickest."""
    return np.bincount(classes, weights, minlength=num_classes).astype(float).tolist()


def score_images(recipe: Recipe, model: Any, images: DeviceRows, compute: Compute) -> ImageScores:
    """Scores on each labelled image, without augmentation, from one pass of the model as it is, or
    of the part of it that was trained.

    For few images, such as a validation split's after each epoch.
    """
    parts: list[tuple[torch.Tensor, ...]] = []
    num_classes = 0
    blocks = images.blocks()
    if isinstance(recipe, KeepsActivations):
        model, blocks = recipe.rest(model, images, compute)
    for inputs, labels in blocks:
        assert labels is not None
        logits = recipe.predict(model, inputs, compute, features=False).logits
        num_classes = logits.shape[1]
        probabilities = logits.softmax(1, dtype=torch.float64)
        minus_one = probabilities.new_full((len(labels), 1), -1)
        errors = probabilities.scatter_add(1, labels[:, None], minus_one)
        parts.append(
            (
                labels,
                logits.argmax(1),
                F.cross_entropy(logits, labels, reduction="none").double(),
                errors.square().sum(1),
                probabilities.amax(1),
            )
        )
    if len(parts) > 1:
        parts = [tuple(torch.cat(part) for part in zip(*parts, strict=True))]
    labels, predictions, nll, brier, confidence = parts[0]
    return ImageScores(labels, predictions, nll, brier, confidence, num_classes)


def evaluate(recipe: Recipe, model: Any, images: DeviceRows, compute: Compute) -> Evaluation:
    """Mean scores on labelled images, without augmentation, from one pass of the model, prepared
    for inference, or of the part of it that was trained."""
    if not isinstance(recipe, KeepsActivations):
        model = _for_inference(recipe, model, compute)
    return score_images(recipe, model, images, compute).mean()


def predict(
    recipe: Recipe,
    model: Any,
    images: Blocks,
    compute: Compute,
    *,
    features: bool = True,
) -> Prediction:
    """Predict N images, from one pass of the model, prepared for inference; the result stays on
    the device.

    Args:
        recipe: the recipe of the model.
        model: a fitted model.
        images: the N images.
        compute: device and precision.
        features: whether features are needed; without, they may be None.
    """
    model = _for_inference(recipe, model, compute)
    blocks = [
        recipe.predict(model, inputs, compute, features=features) for inputs, _ in images.blocks()
    ]
    logits = torch.cat([block.logits for block in blocks])
    return Prediction(
        logits,
        _joined([block.features for block in blocks]),
        _joined([block.predicted_losses for block in blocks]),
    )


def _for_inference(recipe: Recipe, model: Any, compute: Compute) -> Any:
    """Whatever the number of images, on which no prediction may depend. On a GPU a pass over a pool
    is often shorter than the preparation."""
    if compute.device.type == "cpu" and isinstance(recipe, PreparesInference):
        return recipe.for_inference(model)
    return model


def _joined(parts: list[torch.Tensor | None]) -> torch.Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if there else None
