"""The settings of a run and of the tuning of a labelled pool: one schema for Python, YAML files and
command-line flags.

What a value must look like is checked first, and without torch; whether there is a model, space or
strategy of that name is looked up when everything else is in order.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import pydantic
import yaml
from pydantic import Field

from alhpo.base.errors import ConfigurationError
from alhpo.base.files import content_hash, sha256
from alhpo.base.schema import Settings, parse
from alhpo.hyperparameters import (
    SPACES,
    Hyperparameters,
    TrainingHyperparameters,
    check_warmup,
    load_space,
)
from alhpo.runs.identity import INCIDENTAL_KEYS, SEARCH_KEYS
from alhpo.runs.modes import MODES, get_mode

if TYPE_CHECKING:
    from alhpo.base.protocols import HPOMode

#: The strategies that come with alhpo, for the help that is shown without importing them.
STRATEGIES = (
    *("albl", "badge", "bald", "batchbald", "coreset", "ddu", "entropy", "kmeans"),
    *("least-confidence", "lpl", "margin", "mc-dropout", "mean-std", "probcover", "random"),
    *("typiclust", "vaal", "variation-ratio", "albl:A,B,...", "power:SCORE@BETA"),
    *("probcover:RADIUS", "skactiveml:NAME", "softmax:SCORE@BETA", "softrank:SCORE@BETA"),
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

        with _setting("model", self.model):
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

        with _setting("validation", self.validation):
            get_validation(self.validation)
        with _setting("space", self.space):
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


class RunConfig(ComputeSettings, SearchSettings, ModelSettings, DataSettings):
    """Everything that defines an active-learning run."""

    strategy: str = Field(
        "badge",
        description=f"Query strategy: {', '.join(STRATEGIES)}; or one that was registered.",
    )
    mc_passes: int = Field(
        100, ge=1, description="Passes with dropout, for strategies that look at them."
    )
    vaal_epochs: int = Field(
        10,
        ge=1,
        description="Passes over the candidates in which vaal trains its networks at each query.",
    )
    query_subset: int | None = Field(
        None,
        ge=1,
        description="The strategy chooses from a random subset of this many images; the strategy "
        "random from all.",
    )
    initial_size: int = Field(100, ge=2, description="Random initial labels.")
    acquisition_size: int = Field(100, ge=1, description="Labels acquired per cycle.")
    budget: int = Field(500, ge=2, description="Labels at the end, the initial ones included.")

    hpo: str = Field(
        "fixed",
        description="When to search hyperparameters: "
        f"{', '.join([*MODES.registered(), *MODES.families()])}; or one that was registered.",
    )
    measure_current: bool = Field(
        True,
        description="A search first trains the current configuration to the end, within its "
        "budget, and replaces it only by a better one (where max_budget exceeds max_epochs).",
    )
    transfer: bool = Field(
        True,
        description="A search tries first what was best in the searches of the cycles before it, "
        "and its optimizer learns from them.",
    )
    validate_fixed: bool = Field(
        True,
        description="Measure the validation accuracy of fixed hyperparameters too (costs about "
        "one training more per cycle).",
    )
    start: Literal["cold", "warm"] = Field(
        "cold", description="Start trainings from the same initial weights or the latest fit."
    )
    output_dir: str = Field("runs", description="Folder in which every run has its own.")

    @pydantic.field_validator("hpo")
    @classmethod
    def _known_mode(cls, value: str) -> str:
        get_mode(value)
        return value

    @pydantic.model_validator(mode="after")
    def _usable(self) -> RunConfig:
        from alhpo.strategies import check_dropout
        from alhpo.tuning import optimizer_names

        check_dropout(self.strategy, self.dropout)
        if self.mode.searches_ever or self.optimizer not in optimizer_names():
            self.check_search()
        self.hyperparameter_class.create(self.hyperparameters).check_epochs(self.max_epochs)
        if self.budget < self.initial_size:
            raise ConfigurationError(
                f"budget is {self.budget} labels, below initial_size={self.initial_size}; it "
                "counts the initial labels too."
            )
        with _setting("hpo", self.hpo):
            in_the_last = len(self.sizes) - 1 in self.search_cycles  # refuses what does not fit
            if in_the_last and self.mode.final_search:
                raise ConfigurationError(
                    "the mode searches in the last cycle and again after it, on the same labels. "
                    "It must leave out one of the two."
                )
        return self

    @property
    def mode(self) -> HPOMode:
        """When it searches."""
        return get_mode(self.hpo)

    @property
    def search_packages(self) -> tuple[str, ...]:
        """The packages whose versions decide what its searches suggest; none where it has none."""
        return super().search_packages if self.mode.searches_ever else ()

    @property
    def sizes(self) -> list[int]:
        """The number of labels in each cycle."""
        return [*range(self.initial_size, self.budget, self.acquisition_size), self.budget]

    @property
    def search_cycles(self) -> Collection[int]:
        """The cycles that may search (the final search apart)."""
        return self.mode.cycles(self.sizes)

    @property
    def measures_once(self) -> bool:
        """Whether the final search finds its first part done: the last cycle measured the same
        configuration on the same labels, from the same weights."""
        measured = self.validate_fixed and self.measure_current and self.start == "cold"
        return self.mode.final_search and measured and self.max_budget > self.max_epochs

    @property
    def name(self) -> str:
        """Name of the run's folder: what it is, and the hash of what defines it."""
        from alhpo.strategies import get_strategy, strategy_needs

        values = self.model_dump(exclude=set(INCIDENTAL_KEYS)) | _space_content(
            self.space, self.hyperparameter_class
        )
        if not self.mode.searches_ever:
            values = {key: value for key, value in values.items() if key not in SEARCH_KEYS}
        if not self.dropout:  # runs keep the names they had before there were these settings
            del values["dropout"]
        if self.init == "timm":
            del values["init"]
        if self.parallel == 1:
            values.pop("parallel", None)
        if self.recipe == "network":
            del values["recipe"]
        needs = strategy_needs(get_strategy(self.strategy))
        if not needs:
            del values["query_subset"]
        if "passes" not in needs:
            del values["mc_passes"]
        if "labeled_scores" not in needs:
            del values["vaal_epochs"]
        data = Path(self.dataset).name
        strategy = re.sub(r"[^\w.+-]+", "-", self.strategy)[:40].rstrip("-.")
        mode = re.sub(r"[^\w.+-]+", "-", self.hpo)
        return f"{data}-{strategy}-{mode}-seed{self.seed}-{content_hash(values, 8)}"


