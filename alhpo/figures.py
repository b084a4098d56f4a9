"""Learning curves as a PNG, drawn without touching matplotlib's global state."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from alhpo.files import atomic_path

# Okabe and Ito's palette without its yellow, then what Tol's "muted" adds to it.
COLOURS = (
    *("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"),
    *("#332288", "#882255", "#999933", "#44AA99", "#AA4499", "#117733", "#CC6677"),
)
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.6)), (0, (1, 1.2)), (0, (5, 1.4, 1, 1.4)), (0, (8, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LARGEST_TICKED = 6


def learning_curves(summary: pd.DataFrame, path: str | Path) -> Figure:
    """Draw test accuracy over labels: a panel per data set and model, a line per group.

    Colour tells the strategy, dashes and marker the HPO mode. A band is ± one standard deviation
    over seeds; a hollow marker is a mean over fewer seeds than the curve's first point has. The
    model that ``hpo="final"`` retrains is a star with an error bar.

    Args:
        summary: what ``report.summarise`` returns.
        path: the PNG to write.

    Returns:
        The figure; each curve is a line whose label is the group's ``label``.
    """
    styles = _styles(summary)
    panels = list(summary.groupby(["dataset", "model"], sort=False))
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.8 * columns + 2.2, 3.7 * rows + 0.3), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, ((dataset, model), panel) in zip(grid, panels, strict=False):
        _draw_panel(axes, panel, styles)
        axes.set_title(_plain(f"{dataset}, {model}"), fontsize=10, loc="left", weight="bold")
    for axes in grid[len(panels) :]:
        axes.remove()
    figure.suptitle(_title(summary["seeds"]), fontsize=11)
    _legend(figure, summary, styles)
    with atomic_path(Path(path)) as temporary:
        canvas.print_figure(temporary, format="png", dpi=200, metadata={"Software": None})
    return figure


def _styles(summary: pd.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    """Colour by strategy, dashes and marker by mode, the same in all panels."""
    strategies, modes = (_distinct(summary[name]) for name in ("strategy", "mode"))
    return {
        (strategy, mode): {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": DASHES[j % len(DASHES)],
            "marker": MARKERS[j % len(MARKERS)],
            "linewidth": 1.5,
            "markersize": 4.5,
        }
        for i, strategy in enumerate(strategies)
        for j, mode in enumerate(modes)
    }


def _draw_panel(axes: Axes, panel: pd.DataFrame, styles: dict[tuple[str, str], Any]) -> None:
    for order, (_, group) in enumerate(panel.groupby("group", sort=False)):
        head = group.iloc[0]
        style = styles[head["strategy"], head["mode"]]
        curve, final = (group[group["kind"] == kind] for kind in ("cycle", "final"))
        labels = curve["n_labeled"].to_numpy()
        mean, std = (
            100 * curve[name].to_numpy(float) for name in ("accuracy_mean", "accuracy_std")
        )
        every = max(1, len(labels) // 10)
        z = 2 + order / 100
        axes.plot(labels, mean, **style, markevery=every, label=_plain(head["label"]), zorder=z)
        axes.fill_between(
            labels, mean - std, mean + std, color=style["color"], alpha=0.13, linewidth=0, zorder=1
        )
        fewer = curve["seeds"].to_numpy() < curve["seeds"].max()
        hollow = style | {"linestyle": "none", "markerfacecolor": "white"}
        shown = np.arange(len(labels)) % every == 0
        if (fewer & shown).any():
            axes.plot(labels[fewer & shown], mean[fewer & shown], **hollow, zorder=z + 0.001)
        for row in final.to_dict("records"):
            std_bar = 100 * row["accuracy_std"]
            axes.errorbar(
                row["n_labeled"],
                100 * row["accuracy_mean"],
                yerr=std_bar if np.isfinite(std_bar) else None,
                **_star(style["color"]),
                elinewidth=1.2,
                capsize=2.5,
                clip_on=False,
                zorder=4,
            )
    axes.set_xlabel("labels")
    axes.set_ylabel("test accuracy (%)")
    ticks = np.unique(panel["n_labeled"])
    if len(ticks) <= LARGEST_TICKED:
        axes.set_xticks(ticks)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(LARGEST_TICKED, integer=True))
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _star(colour: str) -> dict[str, Any]:
    return {
        "color": colour,
        "linestyle": "none",
        "marker": "*",
        "markersize": 13,
        "markeredgecolor": "white",
        "markeredgewidth": 0.8,
    }


def _legend(figure: Figure, summary: pd.DataFrame, styles: dict[tuple[str, str], Any]) -> None:
    """One legend beside the panels: what the colours mean, then what dashes and markers mean."""
    strategies, modes = (_distinct(summary[name]) for name in ("strategy", "mode"))
    entries: list[tuple[str, Line2D | None]] = [("Strategy", None)]
    for name in strategies:
        entries.append((name, Line2D([], [], color=styles[name, modes[0]]["color"], linewidth=3)))
    entries.append(("HPO", None))
    for mode in modes:
        entries.append((mode, Line2D([], [], **styles[strategies[0], mode] | {"color": "0.35"})))
    if (summary["kind"] == "final").any():
        entries.append(("retrained with tuned HPs", Line2D([], [], **_star("0.35"))))
    blank = Line2D([], [], linestyle="none")
    legend = figure.legend(
        handles=[handle or blank for _, handle in entries],
        labels=[_plain(text) for text, _ in entries],
        loc="outside right upper",
        fontsize=8.5,
        frameon=False,
        handlelength=3.2,
    )
    for (_, handle), text in zip(entries, legend.get_texts(), strict=True):
        text.set_weight("bold" if handle is None else "normal")


def _title(seeds: pd.Series) -> str:
    low, high = int(seeds.min()), int(seeds.max())
    if high == 1:
        return "Test accuracy, one seed"
    count = f"{high}" if low == high else f"{low} to {high}"
    return f"Test accuracy, mean ± standard deviation over {count} seeds"


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _plain(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")
