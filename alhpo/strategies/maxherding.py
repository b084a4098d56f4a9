"""MaxHerding: images that cover the pool best, by a smooth kernel.

Bae, Noh, Sutherland: Generalized Coverage for More Robust Low-Budget Active Learning (ECCV 2024).
"""

from __future__ import annotations

import math

import numpy as np

from alhpo.base.errors import ConfigurationError
from alhpo.base.types import PoolOutputs, Query
from alhpo.strategies.kernel_coverage import KernelCoverage
from alhpo.strategies.registry import register_strategy, register_strategy_family

_SIGMA = 1.0
SMALLEST, LARGEST = 1e-3, 1e2


class MaxHerding:
    """Repeatedly chooses the candidate that raises the generalised coverage of the pool most.

    The coverage of a set S is the mean over the candidates x of max_{s ∈ S} k(x, s) with
    k(x, y) = exp(−‖z_x − z_y‖² / σ²) on features z scaled to length 1; S begins as the labelled
    images. (The labelled images as points to cover would add nothing: they cover themselves.)

    Deterministic; ties go to the lowest pool index. Scores are the gains of coverage, in [0, 1];
    they never increase. Once nothing more can be gained, because the rest duplicates what is
    labelled or chosen, they are 0 and the lowest pool indices follow.

    Gains are compared in float64; see ``KernelCoverage``. Time: one pass over all pairs of
    candidates, N²·D operations, and then, for each choice, the candidates whose gain may still be
    the largest against those that the last choices covered better: about as much again for 100
    choices beside 100 labelled images, three times as much without any. Memory: a normalised copy
    of the features and some 60 MB.

    Args:
        sigma: σ, in [0.001, 100].
    """

    def __init__(self, sigma: float = _SIGMA) -> None:
        self.sigma = sigma
        self.needs = frozenset({"features", "labeled_features"})

    def __call__(self, pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
        assert pool.features is not None
        assert pool.labeled_features is not None
        weights = np.ones(len(pool))
        cover = KernelCoverage(pool.features, pool.labeled_features, weights, self.sigma)
        positions, gains = cover.choose(n)
        return Query(tuple(pool.indices[positions].tolist()), tuple(gains))


def read_sigma(text: str, name: str) -> float:
    """The σ in the name of a strategy.

    Raises:
        ConfigurationError: it is not a number in [0.001, 100].
    """
    try:
        sigma = float(text)
    except ValueError:
        sigma = math.nan
    if not SMALLEST <= sigma <= LARGEST:
        raise ConfigurationError(
            f"The width {text!r} of the kernel of {name!r} is not legal; expected a number in "
            f"[{SMALLEST:g}, {LARGEST:g}]. Features are scaled to length 1, so 1 is a wide kernel "
            "and 0.3 a narrow one."
        )
    return sigma


def _with_sigma(text: str) -> MaxHerding:
    return MaxHerding(read_sigma(text, f"maxherding:{text}"))


register_strategy("maxherding", needs=MaxHerding().needs)(MaxHerding())
register_strategy_family("maxherding", _with_sigma, "SIGMA")
