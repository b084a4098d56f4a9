"""Sentences about the gain and the cost of searching in the runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from alhpo.reports import statistics
from alhpo.reports.findings import Findings
from alhpo.runs.identity import REPETITION_KEYS, SEARCH_KEYS
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
            modes = ends.setdefault(_shared(config), {})
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
    return f"{mode.when} ({config.optimizer}, {config.max_budget} epochs each)"


def _shared(config: RunConfig) -> str:
    apart = REPETITION_KEYS | SEARCH_KEYS | {"hpo", "validate_fixed"}
    settings: Mapping[str, Any] = config.model_dump(exclude=set(apart))
    return json.dumps(settings, sort_keys=True, default=str)
