"""What searches gained over the configuration before them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from alhpo.reports import statistics
from alhpo.reports.findings import ACTIVE, WITHIN
from alhpo.reports.formats import Table, Value, measured
from alhpo.reports.part import Part, Row, gains, joined
from alhpo.reports.tables.learning import spread

COLUMNS = (
    *("searches", "epochs each", "replaced", "image by image", "its standard error"),
    *("gain of validation", "gain on test"),
)
NOT_MEASURED = Value("not measured")


def gain_table(part: Part) -> Table | None:
    """A row per strategy, setting, kind of search and number of labels (all of them or a spread),
    and one for all numbers of labels together: the searches, their epochs, and their gains of
    validation and on the evaluation split. None without a search."""
    every = part.rows(gains(part.findings.searches))
    if not every:
        return None
    rows: list[str] = []
    values: list[tuple[Value, ...]] = []
    for strategy in part.strategies:
        for setting in part.findings.settings:
            for search in (ACTIVE, WITHIN, *part.findings.tunings):
                place = (strategy, setting, search)
                same = [r for r in every if (r["strategy"], r["setting"], r["search"]) == place]
                labels = sorted({row["n_labeled"] for row in same})
                groups = [
                    (f"{n:,} labels", [row for row in same if row["n_labeled"] == n])
                    for n in spread(labels)
                ]
                if len(labels) > 1:
                    groups.append(("all", same))
                name = joined((strategy, setting, "" if search == ACTIVE else search))
                rows += [f"{name}: {what}" for what, _ in groups]
                values += [_gained(group) for _, group in groups]
    metrics = " or ".join(dict.fromkeys(row["metric_name"] for row in every))
    return Table(
        key=part.key("gain"),
        title=f"{part.title}: what searches gained over the current configuration "
        f"(percentage points of {metrics})",
        corner="strategy, setting, search",
        columns=tuple((name,) for name in COLUMNS),
        rows=tuple(rows),
        values=tuple(values),
        note="The configuration that a search left minus the one before it, which the same search "
        "measured: means ± standard deviations over searches; n where not all were measured. "
        "Replaced: how many searches replaced it. Image by image: the paired difference between "
        "the best that a search found and the current configuration over the validation images, of "
        "log-likelihoods (in hundredths of nats) where a search maximises the likelihood, else of "
        "correct predictions, with the mean of its standard errors. A "
        "search in a run keeps the current configuration unless validation finds a better one, so "
        "its gain of validation is never negative, and favours chance; the gain on test does not. "
        "On test: the same metric on the evaluation split, of the fully trained models of the "
        "validation splits, measured where measure_test is on and the new configuration was "
        "trained to the end, and 0 where the search kept the current one.",
    )


def _gained(rows: Sequence[Row]) -> tuple[Value, ...]:
    epochs = statistics.summary([row["epochs"] for row in rows]).mean
    found = []
    for name in ("gain", "gain_test"):
        one = statistics.summary([row[name] for row in rows])
        found.append(measured(*one, sign="+", expected=len(rows)) if one.n else NOT_MEASURED)
    counts = Value(f"{len(rows):,}", len(rows)), Value(f"{epochs:,.0f}", epochs, n=len(rows))
    decided = [row["replaced"] for row in rows if math.isfinite(row["replaced"])]
    replaced = (
        Value(f"{sum(decided):.0f}", sum(decided), n=len(decided)) if decided else NOT_MEASURED
    )
    paired = []
    for name, sign in (("paired_gain", "+"), ("paired_error", "")):
        one = statistics.summary([100 * row[name] for row in rows])
        paired.append(Value(f"{one.mean:{sign}.2f}", one.mean, n=one.n) if one.n else NOT_MEASURED)
    return (*counts, replaced, *paired, *found)
