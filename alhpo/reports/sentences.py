"""Sentences about the gain and the cost of searching in the runs."""

from __future__ import annotations

import math
from typing import Any

from alhpo.reports import statistics
from alhpo.reports.findings import ACTIVE, WITHIN, Findings
from alhpo.reports.formats import measured
from alhpo.reports.part import gains
from alhpo.reports.searching import begun_with
from alhpo.runs.modes import recorded_mode
from alhpo.runs.settings import RunConfig

Row = dict[str, Any]


def tuning_sentences(findings: Findings) -> list[str]:
    """A sentence for each pair of runs that differ only in searching: both final accuracies over
    their common seeds, and the epochs and time of the search."""
    ends: dict[str, dict[str, dict[Any, Row]]] = {}  # by what they share, HPO mode and seed
    for row in findings.curves.to_dict("records"):
        config = findings.run_of(row["cell"])
        if row["n_labeled"] == config.budget:
            modes = ends.setdefault(begun_with(config), {})
            modes.setdefault(_mode(config), {})[row["seed"]] = row | {"config": config}
    found = []
    for modes in ends.values():
        fixed = modes.pop("", {})
        for mode, tuned in modes.items():
            seeds = [seed for seed in tuned if seed in fixed]
            if seeds:
                pair = [[one[seed] for seed in seeds] for one in (fixed, tuned)]
                found.append(_sentence(mode, *pair))
    return found


def gain_sentences(findings: Findings) -> list[str]:
    """A sentence for each data set, model, metric and kind of search: the mean gain over the
    current configuration, on validation and on the evaluation split, and the epochs for it."""
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in gains(findings.searches).to_dict("records"):
        where = "runs" if row["search"] in (ACTIVE, WITHIN) else "tunings"
        key = (row["dataset"], row["model"], row["metric_name"], where)
        groups.setdefault(key, []).append(row)
    return [_gain_sentence(*key, rows) for key, rows in groups.items()]


def _gain_sentence(dataset: str, model: str, metric: str, where: str, rows: list[Row]) -> str:
    known = [row for row in rows if math.isfinite(row["gain"])]
    many = f"{len(rows)} searches" if len(rows) > 1 else "the search"
    begin = f"{dataset}, {model}: {many} in {where}"
    each = f"at {_mean(rows, 'epochs'):,.0f} epochs{' each' * (len(rows) > 1)}"
    if not known:
        return (
            f"{begin}, {each}: what they gained over the current configuration is not known, as it "
            "was not measured or not recorded."
        )
    of = [f"{len(known)} of {len(rows)} measured"] if len(known) < len(rows) else []
    kept = sum(row["gain"] == 0 for row in known)
    of += [f"{kept} kept it"] if kept else []
    gained = (
        f"{begin} gained {_points(known, 'gain')} points of validation {metric} over the "
        f"current configuration{' (' * bool(of)}{'; '.join(of)}{')' * bool(of)}, {each}"
    )
    tested = [row for row in known if math.isfinite(row["gain_test"])]
    if not tested:
        return f"{gained}; on the test split the gain was not measured."
    of = "all" if len(tested) == len(rows) else f"the {len(tested)} of {len(rows)}"
    both = _points(tested, "gain_test")
    return f"{gained}; on the test split {both} points over {of} that were measured there."


def _points(rows: list[Row], name: str) -> str:
    one = statistics.summary([row[name] for row in rows])
    return measured(one.mean, one.std, digits=1, sign="+").text


def _sentence(mode: str, fixed: list[Row], tuned: list[Row]) -> str:
    config: RunConfig = tuned[0]["config"]
    share = [statistics.summary([100 * row["accuracy"] for row in rows]) for rows in (fixed, tuned)]
    shown = [
        f"{one.mean:.1f} ± {one.std:.1f} %" if one.n > 1 else f"{one.mean:.1f} %" for one in share
    ]
    fit, search = _mean(tuned, "epochs_fit"), _mean(tuned, "epochs_hpo")
    times = _mean(tuned, "seconds") / max(_mean(fixed, "seconds"), 1e-9)
    return (
        f"{fixed[0]['dataset']}, {fixed[0]['model']}, {fixed[0]['strategy']}: {shown[1]} with "
        f"{config.budget} labels and a search {mode}, {shown[0]} with the hyperparameters that it "
        f"began with held fixed. A run spent {search:,.0f} epochs on searching beside the "
        f"{fit:,.0f} of its fits, {times:.1f} times the computing time."
    )


def _mean(rows: list[Row], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


def _mode(config: RunConfig) -> str:
    """When it searches, and how; "" for never."""
    mode = recorded_mode(config.hpo)
    if not mode.searches_ever:
        return ""
    epochs = f"{config.max_budget} epochs each"
    if config.total_budget is not None:
        epochs = f"{config.total_budget} epochs in all"
    sure = ", adopting what is sure" if config.adopt == "sure" else ""
    return f"{mode.when} ({config.optimizer}, {epochs}{sure})"
