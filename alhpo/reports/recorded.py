"""Settings as a folder recorded them, whichever version or plug-in made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from alhpo.base.errors import ConfigurationError, DataError
from alhpo.base.schema import parse
from alhpo.runs.settings import RunConfig, TuneConfig

Config = TypeVar("Config", RunConfig, TuneConfig)

#: Without these nothing can be said of a run or of a tuning.
REQUIRED = {
    RunConfig: ("dataset", "model", "strategy", "hpo", "seed"),
    TuneConfig: ("dataset", "model", "pool", "labels", "seed"),
}


def read_settings(file: Path, schema: type[Config]) -> tuple[Config, dict[str, Any]]:
    """The settings in a ``config.yaml``, and those that this version does not know.

    Values must be of the right type and range. Names of strategies, models, optimizers and the
    like are not looked up: what made the folder may not be installed. Settings that it does not
    have, because there were none of that name, have their defaults.

    Raises:
        DataError: a file that is not YAML, lacks what a run always has, or has another value than
            a setting can have.
        OSError: there is no such file.
    """
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise DataError(f"{file} is not YAML: {error}") from error
    values = values if isinstance(values, dict) else {}
    if missing := [name for name in REQUIRED[schema] if name not in values]:
        raise DataError(
            f"{file} lacks {', '.join(missing)}; the settings of a {_noun(schema)} are a mapping "
            f"that has {', '.join(REQUIRED[schema])}."
        )
    known = {name: value for name, value in values.items() if name in schema.model_fields}
    fields: dict[str, Any] = {
        name: (field.annotation, field) for name, field in schema.model_fields.items()
    }
    form = pydantic.create_model(schema.__name__, **fields)
    try:
        checked = parse(form, known, "setting")
    except ConfigurationError as error:
        raise DataError(f"{file}: {error}") from error
    others = {str(name): value for name, value in values.items() if name not in known}
    return schema.model_construct(**dict(checked)), others


def _noun(schema: type[Config]) -> str:
    return "run" if issubclass(schema, RunConfig) else "tuning"
