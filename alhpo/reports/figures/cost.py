"""The cost of runs and tunings."""

from __future__ import annotations

import itertools

import numpy as np
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from alhpo.reports.figures.figure import WIDTH, ReportFigure, canvas, legend, of_part
from alhpo.reports.figures.style import COLOURS, bare, short
from alhpo.reports.part import Frame, Part, joined


def cost_figure(part: Part) -> ReportFigure | None:
    """Stacked bars: active learning, then the tuning at each number of labels."""
    if not part.curves["epochs_fit"].notna().any():
        return None
    runs = part.curves.groupby("cell", sort=False).last()
    every = itertools.product(part.shown("setting"), part.shown("strategy"))
    slots = [(setting, strategy) for setting, strategy in every if part.seeds[strategy, setting]]
    order = part.findings.tunings
    parts: list[tuple[str, Frame]] = [("active learning", runs)]
    parts += [
        (f"{tuning} at {labels:,} labels", rows)
        for (labels, tuning), rows in sorted(
            part.tuned.groupby(["n_labeled", "tuning"]),
            key=lambda one: (one[0][0], order.index(one[0][1])),
        )
    ]
    figure = canvas(WIDTH, 1.1 + 0.19 * len(slots))
    left, right = figure.subplots(1, 2, sharey=True)
    long = max(float(rows["seconds"].max()) for _, rows in parts) > 2 * 3600
    unit, seconds = ("hours", 3600) if long else ("minutes", 60)
    for axes, quantity in ((left, "training epochs"), (right, unit)):
        start = np.zeros(len(slots))
        for i, (_, rows) in enumerate(parts):
            if axes is left:
                spent = rows["epochs_hpo"].fillna(0) + rows["epochs_fit"]
            else:
                spent = rows["seconds"] / seconds
            means = spent.groupby([rows["setting"], rows["strategy"]]).mean()
            width = np.array([np.nan_to_num(means.get(slot, 0.0)) for slot in slots], float)
            colour = ("#7A7A7A", *COLOURS[1:])[i % len(COLOURS)]
            axes.barh(range(len(slots)), width, 0.72, left=start, color=colour)
            start += width
        axes.set_xlabel(quantity)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        bare(axes)
        axes.grid(visible=False, axis="y")
    left.xaxis.set_major_formatter("{x:,.0f}")
    names = [short(joined(slot)) for slot in slots]
    left.set_yticks(range(len(slots)), names)
    left.set_ylim(len(slots) - 0.4, -0.6)
    colours = itertools.cycle(("#7A7A7A", *COLOURS[1:]))
    legend(figure, [Patch(color=c, label=short(n)) for (n, _), c in zip(parts, colours)])  # noqa: B905
    caption = "Training epochs and wall-clock time of one repetition, mean over seeds."
    return of_part(part, "cost", "What was spent", caption, figure)
