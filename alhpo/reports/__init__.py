"""The report of a study: its tables and figures as Markdown, CSV, LaTeX and one HTML page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alhpo.base.errors import ConfigurationError, DataError
from alhpo.base.files import atomic_path, write_text
from alhpo.reports.document import Document, make_document, to_latex, to_markdown
from alhpo.reports.figures import study_figures
from alhpo.reports.formats import Table, to_console, to_csv
from alhpo.reports.html import to_html
from alhpo.reports.published import Comparison, compare_published, published_names
from alhpo.reports.results import CellState, StudyResults, load_study_results
from alhpo.reports.tables import study_tables

__all__ = [
    "CellState",
    "Comparison",
    "StudyReport",
    "StudyResults",
    "compare_published",
    "load_study_results",
    "published_names",
    "study_tables",
    "write_study_report",
]

#: Below a table on the terminal, which has more room downwards: its columns are lines.
NOTE = (
    "Means ± standard deviations (n − 1); bold: the best of a line, whatever the deviations; "
    "* and †: see the report."
)


@dataclass(frozen=True)
class StudyReport:
    """The files of a study's report and what they say.

    Attributes:
        markdown: everything but the pictures of what was picked first.
        csv: the values of all tables, one a line.
        latex: all tables, to be used in a paper.
        html: everything, in one file.
        figures: the PNG of each figure, by its key.
        results: what the study found so far.
        document: what the files say.
        comparison: with published tables, where that was asked for.
    """

    markdown: Path
    csv: Path
    latex: Path
    html: Path
    figures: dict[str, Path]
    results: StudyResults
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
        """Print on rich's console the accuracies, what tuning cost, which cells are damaged, and
        where the files are."""
        for table in self.tables:
            if table.key.startswith("accuracy"):
                console.print(to_console(replace(table.upright(), note=NOTE)))
        cost = [text for one in self.document.sections if one.key == "cost" for text in one.text]
        curves = [path for key, path in self.figures.items() if key.startswith("curves")]
        files = (*curves, self.markdown, self.csv, self.latex, self.html)
        for line in (*cost, *_damaged(self.results), *files):
            console.print(str(line), markup=False, highlight=False, soft_wrap=True)


def write_study_report(
    folder: str | Path, output: str | Path | None = None, *, compare: str | None = None
) -> StudyReport:
    """Write ``report.md``, ``report.csv``, ``report.tex``, ``report.html`` and the figures.

    The study may be unfinished; the report says what is missing. The same results always give
    the same files.

    Args:
        folder: the study's folder, wherever it lies now.
        output: where to write, by default ``folder``.
        compare: published tables to put beside the study's: one of ``published_names()``, or
            "published" for what the study's file names.

    Raises:
        ConfigurationError: no study in the folder, or nothing to compare with.
        DataError: no complete record of any cell that can be read.
    """
    results = load_study_results(folder)
    which = _published(results, compare)
    if results.outcomes.empty:
        raise DataError(
            f"Nothing to report: none of the {len(results.cells)} cells of study "
            f"{results.study.name!r} in {results.path} has a complete record yet. "
            f"Run it first: alhpo study {results.path}"
            + "".join(f". {line}" for line in _damaged(results))
        )
    comparison = None if which is None else compare_published(results, which)
    tables = study_tables(results)
    figures = study_figures(results, tables)
    document = make_document(results, tables, figures, comparison)
    output = results.path if output is None else Path(output).expanduser()
    report = StudyReport(
        markdown=output / "report.md",
        csv=output / "report.csv",
        latex=output / "report.tex",
        html=output / "report.html",
        figures={figure.key: output / f"{figure.key}.png" for figure in figures},
        results=results,
        document=document,
        comparison=comparison,
    )
    for figure in figures:
        with atomic_path(report.figures[figure.key]) as temporary:
            temporary.write_bytes(figure.png)
    pictures = {key: path.name for key, path in report.figures.items()}
    write_text(report.csv, to_csv(document.tables))
    write_text(report.latex, to_latex(document))
    write_text(report.html, to_html(document, results))
    write_text(report.markdown, to_markdown(document, pictures))
    return report


def _damaged(results: StudyResults) -> list[str]:
    """A line for each cell that cannot be read."""
    return [
        f"left out, damaged: cell {one.cell.index}, {one.cell.title}: {one.failure}"
        for one in results.cells
        if one.state == "damaged"
    ]


def _published(results: StudyResults, compare: str | None) -> str | None:
    """The name of the published tables that are asked for."""
    if compare != "published":
        return compare
    if results.study.published is None:
        raise ConfigurationError(
            f"Study {results.study.name!r} does not say which published tables it is to be "
            f"compared with. Name them: --compare {' or '.join(published_names())}; or write "
            "'published: NAME' in its file."
        )
    return results.study.published
