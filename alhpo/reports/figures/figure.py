"""A figure of a report, and how its panels and its legend are laid out."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from alhpo.reports.figures.style import SMALL, short
from alhpo.reports.part import Part

WIDTH = 7.4  # inches
PANEL = 2.55
DPI = 200


@dataclass(frozen=True)
class ReportFigure:
    """A figure of a report.

    Attributes:
        key: unique in a report: letters, digits, hyphens.
        title: title in words.
        caption: how to read it.
        figure: the matplotlib figure.
        png: the image, 200 pixels per inch.
    """

    key: str
    title: str
    caption: str
    figure: Figure
    png: bytes

    @property
    def width(self) -> int:
        """Width in CSS pixels."""
        return round(120 * self.figure.get_figwidth())


def finished(key: str, title: str, caption: str, figure: Figure) -> ReportFigure:
    """Render the figure."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return ReportFigure(key, title, caption, figure, buffer.getvalue())


def of_part(part: Part, what: str, title: str, caption: str, figure: Figure) -> ReportFigure:
    """Render a figure of a part; its name has data set and model if there are several parts."""
    key = part.key(what) if part.named else what
    return finished(key, f"{title}, {part.title}" if part.named else title, caption, figure)


def legend(figure: Figure, handles: Sequence[Any]) -> None:
    """Draw a legend below the panels."""
    longest = max(len(handle.get_label()) for handle in handles)
    columns = max(1, min(len(handles), 4, 96 // (longest + 8)))
    figure.legend(
        handles=list(handles),
        loc="outside lower center",
        ncols=columns,
        fontsize=SMALL,
        frameon=False,
        handlelength=2.6,
    )


def canvas(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def panels(
    n: int, *, share: bool = True, height: float = PANEL, columns: int = 0
) -> tuple[Figure, list[Axes]]:
    """``n`` panels, two or three to a row unless ``columns`` says how many."""
    columns = columns or (n if n < 3 else 2 if n == 4 else 3)
    rows = -(-n // columns)
    width = WIDTH if columns > 1 else 0.7 * WIDTH
    figure = canvas(width, 0.5 + height * rows * (1 if columns > 1 else 1.25))
    grid = list(figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).flat)
    for axes in grid[n:]:
        axes.remove()
    return figure, grid[:n]


def name_lines(figure: Figure, lines: dict[str, dict[str, Any]]) -> None:
    """A legend of lines by their name, if there are several."""
    handles = [Line2D([], [], label=short(name or "all"), **s) for name, s in lines.items()]
    if len(handles) > 1:
        legend(figure, handles)
