"""The cost of runs and tunings."""

from __future__ import annotations

import math
from collections.abc import Callable

from alhpo.reports import statistics
from alhpo.reports.findings import ACTIVE, WITHIN
from alhpo.reports.formats import Table, Value
from alhpo.reports.part import Part, joined


def cost_table(part: Part) -> Table | None:
    """Mean epochs, images and time of a run and of a tuning."""
    if not part.outcomes:
        return None
    runs = {r["cell"]: r for r in part.outcomes if r["column"] in (ACTIVE, WITHIN)}  # the last
    tunings = [r for r in part.outcomes if r["column"] not in (ACTIVE, WITHIN)]
    groups = {ACTIVE: list(runs.values())}
    for kind in part.findings.tunings:
        if same := [row for row in tunings if row["column"] == kind]:
            groups[kind] = same
    spent: list[tuple[str, Callable[[float], str]]] = [
        ("epochs_fit", lambda x: f"{x:,.0f}"),
        ("epochs_hpo", lambda x: f"{x:,.0f}"),
        ("images", _images),
        ("seconds", time_text),
    ]
    names = {"epochs_fit": "fit epochs", "epochs_hpo": "HPO epochs", "seconds": "time"}
    rows, values = [], []
    for strategy in part.strategies:
        for setting in part.findings.settings:
            row = []
            for group in groups.values():
                here = [r for r in group if (r["strategy"], r["setting"]) == (strategy, setting)]
                for what, text in spent:
                    one = statistics.summary([row[what] for row in here])
                    shown = Value(text(one.mean), one.mean, one.std, one.n) if one.n else Value()
                    row.append(shown)
            if any(value.n for value in row):
                rows.append(joined((strategy, setting)))
                values.append(tuple(row))
    every = [row for group in groups.values() for row in group]
    total = {what: sum(r[what] for r in every if math.isfinite(r[what])) for what, _ in spent}
    return Table(
        key=part.key("cost"),
        title=f"{part.title}: what one run{' and one tuning' * (len(groups) > 1)} took",
        corner="strategy, setting",
        columns=tuple((kind, names.get(what, what)) for kind in groups for what, _ in spent),
        rows=tuple(rows),
        values=tuple(values),
        note="Means over repetitions (and numbers of labels tuned at), up to where unfinished runs "
        "are. Images count as often as a model was trained on them. Together: "
        f"{total['epochs_fit'] + total['epochs_hpo']:,.0f} epochs, {_images(total['images'])} "
        f"images, {time_text(total['seconds'])} of computing.",
    )


def _images(n: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if n >= size:
            return f"{n / (1e3 if unit == 'k' else size):,.1f} {unit}"
    return f"{n:,.0f}"


def time_text(seconds: float) -> str:
    """Seconds, minutes or hours."""
    for size, unit in ((2 * 3600, "h"), (120, "min")):
        if seconds >= size:
            return f"{seconds / {'h': 3600, 'min': 60}[unit]:,.1f} {unit}"
    return f"{seconds:.1f} s"
