"""The training hyperparameters: names, legal values, defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import pydantic

from alhpo.base.errors import ConfigurationError
from alhpo.base.schema import Settings, parse

Augmentation = Literal["auto", "none", "crop", "flip", "crop-flip"]


class TrainingHyperparameters(Settings):
    """The hyperparameters that a recipe declares: a subclass has them as fields, with defaults.

    Every field can be fixed for a run or be searched by putting a hyperparameter of the same name
    into the configuration space.
    """

    @classmethod
    def create(cls, *layers: Mapping[str, Any]) -> Self:
        """Hyperparameters from mappings, later ones over earlier ones, the defaults below all.

        Raises:
            ConfigurationError: an unknown name or an illegal value.
        """
        values: dict[str, Any] = {}
        for layer in layers:
            values |= dict(layer)
        return parse(cls, values, "hyperparameter")

    def check_epochs(self, max_epochs: int, where: str = "") -> None:
        """Refuse what cannot be done in so many epochs.

        Args:
            max_epochs: the epoch at which training ends.
            where: the hyperparameters come from, for the message.

        Raises:
            ConfigurationError: with what takes longer.
        """

    def resolved(self, augmentation: str) -> Self:
        """The same with what "auto" means for a data set.

        Args:
            augmentation: the data set's.
        """
        return self


class Hyperparameters(TrainingHyperparameters):
    """How a network is trained. The defaults suit a few tens of epochs on a few hundred labels; the
    settings of Huseljic et al. (2023) for 200 epochs are lower in ``lr`` and warm up.
    """

    lr: float = pydantic.Field(0.05, gt=0, description="Peak learning rate.")
    weight_decay: float = pydantic.Field(
        5e-4, ge=0, description="Weight decay, on all parameters (coupled for sgd and adam)."
    )
    momentum: float = pydantic.Field(
        0.9, ge=0, lt=1, description="Momentum of sgd; the first beta of adam and adamw."
    )
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    nesterov: bool = pydantic.Field(False, description="Nesterov momentum (sgd only).")
    batch_size: int = pydantic.Field(
        32,
        ge=2,
        description="Images per step; the last short batch is dropped unless it is the only one.",
    )
    schedule: Literal["cosine", "step", "constant"] = pydantic.Field(
        "cosine",
        description="Learning rate after warm-up: cosine to 0; x0.1 at 1/2 and 3/4; constant.",
    )
    lr_steps: Literal["step", "epoch"] = pydantic.Field(
        "step", description="Whether the learning rate changes after every step or every epoch."
    )
    warmup_epochs: int = pydantic.Field(
        0, ge=0, description="Epochs of linear warm-up from 0.01 x lr."
    )
    augmentation: Augmentation = pydantic.Field(
        "auto", description="Random crop with padding and/or flip; auto follows the data set."
    )
    label_smoothing: float = pydantic.Field(0.0, ge=0, lt=1)

    @pydantic.model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Hyperparameters:
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError("nesterov=True needs optimizer='sgd' and momentum > 0")
        return self

    def check_epochs(self, max_epochs: int, where: str = "") -> None:
        """Refuse a warm-up that leaves no epoch for training; see ``TrainingHyperparameters``."""
        if self.warmup_epochs >= max_epochs:
            raise ConfigurationError(
                f"warmup_epochs is {self.warmup_epochs}{where}, but training ends after "
                f"max_epochs={max_epochs}; it must be smaller."
            )

    def resolved(self, augmentation: str) -> Self:
        """The same with what ``augmentation="auto"`` means."""
        if self.augmentation != "auto":
            return self
        return self.model_copy(update={"augmentation": augmentation})
