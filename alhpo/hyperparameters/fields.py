"""The training hyperparameters: names, legal values, defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import pydantic

from alhpo.base.epoch_size import EpochImages
from alhpo.base.errors import ConfigurationError
from alhpo.base.schema import Settings, parse

Augmentation = Literal[
    "auto",
    "none",
    "crop",
    "flip",
    "crop-flip",
    "rotate",
    "crop-rotate",
    "flip-rotate",
    "crop-flip-rotate",
]


class TrainingHyperparameters(Settings):
    """Base of the hyperparameters of a recipe: a subclass declares them as fields with defaults.

    Each field can be fixed for a run, or searched: then the configuration space has a
    hyperparameter of the same name.

    Attributes:
        run_defaults: the model, space, validation scheme, metric, epochs of a full training and
            budget of a search that a run of such a recipe has unless they are given. A subclass
            names those that differ.
        warm_start: whether a training can start from the model that was fitted before.
    """

    warm_start: ClassVar[bool] = True
    run_defaults: ClassVar[Mapping[str, Any]] = {
        "model": "resnet18",
        "space": "paper",
        "validation": "holdout:0.2",
        "metric": "accuracy",
        "max_epochs": 27,
        "max_budget": 100,
    }

    @classmethod
    def create(cls, *layers: Mapping[str, Any]) -> Self:
        """Hyperparameters from mappings. Later mappings override earlier ones and the defaults.


        Raises:
            ConfigurationError: an unknown name or an illegal value.
        """
        values: dict[str, Any] = {}
        for layer in layers:
            values |= dict(layer)
        return parse(cls, values, "hyperparameter")

    def check_epochs(self, max_epochs: int, where: str = "") -> None:
        """Check that training can be done in ``max_epochs`` epochs; by default nothing is checked.

        Args:
            max_epochs: the epoch at which training ends.
            where: added to the message, such as ``" in the space"``.

        Raises:
            ConfigurationError: a hyperparameter needs more epochs; the message names it.
        """

    @classmethod
    def check_start(cls, start: str) -> None:
        """Refuse a warm start, if a training cannot start from the model that was fitted before.

        Args:
            start: "cold" or "warm".

        Raises:
            ConfigurationError: the recipe supports no warm start.
        """
        if start == "warm" and not cls.warm_start:
            raise ConfigurationError(
                "start is 'warm', but the recipe of these hyperparameters supports no warm start: "
                "from cycle to cycle its model may have another shape. Use start=cold."
            )

    def resolved(self, augmentation: str) -> Self:
        """The same hyperparameters, with "auto" replaced by its meaning for a data set.

        Args:
            augmentation: ``ImageDataset.augmentation`` of the data set.
        """
        return self


class OptimizerHyperparameters(TrainingHyperparameters):
    """How gradient descent minimises the cross-entropy."""

    lr: float = pydantic.Field(0.05, gt=0, description="Peak learning rate.")
    weight_decay: float = pydantic.Field(
        5e-4, ge=0, description="Weight decay of all parameters; for sgd and adam an L2 penalty."
    )
    momentum: float = pydantic.Field(
        0.9, ge=0, lt=1, description="Momentum of sgd; the first beta of adam and adamw."
    )
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    nesterov: bool = pydantic.Field(False, description="Nesterov momentum (sgd only).")
    batch_size: int = pydantic.Field(32, ge=2, description="Images per step.")
    epoch_images: EpochImages = pydantic.Field(
        "fill",
        description="Images per epoch: fill (all, filled up to full batches by images seen "
        "twice), drop (all but those of a last, smaller batch), or a number.",
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
    label_smoothing: float = pydantic.Field(
        0.0, ge=0, lt=1, description="Probability moved from the label to all classes equally."
    )

    def check_epochs(self, max_epochs: int, where: str = "") -> None:
        """Refuse a warm-up of ``max_epochs`` epochs or more; see ``TrainingHyperparameters``."""
        if self.warmup_epochs >= max_epochs:
            raise ConfigurationError(
                f"Hyperparameter warmup_epochs is {self.warmup_epochs}{where}, but training ends "
                f"after max_epochs={max_epochs}; expected a smaller number."
            )

    @pydantic.field_validator("epoch_images", mode="before")
    @classmethod
    def _images(cls, value: Any) -> Any:
        """One message for both kinds of value."""
        number = int(value) if re.fullmatch(r"\d{1,12}", str(value)) else 0
        if value not in ("fill", "drop") and number < 1:
            raise ValueError("Input should be fill, drop, or a number of images of at least 1")
        return number or value

    @pydantic.model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError("Hyperparameter nesterov=True needs optimizer='sgd' and momentum > 0")
        return self


class Hyperparameters(OptimizerHyperparameters):
    """How a network is trained.

    The defaults suit a few tens of epochs on a few hundred labels. Huseljic et al. (2023) train for
    200 epochs, with a lower ``lr`` and with warm-up.
    """

    augmentation: Augmentation = pydantic.Field(
        "auto",
        description="Random padded crop, flip, rotation by up to 15 degrees, or several of them, "
        "such as crop-flip or crop-rotate; auto depends on the data set.",
    )

    def resolved(self, augmentation: str) -> Self:
        """The same hyperparameters, with ``augmentation="auto"`` replaced by ``augmentation``."""
        if self.augmentation != "auto":
            return self
        return self.model_copy(update={"augmentation": augmentation})


class ArchitectureHyperparameters(Hyperparameters):
    """How a residual network is made of stacks of blocks, and how it is trained.

    The defaults are the smallest network of the family (Geifman, El-Yaniv 2019), from which a
    search grows it.
    """

    warm_start: ClassVar[bool] = False
    run_defaults: ClassVar[Mapping[str, Any]] = {
        **TrainingHyperparameters.run_defaults,
        "model": "stacked_resnet",
        "space": "architecture",
    }

    blocks: int = pydantic.Field(1, ge=1, le=12, description="Residual blocks in each stack.")
    stacks: int = pydantic.Field(
        1,
        ge=1,
        le=5,
        description="Stacks of blocks; each after the first halves the map and doubles the "
        "channels, 64 in the first.",
    )


class HeadHyperparameters(OptimizerHyperparameters):
    """How a head on frozen features is trained.

    The defaults are common for linear heads: SGD, for some 200 epochs. A search judges on every
    label once (five folds), by the likelihood, which says more than accuracy on few images.
    """

    run_defaults: ClassVar[Mapping[str, Any]] = {
        "space": "head",
        "validation": "kfold:5",
        "metric": "likelihood",
        "max_epochs": 200,
        "max_budget": 1000,
    }

    lr: float = pydantic.Field(0.01, gt=0, description="Peak learning rate.")
    batch_size: int = pydantic.Field(64, ge=2, description="Images per step.")
    normalization: Literal["none", "l2", "layer"] = pydantic.Field(
        "none",
        description="Normalisation of each image's features: l2 (to unit length) or layer (to mean "
        "0 and deviation 1).",
    )
    class_weights: Literal["none", "balanced"] = pydantic.Field(
        "none",
        description="Weights of the classes in the loss; balanced is inverse to their frequency.",
    )
    hidden: int = pydantic.Field(
        0, ge=0, description="Units of a hidden layer; 0 is a linear classifier."
    )


class FinetuneHyperparameters(Hyperparameters):
    """How a pretrained network is fine-tuned, whole or from a depth on.

    The defaults train the last two stages of a convolutional network, or the last two blocks of a
    transformer, with SGD, at a tenth of the classifier's learning rate.
    """

    run_defaults: ClassVar[Mapping[str, Any]] = {
        "space": "finetune",
        "validation": "holdout:0.2x3",
        "metric": "likelihood",
        "max_epochs": 30,
        "max_budget": 120,
    }

    lr: float = pydantic.Field(0.01, gt=0, description="Peak learning rate of the classifier.")
    weight_decay: float = pydantic.Field(
        5e-4,
        ge=0,
        description="Weight decay of what is trained; for sgd and adam an L2 penalty.",
    )
    train_from: int = pydantic.Field(
        -3,
        le=0,
        description="The first layer group that is trained, counted from the end: 0 for all, -1 "
        "for the classifier alone, -3 for the last two stages or blocks and the classifier.",
    )
    backbone_lr: float = pydantic.Field(
        0.1, ge=0, description="Learning rate of all but the classifier, as a factor on lr."
    )
    layer_decay: float = pydantic.Field(
        1.0,
        gt=0,
        le=1,
        description="Factor on the learning rate from each of timm's layers to the one before it.",
    )
    drop_path: float = pydantic.Field(
        0.0,
        ge=0,
        lt=1,
        description="Stochastic depth: probability of leaving out the last trained block, linearly "
        "less for those before it.",
    )
    batch_norm: Literal["keep", "update"] = pydantic.Field(
        "keep",
        description="Statistics of batch norms in what is trained: as they were pretrained, or "
        "updated.",
    )
    views: int = pydantic.Field(
        2,
        ge=1,
        description="Augmented views of each image, made once; the first is the image itself, so 1 "
        "means no augmentation.",
    )
