"""The training hyperparameters: names, legal values, defaults; and the spaces searched."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pydantic
import yaml

from alhpo.schema import Settings, parse, unknown_name
from alhpo.types import ConfigurationError

if TYPE_CHECKING:
    # at run time where a space is at hand: settings are read and refused without ConfigSpace
    import ConfigSpace as CS

#: Configurations of a space that are checked as a whole.
SAMPLED_COMBINATIONS = 64

Augmentation = Literal["auto", "none", "crop", "flip", "crop-flip"]


class Hyperparameters(Settings):
    """How a model is trained. The defaults suit a few tens of epochs on a few hundred labels; the
    settings of Huseljic et al. (2023) for 200 epochs are lower in ``lr`` and warm up.

    Every field can be fixed for a run or be searched by putting a hyperparameter of the same name
    into the configuration space.
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

    @classmethod
    def create(cls, *layers: Mapping[str, Any]) -> Hyperparameters:
        """Hyperparameters from mappings, later ones over earlier ones, the defaults below all.

        Raises:
            ConfigurationError: an unknown name or an illegal value.
        """
        values: dict[str, Any] = {}
        for layer in layers:
            values |= dict(layer)
        return parse(cls, values, "hyperparameter")

    def check_epochs(self, max_epochs: int, where: str = "") -> None:
        """Refuse a warm-up that leaves no epoch for training.

        Args:
            max_epochs: the epoch at which training ends.
            where: the hyperparameters come from, for the message.

        Raises:
            ConfigurationError: ``warmup_epochs`` is not below ``max_epochs``.
        """
        if self.warmup_epochs >= max_epochs:
            raise ConfigurationError(
                f"warmup_epochs is {self.warmup_epochs}{where}, but training ends after "
                f"max_epochs={max_epochs}; it must be smaller."
            )


def paper_space() -> CS.ConfigurationSpace:
    """Learning rate and weight decay, log-uniform in [1e-5, 0.1] (Huseljic et al. 2023)."""
    import ConfigSpace as CS

    space = CS.ConfigurationSpace()
    for name in ("lr", "weight_decay"):
        _add(space, CS.Float(name, (1e-5, 1e-1), default=1e-3, log=True))
    return space


def hpo4dl_space() -> CS.ConfigurationSpace:
    """The space of HPO4DL's timm example: lr and weight decay log-uniform in [1e-5, 1], the
    optimizer, and the momentum in [0.1, 0.99] only for sgd."""
    import ConfigSpace as CS

    space = CS.ConfigurationSpace()
    for name in ("lr", "weight_decay"):
        _add(space, CS.Float(name, (1e-5, 1.0), default=1e-3, log=True))
    optimizer = CS.Categorical("optimizer", ["sgd", "adam"], default="sgd")
    momentum = CS.Float("momentum", (0.1, 0.99), default=0.9)
    _add(space, optimizer, momentum)
    condition = CS.EqualsCondition(momentum, optimizer, "sgd")
    if hasattr(space, "add_condition"):  # ConfigSpace < 1
        space.add_condition(condition)
    else:
        space.add(condition)  # pyright: ignore[reportAttributeAccessIssue]
    return space


SPACES = {"paper": paper_space, "hpo4dl": hpo4dl_space}


def load_space(space: str | Path | CS.ConfigurationSpace) -> CS.ConfigurationSpace:
    """A configuration space from its name, a file in ConfigSpace's JSON or YAML form, or itself.

    Args:
        space: one of ``SPACES``; a path that ends in .json, .yaml or .yml; or a space.

    Raises:
        ConfigurationError: an unknown name, an unreadable file, or a hyperparameter in the space
            that ``Hyperparameters`` does not have or whose bounds it does not allow.
    """
    import ConfigSpace as CS

    if isinstance(space, CS.ConfigurationSpace):
        loaded = space
    elif str(space) in SPACES:
        loaded = SPACES[str(space)]()
    elif Path(space).suffix in (".json", ".yaml", ".yml"):
        loaded = _read_space(Path(space))
    else:
        raise unknown_name("space", str(space), [*SPACES, "a .json or .yaml file of ConfigSpace"])
    check_space(loaded)
    return loaded


