"""A figure of a report, and what all of them are drawn with.

Nothing touches matplotlib's global state.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from alhpo.reports.figures.learning_curves import COLOURS, DASHES, MARKERS, plain
from alhpo.reports.part import Part

WIDTH = 7.4  # inches
PANEL = 2.55
SMALL = 8.5  # points
LONGEST = 40  # letters of a name


@dataclass(frozen=True)
class StudyFigure:
    """A figure of a report.

    Attributes:
        key: what it shows and of what, unique in a report: letters, digits, hyphens.
        title: in words.
        caption: how to read it.
        figure: as matplotlib has it.
        png: as it is shown, 200 pixels an inch.
    """

    key: str
    title: str
    caption: str
    figure: Figure
    png: bytes

    @property
    def width(self) -> int:
        """Pixels of CSS that it is best shown at."""
        return round(120 * self.figure.get_figwidth())


def finished(key: str, title: str, caption: str, figure: Figure) -> StudyFigure:
    """The figure with its pixels."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=200, metadata={"Software": None})
    return StudyFigure(key, title, caption, figure, buffer.getvalue())


def of_part(part: Part, what: str, title: str, caption: str, figure: Figure) -> StudyFigure:
    """The same, named after the data set and the model where there are several."""
    key = part.key(what) if part.named else what
    return finished(key, f"{title}, {part.title}" if part.named else title, caption, figure)


def legend(figure: Figure, handles: Sequence[Any]) -> None:
    """Below the panels."""
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
    return Figure(figsize=(width, height), layout="constrained")


def panels(n: int, *, share: bool = True, height: float = PANEL) -> tuple[Figure, list[Axes]]:
    """``n`` panels, two or three to a row."""
    columns = n if n < 3 else 2 if n == 4 else 3
    rows = -(-n // columns)
    width = WIDTH if columns > 1 else 0.7 * WIDTH
    figure = canvas(width, 0.5 + height * rows * (1 if columns > 1 else 1.25))
    grid = list(figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).flat)
    for axes in grid[n:]:
        axes.remove()
    return figure, grid[:n]


def styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes of each setting or strategy, the same in all figures."""
    return {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": DASHES[i // 4 % len(DASHES)],
            "marker": MARKERS[i % len(MARKERS)],
            "markersize": 4.5,
            "markeredgecolor": "white",
            "markeredgewidth": 0.5,
            "linewidth": 1.5,
            "zorder": 3 - i / 100,
        }
        for i, name in enumerate(names)
    }


def name_lines(figure: Figure, lines: dict[str, dict[str, Any]]) -> None:
    """A legend of lines by their name, if there are several."""
    handles = [Line2D([], [], label=short(name or "all"), **s) for name, s in lines.items()]
    if len(handles) > 1:
        legend(figure, handles)


def short(text: str) -> str:
    """A name as it fits beside an axis, in which matplotlib sees no formula."""
    return plain(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")


def within(axes: Axes, low: float | None, high: float | None) -> None:
    """No band makes the axis leave the possible values."""
    bottom, top = axes.get_ylim()
    axes.set_ylim(
        bottom if low is None else max(low, bottom), top if high is None else min(high, top)
    )
