"""DDU: the density of the features under one Gaussian per class.

Mukhoti, Kirsch, van Amersfoort, Torr, Gal: Deep Deterministic Uncertainty: A New Simple Baseline
(CVPR 2023; arXiv 2102.11582), Algorithm 1, and its experiments on active learning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from alhpo.base.types import PoolOutputs
from alhpo.strategies.ranking import register_score
from alhpo.strategies.rows import as_float64, row_blocks


@register_score("ddu", needs={"features", "labeled_features", "labels"}, signed=True)
def ddu(pool: PoolOutputs) -> torch.Tensor:
    """−log q(z) in nats, for the density q(z) = Σ_y q(z|y) q(y) of a candidate's features.

    q(z|y) is the Gaussian with the mean and the covariance (over n_y − 1) of the labelled features
    of class y, and q(y) is the class's share of the labels. A class without labels is not in the
    sum. A class with a single label has the covariance 0.

    If any covariance is singular, as all are with at most D labels, the same jitter ε is added to
    the diagonals of all. ε is a power of ten, as in the authors' code: the first that exceeds the
    rounding error of the covariances, D · 2⁻⁵² times the largest squared distance of a labelled
    feature vector to the mean of all. (The authors take the first with which a Cholesky
    factorisation succeeds.) With so small an ε, the distance to the affine hull of the nearest
    class decides.

    ``inf`` where nothing is labelled. Time O(N·D·L), at most O(N·D²·C), and a singular value
    decomposition of each class's features; memory: the labelled features in float64.
    """
    assert pool.features is not None
    assert pool.labeled_features is not None
    assert pool.labels is not None
    labeled = as_float64(pool.labeled_features)
    centre = labeled.mean(dim=0) if len(labeled) else labeled.sum(dim=0)
    mixture = _fit(labeled - centre, pool.labels.to(labeled.device))
    surprise = []
    for part in row_blocks(*pool.features.shape):
        z = as_float64(pool.features[part]).to(labeled.device) - centre
        surprise.append(-_log_density(z, mixture))
    return torch.cat(surprise)


@dataclass(frozen=True)
class _Gaussian:
    """N(mean, Σ λₖ aₖaₖᵀ + ε·1) with its share of the mixture.

    Attributes:
        mean: (D,).
        axes: (K, D) orthonormal rows aₖ; K = D or the number of labels.
        variances: (K,) λₖ + ε.
        jitter: ε, the variance in every direction that is orthogonal to all axes.
        log_share: log q(y).
    """

    mean: torch.Tensor
    axes: torch.Tensor
    variances: torch.Tensor
    jitter: float
    log_share: float

    def log_joint(self, z: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
        """(B,) log q(z|y) q(y) of (B, D) features whose squared norms are ``squares``."""
        rank, width = self.axes.shape
        along = (z @ self.axes.T - self.axes @ self.mean).square_()
        distance = (along / self.variances).sum(dim=1)
        log_determinant = float(self.variances.log().sum())
        if rank < width:
            norms = squares - 2 * (z @ self.mean) + self.mean @ self.mean
            distance += (norms - along.sum(dim=1)).clamp_(min=0) / self.jitter
            log_determinant += (width - rank) * math.log(self.jitter)
        constant = self.log_share - (width * math.log(2 * math.pi) + log_determinant) / 2
        return constant - distance / 2


def _fit(z: torch.Tensor, labels: torch.Tensor) -> list[_Gaussian]:
    """One Gaussian per class that has labels, of (L, D) features around 0."""
    parts = []
    for label in labels.unique():
        own = z[labels == label]
        mean = own.mean(dim=0)
        _, singular, axes = torch.linalg.svd(own - mean, full_matrices=False)
        parts.append((mean, axes, singular.square_() / max(1, len(own) - 1), len(own)))
    jitter = _jitter(z, [variances for _, _, variances, _ in parts])
    return [
        _Gaussian(mean, axes, variances + jitter, jitter, math.log(size / len(z)))
        for mean, axes, variances, size in parts
    ]


def _jitter(z: torch.Tensor, variances: list[torch.Tensor]) -> float:
    """The variance to add in every direction so that no Gaussian is flat."""
    largest = float(z.square().sum(dim=1).max()) if len(z) else 0.0
    rounding = z.shape[1] * torch.finfo(z.dtype).eps * (largest or 1.0)
    if all(len(own) == z.shape[1] and float(own.min()) > rounding for own in variances):
        return 0.0
    return 10.0 ** math.ceil(math.log10(rounding))


def _log_density(z: torch.Tensor, mixture: list[_Gaussian]) -> torch.Tensor:
    """(B,) log Σ q(z|y) q(y) in nats."""
    squares = z.square().sum(dim=1)
    joint = [gaussian.log_joint(z, squares) for gaussian in mixture]
    return torch.stack([squares.new_full((len(z),), -math.inf), *joint]).logsumexp(dim=0)
