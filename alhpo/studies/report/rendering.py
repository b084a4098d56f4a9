"""A table that does not know where it is shown, and its forms: Markdown, LaTeX, CSV, HTML."""

from __future__ import annotations

import csv
import html
import io
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Rank = Literal["best", "second", "third", "worst"]

NOTHING = "–"


@dataclass(frozen=True)
class Value:
    """What stands in one cell of a table.

    Attributes:
        text: as it is printed; ``NOTHING`` where there is no value.
        value: the number itself, in the table's unit; NaN where there is none.
        std: its standard deviation; NaN where there is none.
        n: how many seeds or searches it is of; 0 where that has no meaning.
        rank: its rank in the column where the column is ranked, as the paper colours it.
        mark: signs of significance, which the table's note explains.
        note: what is special about it, such as fewer seeds than the others ("n=2").
    """

    text: str = NOTHING
    value: float = math.nan
    std: float = math.nan
    n: int = 0
    rank: Rank | None = None
    mark: str = ""
    note: str = ""

    @property
    def plain(self) -> str:
        """Text, marks and note without any markup."""
        return f"{self.text}{self.mark}" + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True)
class StudyTable:
    """Values in rows and columns under names of one or more levels.

    Attributes:
        key: what kind of table it is and of what, unique in a report: letters, digits, hyphens.
        title: in words.
        corner: what the rows are, such as "strategy".
        columns: names of each column from the outermost level in, all of the same length.
        rows: names of the rows.
        values: one tuple per row, with one value per column.
        note: what a reader must know, as sentences; "" for nothing.

    Raises:
        ValueError: rows, columns and values do not fit each other.
    """

    key: str
    title: str
    corner: str
    columns: tuple[tuple[str, ...], ...]
    rows: tuple[str, ...]
    values: tuple[tuple[Value, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        fits = len(self.values) == len(self.rows)
        fits &= all(len(row) == len(self.columns) for row in self.values)
        if not fits or len({len(names) for names in self.columns}) > 1:
            raise ValueError(
                f"{self.key}: {len(self.rows)} rows and {len(self.columns)} columns do not fit "
                f"rows of {[len(row) for row in self.values]} values."
            )

    @property
    def ranked(self) -> bool:
        """Whether any of its values has a rank."""
        return any(value.rank for row in self.values for value in row)

    def to_markdown(self) -> str:
        """A heading, a table of GitHub's kind, and the note.

        It has one line of column names, so that the levels are joined. The best value of a column
        is bold, the second italic, the worst has a ▼.
        """
        names = (", ".join(filter(None, levels)) for levels in self.columns)
        head = [markdown_text(name) for name in (self.corner, *names)]
        lines = [head, ["---", *["---:"] * len(self.columns)]]
        for name, row in zip(self.rows, self.values, strict=True):
            lines.append([markdown_text(name), *(_markdown_value(value) for value in row)])
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        legend = " Bold: best of a column; italic: second; ▼: worst." if self.ranked else ""
        note = f"{markdown_text(self.note)}{legend}".strip()
        return "\n\n".join(filter(None, [f"### {markdown_text(self.title)}", table, note]))

    def to_latex(self) -> str:
        """A ``table`` environment, for a document with the packages booktabs, graphicx and xcolor
        with its option table.

        Ranks colour the background; the best is bold and the second underlined besides.
        """
        lines = []
        for level in range(len(self.columns[0]) if self.columns else 0):
            last = level == len(self.columns[0]) - 1
            spans = list(self._spans(level))
            cells = [latex_text(self.corner) if last else ""]
            cells += [
                latex_text(name)
                if width == 1
                else rf"\multicolumn{{{width}}}{{c}}{{{latex_text(name)}}}"
                for name, width in spans
            ]
            lines.append(" & ".join(cells) + r" \\")
            ends = list(itertools.accumulate((width for _, width in spans), initial=1))
            if not last:
                rules = itertools.pairwise(ends)
                lines.append("".join(rf"\cmidrule(lr){{{a + 1}-{b}}}" for a, b in rules))
        lines.append(r"\midrule")
        for name, row in zip(self.rows, self.values, strict=True):
            lines.append(" & ".join([latex_text(name), *map(_latex_value, row)]) + r" \\")
        legend = "Green, light green, yellow and red: best, second, third and worst of a column."
        sentences = [f"{self.title}.", self.note, legend if self.ranked else ""]
        caption = " ".join(filter(None, sentences))
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{latex_text(caption)}}}",
                rf"\label{{tab:{self.key}}}",
                r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
                rf"\begin{{tabular}}{{l{'r' * len(self.columns)}}}",
                r"\toprule",
                *lines,
                r"\bottomrule",
                r"\end{tabular}}",
                r"\end{table}",
            ]
        )

    def to_csv(self) -> str:
        """Long form with a header, one line per value that is there.

        The columns: ``table`` (the key), ``row``, ``column_1`` and so on from the outermost
        level in, ``value``, ``std``, ``n``, ``rank``, ``mark``, ``note``, ``text``. Numbers have
        all their digits; what there is not is empty.
        """
        levels = len(self.columns[0]) if self.columns else 0
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        names = [f"column_{level + 1}" for level in range(levels)]
        about = ["value", "std", "n", "rank", "mark", "note", "text"]
        writer.writerow(["table", "row", *names, *about])
        for row, values in zip(self.rows, self.values, strict=True):
            for column, one in zip(self.columns, values, strict=True):
                if one.text != NOTHING:
                    numbers = [
                        "" if math.isnan(x) else repr(float(x)) for x in (one.value, one.std)
                    ]
                    rest = [one.n or "", one.rank or "", one.mark, one.note, one.text]
                    writer.writerow([self.key, row, *column, *numbers, *rest])
        return buffer.getvalue()

    def to_html(self) -> str:
        """A ``table`` element of the class "study".

        Ranks are classes ``best second third worst`` of its cells, marks are superscripts, notes
        are of the class "note"; the table's note is its foot.
        """
        lines = [f'<table class="study" id="{html.escape(self.key)}">']
        lines.append(f"<caption>{html.escape(self.title)}</caption>")
        lines.append("<thead>")
        depth = len(self.columns[0]) if self.columns else 1
        for level in range(depth):
            corner = f'<th rowspan="{depth}">{html.escape(self.corner)}</th>' if level == 0 else ""
            names = "".join(
                f'<th scope="{"col" if width == 1 else "colgroup"}" colspan="{width}">'
                f"{html.escape(name)}</th>"
                for name, width in (self._spans(level) if self.columns else ())
            )
            lines.append(f"<tr>{corner}{names}</tr>")
        lines += ["</thead>", "<tbody>"]
        for name, row in zip(self.rows, self.values, strict=True):
            cells = "".join(map(_html_value, row))
            lines.append(f'<tr><th scope="row">{html.escape(name)}</th>{cells}</tr>')
        lines.append("</tbody>")
        if self.note:
            width = len(self.columns) + 1
            note = html.escape(self.note)
            lines.append(f'<tfoot><tr><td colspan="{width}">{note}</td></tr></tfoot>')
        lines.append("</table>")
        return "\n".join(lines)

    def _spans(self, level: int) -> Iterator[tuple[str, int]]:
        """Names at a level of columns, and how many columns each is over."""
        for names, group in itertools.groupby(self.columns, lambda names: names[: level + 1]):
            yield names[-1], len(list(group))


