"""A Gaussian process over hyperparameters, epochs and earlier searches: the surrogate of DyHPO.

The process of DyHPO (Wistuba, Kadra, Grabocka, NeurIPS 2022) has a deep kernel: a neural network
reads the configuration, the epoch and the curve so far. Here the curve is part of the process, as
in freeze-thaw Bayesian optimisation (Swersky, Snoek, Adams 2014): the observed epochs of a
configuration inform the later ones through their covariance. For epochs s and t of trials i and j

    k = ρ(i, j) (k_x(i, j) (a + b k_t(s, t)) + c k_t(s, t)) + l [same search]
        + [i = j] (d + e k_u(s, t)) + noise [same observation]

k_x is a Matérn 5/2 kernel with one lengthscale per hyperparameter, k_t and k_u are Matérn 5/2
kernels of log-epochs, and ρ = exp(-distance / τ) is the correlation between two searches, whose
distance is in cycles; each search has a level of variance l. The parameters are the maximum a
posteriori, found by L-BFGS on the exact gradient, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, get_lapack_funcs, solve_triangular
from scipy.optimize import minimize

_JITTER = 1e-8
_potrf, _potri = get_lapack_funcs(("potrf", "potri"), dtype=np.float64)
#: Prior medians and log-standard deviations: a, b, c, d, e, noise; the time scales of k_t and k_u
#: (in units of the log of the longest training); l; τ (in cycles).
_MEDIANS = (0.5, 0.2, 0.2, 0.1, 0.05, 1e-3, 0.5, 0.5, 0.5, 3.0)
_SPREADS = (1.0, 1.0, 1.0, 1.0, 1.0, 1.5, 0.7, 0.7, 1.0, 1.0)


@dataclass(frozen=True)
class Observations:
    """The m trials and n observations that a process is conditioned on.

    Attributes:
        x: (m, columns) encoded configuration of each trial.
        search: (m,) how many searches ago each trial was; 0 is the current search.
        trial: (n,) trial of each observation.
        epoch: (n,) its epoch, from 1.
        value: (n,) the observed metric, scaled.
    """

    x: np.ndarray
    search: np.ndarray
    trial: np.ndarray
    epoch: np.ndarray
    value: np.ndarray


class CurveProcess:
    """A Gaussian process of the metric of configurations after epochs.

    Args:
        groups: the columns of each hyperparameter in the encoding.
        max_epochs: epochs of a full training.

    Attributes:
        parameters: logarithms of the lengthscales of the hyperparameters, then of the parameters
            above. ``fit`` starts from them and replaces them.
        prior_mean: the mean of the normal prior of each of the ``parameters``.
        prior_spread: its standard deviation.
    """

    def __init__(self, groups: Sequence[slice], max_epochs: int) -> None:
        self._groups = tuple(groups)
        self._horizon = math.log(max(max_epochs, 2))
        d = len(self._groups)
        median = 0.5 * math.sqrt(max(d, 1))
        self.prior_mean = np.log([*([median] * d), *_MEDIANS])
        self.prior_spread = np.array([*([1.0] * d), *_SPREADS])
        self.parameters = self.prior_mean.copy()

    def fit(self, observations: Observations, steps: int) -> None:
        """Fit the parameters by at most ``steps`` L-BFGS steps, and condition on observations."""
        fixed = _Fixed.of(observations, self._groups, self._log_epochs(observations.epoch))
        if steps:
            bounds = zip(
                self.prior_mean - 3 * self.prior_spread,
                self.prior_mean + 3 * self.prior_spread,
                strict=True,
            )
            found = minimize(
                self._loss,
                self.parameters,
                (observations, fixed),
                method="L-BFGS-B",
                jac=True,
                bounds=list(bounds),
                options={"maxiter": steps},
            )
            if math.isfinite(found.fun):
                self.parameters = found.x
        covariance = self._covariance(observations, fixed, self._split(self.parameters))[0]
        self._observations = observations
        self._log_time = fixed.log_epoch
        self._factor = np.linalg.cholesky(covariance)
        self._weights = cho_solve((self._factor, True), observations.value, check_finite=False)

    def predict(
        self, x: np.ndarray, trial: np.ndarray, epoch: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, without noise, of the metric in the current search.

        Args:
            x: (k, columns) encoded configurations.
            trial: (k,) the trial of each among the observations, or -1 for a new one.
            epoch: (k,) the epoch of each prediction.

        Returns:
            (k,) means and (k,) standard deviations.
        """
        cross = self._cross(x, trial, epoch)
        mean, reduced = cross @ self._weights, self._reduced(cross)
        variance = self._prior_variance() - np.einsum("ij,ij->j", reduced, reduced)
        return mean, np.sqrt(np.maximum(variance, 1e-12))

    def look_ahead(
        self, x: np.ndarray, trial: np.ndarray, seen: np.ndarray, end: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What one more observation of each trial would tell of it at a later epoch.

        Args:
            x: (k, columns) encoded configurations.
            trial: (k,) the trial of each among the observations, or -1 for a new one.
            seen: (k,) the epoch that would be observed, with noise.
            end: (k,) the later epoch.

        Returns:
            (k,) means at ``end`` as of now, and (k,) standard deviations of what these means would
            be after the observation.
        """
        before, after = self._cross(x, trial, seen), self._cross(x, trial, end)
        mean = after @ self._weights
        before, after = self._reduced(before), self._reduced(after)
        p = self._split(self.parameters)[1]
        gap = (self._log_epochs(seen) - self._log_epochs(end)) ** 2
        shared = p.a + p.level + p.d + (p.b + p.c) * _matern(gap / p.time**2)
        shared += p.e * _matern(gap / p.own_time**2) - np.einsum("ij,ij->j", before, after)
        variance = self._prior_variance() - np.einsum("ij,ij->j", before, before)
        return mean, np.abs(shared) / np.sqrt(np.maximum(variance, 1e-12) + p.noise)

    def _cross(self, x: np.ndarray, trial: np.ndarray, epoch: np.ndarray) -> np.ndarray:
        """(k, n) covariances of predictions with the observations."""
        known = self._observations
        scales, p = self._split(self.parameters)
        similar = _matern(self._cross_distances(x, known.x, scales))
        similar *= np.exp(-known.search / p.searches)
        different, place = np.unique(epoch, return_inverse=True)
        gap = (self._log_epochs(different)[:, None] - self._log_time) ** 2
        in_time = _matern(gap / p.time**2)
        cross = similar[:, known.trial]
        cross *= (p.a + p.b * in_time)[place]
        recent = np.exp(-known.search[known.trial] / p.searches)
        cross += (p.c * in_time * recent + p.level * (known.search[known.trial] == 0))[place]
        begun = np.flatnonzero(trial >= 0)
        same = trial[begun, None] == known.trial
        own = p.d + p.e * _matern(gap / p.own_time**2)
        cross[begun] += same * own[place[begun]]
        return cross

    def _reduced(self, cross: np.ndarray) -> np.ndarray:
        return solve_triangular(self._factor, cross.T, lower=True, check_finite=False)

    def _prior_variance(self) -> float:
        p = self._split(self.parameters)[1]
        return p.a + p.b + p.c + p.d + p.e + p.level

    def _log_epochs(self, epoch: np.ndarray) -> np.ndarray:
        return np.log(epoch) / self._horizon

    def _split(self, parameters: np.ndarray) -> tuple[np.ndarray, _Parameters]:
        d = len(self._groups)
        return np.exp(parameters[:d]), _Parameters(*np.exp(parameters[d:]))

    def _cross_distances(self, x: np.ndarray, y: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """(k, m) squared distances in units of the lengthscales."""
        width = np.empty(x.shape[1])
        for columns, scale in zip(self._groups, scales, strict=True):
            width[columns] = scale
        x, y = x / width, y / width
        squares = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * (x @ y.T)
        return np.maximum(squares, 0.0)

    def _covariance(
        self, observations: Observations, fixed: _Fixed, split: tuple[np.ndarray, _Parameters]
    ) -> tuple[np.ndarray, ...]:
        """The covariance matrix, and the parts of it that the gradient needs."""
        scales, p = split
        trial = observations.trial
        squares = fixed.squares @ scales**-2
        related = np.exp(-fixed.apart / p.searches)
        similar = (_matern(squares) * related)[np.ix_(trial, trial)]
        correlated = related[np.ix_(trial, trial)]
        in_time = _matern(fixed.gap / p.time**2)
        own_time = fixed.same_trial * _matern(fixed.gap / p.own_time**2)
        moving = p.a + p.b * in_time
        covariance = similar * moving
        covariance += p.c * in_time * correlated + p.level * fixed.same_search
        covariance += p.d * fixed.same_trial + p.e * own_time
        covariance.flat[:: len(covariance) + 1] += p.noise + _JITTER
        return covariance, squares, related, similar, correlated, in_time, own_time, moving

    def _loss(
        self, parameters: np.ndarray, observations: Observations, fixed: _Fixed
    ) -> tuple[float, np.ndarray]:
        """Negative log posterior of the parameters, up to a constant, and its gradient."""
        split = self._split(parameters)
        scales, p = split
        covariance, squares, related, similar, correlated, in_time, own_time, moving = (
            self._covariance(observations, fixed, split)
        )
        factor, failed = _potrf(covariance, lower=1)
        if failed:
            return 1e25, np.zeros_like(parameters)
        value = observations.value
        weights = cho_solve((factor, True), value, check_finite=False)
        inverse, _ = _potri(factor, lower=1)
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        loss = 0.5 * value @ weights + np.log(factor.diagonal()).sum()
        # For every parameter θ: ∂loss/∂θ = ½ Σ w ∘ ∂covariance/∂θ.
        w = inverse - np.outer(weights, weights)
        by_trial = fixed.member @ (w * moving) @ fixed.member.T
        slopes = by_trial * _matern_slope(squares) * related
        d = len(scales)
        gradient = np.empty_like(parameters)
        gradient[:d] = np.einsum("ij,ijk->k", slopes, fixed.squares) / scales**2
        w_similar, w_time = w * similar, w * in_time
        w_moving = (w_time * correlated).sum()
        time_slope = _matern_slope(fixed.gap / p.time**2) * fixed.gap / p.time**2
        own_slope = _matern_slope(fixed.gap / p.own_time**2) * fixed.gap / p.own_time**2
        apart = fixed.apart[np.ix_(observations.trial, observations.trial)] / p.searches
        gradient[d:] = (
            p.a * w_similar.sum(),
            p.b * (w_similar * in_time).sum(),
            p.c * w_moving,
            p.d * (w * fixed.same_trial).sum(),
            p.e * (w * own_time).sum(),
            p.noise * w.trace(),
            ((p.b * w_similar + p.c * w * correlated) * time_slope).sum(),
            p.e * (w * fixed.same_trial * own_slope).sum(),
            p.level * (w * fixed.same_search).sum(),
            ((w_similar * moving + p.c * w_time * correlated) * apart).sum(),
        )
        gradient *= 0.5
        z = (parameters - self.prior_mean) / self.prior_spread
        return float(loss + 0.5 * z @ z), gradient + z / self.prior_spread


@dataclass(frozen=True)
class _Parameters:
    a: float
    b: float
    c: float
    d: float
    e: float
    noise: float
    time: float
    own_time: float
    level: float
    searches: float


@dataclass(frozen=True)
class _Fixed:
    """The parts of the covariance that do not depend on the parameters."""

    squares: np.ndarray  # (m, m, hyperparameters) squared differences
    apart: np.ndarray  # (m, m) distances between the searches, in cycles
    log_epoch: np.ndarray  # (n,)
    gap: np.ndarray  # (n, n) squared differences of log-epochs
    same_trial: np.ndarray  # (n, n)
    same_search: np.ndarray  # (n, n)
    member: np.ndarray  # (m, n) whether an observation belongs to a trial

    @classmethod
    def of(cls, known: Observations, groups: Sequence[slice], log_epoch: np.ndarray) -> _Fixed:
        difference = (known.x[:, None] - known.x) ** 2
        squares = [difference[..., columns].sum(-1) for columns in groups]
        m, trial = len(known.x), known.trial
        search = known.search[trial]
        return cls(
            squares=np.stack(squares, -1) if squares else np.zeros((m, m, 0)),
            apart=np.abs(known.search[:, None] - known.search).astype(float),
            log_epoch=log_epoch,
            gap=(log_epoch[:, None] - log_epoch) ** 2,
            same_trial=(trial[:, None] == trial).astype(float),
            same_search=(search[:, None] == search).astype(float),
            member=(np.arange(m)[:, None] == trial).astype(float),
        )


def _matern(squares: np.ndarray) -> np.ndarray:
    """Matérn 5/2 of squared distances."""
    r = np.sqrt(5 * squares)
    return (1 + r + r * r / 3) * np.exp(-r)


def _matern_slope(squares: np.ndarray) -> np.ndarray:
    """The derivative by the log lengthscale, divided by the squared distance."""
    r = np.sqrt(5 * squares)
    return (5 / 3) * (1 + r) * np.exp(-r)
