"""Tables and a figure of the runs of a folder, from what is on disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table as ConsoleTable

from alhpo.figures import learning_curves
from alhpo.files import write_text
from alhpo.results import (
    Group,
    Point,
    Run,
    load_runs,
    repeated_runs,
    summarise,
    to_frame,
    varying_settings,
)

__all__ = ["Report", "Table", "learning_curves", "load_runs", "summarise", "write_report"]

MOST_LABEL_COLUMNS = 8
CAPTION = (
    "Means ± standard deviations (n − 1) over seeds. A cell of fewer seeds than its group has "
    "says so (n=…); one seed has no deviation. Bold: the best mean of a column, whatever the "
    "deviations. AUC: area under the mean curve divided by its range of labels, its deviation "
    "over the seeds with the whole curve. Costs: totals of one run at its group's last record."
)


@dataclass(frozen=True)
class Table:
    """Text in rows and columns; ``best`` holds the (row, column) of the cells to stress."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]]
    note: str = ""

    def to_markdown(self) -> str:
        cells = [
            [f"**{cell}**" if (i, j) in self.best else cell for j, cell in enumerate(row)]
            for i, row in enumerate(self.rows)
        ]
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        lines = [
            "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |"
            for line in [self.columns, rule, *cells]
        ]
        return "\n".join([f"### {self.title}", "", *lines, *(["", self.note] if self.note else [])])

    def to_console(self) -> ConsoleTable:
        table = ConsoleTable(title=escape(self.title), caption=escape(self.note) or None)
        for j, name in enumerate(self.columns):
            table.add_column(escape(name), justify="right" if j else "left")
        for i, row in enumerate(self.rows):
            styles = ("bold" if (i, j) in self.best else "none" for j in range(len(row)))
            table.add_row(*(f"[{s}]{escape(cell)}[/]" for s, cell in zip(styles, row, strict=True)))
        return table


@dataclass(frozen=True)
class Report:
    """The files of a report and what they say.

    Attributes:
        markdown: the tables and remarks.
        csv: ``summary`` as a file.
        figure: the learning curves.
        summary: one row per group of repetitions, kind and number of labels.
        tables: for each data set and model, accuracies, then areas and costs.
        remarks: runs that are unfinished, empty or repeated.
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
            console.print(table.to_console())
        for line in (*self.remarks, *map(str, (self.markdown, self.csv, self.figure))):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def write_report(folder: str | Path, output: str | Path | None = None) -> Report:
    """Write ``report.md``, ``report.csv`` and ``learning_curves.png`` on the runs of a folder.

    Args:
        folder: a run, or a folder with runs at any depth.
        output: where to write, by default ``folder``.

    Raises:
        DataError: no run with a complete record, or a run that cannot be read.
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
    write_text(report.markdown, _markdown(report, len(runs)))
    return report


def _markdown(report: Report, n_runs: int) -> str:
    parts = [f"# Report on {n_runs} runs", CAPTION, f"![Learning curves]({report.figure.name})"]
    parts += [table.to_markdown() for table in report.tables]
    if report.remarks:
        parts += ["### Remarks", "\n".join(f"- {line}" for line in report.remarks)]
    return "\n\n".join(parts) + "\n"


def _accuracy_table(title: str, groups: Sequence[Group]) -> Table:
    """Groups by numbers of labels, all of them or a spread with the first and the last."""
    counts = sorted({point.n_labeled for group in groups for point in group.curve})
    if len(counts) > MOST_LABEL_COLUMNS:
        spread = np.linspace(0, len(counts) - 1, MOST_LABEL_COLUMNS).round().astype(int)
        counts = [counts[i] for i in spread]
    finals = sorted({group.final.n_labeled for group in groups if group.final})
    columns = [("cycle", n) for n in counts] + [("final", n) for n in finals]
    cells: list[list[Point | None]] = []
    for group in groups:
        points = {(point.kind, point.n_labeled): point for point in (*group.curve, group.last)}
        cells.append([points.get(column) for column in columns])
    varying = set(varying_settings([group.settings for group in groups]))
    varying -= {"strategy", "hpo", "optimizer"}
    return Table(
        title=title,
        columns=(
            "strategy, HPO \\ labels",
            *(str(n) if kind == "cycle" else f"{n}, retrained" for kind, n in columns),
        ),
        rows=tuple(
            (group.label, *(_accuracy_cell(point, group.seeds) for point in row))
            for group, row in zip(groups, cells, strict=True)
        ),
        best=frozenset(
            (i, j)
            for j, column in enumerate(zip(*cells, strict=True), start=1)
            for i in _highest(point.accuracy_mean if point else float("nan") for point in column)
        ),
        note=f"Rows differ also in: {', '.join(sorted(varying))}." if varying else "",
    )


def _cost_table(title: str, groups: Sequence[Group]) -> Table:
    ranges = [f"{group.curve[0].n_labeled} to {group.curve[-1].n_labeled}" for group in groups]
    comparable = len(set(ranges)) == 1
    rows = []
    for group, labels in zip(groups, ranges, strict=True):
        last = group.last
        spent = (f"{x:,.0f}" for x in (last.epochs_hpo, last.epochs_fit, last.seconds))
        nll = _mean_std(last.nll_mean, last.nll_std, 3)
        seeds = f"{group.seeds}" + f" ({group.unfinished} unfinished)" * bool(group.unfinished)
        area = _mean_std(100 * group.auc, 100 * group.auc_std, 2)
        rows.append((group.label, area, labels, nll, *spent, seeds))
    names = ("AUC (%)", "over labels", "last NLL", "HPO epochs", "fit epochs", "seconds", "seeds")
    return Table(
        title=title,
        columns=("strategy, HPO", *names),
        rows=tuple(rows),
        best=frozenset((i, 1) for i in _highest(group.auc for group in groups) if comparable),
        note="" if comparable else "Areas over different ranges of labels do not compare.",
    )


def _remarks(runs: Sequence[Run]) -> Iterable[str]:
    repeated = {run.name for run in repeated_runs(runs)}
    for run in runs:
        if run.name in repeated:
            yield f"{run.name}: left out, another run has its settings and seed."
        elif not run.records:
            yield f"{run.name}: left out, no complete cycle yet."
        elif not run.finished:
            reached, budget = run.records[-1].n_labeled, run.settings.get("budget", "?")
            what = f"{run.settings['strategy']}, {run.mode}, seed {run.seed}"
            yield f"{run.name} ({what}): unfinished at {reached} of {budget} labels."


def _accuracy_cell(point: Point | None, seeds: int) -> str:
    if point is None:
        return "–"
    text = _mean_std(100 * point.accuracy_mean, 100 * point.accuracy_std, 2)
    return text if point.seeds == seeds else f"{text} (n={point.seeds})"


def _mean_std(mean: float, std: float, digits: int) -> str:
    if not np.isfinite(mean):
        return "–"
    return f"{mean:.{digits}f}" + (f" ± {std:.{digits}f}" if np.isfinite(std) else "")


def _highest(shares: Iterable[float]) -> list[int]:
    """Indices of the largest share, to the two digits of a per cent that the tables print."""
    percent = np.round([100 * share for share in shares], 2)
    if np.isfinite(percent).sum() < 2:
        return []
    return [int(i) for i in np.flatnonzero(percent == np.nanmax(percent))]
