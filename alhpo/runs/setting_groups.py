"""Groups of settings that runs and tunings share: data, model, search, compute.

The form of a value is checked first, without importing torch. Names of models, spaces and
validation schemes are looked up after that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Self

import pydantic
from pydantic import Field

from alhpo.base.errors import ConfigurationError
from alhpo.base.schema import Settings, parse
from alhpo.hyperparameters import (
    Hyperparameters,
    TrainingHyperparameters,
    check_warmup,
    load_space,
)


class DataSettings(Settings):
    """Which images, and how they are read."""

    dataset: str = Field(
        "digits",
        min_length=1,
        description="digits; a folder with class sub-folders (or train/val splits of them); a "
        "name of timm's factory: torch/cifar10, torch/svhn, hfds/USER/NAME, ...; or that of a "
        "data source of your own.",
    )
    data_dir: str | None = Field(None, description="Where data sets are kept or downloaded to.")
    train_split: str = Field("train", description="The split that is the pool.")
    val_split: str = Field("validation", description="The evaluation split, as timm resolves it.")
    download: bool = Field(True, description="Fetch a torchvision data set that is not there.")
    image_size: int | None = Field(
        None, ge=1, description="Side in pixels to decode to; by default the images' own."
    )
    pool_size: int | None = Field(
        None, ge=1, description="Keep a random subset of this many pool images."
    )
    eval_size: int | None = Field(
        None, ge=1, description="Evaluate on a random subset of this many images."
    )


class ModelSettings(Settings):
    """Which model, and what is done to its input."""

    model: str = Field("resnet18", description="Any timm model name.")
    pretrained: bool = Field(False, description="Start from timm's pretrained weights.")
    init: Literal["timm", "torch"] = Field(
        "timm",
        description="Random initial weights: timm's, made for the architecture, or PyTorch's "
        "defaults for every layer (Huseljic et al. 2023).",
    )
    cifar_stem: bool | None = Field(
        None, description="3x3 stride-1 stem, no max-pool; automatic below 64 pixels."
    )
    input_size: int | None = Field(
        None, ge=1, description="Pixels to resize to on the device; by default none."
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Dropout before the classifier, in training and in the passes that strategies "
        "such as bald look at.",
    )

    @pydantic.model_validator(mode="after")
    def _known_model(self) -> Self:
        from alhpo.models.timm_models import check_model_name

        with naming("model", self.model):
            check_model_name(self.model)
        return self


class SearchSettings(Settings):
    """How configurations are trained, judged and searched."""

    recipe: str = Field(
        "network",
        description="What is trained: network, all of the model (with a head that predicts losses "
        "where the strategy looks at them); learning-loss; or one that was registered.",
    )
    optimizer: str = Field("dyhpo", description="Optimizer of the search.")
    max_epochs: int = Field(27, ge=1, description="Epochs of a full training.")
    max_budget: int = Field(100, ge=1, description="Epochs that one search may spend.")
    min_gain: float | None = Field(
        None,
        gt=0,
        description="A search also stops when its optimizer expects less gain than this, in units "
        "of the metric (dyhpo).",
    )
    num_configurations: int = Field(
        1000, ge=1, description="Configurations that the optimizer chooses from."
    )
    parallel: int = Field(
        1,
        ge=1,
        description="Trials of a search that are trained at a time; more than 1 is another search.",
    )
    space: str = Field("paper", description="paper, hpo4dl, or a ConfigSpace .json/.yaml file.")
    hyperparameters: dict[str, Any] = Field(
        default_factory=dict, description="Fixed hyperparameters, such as lr and weight_decay."
    )
    validation: str = Field(
        "holdout:0.2",
        description="Which labels judge a configuration: random:F (a random share), holdout:F "
        "(stratified by class), either with xR for R repeats, or kfold:K; weighted: or "
        "acquisition: before one of them weighs its images against selection bias; or one that "
        "was registered.",
    )
    metric: Literal["accuracy", "likelihood"] = Field(
        "accuracy", description="What the search maximises on the validation images."
    )
    seed: int = Field(0, ge=0, description="Seed of every random stream.")

    @pydantic.field_validator("recipe")
    @classmethod
    def _known_recipe(cls, value: str) -> str:
        _hyperparameters_of(value)
        return value

    @pydantic.field_validator("hyperparameters")
    @classmethod
    def _typed(cls, value: dict[str, Any], info: pydantic.ValidationInfo) -> dict[str, Any]:
        if "recipe" not in info.data:  # refused
            return value
        legal = _hyperparameters_of(info.data["recipe"])
        return legal.create(value).model_dump(include=set(value))

    @pydantic.model_validator(mode="after")
    def _known_validation_and_space(self) -> Self:
        from alhpo.validation import get_validation

        with naming("validation", self.validation):
            get_validation(self.validation)
        with naming("space", self.space):
            load_space(self.space, self.hyperparameter_class)
        return self

    @classmethod
    def create(cls, *layers: Mapping[str, Any]) -> Self:
        """Settings from mappings, later ones over earlier ones, the defaults below all.

        Raises:
            ConfigurationError: unknown keys or illegal values, with the legal ones.
        """
        values: dict[str, Any] = {}
        for layer in layers:
            values |= dict(layer)
        return parse(cls, values, "setting")

    def check_search(self) -> None:
        """Refuse an optimizer that is not there, or a search that cannot do what is asked of it.

        Raises:
            ConfigurationError: an unknown optimizer, ``min_gain`` with one that does not tell,
                ``parallel`` with one that suggests one trial at a time, or a warm-up in the space
                that is longer than training.
        """
        from alhpo.tuning import get_optimizer_factory
        from alhpo.tuning.arguments import parallel, says

        legal = self.hyperparameter_class
        check_warmup(load_space(self.space, legal), self.hyperparameters, self.max_epochs, legal)
        factory = get_optimizer_factory(self.optimizer)
        parallel(self.parallel, factory, self.optimizer)
        if self.min_gain is not None and not says(factory, "tells_gain"):
            raise ConfigurationError(
                f"min_gain is {self.min_gain}, but optimizer {self.optimizer!r} does not tell "
                "what it expects to gain. Use optimizer dyhpo, or max_budget alone."
            )

    @property
    def hyperparameter_class(self) -> type[TrainingHyperparameters]:
        """The hyperparameters that its recipe has."""
        return _hyperparameters_of(self.recipe)

    @property
    def search_packages(self) -> tuple[str, ...]:
        """The packages whose versions decide what its searches suggest."""
        from alhpo.tuning import get_optimizer_factory
        from alhpo.tuning.arguments import packages

        return packages(get_optimizer_factory(self.optimizer))


class ComputeSettings(Settings):
    """Where the work is done, and where its checkpoints are meanwhile."""

    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto is bfloat16 on CUDA and float32 elsewhere."
    )
    storage_dir: str | None = Field(
        None, description="Folder for the checkpoints of searches; by default in the run folder."
    )


def _hyperparameters_of(recipe: str) -> type[TrainingHyperparameters]:
    if recipe == "network":  # known without importing torch
        return Hyperparameters
    from alhpo.training.recipes import RECIPES

    return RECIPES.get(recipe).hyperparameters


@contextmanager
def naming(name: str, value: Any) -> Iterator[None]:
    """Put a setting's name and value before the message of a ConfigurationError from the block."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"Setting {name!r} is {value!r}: {error}") from None
