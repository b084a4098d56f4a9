"""Runs that differ in searching only: fixed hyperparameters, and searches that begin with them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alhpo.reports.findings import Findings
from alhpo.reports.part import Part, joined
from alhpo.runs.identity import REPETITION_KEYS, SEARCH_KEYS
from alhpo.runs.modes import recorded_mode
from alhpo.runs.settings import RunConfig

Row = dict[str, Any]
#: Axes that do not tell starts apart.
_APART = ("run.dataset", "run.model", "run.strategy", "run.seed")


def begun_with(config: RunConfig) -> str:
    """What runs have in common that differ in searching only."""
    apart = REPETITION_KEYS | SEARCH_KEYS | {"hpo", "validate_fixed"}
    settings: Mapping[str, Any] = config.model_dump(exclude=set(apart))
    return json.dumps(settings, sort_keys=True, default=str)


@dataclass
class Arm:
    """The repetitions of one way of searching.

    Attributes:
        strategy: as tables name it.
        start: the setting without what is about searching; "" if all are alike.
        mode: what is about searching.
        searches: whether it searches.
        seeds: by seed, the rows of ``Findings.curves`` of its finished runs, in order.
    """

    strategy: str
    start: str
    mode: str
    searches: bool
    seeds: dict[Any, list[Row]] = field(default_factory=dict)

    def mean_accuracy(self, seed: Any) -> float:
        """The mean accuracy over the cycles."""
        cycles = [row["accuracy"] for row in self.seeds[seed] if row["kind"] == "cycle"]
        return math.fsum(cycles) / len(cycles)

    def end(self, seed: Any) -> Row:
        """The last record: that of the model retrained after a final search, where there is one."""
        return self.seeds[seed][-1]


@dataclass(frozen=True)
class Start:
    """Runs of one strategy that begin with the same hyperparameters.

    Attributes:
        fixed: the one that keeps them.
        tuned: those that search.
    """

    fixed: Arm
    tuned: tuple[Arm, ...]


def starts(part: Part) -> list[Start]:
    """The strategies and starts that have both finished runs that search and such that do not."""
    found: dict[tuple[str, str], dict[str, Arm]] = {}
    search_axes = _search_axes(part.findings)
    axes = [name for name in part.curves.columns if name.startswith("run.")]
    rest = [name for name in axes if name not in search_axes and name not in _APART]
    for cell, rows in part.curves.groupby("cell", sort=True):
        config = part.findings.run_of(int(cell))
        if not part.findings.cells[int(cell)].cell.finished:
            continue
        records: list[Row] = rows.to_dict("records")
        first = records[0]
        mode = joined(str(first[name]) for name in search_axes) or config.hpo
        start = joined(str(first[name]) for name in rest)
        arms = found.setdefault((first["strategy"], begun_with(config)), {})
        arm = Arm(first["strategy"], start, mode, recorded_mode(config.hpo).searches_ever)
        arms.setdefault(mode, arm).seeds[first["seed"]] = records
    both = []
    for arms in found.values():
        fixed = [arm for arm in arms.values() if not arm.searches]
        tuned = tuple(arm for arm in arms.values() if arm.searches)
        if len(fixed) == 1 and tuned:
            both.append(Start(fixed[0], tuned))
    return both


def _search_axes(findings: Findings) -> list[str]:
    """Axes of the grid along which only what is about searching changes."""
    runs = [one.cell for one in findings.cells if one.cell.kind == "run"]
    values: dict[str, dict[str, set[str]]] = {}
    for cell in runs:
        assert isinstance(cell.config, RunConfig)
        here = values.setdefault(f"{cell.config.seed} {begun_with(cell.config)}", {})
        for axis, value in cell.coordinates.items():
            here.setdefault(f"run.{axis}", set()).add(value)
    varied = {
        axis for axes in values.values() for axis, several in axes.items() if len(several) > 1
    }
    return [
        name for name in dict.fromkeys(a for one in values.values() for a in one) if name in varied
    ]
