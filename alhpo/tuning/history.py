"""The results of earlier searches, from which a new search starts."""

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

#: The rows of an earlier search, or the folder of its experiment.
EarlierResults = Sequence[Mapping[str, Any]] | str | os.PathLike[str]


@dataclass(frozen=True)
class EarlierSearch:
    """The results of one search.

    Attributes:
        rows: (configuration, epoch, metric) of every epoch with a finite metric, in order.
        age: how many searches ago it was: 1 for the latest; 0 for a search of this same task.
    """

    rows: tuple[tuple[Mapping[str, Any], int, float], ...]
    age: int

    def best(self) -> list[dict[str, Any]]:
        """The configurations, ordered by the best metric of each, highest first."""
        ranked: dict[str, tuple[float, dict[str, Any]]] = {}
        for configuration, _, metric in self.rows:
            key = repr(sorted(configuration.items()))
            if key not in ranked or metric > ranked[key][0]:
                ranked[key] = (metric, dict(configuration))
        order = sorted(ranked.values(), key=lambda pair: -pair[0])
        return [configuration for _, configuration in order]

    def maximised(self, *, minimize: bool) -> EarlierSearch:
        """The same search with metrics to maximise: negated if ``minimize``."""
        if not minimize:
            return self
        return EarlierSearch(tuple((c, epoch, -metric) for c, epoch, metric in self.rows), self.age)


def earlier_searches(
    results: Iterable[EarlierResults], same_task: EarlierResults | None = None
) -> list[EarlierSearch]:
    """Earlier searches, latest first.

    Args:
        results: one item per search, oldest first: its rows with ``configuration``, ``epoch`` and
            ``metric``, as in ``Tuner.results``, or the folder of its experiment.
        same_task: rows, or a folder, of trials of the task that is now searched.

    Raises:
        ConfigurationError: an item is neither rows nor the folder of an experiment.
    """
    if isinstance(results, str | os.PathLike | Mapping) or not isinstance(results, Iterable):
        raise ConfigurationError(
            f"Argument warm_start is {results!r}; expected a list of earlier searches, oldest "
            'first. Give [tuner.results] or ["path/to/experiment_..."].'
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

    Configurations observed on this same task (age 0) are known already and are left out. The order
    is that of ordered transfer (Hellan, Shen, Aubet, Salinas, Klein, arXiv 2306.16916).

    Args:
        searches: latest first.
        first: how many configurations of the latest search, 3 by default.
        then: how many of each search before it, 1 by default.
    """
    known = [one for search in searches if search.age == 0 for one in search.best()]
    chosen: list[dict[str, Any]] = []
    for search in searches:
        if search.age:
            fresh = [one for one in search.best() if one not in chosen and one not in known]
            chosen += fresh[: first if search.age == 1 else then]
    return chosen


def recorded_results(folder: Path) -> list[dict[str, Any]]:
    """The epochs of an experiment that have a finite metric.

    Returns:
        One dict per epoch: ``configuration``, ``epoch`` and ``metric``.

    Raises:
        ConfigurationError: the folder holds no experiment.
    """
    return [
        {"configuration": configuration, "epoch": epoch, "metric": metric}
        for configuration, epoch, metric in _recorded(folder)
    ]


def _rows(name: str, results: EarlierResults) -> tuple[tuple[dict[str, Any], int, float], ...]:
    if isinstance(results, str | os.PathLike):
        return _recorded(Path(results))
    if isinstance(results, Mapping) or not isinstance(results, Iterable):
        raise ConfigurationError(
            f"Argument {name} has {results!r} for a search; expected rows as in Tuner.results, or "
            "the folder of an experiment."
        )
    rows = []
    for row in results:
        try:
            entry = (dict(row["configuration"]), int(row["epoch"]), float(row["metric"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"Argument {name} has the row {row!r}; expected a mapping with 'configuration', "
                "'epoch' and 'metric', as in Tuner.results."
            ) from error
        rows.append((to_plain(entry[0]), *entry[1:]))
    return tuple(row for row in rows if row[1] >= 1 and math.isfinite(row[2]))


def _recorded(folder: Path) -> tuple[tuple[dict[str, Any], int, float], ...]:
    path = folder / "journal.jsonl"
    if not path.exists():
        raise ConfigurationError(
            f"Folder {str(folder)!r} holds no experiment: it has no {path.name}. Give a folder "
            "such as Tuner.experiment_path."
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
