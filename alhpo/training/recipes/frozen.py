"""The recipe "frozen": a head on the features of a pretrained network that is not trained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, cast

import torch

from alhpo.base.digests import digest
from alhpo.base.seeding import isolated_torch_rng
from alhpo.hyperparameters import HeadHyperparameters, TrainingHyperparameters
from alhpo.models.encoder import Encoder
from alhpo.models.timm_models import ModelSpec, weights_hash
from alhpo.training.compute import Compute
from alhpo.training.epochs import EpochOf
from alhpo.training.heads import SLOTS, Head, HeadTraining, train_heads
from alhpo.training.recipes.network import inference
from alhpo.training.recipes.recipe import Prediction


class FrozenRecipe:
    """A linear classifier, or a perceptron, on features that are computed once.

    The heads of all validation splits and trials are trained together.

    Attributes:
        spec: the model that gives the features.
        encoder: gives the features.
    """

    hyperparameters: ClassVar[type[TrainingHyperparameters]] = HeadHyperparameters
    outputs: ClassVar[frozenset[str]] = frozenset({"logits", "features"})
    encodes: ClassVar[bool] = True
    settings: ClassVar[Mapping[str, Any]] = {"heads_per_product": SLOTS}
    input_size = None

    def __init__(self, spec: ModelSpec, seed: int) -> None:
        self.spec = spec
        self.encoder = Encoder(spec)
        self._seed = seed
        self._fitted: Head | None = None

    @property
    def input_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Those of the frozen network, for strategies that train on the images."""
        mean, std = self.encoder.form.mean, self.encoder.form.std
        if self.spec.in_chans == len(mean):
            return mean, std
        return (sum(mean) / len(mean),), (sum(std) / len(std),)

    @property
    def identity(self) -> dict[str, Any]:
        return {"frozen": self.spec.identity()}

    @cached_property
    def weights(self) -> str:
        start = self._seed if self._fitted is None else weights_hash(self._fitted)
        return digest(self.encoder.weights, start)

    def start(self, hp: TrainingHyperparameters, max_epochs: int, compute: Compute) -> HeadTraining:
        hp = cast(HeadHyperparameters, hp)
        with isolated_torch_rng(torch.device("cpu"), self._seed, "head", hp.hidden):
            head = Head(
                self.encoder.width,
                self.spec.num_classes,
                hp.hidden,
                hp.normalization,
                self.spec.drop_rate,
            )
        if self._fitted is not None and _shapes(self._fitted) == _shapes(head):
            head.load_state_dict(self._fitted.state_dict())
        return HeadTraining(head.to(compute.device), hp, max_epochs)

    def from_model(self, model: Head) -> FrozenRecipe:
        """As for every recipe; heads of another shape keep their initial weights."""
        other = copy.copy(self)
        other._fitted = model
        vars(other).pop("weights", None)  # cached
        return other

    def trains_together(self, compute: Compute) -> bool:
        return True

    def train_together(self, epochs: Sequence[EpochOf[Any, Any]]) -> list[float]:
        return train_heads(epochs)

    def predict(
        self, model: Head, inputs: torch.Tensor, compute: Compute, *, features: bool
    ) -> Prediction:
        with inference(model, Compute(compute.device, "float32", False)):
            penultimate = model.penultimate(inputs)
            return Prediction(model.classifier(penultimate), penultimate if features else None)

    def classifier(self, model: Head) -> Callable[[torch.Tensor], torch.Tensor]:
        return model.classifier


def _shapes(head: Head) -> list[torch.Size]:
    return [value.shape for value in head.state_dict().values()]
