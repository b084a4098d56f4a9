"""Reads recorded settings, also of other versions and of missing plug-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from alhpo.base.errors import ConfigurationError, DataError
from alhpo.base.schema import parse
from alhpo.runs.settings import RunConfig, TuneConfig

Config = TypeVar("Config", RunConfig, TuneConfig)

#: Settings without which a run or a tuning cannot be reported.
REQUIRED = {
    RunConfig: ("dataset", "model", "strategy", "hpo", "seed"),
    TuneConfig: ("dataset", "model", "pool", "labels", "seed"),
}


def read_settings(file: Path, schema: type[Config]) -> tuple[Config, dict[str, Any]]:
    """Read the settings in a ``config.yaml``.

    Values must have the right type and range. Names of strategies, models, optimizers and the like
    are not looked up, since their plug-in may not be installed. Missing settings are defaults.

    Returns:
        The known settings, and those that this version does not know.

    Raises:
        DataError: the file is not YAML, lacks a required setting, or has an illegal value.
        OSError: the file cannot be read.
    """
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise DataError(f"{file} is not YAML: {error}. Restore it from a copy.") from error
    values = values if isinstance(values, dict) else {}
    if missing := [name for name in REQUIRED[schema] if name not in values]:
        raise DataError(
            f"{file} lacks {', '.join(missing)}; expected the settings of a {_noun(schema)}, "
            f"with {', '.join(REQUIRED[schema])}. Restore it from a copy."
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
