"""Tables in LaTeX, to be pasted into a paper."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator, Sequence

from alhpo.reports.formats.table import Rank, Table, Value

#: What a document needs; colortbl and xcolor rather than xcolor's option "table", which clashes
#: where a class has loaded xcolor without it.
LATEX_PACKAGES = r"\usepackage{booktabs,colortbl,graphicx,xcolor}"

#: Letters beside each other, which a line of an article holds in four fifths of ``\small``, and
#: lines on a page.
MOST_LETTERS = 92
MOST_LINES = 44
#: Letters that are as wide as the space between two columns.
GAP = 2.5

#: Backgrounds of ranks, RGB in hexadecimal.
COLOURS: dict[Rank, str] = {
    "best": "B7E1CD",
    "second": "DCEFD3",
    "third": "FFF2CC",
    "worst": "F4CCCC",
}
LEGEND: dict[Rank, str] = {
    "best": "green and bold: best of a column",
    "second": "light green and underlined: second",
    "third": "yellow: third",
    "worst": "red: worst",
}


def to_latex(table: Table) -> str:
    """``table`` environments, for a document with ``LATEX_PACKAGES``.

    Ranks colour the background. A table that is too wide for a line has its columns below each
    other, in blocks that keep columns of one name together where they can; what is still too
    wide is shrunk. One that is too long for a page goes on in a second environment.
    """
    blocks = _blocks(table)
    lines = max(1, MOST_LINES // len(blocks) - len(table.levels) - 1)
    starts = range(0, max(len(table.rows), 1), lines)
    return "\n\n".join(_environment(table, slice(i, i + lines), blocks) for i in starts)


def _environment(table: Table, rows: slice, blocks: Sequence[slice]) -> str:
    widest = max(block.stop - block.start for block in blocks)
    title = table.title if not rows.start else f"{table.title} (continued)"
    label = rf"\label{{tab:{table.key}}}" if not rows.start else ""
    legend = "; ".join(text for rank, text in LEGEND.items() if rank in table.ranks)
    legend = f"{legend[0].upper()}{legend[1:]}." if legend else ""
    note = latex_text(f"{table.note} {legend}")
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\small",
            rf"\caption{{{latex_text(title)}}}{label}",
            r"\smallskip",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * widest}}}",
            r"\toprule",
            "\n\\midrule[\\heavyrulewidth]\n".join(
                "\n".join(_lines(table.part(rows, block))) for block in blocks
            ),
            r"\bottomrule",
            r"\end{tabular}}",
            *([rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {note}}}"] if note else []),
            r"\end{table}",
        ]
    )


def _lines(table: Table) -> Iterator[str]:
    """The names of the columns, a rule, and the rows."""
    for level in table.levels:
        last = level == table.levels[-1]
        spans = list(table.spans(level))
        names = [
            rf"\multicolumn{{{width}}}{{{'r' if last else 'c'}}}{{{latex_text(name)}}}"
            if width > 1 or not last
            else latex_text(name)
            for name, width in spans
        ]
        yield " & ".join([latex_text(table.corner) if last else "", *names]) + r" \\"
        if not last:
            ends = itertools.accumulate((width for _, width in spans), initial=1)
            yield "".join(rf"\cmidrule(lr){{{a + 1}-{b}}}" for a, b in itertools.pairwise(ends))
    yield r"\midrule"
    for name, row in zip(table.rows, table.values, strict=True):
        yield " & ".join([latex_text(name), *map(_value, row)]) + r" \\"


def _blocks(table: Table) -> list[slice]:
    """Columns that fit beside each other, in order."""
    room = max(MOST_LETTERS - max(map(len, (table.corner, *table.rows))), MOST_LETTERS / 2)
    columns = zip(*table.values, strict=True) if table.rows else ((),) * len(table.columns)
    widths = [GAP + max((len(one.plain) for one in column), default=0) for column in columns]
    for level in range(table.depth):
        spans = itertools.chain.from_iterable([one] * one[1] for one in table.spans(level))
        named = (len(name) / width for name, width in spans)
        widths = [max(pair) for pair in zip(widths, named, strict=True)]
    ends = itertools.accumulate((width for _, width in table.spans(0)), initial=0)
    starts = [0]
    for first, stop in itertools.pairwise(ends):
        fits = sum(widths[first:stop]) <= room
        for j, end in [(first, stop)] if fits else [(j, j + 1) for j in range(first, stop)]:
            if j > starts[-1] and sum(widths[starts[-1] : end]) > room:
                starts.append(j)
    return list(itertools.starmap(slice, itertools.pairwise([*starts, len(table.columns)])))


def _value(value: Value) -> str:
    text = latex_text(value.text)
    if value.rank == "best":
        text = rf"\textbf{{{text}}}"
    elif value.rank == "second":
        text = rf"\underline{{{text}}}"
    colour = rf"\cellcolor[HTML]{{{COLOURS[value.rank]}}}" if value.rank else ""
    mark = rf"\textsuperscript{{{latex_text(value.mark)}}}" if value.mark else ""
    note = rf" {{\scriptsize({latex_text(value.note)})}}" if value.note else ""
    return f"{colour}{text}{mark}{note}"


#: Characters, each before the name of its command in formulas.
SYMBOLS = """
αalpha βbeta γgamma δdelta εvarepsilon ζzeta ηeta θtheta ιiota κkappa λlambda μmu νnu ξxi πpi ρrho
σsigma τtau υupsilon φvarphi χchi ψpsi ωomega ΓGamma ΔDelta ΘTheta ΛLambda ΞXi ΠPi ΣSigma ΥUpsilon
ΦPhi ΨPsi ΩOmega ±pm ×times ≤le ≥ge ≠ne ≈approx →to ∞infty √surd
"""
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after a line's end it would be an argument
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "–": r"\textendash{}",
    "−": r"\ensuremath{-}",
    "²": r"\ensuremath{^2}",
    **{character: rf"\{character}" for character in "{}$&#_%"},
    **{word[0]: rf"\ensuremath{{\{word[1:]}}}" for word in SYMBOLS.split()},
}


def latex_text(text: str) -> str:
    """Text in which LaTeX sees no commands, on one line.

    Letters beyond Latin and Greek are left to the engine and the fonts of the document.
    """
    line = unicodedata.normalize("NFC", " ".join(text.split()))
    return "".join(LATEX.get(character, character) for character in line).replace("--", "-{}-")
