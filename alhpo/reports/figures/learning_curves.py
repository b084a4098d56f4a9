"""Learning curves as a PNG, drawn without touching matplotlib's global state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from alhpo.base.files import atomic_path
from alhpo.runs.results import Group

# Okabe and Ito's palette without its yellow, then what Tol's "muted" adds to it.
COLOURS = (
    *("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"),
    *("#332288", "#882255", "#999933", "#44AA99", "#AA4499", "#117733", "#CC6677"),
)
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.6)), (0, (1, 1.2)), (0, (5, 1.4, 1, 1.4)), (0, (8, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST_TICKS = 6
MOST_MARKERS = 10


def learning_curves(summary: Sequence[Group], path: str | Path) -> Figure:
    """Draw test accuracy over labels: a panel per data set and model, a line per group.

    Colour tells the strategy, dashes and marker the HPO mode. A band is ± one standard deviation
    over seeds; a hollow marker is a mean over fewer seeds than the curve has. The model that
    is retrained after a final search is a star with an error bar.

    Args:
        summary: what ``results.summarise`` returns.
        path: the PNG to write.

    Returns:
        The figure; each curve is a line whose label is the group's ``label``.
    """
    panels: dict[tuple[str, str], list[Group]] = {}
    for group in summary:
        panels.setdefault((group.dataset, group.model), []).append(group)
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.8 * columns + 2.2, 4.0 * rows + 0.3), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    colours, strokes = _styles(summary)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (names, groups) in zip(grid, panels.items(), strict=False):
        for group in groups:
            _draw(axes, group, strokes[group.mode] | {"color": colours[group.strategy]})
        axes.set_title(plain(", ".join(names)), fontsize=10, loc="left", weight="bold")
        finish(axes, np.unique([point.n_labeled for group in groups for point in group.curve]))
    for axes in grid[len(panels) :]:
        axes.remove()
    figure.suptitle(_title(summary), fontsize=11, x=0.01, ha="left")
    _add_legend(figure, summary, colours, strokes)
    with atomic_path(Path(path)) as temporary:
        canvas.print_figure(temporary, format="png", dpi=200, metadata={"Software": None})
    return figure


def _styles(summary: Iterable[Group]) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Colour by strategy, dashes and marker by mode, the same in all panels."""
    strategies = dict.fromkeys(group.strategy for group in summary)
    modes = dict.fromkeys(group.mode for group in summary)
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(strategies)}
    strokes = {
        name: {
            "linestyle": DASHES[i % len(DASHES)],
            "marker": MARKERS[i % len(MARKERS)],
            "linewidth": 1.4,
            # Curves may coincide (final and fixed do): later ones lie below and look out.
            "markersize": 5 + 1.5 * min(i, 3),
            "markeredgecolor": "white",
            "markeredgewidth": 0.5,
            "zorder": 3 - i / 100,
        }
        for i, name in enumerate(modes)
    }
    return colours, strokes


def _draw(axes: Axes, group: Group, style: dict[str, Any]) -> None:
    labels = np.array([point.n_labeled for point in group.curve])
    mean = 100 * np.array([point.accuracy_mean for point in group.curve])
    std = 100 * np.array([point.accuracy_std for point in group.curve])
    shown = np.linspace(0, len(labels) - 1, min(len(labels), MOST_MARKERS)).round().astype(int)
    axes.plot(labels, mean, **style, markevery=shown.tolist(), label=plain(group.label))
    axes.fill_between(
        labels, mean - std, mean + std, color=style["color"], alpha=0.13, linewidth=0, zorder=1
    )
    fewer = [i for i in shown if group.curve[i].seeds < group.seeds]
    if fewer:
        hollow: dict[str, Any] = style | {
            "linestyle": "none",
            "markerfacecolor": "white",
            "markeredgecolor": style["color"],
            "markeredgewidth": 1,
        }
        axes.plot(labels[fewer], mean[fewer], **hollow)
    if group.final:
        x, y = group.final.n_labeled, 100 * group.final.accuracy_mean
        error = 100 * group.final.accuracy_std
        if np.isfinite(error):
            axes.errorbar(x, y, yerr=error, color=style["color"], capsize=3, zorder=4)
        axes.plot(x, y, **star(style["color"]), zorder=5)


def finish(axes: Axes, ticks: np.ndarray, quantity: str = "test accuracy (%)") -> None:
    """Name the axes of a panel over numbers of labels, and draw its grid."""
    axes.set_xlabel("labels")
    axes.set_ylabel(quantity)
    if len(ticks) <= MOST_TICKS:
        axes.set_xticks(ticks)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(MOST_TICKS, integer=True))
    bare(axes)


def bare(axes: Axes) -> None:
    """A light grid behind what is drawn, and no frame at the top and the right."""
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def star(colour: str) -> dict[str, Any]:
    """The style of a retrained model."""
    return {
        "color": colour,
        "linestyle": "none",
        "marker": "*",
        "markersize": 13,
        "markeredgecolor": "white",
        "markeredgewidth": 0.8,
    }


def _add_legend(
    figure: Figure,
    summary: Sequence[Group],
    colours: dict[str, str],
    strokes: dict[str, dict[str, Any]],
) -> None:
    """One legend beside the panels: what colours mean, then what dashes and markers mean."""
    heading = Line2D([], [], linestyle="none")
    entries = [("Strategy", heading)]
    entries += [(name, Line2D([], [], color=c, linewidth=3)) for name, c in colours.items()]
    entries += [("\nHPO", heading)]
    entries += [(name, Line2D([], [], color="0.35", **s)) for name, s in strokes.items()]
    if any(group.final for group in summary):
        entries += [("retrained with tuned HPs", Line2D([], [], **star("0.35")))]
    if any(point.seeds < group.seeds for group in summary for point in group.curve):
        hollow = Line2D([], [], color="0.35", linestyle="none", marker="o", markerfacecolor="white")
        entries += [("hollow: fewer seeds", hollow)]
    legend = figure.legend(
        handles=[handle for _, handle in entries],
        labels=[plain(text) for text, _ in entries],
        loc="outside right upper",
        fontsize=8.5,
        frameon=False,
        handlelength=3.2,
    )
    for (_, handle), text in zip(entries, legend.get_texts(), strict=True):
        text.set_fontweight("bold" if handle is heading else "normal")


def _title(summary: Iterable[Group]) -> str:
    counts = {group.seeds for group in summary}
    low, high = min(counts), max(counts)
    if high == 1:
        return "Test accuracy, one seed"
    count = f"{high}" if low == high else f"{low} to {high}"
    return f"Test accuracy, mean ± standard deviation over {count} seeds"


def plain(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")
