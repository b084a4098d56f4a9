"""What earlier searches found, for a search that starts from it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alhpo.base.errors import ConfigurationError
from alhpo.base.files import Journal
from alhpo.base.plain import to_plain
from alhpo.tuning.record import SearchJournal

#: A search's results, or the folder of its experiment.
Results = Sequence[Mapping[str, Any]] | str | os.PathLike[str]


@dataclass(frozen=True)
class EarlierSearch:
    """The results of one search.

    Attributes:
        rows: (configuration, epoch, metric) of every epoch with a finite metric, in order.
        age: how many searches ago it was, 1 for the latest; 0 for one on the very same task.
    """

    rows: tuple[tuple[Mapping[str, Any], int, float], ...]
    age: int

    def best(self) -> list[dict[str, Any]]:
        """The configurations, by the best metric each has reached, highest first."""
        ranked: dict[str, tuple[float, dict[str, Any]]] = {}
        for configuration, _, metric in self.rows:
            key = repr(sorted(configuration.items()))
            if key not in ranked or metric > ranked[key][0]:
                ranked[key] = (metric, dict(configuration))
        order = sorted(ranked.values(), key=lambda pair: -pair[0])
        return [configuration for _, configuration in order]

    def maximised(self, *, minimize: bool) -> EarlierSearch:
        """The same with negated metrics where they were to be minimised."""
        if not minimize:
            return self
        return EarlierSearch(tuple((c, epoch, -metric) for c, epoch, metric in self.rows), self.age)


def earlier_searches(
    results: Iterable[Results], same_task: Results | None = None
) -> list[EarlierSearch]:
    """Earlier searches, latest first.

    Args:
        results: of each, oldest first: rows with ``configuration``, ``epoch`` and ``metric`` such
            as ``Tuner.results`` gives, or the folder of an experiment.
        same_task: results on the very task that is to be searched.

    Raises:
        ConfigurationError: something that is neither.
    """
    if isinstance(results, str | os.PathLike | Mapping) or not isinstance(results, Iterable):
        raise ConfigurationError(
            f"warm_start is a list of results, oldest first, not {results!r}. Give "
            '[tuner.results] or ["path/to/experiment_..."].'
        )
    ordered = list(results)
    found = [
        EarlierSearch(_rows("warm_start", one), age)
        for age, one in enumerate(reversed(ordered), start=1)
    ]
    if same_task is not None:
        found.insert(0, EarlierSearch(_rows("observed", same_task), 0))
    return [one for one in found if one.rows]


def best_first(
    searches: Sequence[EarlierSearch], first: int = 3, then: int = 1
) -> list[dict[str, Any]]:
    """Configurations to try first: the best of the latest search, then of those before it.

    What was observed on the very task (age 0) is known already and not among them. Ordered transfer
    (Hellan, Shen, Aubet, Salinas, Klein, arXiv 2306.16916): what was best most recently
    comes first.

    Args:
        searches: latest first.
        first: how many of the latest.
        then: how many of each before it.
    """
    known = [one for search in searches if search.age == 0 for one in search.best()]
    chosen: list[dict[str, Any]] = []
    for search in searches:
        if search.age:
            fresh = [one for one in search.best() if one not in chosen and one not in known]
            chosen += fresh[: first if search.age == 1 else then]
    return chosen


def recorded_results(folder: Path) -> list[dict[str, Any]]:
    """``configuration``, ``epoch`` and ``metric`` of every epoch in an experiment's journal whose
    metric is finite.

    Raises:
        ConfigurationError: the folder holds no experiment.
    """
    return [
        {"configuration": configuration, "epoch": epoch, "metric": metric}
        for configuration, epoch, metric in _recorded(folder)
    ]


def _rows(name: str, results: Results) -> tuple[tuple[dict[str, Any], int, float], ...]:
    if isinstance(results, str | os.PathLike):
        return _recorded(Path(results))
    if isinstance(results, Mapping) or not isinstance(results, Iterable):
        raise ConfigurationError(
            f"{name} has {results!r} for a search; expected rows such as Tuner.results gives, or "
            "the folder of an experiment"
        )
    rows = []
    for row in results:
        try:
            entry = (dict(row["configuration"]), int(row["epoch"]), float(row["metric"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"a row of {name} is {row!r}; expected a mapping with 'configuration', "
                "'epoch' and 'metric', as in Tuner.results"
            ) from error
        rows.append((to_plain(entry[0]), *entry[1:]))
    return tuple(row for row in rows if row[1] >= 1 and math.isfinite(row[2]))


def _recorded(folder: Path) -> tuple[tuple[dict[str, Any], int, float], ...]:
    path = folder / "journal.jsonl"
    if not path.exists():
        raise ConfigurationError(
            f"{folder} holds no experiment to start from: there is no {path.name} in it. Give the "
            "folder that Tuner.experiment_path names."
        )
    rows = []
    for suggestion in SearchJournal(Journal(path)).read().suggestions:
        known = dict(zip(suggestion.configuration_ids, suggestion.configurations, strict=True))
        rows += [
            (known[one.configuration_id], one.epoch, one.metric)
            for one in suggestion.outcomes
            if one.metric is not None
        ]
    return tuple(rows)
