"""Comparison of findings with published tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alhpo.hyperparameters import Hyperparameters
from alhpo.reports import statistics
from alhpo.reports.findings import ACTIVE, Findings
from alhpo.reports.formats import Table, Value, measured
from alhpo.reports.part import Part, joined, parts
from alhpo.reports.protocol import protocol_differences
from alhpo.reports.published import published_tables, sources
from alhpo.runs.modes import recorded_mode
from alhpo.runs.settings import RunConfig


@dataclass(frozen=True)
class Comparison:
    """Findings compared with published tables.

    Attributes:
        source: where they were published.
        tables: one per data set, model, published table and its number of labels.
        differences: what differs from the published protocol, a sentence each.
    """

    source: str
    tables: tuple[Table, ...]
    differences: tuple[str, ...]


def compare_published(findings: Findings, which: str) -> Comparison:
    """Compare accuracies with the published ones, and list differences of the protocols.

    Values are matched by strategy, lr, weight_decay and the nearest number of labels.

    Args:
        findings: the findings; if a data set has the name ``which``, only those on it are used.
        which: one of ``published_names()``.

    Raises:
        ConfigurationError: no published tables with this name.
    """
    rows: list[dict[str, Any]] = published_tables(which).to_dict("records")  # pyright: ignore[reportAssignmentType]
    every = parts(findings)
    same = [part for part in every if _plain(part.dataset).endswith(which)]
    tables: list[Table] = []
    for part in same or every:
        for source in dict.fromkeys(row["source"] for row in rows):
            there = [row for row in rows if row["source"] == source]
            tables += _beside(part, source, there)
    links = {about["url"] for about in sources()["sources"].values()}
    return Comparison(
        source=f"{sources()['citation']}; {', '.join(sorted(links))}",
        tables=tuple(tables),
        differences=(
            *protocol_differences(findings, which, [part.dataset for part in same or every]),
            *sources()["remarks"],
        ),
    )


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def _beside(part: Part, source: str, published: Sequence[Mapping[str, Any]]) -> list[Table]:
    """One table per number of labels that was published, unless another is nearer to what the
    study has."""
    active = {row["n_labeled"] for row in part.outcomes if row["column"] == ACTIVE}
    if not active:
        return []
    stages = sorted({row["labels"] for row in published if row["column"] == "BO"})
    ours: dict[int, int] = {}
    for stage in stages:
        nearest = _nearest(active, stage)
        if nearest not in ours or abs(nearest - stage) < abs(nearest - ours[nearest]):
            ours[nearest] = stage
    tables = [_stage(part, source, published, stage) for stage in sorted(ours.values())]
    return [table for table in tables if table is not None]


def _stage(
    part: Part, source: str, published: Sequence[Mapping[str, Any]], stage: int
) -> Table | None:
    """The table at one published number of labels, of which AL may be one cycle later."""
    labels: dict[str, tuple[int, int]] = {}
    for kind in dict.fromkeys(row["column"] for row in part.outcomes):
        theirs = min(
            (row["labels"] for row in published if row["column"] == _column(kind)),
            key=lambda n: abs(n - stage),
        )
        have = {row["n_labeled"] for row in part.outcomes if row["column"] == kind}
        n = _nearest(have, theirs)
        every = {row["labels"] for row in published if row["column"] == _column(kind)}
        if _nearest(every, n) == theirs:  # else it belongs beside another stage
            labels[kind] = n, theirs
    rows: list[str] = []
    values: list[tuple[Value, ...]] = []
    for strategy, setting, config in _fixed(part):
        hp = Hyperparameters.create(config.hyperparameters)
        found = {
            row["column"]: row
            for row in published
            if row["strategy"] == config.strategy
            and math.isclose(row["lr"], hp.lr)
            and math.isclose(row["weight_decay"], hp.weight_decay)
            and row["labels"] in [theirs for _, theirs in labels.values()]
        }
        if found:
            row: list[Value] = []
            for kind, (n, _) in labels.items():
                mine = part.values(strategy, (setting, kind), n, "accuracy")
                row += _compared([100 * x for x in mine.values()], found.get(_column(kind)))
            rows.append(joined((strategy, setting)))
            values.append(tuple(row))
    if not rows:
        return None
    other = [
        f"{kind} here has {n:,} labels, published {theirs:,}."
        for kind, (n, theirs) in labels.items()
        if n != theirs
    ]
    deviations = [v.value for row in values for v in row[3::4] if math.isfinite(v.value)]
    near = sum(abs(value) <= 2 for value in deviations)
    count = f"{near} of {len(deviations)} lie within 2." if deviations else ""
    about = sources()["sources"][source]
    slug = "-".join([part.dataset.replace("/", "-"), part.model])
    names = ("here", "published", "difference", "in deviations")
    return Table(
        key=f"published-{source}-{slug}-{stage}",
        title=f"{part.title}: beside {about['title']} at {stage:,} labels, test accuracy (%)",
        corner="strategy, setting",
        columns=tuple((kind, name) for kind in labels for name in names),
        rows=tuple(rows),
        values=tuple(values),
        note=" ".join(
            [
                "Means ± standard deviations. Difference: here minus published, in percentage "
                "points, and divided by √(s² here + s² published), about ±1 for two single "
                "repetitions of one experiment; none without both deviations.",
                *filter(None, [count, *other, *about["remarks"]]),
            ]
        ),
    )


def _compared(ours: Sequence[float], theirs: Mapping[str, Any] | None) -> list[Value]:
    """Here, published, difference, difference in deviations."""
    one = statistics.summary(ours)
    here = measured(*one)
    if theirs is None:
        return [here, Value(), Value(), Value()]
    mean, std, n = float(theirs["mean"]), float(theirs["std"]), theirs["n"]
    scaled = statistics.difference_in_deviations(one.mean, one.std, mean, std)
    return [
        here,
        measured(mean, std, 0 if math.isnan(n) else int(n)),
        measured(one.mean - mean, n=one.n, sign="+"),
        measured(scaled, n=one.n, digits=1, sign="+"),
    ]


def _column(kind: str) -> str:
    return ACTIVE if kind == ACTIVE else "BO"


def _nearest(numbers: Iterable[int], target: int) -> int:
    return min(sorted(numbers), key=lambda n: abs(n - target))


def _fixed(part: Part) -> list[tuple[str, str, RunConfig]]:
    """Strategies and settings whose hyperparameters stay the same during active learning."""
    found: dict[tuple[str, str], RunConfig] = {}
    for row in part.expected:
        config = part.findings.run_of(row["cell"])
        if not recorded_mode(config.hpo).cycles(config.sizes):
            found.setdefault((row["strategy"], row["setting"]), config)
    return [(*place, config) for place, config in found.items()]
