"""The statistics of a study's tables, on plain arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from alhpo.reports.formats import Rank


class Summary(NamedTuple):
    """Mean, standard deviation (n − 1 in the denominator; NaN for n < 2), and number of values."""

    mean: float
    std: float
    n: int


def summary(values: Sequence[float] | np.ndarray) -> Summary:
    """Mean and standard deviation of the finite values."""
    finite = _finite(values)
    return Summary(
        mean=float(finite.mean()) if len(finite) else math.nan,
        std=float(finite.std(ddof=1)) if len(finite) > 1 else math.nan,
        n=len(finite),
    )


def ranks(means: Sequence[float], digits: int = 2, *, highest: bool = True) -> list[Rank | None]:
    """Best, second, third and worst of a column, the colours of Huseljic et al. (2023).

    Values that are equal to the printed digits share the better rank, and the rank after them is
    left out, as in a race. The last of two or three is the worst, not second or third. NaN has no
    rank, and nothing has one in a column of fewer than two values or of equal ones.

    Args:
        means: the printed values.
        digits: number of printed decimals.
        highest: whether the highest value is best.
    """
    rounded = np.round(np.asarray(means, float), digits)
    finite = np.isfinite(rounded)
    if len(np.unique(rounded[finite])) < 2:
        return [None] * len(rounded)
    order = np.full(len(rounded), math.nan)
    order[finite] = stats.rankdata(-rounded[finite] if highest else rounded[finite], method="min")
    last = np.nanmax(order)
    names: dict[float, Rank] = {3: "third", 2: "second", last: "worst", 1: "best"}
    return [names.get(float(place)) for place in order]


def paired_p(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p of Student's paired t-test on the pairs where both values are finite.

    NaN for fewer than two pairs. If all differences are equal, there is no deviation to estimate: p
    is 1 if they are 0, else NaN.
    """
    difference = np.asarray(a, float) - np.asarray(b, float)
    difference = difference[np.isfinite(difference)]
    if len(difference) < 2:
        return math.nan
    if np.ptp(difference) <= 1e-12:
        return 1.0 if abs(difference[0]) <= 1e-12 else math.nan
    t = difference.mean() / (difference.std(ddof=1) / math.sqrt(len(difference)))
    return float(2 * stats.t.sf(abs(t), len(difference) - 1))


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's confidence interval of the mean of the finite values; NaN for fewer than two."""
    finite = _finite(values)
    if len(finite) < 2:
        return math.nan, math.nan
    half = stats.sem(finite) * stats.t.ppf((1 + level) / 2, len(finite) - 1)
    return float(finite.mean() - half), float(finite.mean() + half)


def holm(p: Sequence[float]) -> list[float]:
    """P-values corrected for multiple tests (Holm, 1979); NaN stays and does not count."""
    values = np.asarray(p, float)
    corrected = np.full(len(values), math.nan)
    order = [i for i in np.argsort(values, kind="stable") if np.isfinite(values[i])]
    running = 0.0
    for place, i in enumerate(order):
        running = max(running, min(1.0, float(values[i]) * (len(order) - place)))
        corrected[i] = running
    return corrected.tolist()


def kendall(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b of the pairs of finite values; NaN for fewer than two, or if one side is
    constant."""
    return _correlation(stats.kendalltau, a, b)


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rho; NaN as for ``kendall``."""
    return _correlation(stats.spearmanr, a, b)


def selection_regret(judged: Sequence[float], test: Sequence[float]) -> float:
    """The best test value minus that of the configuration with the highest validation value.

    Of equal validation values the first is chosen, as in a search. Configurations without a finite
    validation value are never chosen; those without a test value are left out. NaN if none is left.
    """
    judgements, values = _without_rounding_noise(judged), np.asarray(test, float)
    measured = np.isfinite(values)
    judgements, values = judgements[measured], values[measured]
    if not np.isfinite(judgements).any():
        return math.nan
    chosen = np.argmax(np.where(np.isfinite(judgements), judgements, -np.inf))
    return float(values.max() - values[chosen])


def difference_in_deviations(
    ours: float, our_std: float, published: float, published_std: float
) -> float:
    """(ours − published) / √(our_std² + published_std²).

    Near ±1 for two single repetitions of the same experiment; for means over n repetitions each,
    √n times as much is a z-score. NaN where either deviation is missing or both are 0.
    """
    scale = math.hypot(our_std, published_std)
    return (ours - published) / scale if scale > 0 else math.nan


def _correlation(
    of: Callable[[np.ndarray, np.ndarray], Any], a: Sequence[float], b: Sequence[float]
) -> float:
    first, second = _without_rounding_noise(a), _without_rounding_noise(b)
    both = np.isfinite(first) & np.isfinite(second)
    first, second = first[both], second[both]
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    return float(of(first, second)[0])


def _without_rounding_noise(values: Sequence[float]) -> np.ndarray:
    """Rounded values: means of the same numbers in another order become equal."""
    return np.round(np.asarray(values, float), 12)


def _finite(values: Sequence[float] | np.ndarray) -> np.ndarray:
    array = np.asarray(values, float)
    return array[np.isfinite(array)]
