"""Flags of settings, and the values that flags and files give."""

from __future__ import annotations

import typing
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import click
import pydantic
from pydantic.fields import FieldInfo

from alhpo.base.errors import ConfigurationError

#: Recipes with a flag of their own.
SHORT = {
    "frozen": "Train a head on features of the pretrained model",
    "finetune": "Train the last layers of the pretrained model, or all",
}


def setting_options(
    schema: type[pydantic.BaseModel], several: Collection[str], without: Collection[str] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add ``--config``, ``--hp`` and one flag for every setting to a command.

    Args:
        schema: the class of the settings.
        several: names of settings that take several values.
        without: names of settings without a flag.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name, field in reversed(schema.model_fields.items()):
            if name == "hyperparameters" or name in without:
                continue
            text = field.description or ""
            flag = "--" + name.replace("_", "-")
            if _is_flag(field.annotation):
                flag += "/--no-" + name.replace("_", "-")
                kind: dict[str, Any] = {"default": None}
            elif name in several:
                text += " Several, separated by commas, make several runs."
                kind = {"metavar": "TEXT,..."}
            else:
                kind = {"type": _kind(field)}
            if not (field.default is None or field.is_required()):
                text += f"  [default: {field.default}]"
            command = click.option(flag, name, help=text, **kind)(command)
        if "recipe" in schema.model_fields:
            for recipe, text in reversed(SHORT.items()):
                help_text = f"{text}: --recipe {recipe}."
                command = click.option(f"--{recipe}", is_flag=True, help=help_text)(command)
        command = click.option(
            "--hp",
            "hyperparameters",
            multiple=True,
            metavar="NAME=VALUE",
            help="A fixed hyperparameter, such as --hp lr=0.01 --hp optimizer=adamw.",
        )(command)
        return click.option(
            "--config",
            "config_file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="YAML file of settings; flags replace its values.",
        )(command)

    return decorate


def given_settings(flags: dict[str, Any]) -> dict[str, Any]:
    """The settings that flags gave.

    Raises:
        ConfigurationError: more than one flag chooses the recipe.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    short = [recipe for recipe in SHORT if given.pop(recipe, False)]
    chosen = [f"--{recipe}" for recipe in short]
    if given.get("recipe") not in (None, *short[:1]):
        chosen.append(f"--recipe {given['recipe']}")
    if short and len(chosen) > 1:
        raise ConfigurationError(
            f"{' and '.join(chosen)} both choose the recipe. Give one of them."
        )
    return given | ({"recipe": short[0]} if short else {})


def _is_flag(annotation: Any) -> bool:
    return annotation is bool or bool in typing.get_args(annotation)


def _kind(field: FieldInfo) -> click.ParamType:
    """What click accepts as the value of a setting's flag."""
    annotation = field.annotation
    if typing.get_origin(annotation) is typing.Literal:
        return click.Choice(typing.get_args(annotation))
    kinds = {annotation, *typing.get_args(annotation)}
    if str in kinds:
        return click.STRING
    bounds: dict[str, Any] = {}
    for limit in field.metadata:  # of annotated_types, whose classes pydantic does not promise
        for name, bound in (("ge", "min"), ("gt", "min"), ("le", "max"), ("lt", "max")):
            if hasattr(limit, name):
                bounds |= {bound: getattr(limit, name), f"{bound}_open": name in ("gt", "lt")}
    if int in kinds:
        return click.IntRange(**bounds)
    return click.FloatRange(**bounds) if float in kinds else click.STRING


def with_hyperparameters(settings: dict[str, Any], assignments: tuple[str, ...]) -> dict[str, Any]:
    """The settings; hyperparameters given as flags replace theirs.

    Raises:
        ConfigurationError: hyperparameters in another form than names and values.
    """
    if not assignments:
        return settings
    fixed = settings.get("hyperparameters") or {}
    if not isinstance(fixed, dict):
        raise ConfigurationError(
            f"Setting 'hyperparameters' is {fixed!r}; expected names and values, such as lr: 0.01."
        )
    return settings | {"hyperparameters": fixed | dict(map(_assignment, assignments))}


def split_commas(text: str) -> list[str]:
    return text.split(",")


def listed(value: Any, split: Callable[[str], list[str]] = split_commas) -> list[Any]:
    """The values that a flag or a file gives for a setting."""
    values = split(value) if isinstance(value, str) else value
    return values if isinstance(values, list) else [values]


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigurationError(f"--hp is {text!r}; expected NAME=VALUE, such as lr=0.01.")
    return name.strip(), value.strip()
