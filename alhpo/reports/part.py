"""The findings on one data set with one model, and their names."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from alhpo.reports.findings import ACTIVE, WITHIN, Findings

#: A pandas frame; its stubs do not know that rows of a frame are one.
Frame = Any
Row = dict[str, Any]
#: A score by repetition.
Values = dict[str, float]


@dataclass(frozen=True)
class Part:
    """The findings on one data set with one model."""

    findings: Findings
    dataset: str
    model: str

    @property
    def title(self) -> str:
        return f"{self.dataset}, {self.model}"

    @cached_property
    def named(self) -> bool:
        """Whether the report has several parts."""
        return len(parts(self.findings)) > 1

    def key(self, what: str, labels: int | None = None) -> str:
        """Key of a table or figure of the part: letters, digits, hyphens."""
        names = [what, self.dataset, self.model, "" if labels is None else str(labels)]
        return "-".join(re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") for name in names if name)

    def frame(self, frame: Frame) -> Frame:
        """The rows of a frame of the findings that belong to it."""
        return frame[(frame["dataset"] == self.dataset) & (frame["model"] == self.model)]

    def rows(self, frame: Frame) -> list[Row]:
        """The rows of ``frame`` as a list."""
        return self.frame(frame).to_dict("records")

    @cached_property
    def curves(self) -> Frame:
        return self.frame(self.findings.curves)

    @cached_property
    def tuned(self) -> Frame:
        return self.frame(self.findings.tuned)

    @cached_property
    def trials(self) -> Frame:
        return self.frame(self.findings.trials)

    @cached_property
    def seeds(self) -> Counter[tuple[str, str]]:
        """Number of seeds of each strategy and setting when all is finished."""
        places = {(r["strategy"], r["setting"], r["seed"]) for r in self.expected}
        return Counter((strategy, setting) for strategy, setting, _ in places)

    def shown(self, axis: Literal["strategy", "setting"]) -> list[str]:
        """The strategies or settings that have results, in order."""
        names = self.findings.strategies if axis == "strategy" else self.findings.settings
        here = {*self.curves[axis], *self.tuned[axis]}
        return [name for name in names if name in here]

    @cached_property
    def outcomes(self) -> list[Row]:
        return self.rows(self.findings.outcomes)

    @cached_property
    def expected(self) -> list[Row]:
        return self.rows(self.findings.expected)

    @cached_property
    def _by_place(self) -> dict[tuple[str, str, str, int], list[Row]]:
        found: dict[tuple[str, str, str, int], list[Row]] = {}
        for row in self.outcomes:
            place = (row["strategy"], row["setting"], row["column"], row["n_labeled"])
            found.setdefault(place, []).append(row)
        return found

    @property
    def places(self) -> list[tuple[str, str, str, int]]:
        """Strategies, settings, kinds of results and numbers of labels that have results."""
        return list(self._by_place)

    @cached_property
    def strategies(self) -> list[str]:
        here = {row["strategy"] for row in self.expected}
        return [name for name in self.findings.strategies if name in here]

    @cached_property
    def baseline(self) -> str | None:
        """The name of random sampling, if exactly one strategy is it; else None."""
        names = {
            row["strategy"]
            for row in self.expected
            if self.findings.run_of(row["cell"]).strategy == "random"
        }
        return names.pop() if len(names) == 1 else None

    @cached_property
    def labels(self) -> list[int]:
        """Numbers of labels with tables: those of tunings and the last of the runs. Without
        tunings, the middle and the last; if no run is that far, the latest so far."""
        runs = [self.findings.run_of(cell) for cell in {row["cell"] for row in self.expected}]
        wanted = {run.evaluated_sizes[-1] for run in runs}
        within_runs = (ACTIVE, WITHIN)
        if tuned := {r["n_labeled"] for r in self.expected if r["column"] not in within_runs}:
            wanted |= tuned
        else:
            wanted |= {sizes[(len(sizes) - 1) // 2] for sizes in (r.evaluated_sizes for r in runs)}
        there = {row["n_labeled"] for row in self.outcomes}
        return sorted(wanted & there) or sorted(there)[-1:]

    def columns(self, labels: int) -> list[tuple[str, str]]:
        """Settings and kinds of results at a number of labels when all is finished."""
        kinds = [ACTIVE, WITHIN, *self.findings.tunings]
        due = [row for row in self.expected if self._is_due(row, labels)]
        found = {(row["setting"], row["column"]) for row in due}
        every = [(setting, kind) for setting in self.findings.settings for kind in kinds]
        return [column for column in every if column in found]

    def values(
        self, strategy: str, column: tuple[str, str], labels: int, score: str
    ) -> dict[str, float]:
        """A score by the seed of the run.

        Several tunings of one run, which are not independent repetitions, are averaged. The ECE of
        diverged training, which counts as the uniform prediction, is left out.
        """
        found: dict[str, list[float]] = {}
        for row in self._by_place.get((strategy, *column, labels), []):
            if math.isfinite(row[score]) and not (score == "ece" and row["diverged"]):
                found.setdefault(str(row["seed"]), []).append(row[score])
        return {seed: sum(several) / len(several) for seed, several in found.items()}

    def diverged(self, labels: int) -> int:
        """Number of results of diverged training at a number of labels."""
        return sum(row["diverged"] for row in self.outcomes if row["n_labeled"] == labels)

    def repetitions(self, strategy: str, column: tuple[str, str], labels: int) -> int:
        """Number of values when all is finished."""
        place = (strategy, *column)
        seeds = {
            row["seed"]
            for row in self.expected
            if (row["strategy"], row["setting"], row["column"]) == place
            and self._is_due(row, labels)
        }
        return len(seeds)

    def _is_due(self, expected: Row, labels: int) -> bool:
        """Whether a cell will have a result at a number of labels; a run has lower ones too."""
        if expected["column"] != ACTIVE:
            return expected["n_labeled"] == labels
        return labels in self.findings.run_of(expected["cell"]).evaluated_sizes


def parts(findings: Findings) -> list[Part]:
    """The data sets and models, in order."""
    pairs = zip(findings.expected["dataset"], findings.expected["model"], strict=True)
    return [Part(findings, *pair) for pair in dict.fromkeys(pairs)]


def gains(searches: Frame) -> Frame:
    """``findings.searches`` with ``gain`` and ``gain_test``: the adopted configuration's metric
    minus the current one's, in percentage points."""
    return searches.assign(
        gain=100 * (searches["adopted"] - searches["current"]),
        gain_test=100 * (searches["adopted_test"] - searches["current_test"]),
    )


def joined(names: Iterable[str]) -> str:
    """Names joined by commas, without empty ones."""
    return ", ".join(filter(None, names))
