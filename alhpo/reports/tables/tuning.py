"""What searching brought over the same hyperparameters held fixed."""

from __future__ import annotations

from collections.abc import Sequence

from alhpo.reports import statistics
from alhpo.reports.formats import Table, Value, measured
from alhpo.reports.part import Part, joined
from alhpo.reports.searching import Arm, starts
from alhpo.reports.tables.cost import time_text

COLUMNS = (
    *(
        (group, name)
        for group in ("mean over the cycles", "at the end")
        for name in ("fixed", "searched", "gain", "95 % interval", "worst")
    ),
    *(("cost", name) for name in ("HPO epochs", "time, fixed", "time, searched")),
)


def tuning_table(part: Part) -> Table | None:
    """A row per strategy, start and way of searching, with the paired differences to the start held
    fixed. None without runs that differ in searching only, in at least two repetitions."""
    rows: list[str] = []
    values: list[tuple[Value, ...]] = []
    for start in starts(part):
        for tuned in start.tuned:
            seeds = [seed for seed in tuned.seeds if seed in start.fixed.seeds]
            if len(seeds) > 1:
                rows.append(joined((tuned.strategy, tuned.start, tuned.mode)))
                values.append(_compared(start.fixed, tuned, seeds))
    if not rows:
        return None
    return Table(
        key=part.key("tuning"),
        title=f"{part.title}: what searching brought over the same start held fixed",
        corner="strategy, start, search",
        columns=COLUMNS,
        rows=tuple(rows),
        values=tuple(values),
        note="Test accuracy in percent, gains in percentage points. A gain is the mean of the "
        "differences between a run that searched and the run of the same seed that did not, its "
        "interval that of Student's paired t-test without a correction for many of them, and worst "
        "the least of the differences. At the end: with all labels, and after a final search its "
        "retrained model. Times are wall-clock seconds of a run, of machines that may have been "
        "busy.",
    )


def _compared(fixed: Arm, tuned: Arm, seeds: Sequence[object]) -> tuple[Value, ...]:
    every = [(fixed.mean_accuracy(seed), tuned.mean_accuracy(seed)) for seed in seeds]
    last = [(fixed.end(seed)["accuracy"], tuned.end(seed)["accuracy"]) for seed in seeds]
    epochs = statistics.summary([_spent(tuned, seed, "epochs_hpo") for seed in seeds])
    times = [
        statistics.summary([_spent(arm, seed, "seconds") for seed in seeds]).mean
        for arm in (fixed, tuned)
    ]
    return (
        *_paired(every),
        *_paired(last),
        Value(f"{epochs.mean:,.0f}", epochs.mean, n=epochs.n),
        *(Value(time_text(seconds), seconds, n=len(seeds)) for seconds in times),
    )


def _paired(pairs: Sequence[tuple[float, float]]) -> tuple[Value, ...]:
    before, after = ([100 * pair[i] for pair in pairs] for i in range(2))
    gains = [b - a for a, b in zip(before, after, strict=True)]
    low, high = statistics.mean_interval(gains)
    shown = f"{low:+.1f} to {high:+.1f}".replace("-", "−")
    n = len(pairs)
    return (
        *(measured(*statistics.summary(one), digits=1) for one in (before, after)),
        measured(statistics.summary(gains).mean, n=n, digits=1, sign="+"),
        Value(shown, high - low, n=n),
        measured(min(gains), n=n, digits=1, sign="+"),
    )


def _spent(arm: Arm, seed: object, what: str) -> float:
    return float(arm.end(seed)[what])
