"""Stochastic batch acquisition: draws by a score instead of its highest values.

Kirsch, Farquhar, Atighehchian, Jesson, Branchaud-Charron, Gal: Stochastic Batch Acquisition: A
Simple Baseline for Deep Active Learning (TMLR 2023; arXiv 2106.12059). Each candidate is drawn from
those that are left with a probability in proportion to s^β (power), exp(β s) (softmax) or r^−β
(softrank), for its score s and its rank r, 1 for the highest score.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.special import logsumexp
from scipy.stats import rankdata

from alhpo.base.errors import ConfigurationError
from alhpo.base.types import PoolOutputs, Query
from alhpo.strategies.ranking import Scores, scoring_strategy
from alhpo.strategies.registry import register_strategy_family
from alhpo.strategies.rows import as_float64

#: Smallest probability that is told: one over it is a finite weight.
SMALLEST = np.finfo(np.float64).tiny


class StochasticBatch:
    """Draws one by one without replacement, each candidate by its weight exp(β k) among the rest.

    Where β is so large that a weight is 0 in proportion to the largest, the candidate is drawn
    after all others, by its score. Equal scores have equal weights in any case.

    Args:
        family: what comes before the colon of the name.
        arguments: ``"SCORE"`` or ``"SCORE@BETA"``; β is 1 where it is not said.
        keys: (N,) k, from the scores.

    Raises:
        ConfigurationError: an unknown score, or a β that is no number from 0.
    """

    def __init__(self, family: str, arguments: str, keys: Callable[[Scores], np.ndarray]) -> None:
        score, at, beta = arguments.rpartition("@")
        self.score = score if at else arguments
        self.beta = _exponent(beta, f"{family}:{score}") if at else 1.0
        self.scoring = scoring_strategy(self.score)
        self.needs = self.scoring.needs
        self._keys = keys

    def __call__(self, pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
        """Choose ``n`` candidates; scores are those of SCORE.

        The probabilities at the draws are told where every candidate could be drawn: no weight is
        0, or so small in proportion that float64 does not hold its probability.

        Raises:
            ConfigurationError: SCORE is negative where a power is taken.
        """
        scores = self.scoring.scores(pool)
        rows, probabilities = draw(self._keys(scores), self.beta, n, generator)
        return Query(
            tuple(pool.indices[rows.tolist()].tolist()),
            tuple(scores.values[rows.tolist()].tolist()),
            probabilities=None if probabilities is None else tuple(probabilities.tolist()),
        )


def draw(
    keys: np.ndarray, beta: float, n: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None]:
    """Draw without replacement with probabilities in proportion to exp(β k) (Plackett, Luce).

    The n largest of β k plus Gumbel noise, in their order, are such draws (the Gumbel top-k trick;
    Kool, van Hoof, Welling: Stochastic Beams and Where to Find Them, ICML 2019).

    Args:
        keys: (N,) k; may be infinite, not NaN.
        beta: β, at least 0.
        n: how many, at most N.
        generator: draws the noise.

    Returns:
        (n,) rows and the (n,) probabilities with which they were drawn among those that were left;
        None where a row's probability at the first draw is below ``SMALLEST``.
    """
    logs = log_weights(keys, beta)
    noise = generator.gumbel(size=len(keys))
    # noise that is lost in the sum decides between equal keys only
    rows = np.lexsort((noise, keys, logs + noise))[::-1][:n]
    if logs.min() - logsumexp(logs) < math.log(SMALLEST):
        return rows, None
    return rows, np.exp(log_probabilities(logs, rows))


def log_weights(keys: np.ndarray, beta: float) -> np.ndarray:
    """(N,) β k less its largest value: −inf of what is no finite number, 0 everywhere for β = 0."""
    below = np.zeros(len(keys))
    with np.errstate(over="ignore"):
        np.subtract(keys, keys.max(), out=below, where=keys < keys.max())
        return below * beta if beta else np.zeros(len(keys))


def log_probabilities(logs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(n,) logarithms of the probabilities of draws one by one without replacement.

    log w_i less the logarithm of the sum of w over what is left at the draw. The sums grow from
    that of what was never drawn, backwards, so that nothing is lost by taking differences.

    Args:
        logs: (N,) logarithms of the weights, finite.
        rows: (n,) what was drawn, in this order.
    """
    rest = np.delete(logs, rows)
    never = logsumexp(rest) if len(rest) else -np.inf
    left = np.logaddexp.accumulate(np.concatenate([[never], logs[rows][::-1]]))[:0:-1]
    return logs[rows] - left


def _exponent(text: str, name: str) -> float:
    try:
        beta = float(text)
    except ValueError:
        beta = math.nan
    if not 0 <= beta < math.inf:
        raise ConfigurationError(
            f"The exponent of '{name}@{text}' must be a finite number from 0, as in '{name}@2'; "
            "without @ it is 1."
        )
    return beta


def _power(arguments: str) -> StochasticBatch:
    """k = log s."""
    strategy = StochasticBatch("power", arguments, _log_values)
    if strategy.scoring.signed:
        raise ConfigurationError(
            f"The score of 'power:{arguments}' may be negative, so that it has no powers. Use "
            f"'softrank:{strategy.score}'."
        )
    return strategy


def _softmax(arguments: str) -> StochasticBatch:
    """k = s."""
    return StochasticBatch("softmax", arguments, lambda scores: _vector(scores.values))


def _softrank(arguments: str) -> StochasticBatch:
    """k = −log r; equal scores share the mean of their ranks."""
    return StochasticBatch(
        "softrank", arguments, lambda scores: -np.log(rankdata(-_vector(scores.ranked_by)))
    )


def _log_values(scores: Scores) -> np.ndarray:
    values = _vector(scores.values)
    if values.min() < 0:
        raise ConfigurationError(
            f"A score of {values.min():g} has no powers. Use softrank instead of power, and say "
            "signed=True where the score is registered."
        )
    if scores.logs is not None:
        return _vector(scores.logs)
    with np.errstate(divide="ignore"):
        return np.log(values)


def _vector(tensor: torch.Tensor) -> np.ndarray:
    return as_float64(tensor).cpu().numpy()


register_strategy_family("power", _power, "SCORE@BETA")
register_strategy_family("softmax", _softmax, "SCORE@BETA")
register_strategy_family("softrank", _softrank, "SCORE@BETA")
