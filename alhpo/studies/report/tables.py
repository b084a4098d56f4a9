"""The tables of a study's report, from its results."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from alhpo.studies.report import statistics
from alhpo.studies.report.rendering import StudyTable, Value
from alhpo.studies.report.results import ACTIVE, WITHIN, StudyResults

Row = dict[str, Any]
#: A score by repetition.
Values = dict[str, float]

#: Below this a difference is marked.
SIGNIFICANT = 0.05
#: Configurations that a rank correlation within one search is of at least.
FEWEST_TRIALS = 3


@dataclass(frozen=True)
class Score:
    """How a test score is shown: its name, factor, digits, and whether more is better."""

    title: str
    factor: float
    digits: int
    highest: bool


SCORES = {
    "accuracy": Score("test accuracy (%)", 100, 2, True),
    "ece": Score("expected calibration error (%)", 100, 2, False),
    "brier": Score("Brier score", 1, 3, False),
    "nll": Score("negative log-likelihood (nats)", 1, 3, False),
}

#: What is read off a trial's validation, and whether less is better.
ESTIMATORS = {
    "accuracy": ("accuracy", 1),
    "likelihood": ("nll", -1),
    "accuracy, unweighted": ("accuracy_unweighted", 1),
    "likelihood, unweighted": ("nll_unweighted", -1),
}


def study_tables(results: StudyResults) -> list[StudyTable]:
    """All tables that the results allow, in the order of the report.

    For each data set and model: accuracies, rank correlations of the strategies and gaps to
    random, each at the numbers of labels that were tuned at and the last; calibration at the last;
    what was spent; how well validation told the test; the hyperparameters that were found.
    """
    tables: list[StudyTable | None] = []
    for part in parts(results):
        labels = part.labels
        tables += [score_table(part, n, "accuracy") for n in labels]
        tables += [order_table(part, n) for n in labels]
        tables += [gap_table(part, n) for n in labels]
        tables += [score_table(part, n, score) for n in labels[-1:] for score in list(SCORES)[1:]]
        tables += [cost_table(part), validation_table(part), regret_table(part)]
        tables += [found_table(part, n) for n in labels]
    return [table for table in tables if table is not None]


@dataclass(frozen=True)
class Part:
    """The results on one data set with one model."""

    results: StudyResults
    dataset: str
    model: str

    @property
    def title(self) -> str:
        return f"{self.dataset}, {self.model}"

    def rows(self, frame: pd.DataFrame) -> list[Row]:
        """The rows of a frame of the results that belong to it."""
        rows: list[Row] = frame.to_dict("records")  # pyright: ignore[reportAssignmentType]
        return [r for r in rows if (r["dataset"], r["model"]) == (self.dataset, self.model)]

    @cached_property
    def outcomes(self) -> list[Row]:
        return self.rows(self.results.outcomes)

    @cached_property
    def expected(self) -> list[Row]:
        return self.rows(self.results.expected)

    @cached_property
    def _by_place(self) -> dict[tuple[str, str, str, int], list[Row]]:
        found: dict[tuple[str, str, str, int], list[Row]] = {}
        for row in self.outcomes:
            place = (row["strategy"], row["setting"], row["column"], row["n_labeled"])
            found.setdefault(place, []).append(row)
        return found

    @cached_property
    def strategies(self) -> list[str]:
        here = {row["strategy"] for row in self.expected}
        return [name for name in self.results.strategies if name in here]

    @cached_property
    def baseline(self) -> str | None:
        """The name of random sampling, if it is there once."""
        names = {
            row["strategy"]
            for row in self.expected
            if self.results.run_of(row["cell"]).strategy == "random"
        }
        return names.pop() if len(names) == 1 else None

    @cached_property
    def labels(self) -> list[int]:
        """Numbers of labels that tables are made at: those tuned at and the last of the runs, or,
        without tunings, the middle and the last; the latest so far where there is none yet."""
        runs = [self.results.run_of(cell) for cell in {row["cell"] for row in self.expected}]
        wanted = {run.budget for run in runs}
        if self.results.study.tune:
            wanted |= set(self.results.study.tune.labels)
        else:
            wanted |= {sizes[(len(sizes) - 1) // 2] for sizes in (run.sizes for run in runs)}
        there = {row["n_labeled"] for row in self.outcomes}
        return sorted(wanted & there) or sorted(there)[-1:]

    def columns(self, labels: int) -> list[tuple[str, str]]:
        """Settings and kinds of results that the finished study has at a number of labels."""
        kinds = [ACTIVE, WITHIN, *self.results.tunings]
        found = {(row["setting"], row["column"]) for row in self.expected if _is_due(row, labels)}
        every = [(setting, kind) for setting in self.results.settings for kind in kinds]
        return [column for column in every if column in found]

    def values(
        self, strategy: str, column: tuple[str, str], labels: int, score: str
    ) -> dict[str, float]:
        """A score by the run's seed, where it was measured; the mean of several tunings of one
        run, which are no independent repetitions. Diverged training, which counts as the uniform
        prediction, is not called calibrated."""
        found: dict[str, list[float]] = {}
        for row in self._by_place.get((strategy, *column, labels), []):
            if math.isfinite(row[score]) and not (score == "ece" and row["diverged"]):
                found.setdefault(str(row["seed"]), []).append(row[score])
        return {seed: sum(several) / len(several) for seed, several in found.items()}

    def diverged(self, labels: int) -> int:
        """How many results at a number of labels are of diverged training."""
        return sum(row["diverged"] for row in self.outcomes if row["n_labeled"] == labels)

    def repetitions(self, strategy: str, column: tuple[str, str], labels: int) -> int:
        """How many values the finished study has there."""
        place = (strategy, *column)
        seeds = {
            row["seed"]
            for row in self.expected
            if (row["strategy"], row["setting"], row["column"]) == place and _is_due(row, labels)
        }
        return len(seeds)


def _is_due(expected: Row, labels: int) -> bool:
    """Whether a cell will have a result at a number of labels; runs pass lower ones."""
    n = expected["n_labeled"]
    return n == labels or (expected["column"] == ACTIVE and n > labels)


def parts(results: StudyResults) -> list[Part]:
    """The data sets and models of a study, in order."""
    pairs = zip(results.expected["dataset"], results.expected["model"], strict=True)
    return [Part(results, *pair) for pair in dict.fromkeys(pairs)]


def score_table(part: Part, labels: int, score: str) -> StudyTable | None:
    """The paper's table at a number of labels: a score of every strategy, by setting, after
    active learning and after each tuning; None where it was never measured.

    Args:
        part: data set and model.
        labels: number of labels.
        score: "accuracy", "ece", "brier" or "nll".
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
    return StudyTable(
        key=_key(score, part, labels),
        title=f"{part.title}: {shown.title} with {labels:,} labels",
        corner="strategy",
        columns=tuple(columns),
        rows=tuple(part.strategies),
        values=tuple(zip(*cells, strict=True)),
        note=f"Means ± standard deviations (n − 1) over at most {most} repetitions; n where there "
        f"are fewer than there will be. {_diverged_note(part, labels)}{_test_note(part, most)}",
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
        replace(_value(one, shown.digits, n), rank=rank, mark=mark)
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


def _value(one: statistics.Summary, digits: int, expected: int, sign: str = "") -> Value:
    if not one.n:
        return Value()
    text = f"{one.mean:{sign}.{digits}f}"
    if math.isfinite(one.std):
        text += f" ± {one.std:.{digits}f}"
    note = f"n={one.n}" if one.n < expected else ""
    return Value(text.replace("-", "−"), one.mean, one.std, one.n, note=note)


def _test_note(part: Part, most: int) -> str:
    if len(part.strategies) < 2:
        return ""
    if most < 2:
        return "One repetition: no test of differences."
    random = "* differs from random; " if part.baseline else ""
    return (
        f"Paired t-tests over repetitions, corrected by Holm for the strategies of a column, at "
        f"the level 0.05: {random}† is behind the best of the column (which was chosen by the same "
        "numbers). With so few repetitions only large and steady differences show."
    )


def order_table(part: Part, labels: int) -> StudyTable | None:
    """How much the columns of the accuracy table agree on the order of the strategies.

    Kendall's tau-b of the mean accuracies above the diagonal, Spearman's rho below it.
    """
    columns = [
        column
        for column in part.columns(labels)
        if sum(len(part.values(s, column, labels, "accuracy")) > 0 for s in part.strategies) > 1
    ]
    if len(columns) < 2:
        return None
    means = [
        [
            statistics.summary(list(part.values(s, column, labels, "accuracy").values())).mean
            for s in part.strategies
        ]
        for column in columns
    ]
    rows = []
    for i, first in enumerate(means):
        row = []
        for j, second in enumerate(means):
            measure = statistics.kendall if i < j else statistics.spearman
            both = int(np.isfinite([first, second]).all(axis=0).sum())
            row.append(Value() if i == j else _number(measure(first, second), both, len(first)))
        rows.append(tuple(row))
    agreement = []
    for kind in dict.fromkeys(kind for _, kind in columns):
        same = [i for i, column in enumerate(columns) if column[1] == kind]
        taus = [rows[i][j].value for i in same for j in same if i < j]
        if np.isfinite(taus).any():
            agreement.append(f"{kind} {np.nanmean(taus):.2f}".replace("-", "−"))
    mean = f" Mean τ of two settings: {', '.join(agreement)}." if agreement else ""
    return StudyTable(
        key=_key("order", part, labels),
        title=f"{part.title}: rank correlation of the strategies with {labels:,} labels",
        corner="",
        columns=tuple(columns),
        rows=tuple(_joined(column) for column in columns),
        values=tuple(rows),
        note=f"Of mean accuracies over {len(part.strategies)} strategies: Kendall's τ-b above the "
        f"diagonal, Spearman's ρ below; 1 is the same order, −1 the reverse.{mean}",
    )


def _number(value: float, n: int, expected: int) -> Value:
    if not math.isfinite(value):
        return Value()
    note = f"n={n}" if n < expected else ""
    return Value(f"{value:.2f}".replace("-", "−"), value, n=n, note=note)


def gap_table(part: Part, labels: int) -> StudyTable | None:
    """What every strategy gains over random sampling, in percentage points, with its p-value;
    None without random sampling or anything to compare with it."""
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
            value = _value(statistics.summary(gains), 2, expected, "+")
            told = [f"p={corrected:.3f}"] if math.isfinite(corrected) else []
            note = ", ".join(filter(None, [*told, value.note]))
            mark = "*" if corrected < SIGNIFICANT else ""
            cells[-1].append(replace(value, note=note, mark=mark))
    if not any(value.n for column in cells for value in column):
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
        cells.append([_value(one, 2, len(same), "+") for one in across])
    across_note = " All settings: mean ± standard deviation of the columns' means." if means else ""
    return StudyTable(
        key=_key("gap", part, labels),
        title=f"{part.title}: accuracy above random (percentage points) with {labels:,} labels",
        corner="strategy",
        columns=tuple(columns),
        rows=tuple(others),
        values=tuple(zip(*cells, strict=True)),
        note="Means ± standard deviations of the differences of repetitions with the same seed; p "
        "of the paired t-test, corrected by Holm for the strategies of a column, * below "
        f"0.05.{across_note}",
    )


def cost_table(part: Part) -> StudyTable | None:
    """Epochs, images and time that one run and one tuning took, on average."""
    if not part.outcomes:
        return None
    runs = {r["cell"]: r for r in part.outcomes if r["column"] in (ACTIVE, WITHIN)}  # the last
    tunings = [r for r in part.outcomes if r["column"] not in (ACTIVE, WITHIN)]
    groups = {ACTIVE: list(runs.values())}
    for kind in part.results.tunings:
        if same := [row for row in tunings if row["column"] == kind]:
            groups[kind] = same
    spent: list[tuple[str, Callable[[float], str]]] = [
        ("epochs_fit", lambda x: f"{x:,.0f}"),
        ("epochs_hpo", lambda x: f"{x:,.0f}"),
        ("images", _images),
        ("seconds", _time),
    ]
    names = {"epochs_fit": "fit epochs", "epochs_hpo": "HPO epochs", "seconds": "time"}
    rows, values = [], []
    for strategy in part.strategies:
        for setting in part.results.settings:
            row = []
            for group in groups.values():
                here = [r for r in group if (r["strategy"], r["setting"]) == (strategy, setting)]
                for what, text in spent:
                    one = statistics.summary([row[what] for row in here])
                    shown = Value(text(one.mean), one.mean, one.std, one.n) if one.n else Value()
                    row.append(shown)
            if any(value.n for value in row):
                rows.append(_joined((strategy, setting)))
                values.append(tuple(row))
    total = {what: sum(r[what] for group in groups.values() for r in group) for what, _ in spent}
    return StudyTable(
        key=_key("cost", part),
        title=f"{part.title}: what one run and one tuning took",
        corner="strategy, setting",
        columns=tuple((kind, names.get(what, what)) for kind in groups for what, _ in spent),
        rows=tuple(rows),
        values=tuple(values),
        note="Means over repetitions (and numbers of labels tuned at), up to where unfinished runs "
        "are. Images count as often as a model was trained on them. Together: "
        f"{total['epochs_fit'] + total['epochs_hpo']:,.0f} epochs, {_images(total['images'])} "
        f"images, {_time(total['seconds'])} of computing.",
    )


def _images(n: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if n >= size:
            return f"{n / (1e3 if unit == 'k' else size):,.1f} {unit}"
    return f"{n:,.0f}"


def _time(seconds: float) -> str:
    for size, unit in ((2 * 3600, "h"), (120, "min")):
        if seconds >= size:
            return f"{seconds / {'h': 3600, 'min': 60}[unit]:,.1f} {unit}"
    return f"{seconds:.1f} s"


def validation_table(part: Part) -> StudyTable | None:
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


def regret_table(part: Part) -> StudyTable | None:
    """What choosing by validation loses against choosing by the test, in percentage points."""
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
) -> StudyTable | None:
    trials = [r for r in part.rows(part.results.trials) if math.isfinite(r["test_accuracy"])]
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
            values.append(tuple(_value(one, 2, 0) for one in summaries))
    return StudyTable(
        key=_key(what, part),
        title=f"{part.title}: {title}",
        corner="validation",
        columns=tuple((f"{n:,} labels", who) for n in labels for who in groups),
        rows=tuple(rows),
        values=tuple(values),
        note=note,
    )


def found_table(part: Part, labels: int) -> StudyTable | None:
    """The hyperparameters that the searches after active learning chose: the median of numbers and
    their range, the counts of others."""
    finals = [r for r in part.rows(part.results.curves) if r["kind"] == "final"]
    found = [*part.rows(part.results.tuned), *(row | {"tuning": WITHIN} for row in finals)]
    found = [row for row in found if row["n_labeled"] == labels]
    trials = [row["configuration"] for row in part.rows(part.results.trials)]
    searched = _varying(trials) or _varying([row["configuration"] for row in found])
    if not found or not searched:
        return None
    rows, values = [], []
    for strategy in part.strategies:
        for setting in part.results.settings:
            for tuning in (WITHIN, *part.results.tunings):
                place = (strategy, setting, tuning)
                chosen = [
                    row["configuration"]
                    for row in found
                    if (row["strategy"], row["setting"], row["tuning"]) == place
                ]
                if chosen:
                    rows.append(_joined(place))
                    given = [[one[n] for one in chosen if n in one] for n in searched]
                    values.append(tuple(map(_spread, given)))
    return StudyTable(
        key=_key("found", part, labels),
        title=f"{part.title}: hyperparameters found with {labels:,} labels",
        corner="strategy, setting, search",
        columns=tuple((name,) for name in searched),
        rows=tuple(rows),
        values=tuple(values),
        note="Median over repetitions, with the least and the greatest.",
    )


def _varying(every: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names with different values among the configurations that have them."""
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


def _joined(names: Iterable[str]) -> str:
    return ", ".join(filter(None, names))


def _key(what: str, part: Part, labels: int | None = None) -> str:
    names = [what, part.dataset, part.model, "" if labels is None else str(labels)]
    return "-".join(re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") for name in names if name)
