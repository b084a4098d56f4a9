"""Softmax regression on pixels, in plain tensors: a recipe that trains in a millisecond."""

from __future__ import annotations

import copy

import pydantic
import torch
from torch.nn import functional as F

from alhpo.base.digests import digest
from alhpo.base.errors import CheckpointError
from alhpo.hyperparameters import TrainingHyperparameters
from alhpo.training.recipes import RECIPES
from alhpo.training.recipes.recipe import Prediction


class ToyHyperparameters(TrainingHyperparameters):
    lr: float = pydantic.Field(0.1, gt=0)
    weight_decay: float = pydantic.Field(0.0, ge=0)
    batch_size: int = pydantic.Field(16, ge=2)


class ToyTraining:
    def __init__(self, weights, hp):
        self.model, self._hp = weights, hp

    def epoch(self, images, epoch, *key):
        total, steps = 0.0, 0
        for inputs, labels in images.epoch(self._hp.batch_size, "none", *key, epoch):
            x = F.pad(inputs.flatten(1), (0, 1), value=1.0)
            logits = x @ self.model
            total, steps = total + float(F.cross_entropy(logits, labels)), steps + 1
            errors = logits.softmax(1) - F.one_hot(labels, logits.shape[1])
            gradient = x.T @ errors / len(x) + self._hp.weight_decay * self.model
            self.model -= self._hp.lr * gradient
        return total / steps

    def tensors(self):
        return {"weights": self.model}

    def restore(self, tensors):
        if tensors.keys() != {"weights"} or tensors["weights"].shape != self.model.shape:
            raise CheckpointError("It holds another model's weights.")
        self.model.copy_(tensors["weights"])


class ToyRecipe:
    hyperparameters = ToyHyperparameters
    outputs = frozenset({"logits", "features"})
    settings, encoder, input_size, input_statistics = {}, None, None, None

    def __init__(self, spec, seed):
        height, width = spec.image_size
        generator = torch.Generator().manual_seed(seed)
        shape = (spec.in_chans * height * width + 1, spec.num_classes)
        self.initial = torch.randn(shape, generator=generator) / 100
        self.identity = {"toy": list(shape)}

    @property
    def weights(self):
        return digest(self.initial)

    def start(self, hp, max_epochs, compute):
        return ToyTraining(self.initial.to(compute.device, copy=True), hp)

    def from_model(self, model):
        other = copy.copy(self)
        other.initial = model
        return other

    def predict(self, model, inputs, compute, *, features):
        pixels = inputs.flatten(1)
        return Prediction(self.classifier(model)(pixels), pixels)

    def classifier(self, model):
        return lambda features: F.pad(features, (0, 1), value=1.0) @ model


RECIPES.register("toy", ToyRecipe)
