"""Accuracy over labels, and the area under that curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from alhpo.reports import statistics
from alhpo.reports.findings import ACTIVE, WITHIN
from alhpo.reports.formats import Table, Value, measured
from alhpo.reports.part import Part, Values, joined

MOST_SHOWN = 8  # numbers of labels


def learning_table(part: Part) -> Table | None:
    """A row per strategy and setting: accuracies at numbers of labels, all of them or a spread
    with the first and the last; those of models retrained after the last cycle; the area under
    the curve through the measured points, divided by its range of labels, over the seeds that have
    all of them."""
    cycles = part.curves[part.curves["kind"] == "cycle"]
    every = sorted(map(int, cycles["n_labeled"].unique()))
    finals = sorted(map(int, part.curves[part.curves["kind"] == "final"]["n_labeled"].unique()))
    if not every:
        return None
    shown = spread(every)
    places = [
        (strategy, setting)
        for strategy in part.shown("strategy")
        for setting in part.shown("setting")
        if any((strategy, setting, ACTIVE) == place[:3] for place in part.places)
    ]
    columns = [
        _column(part, places, kind, n)
        for kind, numbers in ((ACTIVE, shown), (WITHIN, finals))
        for n in numbers
    ]
    curves = [
        {n: part.values(strategy, (setting, ACTIVE), n, "accuracy") for n in every}
        for strategy, setting in places
    ]
    areas = _areas(curves)
    names = [f"{n:,} labels" for n in shown] + [f"{n:,}, retrained" for n in finals]
    note = "Means ± standard deviations over seeds; n where there are fewer than there will be."
    if all(value.n < 2 for column in columns for value in column):
        note = "One seed: no deviations."
    if any(value.n for value in areas):
        columns.append(areas)
        names.append("area")
        note += f" Area: {_over(places, curves)}"
    return Table(
        key=part.key("learning"),
        title=f"{part.title}: test accuracy (%) over labels",
        corner="strategy, setting",
        columns=tuple((name,) for name in names),
        rows=tuple(map(joined, places)),
        values=tuple(zip(*columns, strict=True)),
        note=note,
    )


def spread(labels: Sequence[int]) -> list[int]:
    """Numbers of labels for a table: all of them, or a spread with the first and the last."""
    most = min(len(labels), MOST_SHOWN)
    return [labels[i] for i in np.linspace(0, len(labels) - 1, most).round().astype(int)]


def _column(part: Part, places: Sequence[tuple[str, str]], kind: str, labels: int) -> list[Value]:
    column = []
    for strategy, setting in places:
        found = part.values(strategy, (setting, kind), labels, "accuracy")
        expected = part.repetitions(strategy, (setting, kind), labels)
        one = statistics.summary([100 * x for x in found.values()])
        column.append(measured(*one, expected=expected))
    return _ranked(column)


def _areas(curves: Sequence[Mapping[int, Values]]) -> list[Value]:
    """The area of each row, ranked where all are over the same numbers of labels."""
    areas = []
    for curve in curves:
        labels = _measured(curve)
        seeds = set.union(*(set(values) for values in curve.values()))
        whole = [s for s in seeds if all(s in curve[n] for n in labels)]
        found = [_area(labels, [100 * curve[n][seed] for n in labels]) for seed in sorted(whole)]
        areas.append(measured(*statistics.summary(found), expected=len(seeds)))
    return _ranked(areas) if len(set(map(_measured, curves))) == 1 else areas


def _measured(curve: Mapping[int, Values]) -> tuple[int, ...]:
    return tuple(n for n, values in curve.items() if values)


def _over(places: Sequence[tuple[str, str]], curves: Sequence[Mapping[int, Values]]) -> str:
    """What the areas are over, in words."""
    rows: dict[tuple[int, ...], list[str]] = {}
    for place, curve in zip(places, curves, strict=True):
        if labels := _measured(curve):
            rows.setdefault(labels, []).append(joined(place))
    under = "under the curve through the accuracies at"
    divided = "divided by its range of labels, of seeds with all of them"
    if len(rows) == 1:
        return f"{under} {_numbers(*rows)} labels, {divided}."
    each = "; ".join(f"{_numbers(labels)} ({', '.join(names)})" for labels, names in rows.items())
    return (
        f"{under} the numbers of labels that each row has, {divided}. They differ, and such areas "
        f"do not compare: {each}."
    )


def _numbers(labels: Sequence[int]) -> str:
    """A list; of many numbers, how many they are and the first and the last."""
    if len(labels) > MOST_SHOWN:
        return f"{len(labels)} numbers from {labels[0]:,} to {labels[-1]:,}"
    shown = [f"{n:,}" for n in labels]
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


def _area(labels: Sequence[int], values: Sequence[float]) -> float:
    if len(labels) < 2:
        return math.nan
    x, y = np.asarray(labels, float), np.asarray(values, float)
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) / (x[-1] - x[0]))


def _ranked(column: Sequence[Value]) -> list[Value]:
    ranks = statistics.ranks([value.value for value in column])
    return [replace(value, rank=rank) for value, rank in zip(column, ranks, strict=True)]
