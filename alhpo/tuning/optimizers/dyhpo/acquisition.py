"""What training a configuration further is worth."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtr


def expected_improvement(
    mean: np.ndarray, deviation: np.ndarray, best: np.ndarray | float
) -> np.ndarray:
    """The expected improvement of normal distributions over ``best`` (Mockus 1978)."""
    z = (mean - best) / deviation
    density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return np.maximum(deviation * (z * ndtr(z) + density), 0.0)


def gain_at_the_end(
    mean: np.ndarray, deviation: np.ndarray, delayed: np.ndarray, best: float
) -> np.ndarray:
    """The expected gain, at the end of the budget, of training each candidate one step further.

    The knowledge gradient (Frazier, Powell, Dayanik 2009) where a step costs budget: after it, the
    rest goes to the candidate with the highest predicted metric at the end.

    Args:
        mean: (k,) predicted metric of each candidate if it got all that is left of the budget.
        deviation: (k,) standard deviation of what that prediction will be after the step.
        delayed: (k,) predicted metric if it got all that is left after a step of another.
        best: the best metric so far.

    Returns:
        (k,) expected best metric at the end after the step, minus that of the best candidate now.
    """
    others = np.full(len(delayed), best)
    if len(delayed) > 1:
        second, first = np.argsort(delayed, kind="stable")[-2:]
        others = np.full(len(delayed), max(best, delayed[first]))
        others[first] = max(best, delayed[second])
    now = max(best, float(mean.max()))
    return others + expected_improvement(mean, np.maximum(deviation, 1e-9), others) - now
