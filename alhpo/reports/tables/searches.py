"""Tables of searches: validation against test, and the hyperparameters chosen."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from alhpo.reports import statistics
from alhpo.reports.findings import ACTIVE, WITHIN
from alhpo.reports.formats import Table, Value, measured
from alhpo.reports.part import Part, Row, joined

#: Fewest configurations for a rank correlation within one search.
FEWEST_TRIALS = 3

#: Validation values of a trial by name: the column, and −1 if less is better.
ESTIMATORS = {
    "accuracy": ("accuracy", 1),
    "likelihood": ("nll", -1),
    "accuracy, unweighted": ("accuracy_unweighted", 1),
    "likelihood, unweighted": ("nll_unweighted", -1),
}


def validation_table(part: Part) -> Table | None:
    """Spearman's rho between validation and test over the configurations of a search.

    The plain mean over the searches with at least ``FEWEST_TRIALS`` configurations measured on
    both: Fisher's z would be infinite at the ±1 that short searches have.
    """

    def agreement(judged: Sequence[float], test: Sequence[float]) -> float:
        return statistics.spearman(judged, test) if len(test) >= FEWEST_TRIALS else math.nan

    return _judged_table(
        part,
        agreement,
        what="validation",
        title="rank correlation of validation and test accuracy",
        note="Spearman's ρ over the fully trained configurations of a search, mean ± standard "
        f"deviation over the searches with {FEWEST_TRIALS} or more of them; diverged ones have no "
        "test value and are left out.",
    )


def regret_table(part: Part) -> Table | None:
    """The test accuracy lost by choosing with validation, in percentage points."""
    return _judged_table(
        part,
        lambda judged, test: 100 * statistics.selection_regret(judged, test),
        what="regret",
        title="accuracy lost by choosing with validation (percentage points)",
        note="The best test accuracy among the fully trained configurations of a search minus "
        "that of the one with the best validation, mean ± standard deviation over searches, of "
        "models trained on the splits.",
    )


def _judged_table(
    part: Part,
    measure: Callable[[Sequence[float], Sequence[float]], float],
    *,
    what: str,
    title: str,
    note: str,
) -> Table | None:
    trials = [r for r in part.rows(part.findings.trials) if math.isfinite(r["test_accuracy"])]
    if not trials:
        return None
    labels = sorted({row["n_labeled"] for row in trials})
    present = [s for s in part.strategies if any(row["strategy"] == s for row in trials)]
    groups = [*present, "all"] if len(present) > 1 else present
    schemes: dict[tuple[str, str], list[Row]] = {}
    for row in trials:
        schemes.setdefault((row["tuning"], row["validation_scheme"]), []).append(row)
    several = len({tuning for tuning, _ in schemes}) > 1
    rows: list[str] = []
    values: list[tuple[Value, ...]] = []
    for (tuning, scheme), same in schemes.items():
        name = scheme if not several else tuning if scheme in tuning else f"{tuning}, {scheme}"
        searches: dict[int, list[Row]] = {}
        for row in same:
            searches.setdefault(row["cell"], []).append(row)
        for estimator, (column, sign) in ESTIMATORS.items():
            if not any(math.isfinite(row[column]) for row in same):
                continue
            found = [
                (
                    search[0]["n_labeled"],
                    search[0]["strategy"],
                    measure(
                        [sign * row[column] for row in search],
                        [row["test_accuracy"] for row in search],
                    ),
                )
                for search in searches.values()
            ]
            rows.append(f"{name}: {estimator}")
            summaries = [
                statistics.summary([v for m, s, v in found if m == n and who in ("all", s)])
                for n in labels
                for who in groups
            ]
            values.append(tuple(measured(*one) for one in summaries))
    return Table(
        key=part.key(what),
        title=f"{part.title}: {title}",
        corner="validation",
        columns=tuple((f"{n:,} labels", who) for n in labels for who in groups),
        rows=tuple(rows),
        values=tuple(values),
        note=note,
    )


def found_table(part: Part, labels: int) -> Table | None:
    """The hyperparameters that searches chose, in cycles up to this number of labels and after
    active learning: the median of numbers and their range, the counts of others."""
    searches = [r for r in part.rows(part.findings.searches) if r["search"] == ACTIVE]
    searched_in = {row["cell"] for row in searches if row["n_labeled"] <= labels}
    cycles = [r for r in part.rows(part.findings.curves) if r["kind"] == "cycle"]
    finals = [r for r in part.rows(part.findings.curves) if r["kind"] == "final"]
    found = [*part.rows(part.findings.tuned), *(row | {"tuning": WITHIN} for row in finals)]
    found += [row | {"tuning": ACTIVE} for row in cycles if row["cell"] in searched_in]
    found = [row for row in found if row["n_labeled"] == labels]
    trials = [row["configuration"] for row in part.rows(part.findings.trials)]
    searched = _varying(trials) or _varying([row["configuration"] for row in found])
    if not found or not searched:
        return None
    rows, values, most = [], [], 0
    for strategy in part.strategies:
        for setting in part.findings.settings:
            for tuning in (ACTIVE, WITHIN, *part.findings.tunings):
                place = (strategy, setting, tuning)
                chosen = [
                    row["configuration"]
                    for row in found
                    if (row["strategy"], row["setting"], row["tuning"]) == place
                ]
                if chosen:
                    most = max(most, len(chosen))
                    rows.append(joined(place))
                    given = [[one[n] for one in chosen if n in one] for n in searched]
                    values.append(tuple(map(_spread, given)))
    return Table(
        key=part.key("found", labels),
        title=f"{part.title}: hyperparameters found with {labels:,} labels",
        corner="strategy, setting, search",
        columns=tuple((name,) for name in searched),
        rows=tuple(rows),
        values=tuple(values),
        note="One repetition."
        if most < 2
        else "Median over repetitions, with the least and the greatest.",
    )


def _varying(every: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names whose values differ among the configurations."""
    names = dict.fromkeys(name for one in every for name in one)
    return [name for name in names if len({str(one[name]) for one in every if name in one}) > 1]


def _spread(values: Sequence[Any]) -> Value:
    if not values:
        return Value()
    if any(isinstance(value, bool | str) for value in values):
        counts = Counter(map(str, values)).most_common()
        text = ", ".join(f"{name} ×{count}" if len(values) > 1 else name for name, count in counts)
        return Value(text, n=len(values))
    middle, low, high = float(np.median(values)), min(values), max(values)
    text = f"{middle:.3g}" + (f" ({low:.3g} to {high:.3g})" if low < high else "")
    std = statistics.summary(values).std
    return Value(text, middle, std, len(values))