class TuneConfig(ComputeSettings, SearchSettings, ModelSettings, DataSettings):
    """Everything that defines the tuning of hyperparameters on a labelled pool."""

    pool: str = Field(
        description="A run's folder, or a queried_indices.json as dal-toolbox writes it."
    )
    labels: int = Field(ge=2, description="Use the first N labels of the pool.")
    measure_test: bool = Field(
        True,
        description="Measure every fully trained configuration on the evaluation split too, for "
        "the report's rank correlation of validation and test; no choice depends on it.",
    )
    output_dir: str | None = Field(
        None,
        description="Folder in which every tuning has its own; by default tune/ beside the labels.",
    )

    @pydantic.model_validator(mode="after")
    def _usable(self) -> TuneConfig:
        self.check_search()
        self.hyperparameter_class.create(self.hyperparameters).check_epochs(self.max_epochs)
        if self.max_budget <= self.max_epochs:
            raise ConfigurationError(
                f"max_budget is {self.max_budget} epochs, of which the pool's own hyperparameters "
                f"take max_epochs={self.max_epochs}, so that nothing is left to search with. Raise "
                "max_budget."
            )
        return self

    @classmethod
    def of_run(cls, run: RunConfig, folder: str | Path, **settings: Any) -> TuneConfig:
        """The tuning of the pool that a run leaves in ``folder``: on its data, and with its
        settings wherever ``settings`` says nothing else."""
        shared = set(cls.model_fields) & set(RunConfig.model_fields) - {"output_dir"}
        return cls.create(run.model_dump(include=shared), {"pool": str(folder)}, settings)

    @property
    def path(self) -> Path:
        """The folder of the result."""
        pool = Path(self.pool).expanduser()
        beside = pool.parent if pool.suffix == ".json" else pool
        output = beside / "tune" if self.output_dir is None else Path(self.output_dir).expanduser()
        return output / self.name

    @property
    def name(self) -> str:
        """Name of the result's folder: what it is, and the hash of what defines it. A run counts
        with the name of its folder only, where the result lies in it, so that it can be moved."""
        values = self.model_dump(exclude=set(INCIDENTAL_KEYS))
        values |= _space_content(self.space, self.hyperparameter_class)
        if self.init == "timm":
            del values["init"]
        if self.parallel == 1:
            del values["parallel"]
        if self.recipe == "network":
            del values["recipe"]
        pool = Path(self.pool).expanduser()
        values["pool"] = pool.name
        if pool.is_file():
            values["pool"] = sha256(pool.read_bytes())
        elif self.output_dir is not None:  # not beside the pool, so that its name does not tell it
            values["pool"] = str(pool.resolve())
        what = f"{self.labels}labels-{self.model}-{self.optimizer}-seed{self.seed}"
        return f"{re.sub(r'[^A-Za-z0-9_.+-]+', '-', what)}-{content_hash(values, 8)}"


def _hyperparameters_of(recipe: str) -> type[TrainingHyperparameters]:
    if recipe == "network":  # known without importing torch
        return Hyperparameters
    from alhpo.training.recipes import RECIPES

    return RECIPES.get(recipe).hyperparameters


@contextmanager
def _setting(name: str, value: Any) -> Iterator[None]:
    """Errors raised within name the setting and its value."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"Setting {name!r} is {value!r}: {error}") from None


def _space_content(space: str, legal: type[TrainingHyperparameters]) -> dict[str, Any]:
    """A space from a file defines a run by what it holds, not by where it lies."""
    if space in SPACES:
        return {}
    from alhpo.hyperparameters.description import space_identity

    return {"space": space_identity(load_space(space, legal))}


def read_config_file(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file of settings.

    Raises:
        ConfigurationError: not readable, not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"Cannot read settings from {path}: {reason}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"{path} holds a {type(content).__name__}; settings are lines of 'name: value'."
        )
    return content


def read_run_config(path: str | Path) -> RunConfig:
    """The settings in the ``config.yaml`` of a run.

    Raises:
        ConfigurationError: not readable, cut short, or with settings that cannot be used.
    """
    values = read_config_file(path)
    if "output_dir" not in values:  # the last one that a run writes
        raise ConfigurationError(
            f"{path} lacks output_dir, the last setting of a run: it was cut short. Restore it "
            "from a copy."
        )
    try:
        return RunConfig.create(values)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error
