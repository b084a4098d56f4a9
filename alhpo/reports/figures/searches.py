"""What searches gained, and the hyperparameters that they left, over numbers of labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from alhpo.reports.figures.curves import bands, curve
from alhpo.reports.figures.figure import ReportFigure, name_lines, of_part, panels
from alhpo.reports.figures.style import finish, line_styles, plain, star
from alhpo.reports.findings import ACTIVE, WITHIN
from alhpo.reports.part import Frame, Part, gains, joined

PANELS = {"gain": "validation", "gain_test": "test"}


def gain_figure(part: Part) -> ReportFigure | None:
    """A panel for validation and one for test, a line per strategy, setting and kind of search."""
    rows = gains(part.frame(part.findings.searches))
    shown = [name for name in PANELS if rows[name].notna().any()]
    if not shown:
        return None
    rows = rows.assign(kind=np.where(rows["search"] == WITHIN, "final", "cycle"))
    tuning = rows["search"].where(~rows["search"].isin([ACTIVE, WITHIN]), "")
    rows["line"] = _lines(rows, tuning)
    looks = line_styles(list(dict.fromkeys(rows["line"])))
    figure, grid = panels(len(shown))
    for axes, name in zip(grid, shown, strict=True):
        axes.axhline(0, color="0.6", linewidth=0.8, zorder=1)
        for line, style in looks.items():
            here = rows[rows["line"] == line]
            seeds = part.seeds[here["strategy"].iloc[0], here["setting"].iloc[0]]
            curve(axes, here, name, 1.0, style, line, seeds)
        axes.set_title(PANELS[name], fontsize=9.5, loc="left", weight="bold")
        finish(axes, np.unique(rows["n_labeled"]), "gain (percentage points)")
        axes.label_outer()
    name_lines(figure, looks)
    metrics = " or ".join(dict.fromkeys(rows["metric_name"]))
    caption = (
        f"{metrics[0].upper()}{metrics[1:]} of the configuration that a search left minus that of "
        f"the one before it. {bands(part)}{_stars(rows)}"
    )
    if "gain_test" not in shown:
        caption += " The gain on test was not measured."
    return of_part(part, "gain", "What the searches gained", caption, figure)


def hyperparameters_figure(part: Part) -> ReportFigure | None:
    """A panel per hyperparameter that runs searched, a line per strategy and setting."""
    rows = part.frame(part.findings.hyperparameters)
    if rows.empty:
        return None
    rows = rows.assign(line=_lines(rows))
    names = list(dict.fromkeys(rows["hyperparameter"]))
    looks = line_styles(list(dict.fromkeys(rows["line"])))
    figure, grid = panels(len(names), share=False)
    for axes, name in zip(grid, names, strict=True):
        here = rows[rows["hyperparameter"] == name]
        if any(isinstance(value, bool | str) for value in here["value"]):
            _choices(axes, here, looks)
        else:
            _numbers(axes, here, looks)
        axes.set_title(plain(name), fontsize=9.5, loc="left", weight="bold")
        finish(axes, np.unique(rows["n_labeled"]), "")
    name_lines(figure, looks)
    caption = (
        "The configuration of each cycle, in the runs that search; axes are logarithmic where the "
        "space is. Numbers: the median over seeds, and a band from the least to the greatest. "
        f"Choices: a line per seed.{_stars(rows)}"
    )
    title = "Hyperparameters over the cycles"
    return of_part(part, "hyperparameters", title, caption, figure)


def _numbers(axes: Axes, rows: Frame, looks: dict[str, dict[str, Any]]) -> None:
    for line, style in looks.items():
        here = rows[rows["line"] == line]
        for kind, group in here.groupby("kind"):
            values = group.assign(value=group["value"].astype(float)).groupby("n_labeled")["value"]
            middle = values.median()
            if kind == "final":
                axes.plot(middle.index, middle, **star(style["color"]), zorder=5)
                continue
            axes.plot(middle.index, middle, **style)
            band: dict[str, Any] = {"color": style["color"], "alpha": 0.13, "linewidth": 0}
            axes.fill_between(middle.index, values.min(), values.max(), **band)
    if rows["log"].all() and (rows["value"].astype(float) > 0).all():
        axes.set_yscale("log")


def _choices(axes: Axes, rows: Frame, looks: dict[str, dict[str, Any]]) -> None:
    names = sorted({str(value) for value in rows["value"]})
    for line, style in looks.items():
        here = rows[rows["line"] == line]
        for (kind, _), group in here.groupby(["kind", "cell"]):
            places = [names.index(str(value)) for value in group["value"]]
            look: dict[str, Any] = {**style, "alpha": 0.6}
            if kind == "final":
                look = star(style["color"])
            axes.plot(group["n_labeled"], places, **look)
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.set_ylim(-0.5, len(names) - 0.5)


def _lines(rows: Frame, *further: Frame) -> list[str]:
    """The name of each row's line."""
    return [
        joined(names) for names in zip(rows["strategy"], rows["setting"], *further, strict=True)
    ]


def _stars(rows: Frame) -> str:
    return " Stars: of the search after the last cycle." * bool((rows["kind"] == "final").any())
