"""Reads YAML files of settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from alhpo.base.errors import ConfigurationError
from alhpo.runs.settings import RunConfig


def read_config_file(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file of settings.

    Raises:
        ConfigurationError: a file that cannot be read, is not YAML, or holds no mapping.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"Cannot read settings from {path}: {reason}.") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"{path} holds a {type(content).__name__}; expected lines of 'name: value'."
        )
    return content


def read_run_config(path: str | Path) -> RunConfig:
    """The settings in the ``config.yaml`` of a run.

    Raises:
        ConfigurationError: a file that cannot be read or was cut short, or illegal settings.
    """
    values = read_config_file(path)
    if "output_dir" not in values:  # the last one that a run writes
        raise ConfigurationError(
            f"{path} was cut short: it lacks output_dir, the last setting of a run. Restore the "
            "file from a copy."
        )
    try:
        return RunConfig.create(values)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error
