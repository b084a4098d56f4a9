"""Groups of settings that runs and tunings share: data, model, search, compute.

The form of a value is checked first, without importing torch. Names of models, spaces and
validation schemes are looked up after that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Self

import pydantic
from pydantic import Field

from alhpo.base.errors import ConfigurationError
from alhpo.base.metrics import Metric
from alhpo.base.schema import Settings, parse
from alhpo.hyperparameters import (
    ArchitectureHyperparameters,
    FinetuneHyperparameters,
    HeadHyperparameters,
    Hyperparameters,
    TrainingHyperparameters,
    active_configuration,
    check_warmup,
    load_space,
)
from alhpo.runs.modes import MODES, get_mode

if TYPE_CHECKING:
    from alhpo.base.protocols import HPOMode

#: The strategies that come with alhpo, for the help that is shown without importing them.
STRATEGIES = (
    *("albl", "alfamix", "autoal", "badge", "bait", "bald", "batchbald", "boss", "centroids"),
    *("coreset", "ddu", "dropquery", "entropy", "kmeans", "least-confidence", "lpl", "margin"),
    *("maxherding", "mc-dropout", "mean-std", "probcover", "random", "refine", "tcm", "typiclust"),
    *("uherding", "vaal", "variation-ratio", "votes", "albl:A,B,...", "autoal:A,B,..."),
    *("bait:FORM@LAMBDA", "boss:A,B,..."),
    *("maxherding:SIGMA", "power:SCORE@BETA", "probcover:RADIUS", "refine:A,B,..."),
    *("skactiveml:NAME", "softmax:SCORE@BETA", "softrank:SCORE@BETA", "tcm:K"),
    *("uherding:MEASURE@SIGMA", "votes:A,B,..."),
)


#: The hyperparameters of recipes, known without importing torch.
_KNOWN: dict[str, type[TrainingHyperparameters]] = {
    "network": Hyperparameters,
    "frozen": HeadHyperparameters,
    "finetune": FinetuneHyperparameters,
    "architecture": ArchitectureHyperparameters,
}


class DataSettings(Settings):
    """The data set and how it is read."""

    dataset: str = Field(
        "digits",
        min_length=1,
        description="digits; a folder with one sub-folder per class (or train and val splits of "
        "them); a table of image files and labels (.csv, .parquet); arrays of MedMNIST's form "
        "(.npz); a name of timm's factory: torch/cifar10, torch/svhn, hfds/USER/NAME, ...; "
        "medmnist/FLAG; tiny-imagenet; or a registered data source.",
    )
    data_dir: str | None = Field(
        None,
        description="Folder where data sets are stored and downloaded to; of a table, the folder "
        "of its images.",
    )
    train_split: str = Field(
        "train",
        description="Name of the split that is the pool; . if all sub-folders are classes.",
    )
    val_split: str = Field("validation", description="Name of the evaluation split.")
    download: bool = Field(
        True, description="Download a data set of torchvision or MedMNIST that is missing."
    )
    image_size: int | None = Field(
        None, ge=1, description="Side in pixels to which images are decoded; by default their own."
    )
    pool_size: int | None = Field(
        None, ge=1, description="Number of pool images, drawn at random; by default all."
    )
    eval_size: int | None = Field(
        None, ge=1, description="Number of evaluation images, drawn at random; by default all."
    )
    on_error: Literal["raise", "skip"] = Field(
        "raise",
        description="Image files that cannot be read, or have the same content and different "
        "labels: raise (name them all and stop) or skip (go on without them).",
    )
    verify: bool = Field(
        False, description="Read and decode all image files again, even those that seem unchanged."
    )


class ModelSettings(Settings):
    """The model and its input."""

    model: str = Field(
        "resnet18", description="Name of a timm model; by default stacked_resnet for architecture."
    )
    pretrained: bool = Field(
        False, description="Start from timm's pretrained weights, from the hub."
    )
    weights: str | None = Field(
        None,
        description="Start from the weights in a file (.safetensors, .pth, .pt, .bin: a state "
        "dict), or of an installed source by name: efficientnet-lite0, or a registered one.",
    )
    init: Literal["timm", "torch"] = Field(
        "timm",
        description="Random initial weights: timm (timm's own for the architecture) or torch "
        "(PyTorch's defaults for every layer, as in Huseljic et al. 2023).",
    )
    cifar_stem: bool | None = Field(
        None, description="3x3 stride-1 stem without max-pool; by default below 64 pixels."
    )
    input_size: int | None = Field(
        None,
        ge=1,
        description="Side in pixels to which the device resizes; by default no resizing.",
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Dropout probability before the classifier, in training and in the passes "
        "that strategies such as bald need.",
    )
    train_dropout: bool = Field(
        True, description="Drop features in training too; without it, in these passes only."
    )

    @pydantic.model_validator(mode="after")
    def _known_model(self) -> Self:
        from alhpo.models.timm_models import check_initial_weights, check_model_name
        from alhpo.models.weights import weights_identity

        with naming("model", self.model):
            check_model_name(self.model)
        check_initial_weights(self.pretrained, self.weights, self.init)
        if self.weights is not None:
            weights_identity(self.weights, self.model)  # reads and checks them
        return self


class SearchSettings(Settings):
    """Training, validation and search of configurations."""

    recipe: str = Field(
        "network",
        description="What is trained: network (the whole model), frozen (a head on features of the "
        "pretrained model), finetune (the pretrained model from a depth on), architecture (a "
        "residual network whose blocks and stacks are hyperparameters), learning-loss (with a head "
        "that predicts losses; network becomes it if the strategy needs them), or a registered "
        "recipe.",
    )
    optimizer: str = Field(
        "dyhpo",
        description="Optimizer of a search. inas grows an architecture from cycle to cycle.",
    )
    max_epochs: int = Field(
        27,
        ge=1,
        description="Epochs of a full training; by default 200 for frozen, 30 for finetune.",
    )
    max_budget: int = Field(
        100,
        ge=1,
        description="Budget of one search in epochs; by default 1000 for frozen, 120 for finetune.",
    )
    min_gain: float | None = Field(
        None,
        gt=0,
        description="Stop a search when its optimizer expects a smaller gain in the metric "
        "(dyhpo only).",
    )
    num_configurations: int = Field(
        1000, ge=1, description="Number of configurations that the optimizer chooses from."
    )
    parallel: int = Field(
        1,
        ge=1,
        description="Trials of a search that are trained at the same time; results depend on it.",
    )
    space: str = Field(
        "paper",
        description="paper, hpo4dl, head (for frozen by default), finetune (for finetune by "
        "default), architecture (for architecture by default; architecture-3 has at most 3 "
        "stacks), or a ConfigSpace .json/.yaml file.",
    )
    hyperparameters: dict[str, Any] = Field(
        default_factory=dict, description="Fixed hyperparameters, such as lr and weight_decay."
    )
    validation: str = Field(
        "holdout:0.2",
        description="Validation scheme: random:F (a random share of the labels), holdout:F "
        "(stratified by class), either with xR for R repeats, or kfold:K. The prefix weighted: or "
        "acquisition: weights the validation images against selection bias. Or a registered "
        "scheme. By default kfold:5 for frozen, holdout:0.2x3 for finetune.",
    )
    metric: Metric = Field(
        "accuracy",
        description="Validation metric that a search maximises; for frozen and finetune likelihood "
        "by default. In balanced-accuracy and macro-f1 all classes count equally.",
    )
    seed: int = Field(0, ge=0, description="Seed of every random stream.")

    @pydantic.model_validator(mode="before")
    @classmethod
    def _defaults_of_recipe(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not isinstance(values.get("recipe", ""), str):
            return values
        defaults = _hyperparameters_of(values.get("recipe", "network")).run_defaults
        return {n: v for n, v in defaults.items() if n in cls.model_fields} | dict(values)

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
        """Make settings from mappings. Later ones replace earlier ones; the rest are defaults.

        Raises:
            ConfigurationError: unknown keys or illegal values; the message lists the legal ones.
        """
        values: dict[str, Any] = {}
        for layer in layers:
            values |= dict(layer)
        return parse(cls, values, "setting")

    def check_search(self) -> None:
        """Check the settings of the search against its optimizer and space.

        Raises:
            ConfigurationError: an unknown optimizer, one that cannot search the space or cannot
                start from the fixed hyperparameters, ``min_gain`` for one that does not predict a
                gain, ``parallel`` for one that suggests one trial at a time, or a space with a
                warm-up longer than ``max_epochs``.
        """
        from alhpo.tuning import get_optimizer_factory
        from alhpo.tuning.arguments import file, has_trait, parallel, trait
        from alhpo.tuning.optuna_study import require_optuna

        legal = self.hyperparameter_class
        space = load_space(self.space, legal)
        check_warmup(space, self.hyperparameters, self.max_epochs, legal)
        if isinstance(self, ComputeSettings) and self.optuna_storage is not None:
            require_optuna()
            file("optuna_storage", self.optuna_storage)
        factory = get_optimizer_factory(self.optimizer)
        if check_space := trait(factory, "check_space"):
            check_space(space)
        if has_trait(factory, "starts_from_current"):
            active_configuration(space, legal.create(self.hyperparameters).model_dump())
        parallel(self.parallel, factory, self.optimizer)
        if self.min_gain is not None and not has_trait(factory, "tells_gain"):
            raise ConfigurationError(
                f"min_gain is {self.min_gain}, but optimizer {self.optimizer!r} does not predict "
                "its gain. Use optimizer dyhpo, or leave out min_gain."
            )

    def check_search_budget(self, budget: int) -> None:
        """Refuse a budget that is too small for the optimizer.

        Args:
            budget: epochs of the shortest search.

        Raises:
            ConfigurationError: it is below what one search of the optimizer takes.
        """
        from alhpo.tuning import get_optimizer_factory
        from alhpo.tuning.arguments import least_budget

        least = least_budget(get_optimizer_factory(self.optimizer), self.max_epochs)
        if budget < least:
            raise ConfigurationError(
                f"A search has a budget of {budget} epochs, but one of optimizer "
                f"{self.optimizer!r} takes up to {least} with max_epochs={self.max_epochs}. Raise "
                "max_budget (or total_budget)."
            )

    @property
    def hyperparameter_class(self) -> type[TrainingHyperparameters]:
        """The class of the recipe's hyperparameters."""
        return _hyperparameters_of(self.recipe)

    @property
    def starts_from_current(self) -> bool:
        """Whether searches begin at the current configuration and judge it beside others."""
        from alhpo.tuning import get_optimizer_factory
        from alhpo.tuning.arguments import has_trait

        return has_trait(get_optimizer_factory(self.optimizer), "starts_from_current")

    @property
    def search_packages(self) -> tuple[str, ...]:
        """Packages whose versions change what searches suggest."""
        from alhpo.tuning import get_optimizer_factory
        from alhpo.tuning.arguments import packages

        return packages(get_optimizer_factory(self.optimizer))


