"""Learning loss: the whole network with a head that predicts the loss of each image.

Yoo, Kweon: Learning Loss for Active Learning (CVPR 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from alhpo.models.timm_models import model_input
from alhpo.training.compute import Compute
from alhpo.training.epochs import TrainingLoss
from alhpo.training.loss_prediction import (
    LOSS_PREDICTION,
    add_loss_predictor,
    head_is_finite,
    loss_at,
    predicted_losses,
)
from alhpo.training.recipes.network import NetworkRecipe
from alhpo.training.recipes.recipe import Prediction


class LearningLossRecipe(NetworkRecipe):
    """A timm model with stages, and a head that predicts losses from them."""

    outputs: ClassVar[frozenset[str]] = NetworkRecipe.outputs | {"predicted_losses"}
    settings: ClassVar[Mapping[str, Any]] = {"loss_prediction": LOSS_PREDICTION}

    def _build(self, seed: int, shape: Mapping[str, int] | None = None) -> nn.Module:
        model = super()._build(seed, shape)
        size = model_input(self.spec, model)[0] or self.spec.image_size
        add_loss_predictor(model, (self.spec.in_chans, *size), seed)
        return model

    def loss_at(self, progress: float) -> TrainingLoss:
        return loss_at(progress)

    def intact(self, model: nn.Module) -> bool:
        return head_is_finite(model)  # the head can diverge when the rest does not

    def predict(
        self, model: nn.Module, inputs: torch.Tensor, compute: Compute, *, features: bool
    ) -> Prediction:
        with predicted_losses(model) as losses:
            prediction = super().predict(model, inputs, compute, features=features)
        return prediction._replace(predicted_losses=losses[0])
