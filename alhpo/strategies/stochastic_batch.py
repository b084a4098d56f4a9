"""Stochastic batch acquisition: draw by a score instead of taking its highest values.

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

#: The smallest probability that is recorded: its inverse is a finite weight.
SMALLEST = np.finfo(np.float64).tiny


class StochasticBatch:
    """Draws one by one without replacement, in proportion to the weights exp(β k).

    If β is so large that a weight underflows to 0 relative to the largest, the candidate is drawn
    after all others, in the order of the scores. Equal scores always have equal weights.

    Args:
        family: the part of the name before the colon.
        arguments: ``"SCORE"`` or ``"SCORE@BETA"``; β is 1 by default.
        keys: function of the scores to (N,) k.

    Raises:
        ConfigurationError: the score is unknown, or β is not a finite number from 0.
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

        The query has the probabilities of the draws if every candidate could be drawn: no weight is
        0, or so small that its probability underflows in float64.

        Raises:
            ConfigurationError: a score is negative, but a power of it is needed.
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
        (n,) rows, and the (n,) probability of each among the rows left at its draw. The
        probabilities are None if that of any row at the first draw is below ``SMALLEST``.
    """
    logs = log_weights(keys, beta)
    noise = generator.gumbel(size=len(keys))
    # noise lost in the sum still decides between equal keys
    rows = np.lexsort((noise, keys, logs + noise))[::-1][:n]
    if logs.min() - logsumexp(logs) < math.log(SMALLEST):
        return rows, None
    return rows, np.exp(log_probabilities(logs, rows))


def log_weights(keys: np.ndarray, beta: float) -> np.ndarray:
    """(N,) β k minus its largest value; −inf if that is not finite; all 0 for β = 0."""
    below = np.zeros(len(keys))
    with np.errstate(over="ignore"):
        np.subtract(keys, keys.max(), out=below, where=keys < keys.max())
        return below * beta if beta else np.zeros(len(keys))


def log_probabilities(logs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(n,) logarithms of the probabilities of draws one by one without replacement.

    These are log w_i minus the logarithm of the sum of w over the rows left at the draw. The sums
    are accumulated backwards, from the rows never drawn, so that no digits are lost in differences.

    Args:
        logs: (N,) logarithms of the weights, finite.
        rows: (n,) the drawn rows, in the order of the draws.
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
            f"The exponent of '{name}@{text}' is not legal; expected a finite number from 0, as in "
            f"'{name}@2'. Without @ it is 1."
        )
    return beta


def _power(arguments: str) -> StochasticBatch:
    """k = log s."""
    strategy = StochasticBatch("power", arguments, _log_values)
    if strategy.scoring.signed:
        raise ConfigurationError(
            f"The score of 'power:{arguments}' may be negative, so it has no powers. Use "
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
            f"A score of {values.min():g} has no powers. Use softrank instead of power, and "
            "register the score with signed=True."
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
