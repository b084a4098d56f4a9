"""What the strategies did that another strategy asked (AutoAL, voting)."""

from __future__ import annotations

from alhpo.reports.formats import Table, Value, measured
from alhpo.reports.part import Part, joined
from alhpo.reports.statistics import summary

#: Columns of ``Findings.arms`` and how tables name them.
QUANTITIES = {"weight": "weight", "share_of_picks": "share of the query"}


def arms_table(part: Part) -> Table | None:
    """Weights, and shares of the query, in the first, the middle and the last query."""
    frame = part.frame(part.findings.arms)
    if frame.empty:
        return None
    every = sorted(frame["n_labeled"].unique().tolist())
    labels = list(dict.fromkeys([every[0], every[len(every) // 2], every[-1]]))
    rows: list[str] = []
    values: list[tuple[Value, ...]] = []
    for (strategy, setting, arm), here in frame.groupby(["strategy", "setting", "arm"], sort=False):
        rows.append(joined((strategy, setting)) + f": {arm}")
        found = [
            summary(100 * here[here["n_labeled"] == n][name].to_numpy(float))
            for n in labels
            for name in QUANTITIES
        ]
        values.append(tuple(measured(*one) for one in found))
    return Table(
        key=part.key("arms"),
        title=f"{part.title}: the strategies that were asked (%)",
        corner="strategy: one that it asked",
        columns=tuple((f"{n:,} labels", name) for n in labels for name in QUANTITIES.values()),
        rows=tuple(rows),
        values=tuple(values),
        note="Weight: the mean over the images that any of them chose. Share of the query: of the "
        "images that were labelled next, those that it had chosen. Mean ± standard deviation over "
        "seeds.",
    )
