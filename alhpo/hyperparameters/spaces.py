"""Configuration spaces: by name, from a file, and the checks of them."""

from __future__ import annotations

import copy
import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from alhpo.base.errors import ConfigurationError
from alhpo.base.plain import to_plain
from alhpo.base.schema import unknown_name
from alhpo.hyperparameters.fields import Hyperparameters, TrainingHyperparameters

if TYPE_CHECKING:
    # imported late, so that settings can be read and refused without ConfigSpace
    import ConfigSpace as CS

#: Number of sampled configurations that are checked.
SAMPLED_COMBINATIONS = 64


def paper_space() -> CS.ConfigurationSpace:
    """Learning rate and weight decay, log-uniform in [1e-5, 0.1] (Huseljic et al. 2023)."""
    import ConfigSpace as CS

    space = CS.ConfigurationSpace()
    for name in ("lr", "weight_decay"):
        _add(space, CS.Float(name, (1e-5, 1e-1), default=1e-3, log=True))
    return space


def hpo4dl_space() -> CS.ConfigurationSpace:
    """The space of HPO4DL's timm example: lr and weight decay, log-uniform in [1e-5, 1]; the
    optimizer, sgd or adam; and for sgd the momentum, in [0.1, 0.99]."""
    import ConfigSpace as CS

    space = CS.ConfigurationSpace()
    for name in ("lr", "weight_decay"):
        _add(space, CS.Float(name, (1e-5, 1.0), default=1e-3, log=True))
    optimizer = CS.Categorical("optimizer", ["sgd", "adam"], default="sgd")
    momentum = CS.Float("momentum", (0.1, 0.99), default=0.9)
    _add(space, optimizer, momentum)
    _add_condition(space, CS.EqualsCondition(momentum, optimizer, "sgd"))
    return space


def head_space() -> CS.ConfigurationSpace:
    """For heads on frozen features: the learning rate, log-uniform in [1e-4, 10], and the weight
    decay, log-uniform in [1e-6, 0.1]."""
    import ConfigSpace as CS

    space = CS.ConfigurationSpace()
    _add(space, CS.Float("lr", (1e-4, 10.0), default=1e-2, log=True))
    _add(space, CS.Float("weight_decay", (1e-6, 1e-1), default=5e-4, log=True))
    return space


def finetune_space() -> CS.ConfigurationSpace:
    """For fine-tuning: the learning rate, log-uniform in [1e-3, 0.1]; the weight decay, log-uniform
    in [1e-6, 0.01]; how many layer groups are trained, 1 (the classifier alone) to 4; and, where it
    is more than the classifier, their learning rate as a factor on that of the classifier,
    log-uniform in [0.01, 1]."""
    import ConfigSpace as CS

    space = CS.ConfigurationSpace()
    _add(space, CS.Float("lr", (1e-3, 0.1), default=0.01, log=True))
    _add(space, CS.Float("weight_decay", (1e-6, 1e-2), default=5e-4, log=True))
    train_from = CS.Integer("train_from", (-4, -1), default=-3)
    backbone_lr = CS.Float("backbone_lr", (0.01, 1.0), default=0.1, log=True)
    _add(space, train_from, backbone_lr)
    _add_condition(space, CS.LessThanCondition(backbone_lr, train_from, -1))
    return space


def architecture_space(stacks: int = 5) -> CS.ConfigurationSpace:
    """For networks made of stacks of blocks: 1 to 12 blocks per stack, and 1 to ``stacks`` stacks
    (Geifman, El-Yaniv 2019)."""
    import ConfigSpace as CS

    space = CS.ConfigurationSpace()
    _add(space, CS.Integer("blocks", (1, 12), default=1))
    _add(space, CS.Integer("stacks", (1, stacks), default=1))
    return space


SPACES = {
    "paper": paper_space,
    "hpo4dl": hpo4dl_space,
    "head": head_space,
    "finetune": finetune_space,
    "architecture": architecture_space,
    **{f"architecture-{n}": functools.partial(architecture_space, n) for n in (2, 3, 4)},
}


def load_space(
    space: str | Path | CS.ConfigurationSpace,
    legal: type[TrainingHyperparameters] = Hyperparameters,
) -> CS.ConfigurationSpace:
    """A configuration space from a name, or from a file in ConfigSpace's JSON or YAML form.

    Args:
        space: one of ``SPACES``; a path that ends in .json, .yaml or .yml; or a space.
        legal: the hyperparameters of the recipe.

    Raises:
        ConfigurationError: the name is unknown, the file cannot be read, or the space has a
            hyperparameter that ``legal`` does not have, or bounds that it does not allow.
    """
    import ConfigSpace as CS

    if isinstance(space, CS.ConfigurationSpace):
        loaded = space
    elif str(space) in SPACES:
        _check_named(str(space), legal)
        return SPACES[str(space)]()
    elif Path(space).suffix in (".json", ".yaml", ".yml"):
        loaded = _read_space(Path(space))
    else:
        raise unknown_name("space", str(space), [*SPACES, "a .json or .yaml file of ConfigSpace"])
    check_space(loaded, legal=legal)
    return loaded


