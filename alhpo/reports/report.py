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

#: Note below a table on the terminal, where the columns of the table are lines.
NOTE = (
    "Means ± standard deviations (n − 1); bold: the best of a line, whatever the deviations; "
    "* and †: see the report."
)


@dataclass(frozen=True)
class Report:
    """The files of a report and their contents.

    Attributes:
        markdown: the report without the pictures of picked images.
        csv: the values of all tables, one per line.
        latex: all tables, for a paper.
        html: the whole report in one file.
        figures: PNG files of the figures, by key.
        findings: the records, as pandas frames.
        document: the contents of the files.
        comparison: with published tables; None if not asked for.
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
        """Print accuracies, the gain and cost of tuning, what is left out, and the files, on rich's
        console."""
        for table in self.tables:
            if table.key.startswith("accuracy"):
                console.print(to_console(replace(table.upright(), note=NOTE)))
        told = ("searches", "cost")
        cost = [text for one in self.document.sections if one.key in told for text in one.text]
        curves = [path for key, path in self.figures.items() if key.startswith("curves")]
        files = (*curves, self.markdown, self.csv, self.latex, self.html)
        for line in (*cost, *_what_is_missing(self.findings), *files):
            console.print(str(line), markup=False, highlight=False, soft_wrap=True)


def write_report(
    folder: str | Path, output: str | Path | None = None, *, compare: str | None = None
) -> Report:
    """Write ``report.md``, ``report.csv``, ``report.tex``, ``report.html`` and the figures.

    Studies and runs may be unfinished; the report tells what is missing. The same records always
    give the same files.

    Args:
        folder: folder of a study or a run, or a folder with runs at any depth.
        output: folder for the report; None takes ``folder``.
        compare: published tables to compare with: one of ``published_names()``, or "published" for
            those named in the study's file. None compares with none.

    Raises:
        ConfigurationError: a study that cannot be used, or unknown published tables.
        DataError: no folder, no study or run in it, or no complete record that can be read.
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
    begun = any(one.records for one in findings.cells)
    lacking = "an evaluated cycle" if begun else "a complete record"
    return (
        f"Nothing to report: none of the {what} in {grid.path} has {lacking} yet. "
        f"{'. '.join(filter(None, told))}"
    ).strip()


def _what_is_missing(findings: Findings) -> list[str]:
    """Lines about cells and runs that are not finished or left out, and other remarks."""
    counts = [", ".join(findings.counts.values())] if findings.incomplete else []
    return [*counts, *findings.incomplete, *findings.grid.left_out, *findings.grid.remarks]


def _published(findings: Findings, compare: str | None) -> str | None:
    """The name of the published tables to compare with."""
    grid = findings.grid
    if compare != "published":
        return compare
    if grid.published is None:
        whose = f"Study {grid.title!r} does" if grid.kind == "study" else "Settings of runs do"
        in_file = "; or write 'published: NAME' in its file" if grid.kind == "study" else ""
        raise ConfigurationError(
            f"{whose} not name published tables to compare with. Name them: "
            f"--compare {' or '.join(published_names())}{in_file}."
        )
    return grid.published