def check_space(space: CS.ConfigurationSpace, fixed: Mapping[str, Any] | None = None) -> None:
    """Refuse a space that holds a configuration which could not be trained.

    Args:
        space: every bound and choice is checked, and a sample of combinations.
        fixed: the hyperparameters outside the space.

    Raises:
        ConfigurationError: an unknown name, a number without bounds, or a bound, choice or
            combination that is not legal.
    """
    legal = Hyperparameters.model_fields
    if not len(list(space.values())):
        raise ConfigurationError(f"The space is empty. Legal hyperparameters: {', '.join(legal)}.")
    for hyperparameter in space.values():
        name = hyperparameter.name
        if name not in legal:
            raise unknown_name("hyperparameter in the space", name, legal)
        if not is_bounded(hyperparameter):
            raise ConfigurationError(
                f"Hyperparameter {name!r} in the space is a {type(hyperparameter).__name__} "
                "without bounds, so that it could take values that cannot be trained. Give it "
                "lower= and upper=."
            )
        for value in _extremes(hyperparameter):
            partner = {"optimizer": "sgd"} if name == "nesterov" else {}
            Hyperparameters.create(partner, {name: value})
    sampled = copy.deepcopy(space)
    sampled.seed(0)
    for configuration in sampled.sample_configuration(SAMPLED_COMBINATIONS):
        values = {name: plain(value) for name, value in dict(configuration).items()}
        Hyperparameters.create(fixed or {}, values)


def check_warmup(
    space: CS.ConfigurationSpace, fixed: Mapping[str, Any] | None, max_epochs: int
) -> None:
    """Refuse a space, or fixed hyperparameters, whose warm-up leaves no epoch for training.

    Args:
        space: the longest warm-up in it is looked at, whether a range, choices or a constant.
        fixed: the hyperparameters outside the space.
        max_epochs: the epoch at which training ends.

    Raises:
        ConfigurationError: a ``warmup_epochs`` that is not below ``max_epochs``.
    """
    Hyperparameters.create(fixed or {}).check_epochs(max_epochs)
    for hyperparameter in space.values():
        if hyperparameter.name == "warmup_epochs":
            longest = max(int(value) for value in _extremes(hyperparameter))
            longest_warmup = Hyperparameters.create({"warmup_epochs": longest})
            longest_warmup.check_epochs(max_epochs, " in the space")


def active_configuration(space: CS.ConfigurationSpace, values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a space that has these values, without those that are inactive.

    Raises:
        ConfigurationError: the space does not hold it.
    """
    from ConfigSpace.util import deactivate_inactive_hyperparameters

    known = {hp.name: values[hp.name] for hp in space.values() if hp.name in values}
    try:
        active = deactivate_inactive_hyperparameters(known, space)
    except Exception as error:
        raise ConfigurationError(f"The space does not hold {known}: {error}") from error
    return {name: plain(value) for name, value in dict(active).items()}


def is_bounded(hyperparameter: Any) -> bool:
    """Whether a hyperparameter of ConfigSpace has finitely many values or finite bounds."""
    if not hasattr(hyperparameter, "lower"):
        return True
    bounds = (hyperparameter.lower, hyperparameter.upper)
    return all(bound is not None and math.isfinite(bound) for bound in bounds)


def _extremes(hyperparameter: Any) -> list[Any]:
    for attribute in ("choices", "sequence"):
        if hasattr(hyperparameter, attribute):
            return [plain(value) for value in getattr(hyperparameter, attribute)]
    if hasattr(hyperparameter, "lower"):
        return [plain(hyperparameter.lower), plain(hyperparameter.upper)]
    return [plain(hyperparameter.default_value)]


def plain(value: Any) -> Any:
    """A NumPy scalar as the Python value it stands for; anything else as it is."""
    return value.item() if hasattr(value, "item") else value


def _add(space: CS.ConfigurationSpace, *hyperparameters: Any) -> None:
    if hasattr(space, "add_hyperparameters"):  # ConfigSpace < 1
        space.add_hyperparameters(list(hyperparameters))
    else:
        space.add(*hyperparameters)  # pyright: ignore[reportAttributeAccessIssue]


def _read_space(path: Path) -> CS.ConfigurationSpace:
    import ConfigSpace as CS

    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        decode = getattr(CS.ConfigurationSpace, "from_serialized_dict", None)
        if decode is not None:  # ConfigSpace >= 1
            return decode(content)
        from ConfigSpace.read_and_write import json as configspace_json

        return configspace_json.read(json.dumps(content))
    except Exception as error:
        raise ConfigurationError(
            f"{path} is not a configuration space in ConfigSpace's JSON or YAML form: {error!r}. "
            "Write one with ConfigSpace, or give one of "
            f"{', '.join(SPACES)}."
        ) from error
