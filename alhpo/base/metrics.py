"""The names of scores, and the metrics that a search maximises."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

#: Scores of a model on labelled images, as ``alhpo.base.types.Evaluation`` defines them.
SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "nll", "brier", "ece")
#: Those that an objective measures in every epoch.
VALIDATED = ("accuracy", "balanced_accuracy", "macro_f1", "nll")

#: What a search can maximise; all are in [0, 1].
Metric = Literal["accuracy", "balanced-accuracy", "macro-f1", "likelihood"]


def metric_of(scores: Mapping[str, float], metric: Metric) -> float:
    """The metric of a model with these scores: the score of that name, or exp(−NLL).

    Args:
        scores: values by name; ``metric="likelihood"`` needs ``nll``.
        metric: the metric.
    """
    return math.exp(-scores["nll"]) if metric == "likelihood" else scores[metric.replace("-", "_")]