class ComputeSettings(Settings):
    """The device, the precision, and where searches are kept and shown."""

    device: str = Field("auto", description="Device: auto, cpu, cuda, cuda:1, ...")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Precision; auto is bfloat16 on CUDA and float32 elsewhere."
    )
    storage_dir: str | None = Field(
        None, description="Folder for checkpoints of searches; by default in the run folder."
    )
    optuna_storage: str | None = Field(
        None,
        description="File in which every search is also a study of Optuna, up to date after every "
        "epoch, for optuna-dashboard. Several runs may share it.",
    )


class CycleSettings(ComputeSettings, SearchSettings, ModelSettings):
    """What one cycle does: when it searches, what it trains, and how it chooses images."""

    strategy: str = Field(
        "badge",
        description=f"Query strategy: {', '.join(STRATEGIES)}; or a registered one.",
    )
    mc_passes: int = Field(
        100, ge=1, description="Number of passes with dropout, for strategies that need them."
    )
    vaal_epochs: int = Field(
        10,
        ge=1,
        description="Epochs for which vaal trains its networks at each query.",
    )
    autoal_fit_epochs: int | None = Field(
        None,
        ge=1,
        description="Epochs for which autoal trains, at each query, the network that it simulates "
        "labelling with (FitNet); by default max_epochs.",
    )
    autoal_search_epochs: int | None = Field(
        None,
        ge=1,
        description="Epochs for which autoal then trains the network that weighs strategies "
        "(SearchNet) and FitNet in turns; by default twice max_epochs.",
    )
    autoal_cycles: int = Field(
        1,
        ge=1,
        description="Number of times that autoal simulates labelling at each query, each on other "
        "halves of the labels.",
    )
    query_subset: int | None = Field(
        None,
        ge=1,
        description="Number of unlabelled images that the strategy chooses from, drawn at random "
        "for every query; by default all. The strategy random always chooses from all.",
    )
    initial: str = Field(
        "random",
        description="Strategy that chooses the initial labels: random, or one that looks at "
        "features only, such as typiclust, maxherding, centroids or coreset. The features are "
        "those of the pretrained network, else the pixels.",
    )
    hpo: str = Field(
        "fixed",
        description="HPO mode, when to search hyperparameters: "
        f"{', '.join([*MODES.registered(), *MODES.families()])}; or a registered one.",
    )
    measure_current: bool = Field(
        True,
        description="A search first trains the current configuration to the end, within its "
        "budget, and replaces it only by a better one. Needs max_budget above max_epochs. Not for "
        "inas, which judges it beside others.",
    )
    adopt: Literal["better", "sure"] = Field(
        "better",
        description="When a search replaces the current configuration, if that was measured: by a "
        "better one (better), or if the mean paired difference over the validation images also "
        "exceeds its standard error (sure).",
    )
    measure_test: bool = Field(
        False,
        description="Also measure the configurations that a search trains to the end on the "
        "evaluation split. The report tells what searches gained there; no choice depends on it.",
    )
    transfer: bool = Field(
        True,
        description="A search first tries the best configurations of earlier cycles, and its "
        "optimizer learns from their searches. Not for inas.",
    )
    validate_fixed: bool = Field(
        True,
        description="Also measure the validation accuracy in cycles without a search. This costs "
        "about one more training per cycle that is evaluated.",
    )

    @pydantic.field_validator("hpo")
    @classmethod
    def _known_mode(cls, value: str) -> str:
        get_mode(value)
        return value

    @pydantic.model_validator(mode="after")
    def _usable_in_a_cycle(self) -> Self:
        from alhpo.strategies import check_dropout, check_initial
        from alhpo.tuning import optimizer_names

        check_dropout(self.strategy, self.dropout)
        if self.adopt == "sure" and not self.measure_current:
            raise ConfigurationError(
                "adopt is 'sure', but with measure_current=False a search has nothing to compare "
                "with. Use adopt=better, or leave out measure_current."
            )
        with naming("initial", self.initial):
            check_initial(self.initial)
        if self.mode.searches_ever or self.optimizer not in optimizer_names():
            self.check_search()
        self.hyperparameter_class.create(self.hyperparameters).check_epochs(self.max_epochs)
        return self

    def check_search_budget(self, budget: int) -> None:
        """Refuse a budget that is too small for the optimizer or for ``adopt``.

        Args:
            budget: epochs of the shortest search, if there is one.

        Raises:
            ConfigurationError: it is below what one search of the optimizer takes, or ``adopt`` is
                "sure" where a search measures nothing to compare with.
        """
        if not self.mode.searches_ever:
            return
        super().check_search_budget(budget)
        if self.adopt == "sure" and self.starts_from_current:
            raise ConfigurationError(
                f"adopt is 'sure', but optimizer {self.optimizer!r} compares the current "
                "configuration with others itself. Use adopt=better."
            )
        if self.adopt == "sure" and budget <= self.max_epochs:
            raise ConfigurationError(
                f"adopt is 'sure', but a search of {budget} epochs cannot train the current "
                f"configuration to the end ({self.max_epochs} epochs) and search too, so it has "
                "nothing to compare with. Use adopt=better, or give searches more than max_epochs."
            )

    @property
    def mode(self) -> HPOMode:
        """The HPO mode."""
        return get_mode(self.hpo)

    @property
    def search_packages(self) -> tuple[str, ...]:
        """Packages whose versions change what searches suggest; empty without searches."""
        return super().search_packages if self.mode.searches_ever else ()

    @property
    def measures_test(self) -> bool:
        """Whether trials are measured on the evaluation split; only where something is searched."""
        return self.measure_test and self.mode.searches_ever


def _hyperparameters_of(recipe: str) -> type[TrainingHyperparameters]:
    if recipe in _KNOWN:
        return _KNOWN[recipe]
    from alhpo.training.recipes import RECIPES

    return RECIPES.get(recipe).hyperparameters


@contextmanager
def naming(name: str, value: Any) -> Iterator[None]:
    """Put a setting's name and value before the message of a ConfigurationError from the block."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"Setting {name!r} is {value!r}: {error}") from None
