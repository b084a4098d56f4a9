"""The style of figures, without changing matplotlib's global state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's palette without its yellow, then what Tol's "muted" adds to it.
COLOURS = (
    *("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"),
    *("#332288", "#882255", "#999933", "#44AA99", "#AA4499", "#117733", "#CC6677"),
)
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.6)), (0, (1, 1.2)), (0, (5, 1.4, 1, 1.4)), (0, (8, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST_TICKS = 6
MOST_MARKERS = 10
SMALL = 8.5  # points
LONGEST = 40  # letters of a name


def line_styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes of each setting or strategy, the same in all figures."""
    return {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": DASHES[i // 4 % len(DASHES)],
            "marker": MARKERS[i % len(MARKERS)],
            # Curves may coincide (final and fixed do): later ones lie below and look out.
            "markersize": 4.5 + 1.2 * min(i, 3),
            "markeredgecolor": "white",
            "markeredgewidth": 0.5,
            "linewidth": 1.5,
            "zorder": 3 - i / 100,
        }
        for i, name in enumerate(names)
    }


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


def within(axes: Axes, low: float | None, high: float | None) -> None:
    """Keep the axis within the possible values, whatever the bands."""
    bottom, top = axes.get_ylim()
    axes.set_ylim(
        bottom if low is None else max(low, bottom), top if high is None else min(high, top)
    )


def short(text: str) -> str:
    """A name as it fits beside an axis, in which matplotlib sees no formula."""
    return plain(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")


def plain(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")