def _markdown_value(value: Value) -> str:
    text = markdown_text(value.text)
    text = {"best": f"**{text}**", "second": f"*{text}*", "worst": f"{text} ▼"}.get(
        value.rank or "", text
    )
    return (
        text + markdown_text(value.mark) + (f" ({markdown_text(value.note)})" if value.note else "")
    )


def markdown_text(text: str) -> str:
    """Text in which Markdown sees no markup, on one line."""
    escaped = re.sub(r"([\\`*_\[\]|#])", r"\\\1", html.escape(_line(text), quote=False))
    return escaped.replace("~", "&#126;")


#: Backgrounds of ranks in LaTeX, RGB in hexadecimal.
COLOURS: dict[Rank, str] = {
    "best": "B7E1CD",
    "second": "DCEFD3",
    "third": "FFF2CC",
    "worst": "F4CCCC",
}


def _latex_value(value: Value) -> str:
    text = latex_text(value.text)
    if value.rank == "best":
        text = rf"\textbf{{{text}}}"
    elif value.rank == "second":
        text = rf"\underline{{{text}}}"
    colour = rf"\cellcolor[HTML]{{{COLOURS[value.rank]}}}" if value.rank else ""
    mark = rf"\textsuperscript{{{latex_text(value.mark)}}}" if value.mark else ""
    note = rf" {{\scriptsize({latex_text(value.note)})}}" if value.note else ""
    return f"{colour}{text}{mark}{note}"


LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after a line's end it would be an argument
    "±": r"\ensuremath{\pm}",
    "−": r"\ensuremath{-}",
    "×": r"\ensuremath{\times}",
    "≤": r"\ensuremath{\le}",
    "≥": r"\ensuremath{\ge}",
    "→": r"\ensuremath{\to}",
    "ρ": r"\ensuremath{\rho}",
    "τ": r"\ensuremath{\tau}",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "–": "--",
    **{character: rf"\{character}" for character in "{}$&#_%"},
}


def latex_text(text: str) -> str:
    """Text in which LaTeX sees no commands, on one line."""
    return "".join(LATEX.get(character, character) for character in _line(text))


def _html_value(value: Value) -> str:
    kind = f' class="{value.rank}"' if value.rank else ""
    mark = f"<sup>{html.escape(value.mark)}</sup>" if value.mark else ""
    note = f' <span class="note">({html.escape(value.note)})</span>' if value.note else ""
    return f"<td{kind}>{html.escape(value.text)}{mark}{note}</td>"


def _line(text: str) -> str:
    """The text on one line."""
    return " ".join(text.split())
