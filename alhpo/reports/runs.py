"""Tables and a figure of the runs of a folder, from what is on disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from alhpo.base.files import write_text
from alhpo.reports.figures.learning_curves import learning_curves
from alhpo.reports.formats import Table, Value, markdown_text, measured, to_console, to_markdown
from alhpo.runs.results import (
    Group,
    Point,
    Run,
    load_runs,
    repeated_runs,
    summarise,
    to_frame,
    varying_settings,
)

__all__ = ["Report", "learning_curves", "load_runs", "summarise", "write_report"]

MOST_LABEL_COLUMNS = 8
CAPTION = (
    "Means ± standard deviations (n − 1) over seeds. A cell of fewer seeds than its group has "
    "says so (n=…); one seed has no deviation. The best mean of a column is bold whatever the "
    "deviations. AUC: area under the mean curve divided by its range of labels, its deviation "
    "over the seeds with the whole curve. Costs: totals of one run at its group's last record."
)


@dataclass(frozen=True)
class Report:
    """The files of a report and what they say.

    Attributes:
        markdown: the tables and remarks.
        csv: ``summary`` as a file.
        figure: the learning curves.
        summary: one row per group of repetitions, kind and number of labels.
        tables: for each data set and model, accuracies, then areas and costs.
        remarks: runs that are unfinished, empty, repeated or cannot be read.
    """

    markdown: Path
    csv: Path
    figure: Path
    summary: pd.DataFrame
    tables: tuple[Table, ...]
    remarks: tuple[str, ...]

    def to_console(self, console: Console) -> None:
        """Print the tables, the remarks, and where the files are."""
        for table in self.tables:
            console.print(to_console(table))
        for line in (*self.remarks, *map(str, (self.markdown, self.csv, self.figure))):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def write_report(folder: str | Path, output: str | Path | None = None) -> Report:
    """Write ``report.md``, ``report.csv`` and ``learning_curves.png`` on the runs of a folder.

    Args:
        folder: a run, or a folder with runs at any depth.
        output: where to write, by default ``folder``.

    Raises:
        DataError: no run with a complete record that can be read.
    """
    output = Path(folder if output is None else output)
    runs = load_runs(folder)
    groups = summarise(runs)
    tables: list[Table] = []
    for names in dict.fromkeys((group.dataset, group.model) for group in groups):
        part = [group for group in groups if (group.dataset, group.model) == names]
        tables.append(_accuracy_table(f"{', '.join(names)}: test accuracy (%)", part))
        tables.append(_cost_table(f"{', '.join(names)}: area under the curve and cost", part))
    report = Report(
        markdown=output / "report.md",
        csv=output / "report.csv",
        figure=output / "learning_curves.png",
        summary=to_frame(groups),
        tables=tuple(tables),
        remarks=tuple(_remarks(runs)),
    )
    learning_curves(groups, report.figure)
    write_text(report.csv, report.summary.to_csv(index=False, lineterminator="\n"))
    write_text(report.markdown, _markdown(report, sum(not run.fault for run in runs)))
    return report


def _markdown(report: Report, n_runs: int) -> str:
    parts = [f"# Report on {n_runs} runs", CAPTION, f"![Learning curves]({report.figure.name})"]
    parts += map(to_markdown, report.tables)
    if report.remarks:
        parts += ["### Remarks", "\n".join(f"- {markdown_text(line)}" for line in report.remarks)]
    return "\n\n".join(parts) + "\n"


def _accuracy_table(title: str, groups: Sequence[Group]) -> Table:
    """Groups by numbers of labels, all of them or a spread with the first and the last."""
    counts = sorted({point.n_labeled for group in groups for point in group.curve})
    if len(counts) > MOST_LABEL_COLUMNS:
        spread = np.linspace(0, len(counts) - 1, MOST_LABEL_COLUMNS).round().astype(int)
        counts = [counts[i] for i in spread]
    finals = sorted({group.final.n_labeled for group in groups if group.final})
    columns = [("cycle", n) for n in counts] + [("final", n) for n in finals]
    seeds = [group.seeds for group in groups]
    points = [{(p.kind, p.n_labeled): p for p in (*group.curve, group.last)} for group in groups]
    cells = [
        _ranked([_accuracy(there.get(column), n) for there, n in zip(points, seeds, strict=True)])
        for column in columns
    ]
    varying = set(varying_settings([group.settings for group in groups]))
    varying -= {"strategy", "hpo", "optimizer"}
    return Table(
        key="accuracy",
        title=title,
        corner="strategy, HPO \\ labels",
        columns=tuple((str(n) if kind == "cycle" else f"{n}, retrained",) for kind, n in columns),
        rows=tuple(group.label for group in groups),
        values=tuple(zip(*cells, strict=True)),
        note=f"Rows differ also in: {', '.join(sorted(varying))}." if varying else "",
    )


def _cost_table(title: str, groups: Sequence[Group]) -> Table:
    ranges = [f"{group.curve[0].n_labeled} to {group.curve[-1].n_labeled}" for group in groups]
    comparable = len(set(ranges)) == 1
    areas = [measured(100 * group.auc, 100 * group.auc_std) for group in groups]
    rows = []
    for group, area, labels in zip(
        groups, _ranked(areas) if comparable else areas, ranges, strict=True
    ):
        last = group.last
        spent = [Value(f"{x:,.0f}", x) for x in (last.epochs_hpo, last.epochs_fit, last.seconds)]
        nll = measured(last.nll_mean, last.nll_std, digits=3)
        seeds = f"{group.seeds}" + f" ({group.unfinished} unfinished)" * bool(group.unfinished)
        rows.append((area, Value(labels), nll, *spent, Value(seeds)))
    names = ("AUC (%)", "over labels", "last NLL", "HPO epochs", "fit epochs", "seconds", "seeds")
    return Table(
        key="cost",
        title=title,
        corner="strategy, HPO",
        columns=tuple((name,) for name in names),
        rows=tuple(group.label for group in groups),
        values=tuple(rows),
        note="" if comparable else "Areas over different ranges of labels do not compare.",
    )


def _remarks(runs: Sequence[Run]) -> Iterable[str]:
    repeated = {run.name for run in repeated_runs(runs)}
    for run in runs:
        if run.fault:
            yield f"{run.name}: left out, it cannot be read: {run.fault}"
        elif run.name in repeated:
            yield f"{run.name}: left out, another run has its settings and seed."
        elif not run.records:
            yield f"{run.name}: left out, no complete cycle yet."
        elif not run.finished:
            reached, budget = run.records[-1].n_labeled, run.settings.get("budget", "?")
            what = f"{run.settings['strategy']}, {run.mode}, seed {run.seed}"
            yield f"{run.name} ({what}): unfinished at {reached} of {budget} labels."


def _accuracy(point: Point | None, seeds: int) -> Value:
    if point is None:
        return Value()
    percent = 100 * point.accuracy_mean, 100 * point.accuracy_std
    return measured(*percent, point.seeds, expected=seeds)


def _ranked(column: Sequence[Value]) -> list[Value]:
    """The values of a column with the best marked, if there are several, as they are printed."""
    printed = np.round([value.value for value in column], 2)
    if np.isfinite(printed).sum() < 2:
        return list(column)
    best = printed == np.nanmax(printed)
    pairs = zip(column, best, strict=True)
    return [replace(value, rank="best" if first else None) for value, first in pairs]
