"""Protocols of a recipe: what is trained, and how it starts, trains, predicts and is restored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch

from alhpo.base.seeding import Key
from alhpo.data.batches import DeviceRows
from alhpo.hyperparameters import TrainingHyperparameters
from alhpo.models.encoder import Encoder
from alhpo.models.timm_models import ModelSpec
from alhpo.training.compute import Compute
from alhpo.training.epochs import EpochOf


class Prediction(NamedTuple):
    """Predictions for B images, without augmentation and gradients.

    Attributes:
        logits: (B, C) float32.
        features: (B, D) float32, the input of the classifier; None if not asked for.
        predicted_losses: (B,) float32; None for recipes without such a prediction.
    """

    logits: torch.Tensor
    features: torch.Tensor | None = None
    predicted_losses: torch.Tensor | None = None


class Training(Protocol):
    """The training of one model, epoch by epoch, in place."""

    @property
    def model(self) -> Any:
        """The current model, without the rest of the training such as the optimizer."""
        ...

    def epoch(self, images: DeviceRows, epoch: int, *key: Key) -> float:
        """Train one epoch.

        The result must depend only on the arguments and on ``tensors()``, so that a restored
        training gives the same weights as an uninterrupted one, bit by bit on one CPU.

        Args:
            images: the training images with labels.
            epoch: the epoch to train, from 0.
            key: names the random streams of this training; add the epoch to it.

        Returns:
            The mean training loss; NaN or infinity after divergence, without an exception.
        """
        ...

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors that change in training, by name; views rather than copies."""
        ...

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore the result of ``tensors``, given on the CPU.

        Raises:
            CheckpointError: the tensors are of another model.
        """
        ...


class Declared(Protocol):
    """What a recipe declares before it is made."""

    @property
    def hyperparameters(self) -> type[TrainingHyperparameters]:
        """The class of its hyperparameters; others are refused."""
        ...

    @property
    def outputs(self) -> frozenset[str]:
        """The fields of ``Prediction`` that its models fill in."""
        ...


@runtime_checkable
class Recipe(Declared, Protocol):
    """What is trained, for one data set and seed; made by a ``RecipeFactory``.

    It knows no labels and does not change. Its models may be of any type.
    """

    @property
    def identity(self) -> Mapping[str, Any]:
        """The architecture without weights, as a mapping that JSON can hold."""
        ...

    @property
    def weights(self) -> str:
        """Identity of the initial weights, for all configurations."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Other settings that training depends on, as a mapping that JSON can hold."""
        ...

    @property
    def encoder(self) -> Encoder | None:
        """The frozen network whose features its models take; None if they take images."""
        ...

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(height, width) in pixels to which images are resized; None keeps their size."""
        ...

    @property
    def input_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and standard deviation per channel to normalise inputs, of values in [0, 1]; None
        takes the data set's own."""
        ...

    def start(self, hp: TrainingHyperparameters, max_epochs: int, compute: Compute) -> Training:
        """A new training from the initial weights, on the device.

        The hyperparameters may decide the shape of the model; then the initial weights depend on
        the shape and the seed only.

        Args:
            hp: hyperparameters of the recipe's class, with "auto" resolved.
            max_epochs: epochs of a full training, for schedules.
            compute: device and precision.
        """
        ...

    def from_model(self, model: Any) -> Recipe:
        """The same recipe with the weights of a fitted model as initial weights (warm start).

        Raises:
            ConfigurationError: the recipe does not support a warm start.
        """
        ...

    def predict(
        self, model: Any, inputs: torch.Tensor, compute: Compute, *, features: bool
    ) -> Prediction:
        """Predict a block of images, each by itself, without changing the model.

        Args:
            model: a model trained by this recipe.
            inputs: (B, C, H, W) float32 images, normalised, or (B, D) float32 features of the
                encoder, on the device.
            compute: device and precision.
            features: whether features are needed; without, they may be None.
        """
        ...

    def classifier(self, model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        """The function from (B, D) features to (B, C) logits, row by row."""
        ...


@runtime_checkable
class TrainsTogether(Protocol):
    """A recipe that trains the models of several splits and trials side by side."""

    def trains_together(self, compute: Compute) -> bool:
        """Whether it does so there; else its trainings are trained one after the other."""
        ...

    def train_together(self, epochs: Sequence[EpochOf[Any, Any]]) -> list[float]:
        """Train an epoch of different trainings.

        Each has the same result whatever the others are: bit by bit on one CPU.

        Returns:
            The loss of each, as from ``Training.epoch``.
        """
        ...


@runtime_checkable
class KeepsActivations(Protocol):
    """A recipe that computes once what the untrained part of its models makes of images."""

    def rest(
        self, model: Any, images: DeviceRows, compute: Compute
    ) -> tuple[Any, Iterator[tuple[torch.Tensor, torch.Tensor | None]]]:
        """The part of a model that was trained, for ``predict``, and its input for images.

        Args:
            model: a model trained by this recipe.
            images: images that are predicted more than once.
            compute: device and precision.

        Returns:
            The model, and what it takes of the images, in blocks with their labels; the model as
            it is and ``images.blocks()`` where it has no such part.
        """
        ...


@runtime_checkable
class PreparesInference(Protocol):
    """A recipe that has a faster form of its models, worth its making for many images."""

    def for_inference(self, model: Any) -> Any:
        """A model for ``predict`` in place of this one, with the same outputs up to rounding.

        It depends on the model only.

        Args:
            model: a model trained by this recipe; it stays as it is.
        """
        ...


@runtime_checkable
class ChecksHyperparameters(Protocol):
    """A recipe whose images do not allow all hyperparameters of its class."""

    def check(self, hp: TrainingHyperparameters) -> None:
        """Refuse hyperparameters that cannot be trained on images of this size.

        Raises:
            ConfigurationError: the message names the hyperparameter and what is legal.
        """
        ...


class RecipeFactory(Declared, Protocol):
    """Makes a recipe; often the recipe's class.

    The attribute ``encodes = True`` declares that its recipes have an ``encoder``: then a run does
    not decode image files before it encodes them.
    """

    def __call__(self, spec: ModelSpec, seed: int) -> Recipe:
        """
        Args:
            spec: settings of the model, and of its images.
            seed: seed of random initial weights.

        Raises:
            ConfigurationError: an unknown model, or one that cannot be used.
        """
        ...


def refuse_unsuitable(recipe: Recipe, hp: TrainingHyperparameters) -> None:
    """Refuse hyperparameters that a recipe cannot train on its images.

    Raises:
        ConfigurationError: the message names the hyperparameter and what is legal.
    """
    if isinstance(recipe, ChecksHyperparameters):
        recipe.check(hp)
