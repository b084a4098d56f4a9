"""Test scores of the strategies, ranked, and tested against each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from alhpo.reports import statistics
from alhpo.reports.formats import Table, Value, measured
from alhpo.reports.part import Part, Values

#: Significance level below which a difference is marked.
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Score:
    """How a test score is shown: title, factor, digits, and whether the highest is best."""

    title: str
    factor: float
    digits: int
    highest: bool


SCORES = {
    "accuracy": Score("test accuracy (%)", 100, 2, True),
    "balanced_accuracy": Score("balanced test accuracy (%)", 100, 2, True),
    "macro_f1": Score("test macro-F1 (%)", 100, 2, True),
    "ece": Score("expected calibration error (%)", 100, 2, False),
    "brier": Score("Brier score", 1, 3, False),
    "nll": Score("negative log-likelihood (nats)", 1, 3, False),
}


def score_table(part: Part, labels: int, score: str) -> Table | None:
    """The paper's table at a number of labels: a score of every strategy, by setting, after
    active learning and after each tuning; None where it was never measured.

    Args:
        part: data set and model.
        labels: number of labels.
        score: one of ``SCORES``.
    """
    shown = SCORES[score]
    columns = part.columns(labels)
    cells: list[list[Value]] = []
    most = 0
    for column in columns:
        values = [
            {name: shown.factor * x for name, x in part.values(s, column, labels, score).items()}
            for s in part.strategies
        ]
        most = max([most, *map(len, values)])
        expected = [part.repetitions(s, column, labels) for s in part.strategies]
        cells.append(_column(part, values, expected, shown))
    if not most:
        return None
    return Table(
        key=part.key(score, labels),
        title=f"{part.title}: {shown.title} with {labels:,} labels",
        corner="strategy",
        columns=tuple(columns),
        rows=tuple(part.strategies),
        values=tuple(zip(*cells, strict=True)),
        note=f"{_spread_note(most)}{_diverged_note(part, labels)}{_test_note(part, most)}".strip(),
    )


def _spread_note(most: int) -> str:
    if most < 2:
        return "One repetition: no deviations, and no test of differences. "
    return (
        f"Means ± standard deviations (n − 1) over at most {most} repetitions; n where there are "
        "fewer than there will be. "
    )


def _diverged_note(part: Part, labels: int) -> str:
    n = part.diverged(labels)
    what = "results are" if n > 1 else "result is"
    return f"{n} {what} of diverged training and counts as chance (no ECE). " if n else ""


def _column(
    part: Part, values: Sequence[Values], expected: Sequence[int], shown: Score
) -> list[Value]:
    """The values of the strategies in one column, ranked and tested against each other."""
    summaries = [statistics.summary(list(one.values())) for one in values]
    means = [one.mean for one in summaries]
    ranks = statistics.ranks(means, shown.digits, highest=shown.highest)
    marks = [""] * len(values)
    if np.isfinite(means).any():
        best = int(np.nanargmax(means) if shown.highest else np.nanargmin(means))
        behind = _corrected(values, best)
        marks = ["†" if p < SIGNIFICANT else "" for p in behind]
    if part.baseline in part.strategies:
        against = _corrected(values, part.strategies.index(part.baseline))
        marks = [
            ("*" if p < SIGNIFICANT else "") + mark for p, mark in zip(against, marks, strict=True)
        ]
    return [
        replace(measured(*one, digits=shown.digits, expected=n), rank=rank, mark=mark)
        for one, n, rank, mark in zip(summaries, expected, ranks, marks, strict=True)
    ]


def _corrected(values: Sequence[Values], reference: int) -> list[float]:
    """Holm's p of each against one of them, over the repetitions that both have; NaN for itself."""
    p = [
        math.nan if i == reference else statistics.paired_p(*_pairs(one, values[reference]))
        for i, one in enumerate(values)
    ]
    return statistics.holm(p)


def _pairs(a: Values, b: Values) -> tuple[list[float], list[float]]:
    """The values of the repetitions that both have."""
    both = [name for name in a if name in b]
    return [a[name] for name in both], [b[name] for name in both]


def _test_note(part: Part, most: int) -> str:
    if len(part.strategies) < 2 or most < 2:
        return ""
    random = "* differs from random; " if part.baseline else ""
    return (
        f"Paired t-tests over repetitions, corrected by Holm for the strategies of a column, at "
        f"the level 0.05: {random}† is behind the best of the column (which was chosen by the same "
        "numbers). With so few repetitions only large and steady differences show."
    )


def gap_table(part: Part, labels: int) -> Table | None:
    """The gain of every strategy over random sampling, in percentage points, with its p-value.

    None without random sampling or without another strategy.
    """
    others = [name for name in part.strategies if name != part.baseline]
    if part.baseline is None or not others:
        return None
    columns = part.columns(labels)
    cells: list[list[Value]] = []
    for column in columns:
        values = {s: part.values(s, column, labels, "accuracy") for s in part.strategies}
        reference = values[part.baseline]
        p = statistics.holm(
            [statistics.paired_p(*_pairs(values[name], reference)) for name in others]
        )
        cells.append([])
        for name, corrected in zip(others, p, strict=True):
            a, b = _pairs(values[name], reference)
            expected = part.repetitions(name, column, labels)
            gains = 100 * (np.asarray(a) - np.asarray(b))
            value = measured(*statistics.summary(gains), sign="+", expected=expected)
            told = [f"p={corrected:.3f}"] if math.isfinite(corrected) else []
            note = ", ".join(filter(None, [*told, value.note]))
            mark = "*" if corrected < SIGNIFICANT else ""
            cells[-1].append(replace(value, note=note, mark=mark))
    most = max((value.n for column in cells for value in column), default=0)
    if not most:
        return None
    means = [
        (
            ("all settings", kind),
            [cells[i] for i, column in enumerate(columns) if column[1] == kind],
        )
        for kind in dict.fromkeys(kind for _, kind in columns)
    ]
    means = [(name, same) for name, same in means if len(same) > 1]
    for name, same in means:
        columns.append(name)
        across = [statistics.summary([v.value for v in row]) for row in zip(*same, strict=True)]
        cells.append([measured(*one, sign="+", expected=len(same)) for one in across])
    across_note = " All settings: mean ± standard deviation of the columns' means." if means else ""
    return Table(
        key=part.key("gap", labels),
        title=f"{part.title}: accuracy above random (percentage points) with {labels:,} labels",
        corner="strategy",
        columns=tuple(columns),
        rows=tuple(others),
        values=tuple(zip(*cells, strict=True)),
        note=f"{_gap_note(most)}{across_note}",
    )


def _gap_note(most: int) -> str:
    if most < 2:
        return _spread_note(most).strip()
    return (
        "Means ± standard deviations of the differences of repetitions with the same seed; p of "
        "the paired t-test, corrected by Holm for the strategies of a column, * below 0.05."
    )
