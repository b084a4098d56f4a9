"""Validated settings, with one sentence per illegal value: the value and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

import pydantic

from alhpo.base.errors import ConfigurationError

Model = TypeVar("Model", bound=pydantic.BaseModel)


class Settings(pydantic.BaseModel):
    """Base of every validated group of settings: frozen; unknown keys, NaN, and true or false for a
    number are errors."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        expected = {annotation, *get_args(annotation)} & {int, float, bool}
        if isinstance(value, bool) and expected and bool not in expected:
            raise ValueError("Input should be a number, not true or false")
        return value


def suggestion(name: str, legal: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` if one of ``legal`` is close to ``name``, else ``""``."""
    close = difflib.get_close_matches(name, list(legal), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def unknown_name(what: str, name: str, legal: Iterable[str]) -> ConfigurationError:
    """The error for a name that is not one of ``legal``."""
    names = sorted(legal)
    return ConfigurationError(
        f"Unknown {what} {name!r}.{suggestion(name, names)} Legal: {', '.join(names)}."
    )


def parse(model: type[Model], values: Mapping[str, Any], what: str) -> Model:
    """Build a settings object from a mapping.

    Args:
        model: the settings class.
        values: names and values. Strings such as ``"0.1"`` are converted to the expected type.
        what: the kind of value, for messages, such as ``"hyperparameter"``.

    Raises:
        ConfigurationError: an unknown name, or illegal values, of which all are listed.
    """
    for name in values:
        if not isinstance(name, str):
            raise unknown_name(what, str(name), model.model_fields)
    try:
        return model(**values)
    except pydantic.ValidationError as error:
        found = [_sentence(item, model, what) for item in error.errors()]
        raise ConfigurationError(" ".join(dict.fromkeys(found))) from None


def _sentence(item: Any, model: type[pydantic.BaseModel], what: str) -> str:
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return str(unknown_name(what, name, model.model_fields))
    message = item["msg"].removeprefix("Value error, ").rstrip(".")
    if not name:
        return f"{message}."
    if item["type"] == "missing":
        return f"{what.capitalize()} {name!r} is missing."
    return f"{what.capitalize()} {name!r} is {item['input']!r}: {message}."
