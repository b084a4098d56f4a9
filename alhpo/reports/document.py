"""A report as sections, and its forms in text: Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from alhpo.base.errors import DataError, error_line
from alhpo.base.files import Journal
from alhpo.reports.comparison import Comparison
from alhpo.reports.figures import ReportFigure
from alhpo.reports.findings import CellState, Findings, Grid, State
from alhpo.reports.formats import LATEX_PACKAGES, Table, markdown_text
from alhpo.reports.formats import to_latex as table_to_latex
from alhpo.reports.formats import to_markdown as table_to_markdown
from alhpo.reports.sentences import gain_sentences, tuning_sentences

ACCURACY = ("accuracy", "learning", "balanced-accuracy", "macro-f1")
#: Sections in order: key, title, and prefixes of the keys of their tables and figures.
SECTIONS = (
    ("accuracy", "Accuracy", (*ACCURACY, "gap", "curves", "tuned")),
    ("published", "Beside the published numbers", ()),
    ("tuning", "What searching brought", ("tuning", "starts")),
    ("order", "Order of the strategies", ("order", "agreement")),
    ("calibration", "Calibration", ("ece", "brier", "nll", "calibration")),
    ("validation", "Validation and test", ("validation", "regret")),
    ("searches", "What the searches did", ("gain", "found", "hyperparameters")),
    ("arms", "What the asked strategies did", ("arms",)),
    ("cost", "Cost", ("cost",)),
)


@dataclass(frozen=True)
class Section:
    """A part of a report: text, remarks, tables, figures, in this order."""

    key: str
    title: str
    tables: tuple[Table, ...] = ()
    figures: tuple[ReportFigure, ...] = ()
    text: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Document:
    """A report without the pictures of picked images.

    Attributes:
        grid: the cells of the report.
        states: the cells of each state, without empty states.
        counts: number of cells in each state, in words.
        incomplete: lines about the cells that are not finished.
        sections: the sections, without empty ones.
        made: versions, machines and times of the runs.
    """

    grid: Grid
    states: Mapping[str, tuple[CellState, ...]]
    counts: Mapping[State, str]
    incomplete: tuple[str, ...]
    sections: tuple[Section, ...]
    made: Mapping[str, tuple[str, ...]]

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences about runs that are left out, and other remarks."""
        return (*self.grid.left_out, *self.grid.remarks)

    @property
    def tables(self) -> list[Table]:
        return [table for section in self.sections for table in section.tables]

    @property
    def figures(self) -> list[ReportFigure]:
        return [figure for section in self.sections for figure in section.figures]


def make_document(
    findings: Findings,
    tables: Sequence[Table],
    figures: Sequence[ReportFigure],
    comparison: Comparison | None = None,
) -> Document:
    """Sort tables and figures into sections."""
    sections = []
    for key, title, starts in SECTIONS:
        section = Section(
            key,
            title,
            tuple(table for table in tables if table.key.startswith(starts)),
            tuple(figure for figure in figures if figure.key.startswith(starts)),
        )
        if key == "published" and comparison:
            section = _published(comparison)
        elif key == "searches":
            section = replace(section, text=tuple(gain_sentences(findings)))
        elif key == "cost":
            section = replace(section, text=tuple(tuning_sentences(findings)))
        if section.tables or section.figures:
            sections.append(section)
    counts = findings.counts
    states = {state: tuple(one for one in findings.cells if one.state == state) for state in counts}
    return Document(
        grid=findings.grid,
        states=states,
        counts=counts,
        incomplete=tuple(findings.incomplete),
        sections=tuple(sections),
        made=_made(findings),
    )


def _published(comparison: Comparison) -> Section:
    text = [f"Published: {comparison.source}"]
    if comparison.differences:
        text.append("Differences from the published protocol:")
    return Section(
        "published",
        "Beside the published numbers",
        comparison.tables,
        text=tuple(text),
        remarks=comparison.differences,
    )


def _made(findings: Findings) -> dict[str, tuple[str, ...]]:
    """Versions, machines and times of all starts of all cells."""
    starts: list[dict[str, Any]] = []
    unknown: list[str] = []
    for one in findings.cells:
        try:
            entries = Journal(one.cell.path / "sessions.jsonl").read()
        except (DataError, OSError) as error:
            unknown.append(f"those of {one.name}: {error_line(error)}")
        else:
            starts += [entry for entry in entries if isinstance(entry, dict)]
    not_known = {"not known": tuple(unknown)} if unknown else {}
    if not starts:
        return not_known
    versions: dict[str, list[str]] = {"Python": [str(start.get("python")) for start in starts]}
    for start in starts:
        for name, version in dict(start.get("versions") or {}).items():
            if version:
                versions.setdefault(name, []).append(version)
    machines = dict.fromkeys(
        f"{start.get('device')}, {start.get('precision')}, "
        f"{start.get('threads')} thread{'s' * (start.get('threads') != 1)}"
        for start in starts
    )
    times = sorted(str(start.get("started")) for start in starts)
    return {
        "versions": tuple(
            f"{name} {' and '.join(sorted(set(numbers)))}" for name, numbers in versions.items()
        ),
        "machines": tuple(machines),
        "starts": (f"{len(starts)} of {findings.grid.noun}, from {times[0]} to {times[-1]}",),
        **not_known,
    }


def to_markdown(document: Document, pictures: Mapping[str, str]) -> str:
    """The report in GitHub's Markdown.

    Args:
        document: the report.
        pictures: the file of each figure by its key, relative to the report.
    """
    grid = document.grid
    parts = [f"# {markdown_text(grid.title)}", markdown_text(grid.description)]
    parts.append(f"{', '.join(document.counts.values())}.")
    parts.append(_bullets([*document.incomplete, *document.remarks]))
    for section in document.sections:
        parts += [f"## {section.title}", *section.text, _bullets(section.remarks)]
        parts += map(table_to_markdown, section.tables)
        for figure in section.figures:
            title, caption = markdown_text(figure.title), markdown_text(figure.caption)
            parts += [f"![{title}]({pictures[figure.key]})", f"**{title}.** {caption}"]
    parts.append("## How it was made")
    parts.append(_bullets(f"{name}: {'; '.join(lines)}" for name, lines in document.made.items()))
    again = "To repeat or continue it: `alhpo study study.yaml`, with"
    parts.append(again if grid.kind == "study" else "The settings of the runs:")
    fence = "```"
    while fence in grid.settings:
        fence += "`"
    parts.append(f"{fence}yaml\n{grid.settings}\n{fence}")
    return "\n\n".join(filter(None, parts)) + "\n"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {markdown_text(line)}" for line in lines)


def to_latex(document: Document) -> str:
    """All tables in LaTeX, to input as a file or to copy from."""
    lines = [
        f"The tables of {document.grid.title}: \\input this file, or copy what you need.",
        f"The document needs {LATEX_PACKAGES}",
    ]
    comment = "\n".join("% " + " ".join(line.split()) for line in lines)
    return "\n\n".join([comment, *map(table_to_latex, document.tables)]) + "\n"
