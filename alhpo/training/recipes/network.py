"""The recipe "network": a timm model from random or pretrained weights, trained as a whole."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar, cast

import torch
from torch import nn

from alhpo.base.seeding import Key
from alhpo.data.batches import DeviceRows
from alhpo.hyperparameters import Hyperparameters, TrainingHyperparameters
from alhpo.models.timm_models import (
    ModelSpec,
    build_model,
    classifier,
    forward_features,
    model_input,
    weights_hash,
)
from alhpo.training.checkpoints import restore_training, training_tensors
from alhpo.training.compute import Compute
from alhpo.training.epochs import classification_loss, make_optimizer, train_epoch
from alhpo.training.recipes.recipe import Prediction


class NetworkTraining:
    """The training of a network with its optimizer.

    Args:
        model: the model on the device, trained in place.
        hp: the hyperparameters, with ``augmentation`` resolved.
        max_epochs: epochs of a full training.
        compute: device and precision.
    """

    loss_function = staticmethod(classification_loss)

    def __init__(
        self, model: nn.Module, hp: Hyperparameters, max_epochs: int, compute: Compute
    ) -> None:
        self.model = model
        self._hp = hp
        self._max_epochs = max_epochs
        self._compute = compute
        self._optimizer = make_optimizer(model, hp)

    def epoch(self, images: DeviceRows, epoch: int, *key: Key) -> float:
        return train_epoch(
            self.model,
            self._optimizer,
            images,
            self._hp,
            self._compute,
            epoch,
            self._max_epochs,
            *key,
            loss_function=self.loss_function,
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        return training_tensors("", self.model, self._optimizer)

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        restore_training(tensors, "", self.model, self._optimizer)


class NetworkRecipe:
    """A timm model whose weights are all trained, always from the same initial weights.

    Attributes:
        spec: the model.
        template: the model with the weights that trainings start from.
    """

    hyperparameters: ClassVar[type[TrainingHyperparameters]] = Hyperparameters
    outputs: ClassVar[frozenset[str]] = frozenset({"logits", "features"})
    settings: ClassVar[Mapping[str, Any]] = {}
    training: ClassVar[type[NetworkTraining]] = NetworkTraining
    encoder = None

    def __init__(self, spec: ModelSpec, seed: int) -> None:
        self.spec = spec
        self.template = build_model(spec, seed)

    @property
    def identity(self) -> dict[str, Any]:
        return self.spec.identity()

    @cached_property
    def weights(self) -> str:
        return weights_hash(self.template)

    @property
    def input_size(self) -> tuple[int, int] | None:
        return model_input(self.spec, self.template)[0]

    @property
    def input_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        settings = model_input(self.spec, self.template)[1]
        if not self.spec.starts_pretrained or len(settings.get("mean", ())) != self.spec.in_chans:
            return None
        return tuple(settings["mean"]), tuple(settings["std"])

    def start(
        self, hp: TrainingHyperparameters, max_epochs: int, compute: Compute
    ) -> NetworkTraining:
        model = compute.place(copy.deepcopy(self.template))
        return self.training(model, cast(Hyperparameters, hp), max_epochs, compute)

    def from_model(self, model: nn.Module) -> NetworkRecipe:
        other = copy.copy(self)
        other.template = model
        vars(other).pop("weights", None)  # cached
        return other

    def predict(
        self, model: nn.Module, inputs: torch.Tensor, compute: Compute, *, features: bool
    ) -> Prediction:
        with inference(model, compute):
            if features:
                return Prediction(*forward_features(model, inputs))
            return Prediction(model(inputs).float())

    def classifier(self, model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        return classifier(model)


@contextmanager
def inference(model: nn.Module, compute: Compute) -> Iterator[None]:
    """Put the model in evaluation mode, without gradients, in the precision of ``compute``."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), compute.autocast():
            yield
    finally:
        model.train(training)
