"""The rows of a search: HPO4DL's result file, and the best row."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alhpo.base.files import atomic_path
from alhpo.tuning.evaluation import Outcome

_OWN = ("configuration_id", "configuration", "time", "overhead_time", "total_time", "best_metric")


class Results:
    """The rows of a search, one per epoch trained, with HPO4DL's keys.

    Args:
        minimize: whether the best metric is the lowest.
    """

    def __init__(self, *, minimize: bool) -> None:
        self.rows: list[dict[str, Any]] = []
        #: The best row so far, the first of equal ones; None before the first success.
        self.best: dict[str, Any] | None = None
        self._minimize = minimize

    def add(
        self, outcome: Outcome, configuration: Mapping[str, Any], overhead: float
    ) -> dict[str, Any]:
        """Append the row of an outcome and return it. The metric of a failed trial is NaN."""
        metric = math.nan if outcome.metric is None else outcome.metric
        result = {key: value for key, value in outcome.result.items() if key not in _OWN}
        row = {"epoch": outcome.epoch, **result} if "epoch" not in result else dict(result)
        row |= {
            "metric": metric,
            "configuration_id": outcome.configuration_id,
            "configuration": dict(configuration),
            "time": outcome.time,
            "overhead_time": overhead,
            "total_time": outcome.time + overhead,
        }
        if self.improved_by(outcome.metric):
            self.best = row
        row["best_metric"] = math.nan if self.best is None else self.best["metric"]
        self.rows.append(row)
        return row

    def write(self, path: Path) -> None:
        """Write ``hpo4dl_results.csv`` with the columns, order and number format of HPO4DL, without
        keys that begin with an underscore."""
        keys = dict.fromkeys(key for row in self.rows for key in row if key not in _OWN)
        columns = [*(key for key in keys if not key.startswith("_")), *_OWN]
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as f:
            writer = csv.writer(f, lineterminator="\n")
            writer.writerow(["", *columns])
            for number, row in enumerate(self.rows):
                writer.writerow([number, *(_cell(row.get(column)) for column in columns)])

    def improved_by(self, metric: float | None) -> bool:
        """Whether a row with this metric would be the best; never for None."""
        if metric is None:
            return False
        if self.best is None:
            return True
        best = self.best["metric"]
        return metric < best if self._minimize else metric > best


def _cell(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value
