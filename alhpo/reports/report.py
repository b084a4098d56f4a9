"""Writes the report of a study, or of the runs of a folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alhpo.base.errors import ConfigurationError, DataError
from alhpo.base.files import atomic_path, write_text
from alhpo.reports.comparison import Comparison, compare_published
from alhpo.reports.document import Document, make_document, to_latex, to_markdown
from alhpo.reports.figures import report_figures
from alhpo.reports.findings import Findings
from alhpo.reports.formats import Table, to_console, to_csv
from alhpo.reports.html import to_html
from alhpo.reports.load import load_findings
from alhpo.reports.published import published_names
from alhpo.reports.tables import report_tables

#: Below a table on the terminal, which has more room downwards: its columns are lines.
NOTE = (
    "Means ± standard deviations (n − 1); bold: the best of a line, whatever the deviations; "
    "* and †: see the report."
)


@dataclass(frozen=True)
class Report:
    """The files of a report and what they say.

    Attributes:
        markdown: everything but the pictures of what was picked first.
        csv: the values of all tables, one a line.
        latex: all tables, to be used in a paper.
        html: everything, in one file.
        figures: the PNG of each figure, by its key.
        findings: what was recorded so far, as pandas frames.
        document: what the files say.
        comparison: with published tables, where that was asked for.
    """

    markdown: Path
    csv: Path
    latex: Path
    html: Path
    figures: dict[str, Path]
    findings: Findings
    document: Document
    comparison: Comparison | None

    @property
    def tables(self) -> list[Table]:
        """All tables, in order."""
        return self.document.tables

    @property
    def files(self) -> list[Path]:
        """All files, the texts first."""
        return [self.markdown, self.csv, self.latex, self.html, *self.figures.values()]

    def to_console(self, console: Any) -> None:
        """Print on rich's console the accuracies, what tuning cost, what is left out, and where
        the files are."""
        for table in self.tables:
            if table.key.startswith("accuracy"):
                console.print(to_console(replace(table.upright(), note=NOTE)))
        cost = [text for one in self.document.sections if one.key == "cost" for text in one.text]
        curves = [path for key, path in self.figures.items() if key.startswith("curves")]
        files = (*curves, self.markdown, self.csv, self.latex, self.html)
        for line in (*cost, *_what_is_missing(self.findings), *files):
            console.print(str(line), markup=False, highlight=False, soft_wrap=True)


def write_report(
    folder: str | Path, output: str | Path | None = None, *, compare: str | None = None
) -> Report:
    """Write ``report.md``, ``report.csv``, ``report.tex``, ``report.html`` and the figures.

    The study or the runs may be unfinished; the report says what is missing. The same records
    always give the same files.

    Args:
        folder: of a study, wherever it lies now; or a run, or a folder with runs at any depth.
        output: where to write, by default ``folder``.
        compare: published tables to put beside what was found: one of ``published_names()``, or
            "published" for what the study's file names.

    Raises:
        ConfigurationError: a study that cannot be used, or nothing to compare with.
        DataError: no such folder, neither study nor runs in it, or no complete record that can be
            read.
    """
    findings = load_findings(folder)
    which = _published(findings, compare)
    if findings.outcomes.empty:
        raise DataError(_no_results(findings))
    comparison = None if which is None else compare_published(findings, which)
    tables = report_tables(findings)
    figures = report_figures(findings, tables)
    document = make_document(findings, tables, figures, comparison)
    output = findings.grid.path if output is None else Path(output).expanduser()
    report = Report(
        markdown=output / "report.md",
        csv=output / "report.csv",
        latex=output / "report.tex",
        html=output / "report.html",
        figures={figure.key: output / f"{figure.key}.png" for figure in figures},
        findings=findings,
        document=document,
        comparison=comparison,
    )
    for figure in figures:
        with atomic_path(report.figures[figure.key]) as temporary:
            temporary.write_bytes(figure.png)
    pictures = {key: path.name for key, path in report.figures.items()}
    write_text(report.csv, to_csv(document.tables))
    write_text(report.latex, to_latex(document))
    write_text(report.html, to_html(document, findings))
    write_text(report.markdown, to_markdown(document, pictures))
    return report


def _no_results(findings: Findings) -> str:
    grid = findings.grid
    what = f"{len(grid.cells)} {grid.noun}"
    if grid.kind == "study":
        what += f" of study {grid.title!r}"
    advice = f"Run it first: alhpo study {grid.path}" if grid.kind == "study" else ""
    told = [advice, *_what_is_missing(findings)]
    return (
        f"Nothing to report: none of the {what} in {grid.path} has a complete record yet. "
        f"{'. '.join(filter(None, told))}"
    ).strip()


def _what_is_missing(findings: Findings) -> list[str]:
    """A line for each cell that cannot be read, for each run that is no cell or, outside a study,
    not finished, and for what else there is to know."""
    grid = findings.grid
    lines = [
        f"left out, damaged: {one.name}: {one.failure}"
        for one in findings.cells
        if one.state == "damaged"
    ]
    if grid.kind == "runs":
        lines += [f"{one.state}: {one.told}" for one in findings.cells if one.state == "unfinished"]
    return [*lines, *grid.left_out, *grid.remarks]


def _published(findings: Findings, compare: str | None) -> str | None:
    """The name of the published tables that are asked for."""
    grid = findings.grid
    if compare != "published":
        return compare
    if grid.published is None:
        whose = f"Study {grid.title!r} does" if grid.kind == "study" else "Settings of runs do"
        in_file = "; or write 'published: NAME' in its file" if grid.kind == "study" else ""
        raise ConfigurationError(
            f"{whose} not say which published tables to compare with. Name them: "
            f"--compare {' or '.join(published_names())}{in_file}."
        )
    return grid.published
