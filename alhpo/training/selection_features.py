"""The features by which weighted validation tells labelled images from the rest of the pool."""

from __future__ import annotations

import numpy as np
import torch

from alhpo.data.batches import DeviceImages, InputFormat
from alhpo.hyperparameters import TrainingHyperparameters
from alhpo.training.compute import Compute
from alhpo.training.evaluation import predict
from alhpo.training.recipes.recipe import Recipe
from alhpo.validation.weights import pixel_features


def selection_features(
    labeled: torch.Tensor,
    unlabeled: torch.Tensor,
    recipe: Recipe | None,
    hp: TrainingHyperparameters,
    max_epochs: int,
    form: InputFormat,
    compute: Compute,
) -> tuple[np.ndarray, np.ndarray]:
    """Features of the initial model, or of the pixels; features stay as they are.

    Args:
        labeled: (L, H, W, C) uint8 images, or (L, D) features.
        unlabeled: (U, H, W, C) or (U, D), likewise.
        recipe: one with pretrained weights; None takes the pixels. So does a recipe whose models
            give no features.
        hp: hyperparameters that the recipe makes its model with.
        max_epochs: length of a full training.
        form: how images become model input.
        compute: device and precision.

    Returns:
        (L, D) and (U, D) features.
    """
    if labeled.ndim == 2:
        return labeled.numpy(), unlabeled.numpy()
    if recipe is None or "features" not in recipe.outputs or not len(unlabeled):
        return pixel_features(labeled, unlabeled)
    model = recipe.start(hp, max_epochs, compute).model
    found = []
    for images in (labeled, unlabeled):
        inputs = DeviceImages(images, None, form, compute.device)
        features = predict(recipe, model, inputs, compute).features
        assert features is not None
        found.append(features.float().cpu().numpy())
    return found[0], found[1]