@functools.cache  # settings load their space several times each
def _check_named(name: str, legal: type[TrainingHyperparameters]) -> None:
    check_space(SPACES[name](), legal=legal)


def check_space(
    space: CS.ConfigurationSpace,
    fixed: Mapping[str, Any] | None = None,
    legal: type[TrainingHyperparameters] = Hyperparameters,
    check: Callable[[TrainingHyperparameters], object] = lambda hp: None,
) -> None:
    """Refuse a space with a configuration that cannot be trained.

    Args:
        space: the space. All bounds and choices and a sample of configurations are checked.
        fixed: the hyperparameters outside the space.
        legal: the hyperparameters of the recipe.
        check: refuses what they cannot be for certain images.

    Raises:
        ConfigurationError: an unknown name, a number without bounds, or an illegal bound, choice
            or configuration.
    """
    names = legal.model_fields
    if not len(list(space.values())):
        raise ConfigurationError(f"The space is empty. Legal hyperparameters: {', '.join(names)}.")
    for hyperparameter in space.values():
        name = hyperparameter.name
        if name not in names:
            raise unknown_name("hyperparameter in the space", name, names)
        if not is_bounded(hyperparameter):
            raise ConfigurationError(
                f"Hyperparameter {name!r} in the space is a {type(hyperparameter).__name__} "
                "without bounds, so some of its values cannot be trained. Give it lower= and "
                "upper=."
            )
        for value in _extremes(hyperparameter):
            partner = {"optimizer": "sgd"} if name == "nesterov" else {}
            check(legal.create(partner, {name: value}))
    sampled = copy.deepcopy(space)
    sampled.seed(0)
    for configuration in sampled.sample_configuration(SAMPLED_COMBINATIONS):
        values = {name: to_plain(value) for name, value in dict(configuration).items()}
        check(legal.create(fixed or {}, values))


def check_warmup(
    space: CS.ConfigurationSpace,
    fixed: Mapping[str, Any] | None,
    max_epochs: int,
    legal: type[TrainingHyperparameters] = Hyperparameters,
) -> None:
    """Refuse a warm-up, in a space or fixed, of ``max_epochs`` epochs or more.

    Args:
        space: the space, of which the longest warm-up is checked.
        fixed: the hyperparameters outside the space.
        max_epochs: the epoch at which training ends.
        legal: the hyperparameters of the recipe.

    Raises:
        ConfigurationError: a ``warmup_epochs`` that is not below ``max_epochs``.
    """
    legal.create(fixed or {}).check_epochs(max_epochs)
    for hyperparameter in space.values():
        if hyperparameter.name == "warmup_epochs":
            longest = max(int(value) for value in _extremes(hyperparameter))
            longest_warmup = legal.create({"warmup_epochs": longest})
            longest_warmup.check_epochs(max_epochs, " in the space")


def active_configuration(space: CS.ConfigurationSpace, values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a space with these values, without the inactive hyperparameters.

    Raises:
        ConfigurationError: it is not in the space.
    """
    from ConfigSpace.util import deactivate_inactive_hyperparameters

    known = {hp.name: values[hp.name] for hp in space.values() if hp.name in values}
    try:
        active = deactivate_inactive_hyperparameters(known, space)
    except Exception as error:
        raise ConfigurationError(f"The space does not hold {known!r}: {error}.") from error
    return {name: to_plain(value) for name, value in dict(active).items()}


def is_bounded(hyperparameter: Any) -> bool:
    """Whether a hyperparameter of ConfigSpace has finite bounds, or choices instead of bounds."""
    if not hasattr(hyperparameter, "lower"):
        return True
    bounds = (hyperparameter.lower, hyperparameter.upper)
    return all(bound is not None and math.isfinite(bound) for bound in bounds)


def _extremes(hyperparameter: Any) -> list[Any]:
    for attribute in ("choices", "sequence"):
        if hasattr(hyperparameter, attribute):
            return [to_plain(value) for value in getattr(hyperparameter, attribute)]
    if hasattr(hyperparameter, "lower"):
        return [to_plain(hyperparameter.lower), to_plain(hyperparameter.upper)]
    return [to_plain(hyperparameter.default_value)]


def _add(space: CS.ConfigurationSpace, *hyperparameters: Any) -> None:
    if hasattr(space, "add_hyperparameters"):  # ConfigSpace < 1
        space.add_hyperparameters(list(hyperparameters))
    else:
        space.add(*hyperparameters)  # pyright: ignore[reportAttributeAccessIssue]


def _add_condition(space: CS.ConfigurationSpace, condition: Any) -> None:
    if hasattr(space, "add_condition"):  # ConfigSpace < 1
        space.add_condition(condition)
    else:
        space.add(condition)  # pyright: ignore[reportAttributeAccessIssue]


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
            "Write the file with ConfigSpace, or give a name. Legal: "
            f"{', '.join(SPACES)}."
        ) from error
