"""The recipe "network": a timm model from random or pretrained weights, trained as a whole."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar, cast

import torch
from torch import nn

from alhpo.base.seeding import Key, isolated_torch_rng
from alhpo.data.batches import DeviceRows, InputFormat
from alhpo.hyperparameters import Hyperparameters, TrainingHyperparameters
from alhpo.models.folding import folded
from alhpo.models.timm_models import (
    ModelSpec,
    build_model,
    classifier,
    forward_features,
    model_input,
    weights_hash,
)
from alhpo.training.captured import (
    CapturedTraining,
    Unsuitable,
    check_suitable,
    train_captured,
)
from alhpo.training.checkpoints import restore_training, training_tensors
from alhpo.training.compute import Compute
from alhpo.training.epochs import (
    EpochOf,
    EpochSettings,
    TrainingLoss,
    classification_loss,
    make_optimizer,
    train_epoch,
)
from alhpo.training.recipes.recipe import Prediction, Training

logger = logging.getLogger("alhpo.training")


class NetworkTraining:
    """The training of a network with its optimizer.

    Args:
        model: the model on the device, trained in place.
        settings: what its epochs depend on.
        groups: see ``CapturedTraining``.
        set_mode: puts the modules of the model into training mode, or some in evaluation mode.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: EpochSettings,
        groups: list[dict[str, Any]] | None = None,
        set_mode: Callable[[nn.Module], object] = nn.Module.train,
    ) -> None:
        self.model = model
        self._settings = settings
        self._set_mode = set_mode
        self._optimizer = make_optimizer(groups or model.parameters(), settings.hp)

    def epoch(self, images: DeviceRows, epoch: int, *key: Key) -> float:
        settings = self._settings
        loss = train_epoch(
            self.model,
            self._optimizer,
            images,
            settings.hp,
            settings.compute,
            epoch,
            settings.max_epochs,
            *key,
            loss_function=settings.loss(epoch),
            set_mode=self._set_mode,
        )
        return loss if settings.intact(self.model) else math.nan

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
    encoder = None
    #: Hyperparameters with which all weights are trained.
    whole: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, spec: ModelSpec, seed: int) -> None:
        self.spec = spec
        self.template = self._build(seed)
        self._captured: dict[Compute, bool] = {}

    def _build(self, seed: int, shape: Mapping[str, int] | None = None) -> nn.Module:
        """A model with its initial weights; see ``build_model``."""
        return build_model(self.spec, seed, shape=shape)

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

    def start(self, hp: TrainingHyperparameters, max_epochs: int, compute: Compute) -> Training:
        return self._training(hp, max_epochs, compute, captured=self.trains_together(compute))

    def loss_at(self, progress: float) -> TrainingLoss:
        """The loss to minimise when a share of the epochs, in [0, 1), is trained: one object for as
        long as the loss stays the same."""
        return classification_loss

    def intact(self, model: nn.Module) -> bool:
        """Whether those weights are finite that have no part in the loss."""
        return True

    def trains_together(self, compute: Compute) -> bool:
        """Whether steps are captured. A model for which they cannot be is trained step by step,
        and a warning says so once."""
        if compute.captured and compute not in self._captured:
            self._captured[compute] = self._can_be_captured(compute)
        return compute.captured and self._captured[compute]

    def train_together(self, epochs: Sequence[EpochOf[Any, Any]]) -> list[float]:
        return train_captured(epochs)

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

    def for_inference(self, model: nn.Module) -> nn.Module:
        exact = Compute(torch.device("cpu"), "float32", False)

        def outputs(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
            said = self.predict(model, images, exact, features=True)
            return [values for values in said if values is not None]

        shape = (self.spec.in_chans, *(self.input_size or self.spec.image_size))
        return folded(model, shape, outputs)

    def classifier(self, model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        return classifier(model)

    def _training(
        self, hp: TrainingHyperparameters, max_epochs: int, compute: Compute, *, captured: bool
    ) -> Training:
        model = compute.place(self._initial(hp))
        settings = self._settings(hp, max_epochs, compute)
        if captured:
            return CapturedTraining(model.train(), settings)
        return NetworkTraining(model, settings)

    def _initial(self, hp: TrainingHyperparameters) -> nn.Module:
        """A model that a training may change, with the weights that it starts from."""
        return copy.deepcopy(self.template)

    def _settings(
        self, hp: TrainingHyperparameters, max_epochs: int, compute: Compute
    ) -> EpochSettings:
        values = cast(Hyperparameters, hp)
        return EpochSettings(values, max_epochs, compute, self.loss_at, self.intact)

    def _can_be_captured(self, compute: Compute) -> bool:
        """Train a copy on two blank images."""
        height, width = self.spec.image_size
        blank = torch.zeros(2, height, width, self.spec.in_chans, dtype=torch.uint8)
        form = InputFormat((0.5,), (0.5,), self.input_size, compute.channels_last)
        images = form.on_device(blank, torch.zeros(2, dtype=torch.int64), compute.device)
        hp = self.hyperparameters.create(self.whole).resolved("none")
        training = self._training(hp, 1, compute, captured=True)
        try:
            with isolated_torch_rng(compute.device, "check of captured steps"):
                check_suitable(lambda: training.epoch(images, 0, "check"), compute.device)
        except Unsuitable as error:
            logger.warning(
                "Model %r is trained step by step, without CUDA graphs, and one after the other: "
                "%s.",
                *(self.spec.name, error),
            )
            return False
        return True


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
