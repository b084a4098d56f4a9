"""What a recipe offers: what is trained, how it starts, runs an epoch, predicts and is restored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch

from alhpo.base.seeding import Key
from alhpo.data.batches import DeviceImages
from alhpo.hyperparameters import TrainingHyperparameters
from alhpo.models.timm_models import ModelSpec
from alhpo.training.compute import Compute


class Prediction(NamedTuple):
    """What a model says of B images, unaugmented; without gradients.

    Attributes:
        logits: (B, C) float32.
        features: (B, D) float32, what its classifier makes the logits of.
        predicted_losses: (B,) float32, of a recipe that trains such a prediction.
    """

    logits: torch.Tensor
    features: torch.Tensor | None = None
    predicted_losses: torch.Tensor | None = None


class Training(Protocol):
    """A model on its way: trained epoch by epoch, in place."""

    @property
    def model(self) -> Any:
        """The model as trained so far; it does without the rest of the training, such as the
        state of an optimizer."""
        ...

    def epoch(self, images: DeviceImages, epoch: int, *key: Key) -> float:
        """Train one epoch.

        What happens must depend on the arguments and the tensors only, so that a training that is
        restored goes on as if it had never stopped, bit by bit on one CPU.

        Args:
            images: the training images with labels.
            epoch: the epoch to train, from 0.
            key: names the random streams of this training; the epoch is to be added to it.

        Returns:
            The mean training loss; NaN or infinity after divergence, which is not raised.
        """
        ...

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that changes in training, by names: views where that is possible, no copies."""
        ...

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take up the state that ``tensors`` gave, from tensors on the CPU.

        Raises:
            CheckpointError: they are not those of such a model.
        """
        ...


class Declared(Protocol):
    """What is known of a recipe before it is made."""

    @property
    def hyperparameters(self) -> type[TrainingHyperparameters]:
        """The hyperparameters that it has: others are refused in spaces and among fixed ones."""
        ...

    @property
    def outputs(self) -> frozenset[str]:
        """What its models say of images: the fields of ``Prediction`` that are filled in."""
        ...


@runtime_checkable
class Recipe(Declared, Protocol):
    """What is trained, for one data set and seed; made by a ``RecipeFactory``.

    It knows no labels and changes nothing of itself. A model is whatever it says it is.
    """

    @property
    def identity(self) -> Mapping[str, Any]:
        """The architecture, apart from its weights, as a JSON-able mapping."""
        ...

    @property
    def weights(self) -> str:
        """Identity of the weights that trainings start from, whatever the configuration."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What training depends on besides, as a JSON-able mapping; often empty."""
        ...

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(height, width) in pixels to which images are resized, or None to keep theirs."""
        ...

    @property
    def input_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and deviation per channel that inputs are normalised with, of values in [0, 1];
        None for the data set's own."""
        ...

    def start(self, hp: TrainingHyperparameters, max_epochs: int, compute: Compute) -> Training:
        """A training from the start, on the device. The hyperparameters may decide the shape of
        the model; its weights are then a function of that shape, too.

        Args:
            hp: of the recipe's class, with what "auto" means filled in.
            max_epochs: length of a full training, for schedules.
            compute: device and precision.
        """
        ...

    def from_model(self, model: Any) -> Recipe:
        """The same recipe, whose trainings start from the weights of a fitted model (warm start).

        Raises:
            ConfigurationError: the recipe has no warm start.
        """
        ...

    def predict(
        self, model: Any, inputs: torch.Tensor, compute: Compute, *, features: bool
    ) -> Prediction:
        """What a model says of a block of images, each by itself; the model stays as it is.

        Args:
            model: of a training of this recipe.
            inputs: (B, C, H, W) float32, normalised, on the device.
            compute: device and precision.
            features: whether features are wanted; without, they may be left out.
        """
        ...

    def classifier(self, model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        """The function that makes (B, C) logits of (B, D) features, row by row."""
        ...


class RecipeFactory(Declared, Protocol):
    """Makes a recipe; often the recipe's class."""

    def __call__(self, spec: ModelSpec, seed: int) -> Recipe:
        """
        Args:
            spec: the model that is set, and the images it is for.
            seed: of random initial weights.

        Raises:
            ConfigurationError: there is no such model.
        """
        ...
