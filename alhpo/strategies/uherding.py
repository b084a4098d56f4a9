"""UHerding: coverage of what the model is unsure about, with a radius and a temperature that adapt.

Bae, Oliveira, Sutherland: Uncertainty Herding: One Active Learning Method for All Label Budgets
(ICLR 2025), Algorithm 1.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from alhpo.base.errors import ConfigurationError
from alhpo.base.types import PoolOutputs, Query
from alhpo.strategies import entropy, least_confidence, margin  # noqa: F401 - MEASURES
from alhpo.strategies.kernel_coverage import KernelCoverage
from alhpo.strategies.maxherding import read_sigma
from alhpo.strategies.ranking import scoring_strategy
from alhpo.strategies.registry import register_strategy, register_strategy_family
from alhpo.strategies.rows import Rows, as_float64, normalised, pair_distances

#: Scores that may weigh the candidates.
MEASURES = ("margin", "entropy", "least-confidence")
#: Temperatures that are tried: 1.0, 1.1, ..., 19.9, as in the authors' code.
TEMPERATURES = np.arange(10, 200) / 10
_EQUAL = 1e-6
_TILE = 2048


class UncertaintyHerding:
    """Repeatedly chooses the candidate that raises the uncertainty coverage of the pool most.

    The uncertainty coverage of a set S is the mean over the candidates x of
    u(x) max_{s ∈ S} k(x, s), with the kernel of MaxHerding and u the model's uncertainty about x,
    divided by its largest value. Both adapt to the labels:

    - u is computed from logits divided by a temperature τ, by which the negative log-likelihood of
      ``heldout_logits`` is least, of 1.0, 1.1, ..., 19.9. (The paper takes the calibration error;
      of few images, the likelihood gives the more reliable τ.) Without held-out logits τ is 1.
    - σ is the smallest distance between two different labelled images, of features scaled to length
      1; distances below 10⁻⁶ count as 0. It is 1 if there is none.

    Poor models with few labels are under-confident after calibration: u is flat, σ wide, and the
    choice is that of ``maxherding``. With many labels σ is small, and the choice is the most
    uncertain. Without labels u is 1. If all u are 0, they are taken as 1.

    Deterministic; ties go to the lowest pool index. Scores are the gains of coverage. The state
    holds ``temperature`` and ``sigma``, for the record. Cost and memory are those of MaxHerding,
    less with a small σ, besides the training for the held-out logits.

    Args:
        measure: the uncertainty: "margin" (1 − the margin), "entropy" or "least-confidence".
        sigma: σ, in [0.001, 100], or None for the rule above. Near-duplicate labelled images make
            the smallest distance small for all later queries; then a fixed σ is better.
        temperature: τ, or None for the rule above.
    """

    def __init__(
        self,
        measure: str = MEASURES[0],
        sigma: float | None = None,
        temperature: float | None = None,
    ) -> None:
        self.measure = measure
        self.sigma = sigma
        self.temperature = temperature
        self.needs = frozenset(
            {"logits", "features", "labeled_features", "heldout_logits", "heldout_labels", "state"}
        )

    def __call__(self, pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
        assert pool.logits is not None
        assert pool.features is not None
        assert pool.labeled_features is not None
        labeled = pool.labeled_features
        temperature, sigma = self._parameters(pool)
        weights = np.ones(len(pool))
        if len(labeled):
            calibrated = replace(pool, logits=as_float64(pool.logits) / temperature)
            values = scoring_strategy(self.measure).scores(calibrated).values.double().cpu().numpy()
            weights = values / values.max() if values.max() > 0 else weights
        cover = KernelCoverage(pool.features, labeled, weights, sigma)
        positions, gains = cover.choose(n)
        return Query(
            tuple(pool.indices[positions].tolist()),
            tuple(gains),
            state={"temperature": temperature, "sigma": sigma},
        )

    def adapted(self, pool: PoolOutputs) -> UncertaintyHerding:
        """The same strategy with the τ and σ of this pool, for queries of parts of it."""
        temperature, sigma = self._parameters(pool)
        return UncertaintyHerding(self.measure, sigma, temperature)

    def _parameters(self, pool: PoolOutputs) -> tuple[float, float]:
        """τ and σ."""
        temperature, sigma = self.temperature, self.sigma
        if temperature is None:
            assert pool.heldout_logits is not None
            assert pool.heldout_labels is not None
            temperature = best_temperature(pool.heldout_logits, pool.heldout_labels)
        if sigma is None:
            assert pool.features is not None
            assert pool.labeled_features is not None
            sigma = smallest_distance(pool.labeled_features.to(pool.features)) or 1.0
        return temperature, sigma


def best_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The temperature, of ``TEMPERATURES``, at which logits predict labels best; 1 without any.

    The first of equals in negative log-likelihood (Guo et al. 2017, section 4.2).

    Args:
        logits: (V, C) of images that the model was not trained on.
        labels: (V,) their classes.
    """
    if not len(labels):
        return 1.0
    values, classes = as_float64(logits).cpu(), labels.cpu().long()
    losses = [float(F.cross_entropy(values / t, classes)) for t in TEMPERATURES.tolist()]
    return float(TEMPERATURES[int(np.array(losses, np.float32).argmin())])


def smallest_distance(rows: torch.Tensor) -> float | None:
    """The smallest distance of two rows scaled to length 1, of those of at least 10⁻⁶.

    None if there is none.
    """
    if len(rows) < 2:
        return None
    unit = Rows(normalised(rows)).values
    best, pair = np.inf, (0, 0)
    squares = as_float64(unit).square().sum(dim=1)
    for start in range(0, len(unit), _TILE):
        one = as_float64(unit[start : start + _TILE])
        for begin in range(start, len(unit), _TILE):
            other = as_float64(unit[begin : begin + _TILE])
            apart = torch.addmm(squares[begin : begin + _TILE], one, other.T, alpha=-2)
            apart += squares[start : start + _TILE, None]
            if begin == start:
                apart = apart.triu(1)  # zeros elsewhere, which do not count
            apart[apart < _EQUAL**2] = torch.inf
            lowest = int(apart.argmin())
            value = float(apart.flatten()[lowest])
            if value < best:
                i, j = divmod(lowest, apart.shape[1])
                best, pair = value, (start + i, begin + j)
    if best == np.inf:
        return None
    i, j = (torch.tensor([one]) for one in pair)
    return float(pair_distances(unit, i, unit, j)[0])


def _family(text: str) -> UncertaintyHerding:
    measure, found, sigma = text.partition("@")
    if measure not in MEASURES:
        raise ConfigurationError(
            f"The uncertainty of 'uherding:{text}' is {measure!r}. Legal: {', '.join(MEASURES)}; "
            "write 'uherding:entropy', or 'uherding:margin@0.5' for a kernel of width 0.5."
        )
    return UncertaintyHerding(measure, read_sigma(sigma, f"uherding:{text}") if found else None)


_plain = UncertaintyHerding()
register_strategy("uherding", needs=_plain.needs)(_plain)
register_strategy_family("uherding", _family, "MEASURE@SIGMA")
