"""The published tables of Huseljic et al. (2023), shipped with alhpo."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import pandas as pd
import yaml

from alhpo.base.schema import unknown_name

FOLDER = resources.files("alhpo.reports") / "published"


def published_names() -> list[str]:
    """Data sets with published tables: cifar10, cifar100."""
    return list(sources()["tables"])


def published_tables(which: str) -> pd.DataFrame:
    """All published numbers on a data set.

    Returns:
        One row per number: ``source`` ("paper" or "repository"), ``dataset``, ``labels``,
        ``strategy`` (alhpo's name), ``setting``, ``lr``, ``weight_decay``, ``column`` ("AL"
        or "BO"), ``mean`` and ``std`` (per cent), ``n`` (repetitions; NaN if not published).

    Raises:
        ConfigurationError: no published tables with this name.
    """
    if which not in published_names():
        raise unknown_name("published tables", which, published_names())
    frames = []
    for name in sources()["tables"][which]:
        with (FOLDER / f"{name}.csv").open(encoding="utf-8") as file:
            frames.append(pd.read_csv(file))
    return pd.concat(frames, ignore_index=True)


@cache
def sources() -> dict[str, Any]:
    """Sources of the published numbers, with remarks."""
    return yaml.safe_load((FOLDER / "sources.yaml").read_text(encoding="utf-8"))
