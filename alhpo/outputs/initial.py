"""What a strategy looks at that chooses the first batch, before any model is trained."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from alhpo.base.types import PoolOutputs
from alhpo.data.dataset import ImageDataset
from alhpo.hyperparameters import TrainingHyperparameters
from alhpo.outputs.pool_outputs import OutputSettings, predicted_outputs
from alhpo.training.inputs import ModelInputs
from alhpo.training.recipes.recipe import Recipe
from alhpo.validation.weights import averaged_pixels

_BLOCK = 512


def initial_outputs(
    candidates: np.ndarray,
    dataset: ImageDataset,
    inputs: Callable[[], ModelInputs],
    recipe: Recipe | None,
    hp: TrainingHyperparameters,
    max_epochs: int,
    settings: OutputSettings,
) -> PoolOutputs:
    """Features of the candidates, and labelled parts without rows.

    The features are those of the pretrained network. Without one they are the pixels, averaged down
    to at most 16 a side: distances between outputs of random weights would say less.

    Args:
        candidates: (N,) pool indices, ascending.
        dataset: the data set.
        inputs: the data set as the model takes it, asked for only with a recipe.
        recipe: one with pretrained weights; None takes the pixels. So does a recipe whose models
            give no features.
        hp: hyperparameters that the recipe makes its model with.
        max_epochs: length of a full training.
        settings: see ``OutputSettings``.
    """
    rows = torch.from_numpy(candidates)
    if recipe is not None and "features" in recipe.outputs:
        features = _network_features(candidates, inputs(), recipe, hp, max_epochs, settings)
    else:
        pixels = [averaged_pixels(dataset.images[block]) for block in rows.split(_BLOCK)]
        features = torch.from_numpy(np.concatenate(pixels))
    none = torch.empty(0, dtype=torch.int64)
    return PoolOutputs(
        rows,
        features=features,
        labels=none,
        labeled_indices=none,
        labeled_features=features[:0],
    )


def _network_features(
    candidates: np.ndarray,
    inputs: ModelInputs,
    recipe: Recipe,
    hp: TrainingHyperparameters,
    max_epochs: int,
    settings: OutputSettings,
) -> torch.Tensor:
    if recipe.encoder is not None:
        return inputs.pool[torch.from_numpy(candidates)].float()
    model = recipe.start(hp, max_epochs, settings.compute).model
    features = predicted_outputs(recipe, model, inputs, candidates, settings).features
    assert features is not None
    return features
