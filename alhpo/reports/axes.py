"""The settings in which runs and tunings of a folder differ."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alhpo.runs.identity import REPETITION_KEYS, SEARCH_KEYS
from alhpo.runs.modes import recorded_mode
from alhpo.runs.settings import RunConfig, TuneConfig

#: Settings that name a tuning's pool, or have no effect on what is chosen or on a score.
APART = frozenset({"pool", "labels", "measure_test", "evaluate_at"})


@dataclass(frozen=True)
class Found:
    """A run or a tuning found in a folder.

    Attributes:
        name: its path below the folder.
        settings: settings without seed, paths and device; nested ones have dotted names.
        records: number of records of a run with an evaluation; 0 for a tuning.
    """

    name: str
    path: Path
    config: RunConfig | TuneConfig
    settings: Mapping[str, Any]
    records: int = 0

    @property
    def finished(self) -> bool:
        return (self.path / "run.json").exists()

    def has(self, name: str) -> bool:
        """Whether a setting means anything in it."""
        if name not in SEARCH_KEYS or not isinstance(self.config, RunConfig):
            return True
        return recorded_mode(self.config.hpo).searches_ever


def telling_settings(config: RunConfig | TuneConfig, others: Mapping[str, Any]) -> dict[str, Any]:
    """All settings in which repetitions of a run agree."""
    values = {**config.model_dump(), **others}
    return _flat({k: v for k, v in values.items() if k not in REPETITION_KEYS | APART})


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested settings by dotted names; 1.0 and 1 are the same setting."""
    if isinstance(value, Mapping) and (value or not name):
        inner = ((f"{name}.{key}" if name else str(key), item) for key, item in value.items())
        return {key: leaf for path, item in inner for key, leaf in _flat(item, path).items()}
    if isinstance(value, Mapping):
        return {}
    return {name: int(value) if isinstance(value, float) and value.is_integer() else value}


def varying(groups: Iterable[Sequence[Found]]) -> list[str]:
    """Settings that differ within any of the groups: ``hpo`` first, then as in the schema."""
    names = {
        name
        for group in groups
        for name in {name for one in group for name in one.settings}
        if len({shown_value(one, name) for one in group if one.has(name)}) > 1
    }
    known = ["hpo", *RunConfig.model_fields]
    place = {name: known.index(name) for name in reversed(known)}
    return sorted(names, key=lambda name: (place.get(name.split(".")[0], len(known)), name))


def shown_value(one: Found, name: str) -> str:
    """The value of a setting as tables show it."""
    value = one.settings.get(name)
    return f"{axis_name(name)} unset" if value is None else str(value)


def axis_name(name: str) -> str:
    """Name of an axis: the last part of the setting's name, unless another setting has it."""
    last = name.rpartition(".")[2]
    return name if last in RunConfig.model_fields else last


def by_size(value: Any) -> list[tuple[int, float, str]]:
    """A sort key that orders numbers by size, also within text."""
    if isinstance(value, int | float):
        return [(0, float(value), "")]
    parts = re.split(r"(\d+)", "" if value is None else str(value))
    return [(1, 0, ""), *((0, int(t), "") if t.isdecimal() else (1, 0, t) for t in parts)]
