"""Greedy coverage of a pool by a Gaussian kernel: weighted facility location.

Bae, Noh, Sutherland: Generalized Coverage for More Robust Low-Budget Active Learning (ECCV 2024).
"""

from __future__ import annotations

import math

import numpy as np
import torch

from alhpo.strategies.rows import NearestRows, Rows, normalised, product_error, row_blocks

_TILE = 2048
_FIRST_BLOCK, _LARGEST_BLOCK = 16, 512
# A sweep over all pairs costs as much as half of the rows one by one.
_SHARE = 1 / 4
# Gains below this share of all that can be gained are rounding errors of float64.
_NOTHING = 1e-12
# Gains that may be equal as float32.
_TIE = 1 - 2**-22


class KernelCoverage:
    """Chooses candidates one by one, each with the largest gain of weighted coverage.

    With unit rows z, k(x, y) = exp(−‖z_x − z_y‖² / σ²) and m_j the largest k of candidate j and a
    labelled or chosen image, choosing i gains g_i = Σ_j u_j max(k(i, j) − m_j, 0).

    Gains only fall, so an old gain bounds a new one from above and most need not be computed again
    (lazy greedy; Minoux 1978). Products in float32, then in float64, give bounds that rule out all
    but a few candidates. The gains of these are summed in sorted order from float64 differences and
    compared as float32, so that what is equal up to rounding is equal, and the lowest position is
    taken. No N×N matrix is ever made.

    Args:
        candidates: (N, D) features; their rows are scaled to length 1, rows of zeros stay.
        labeled: (L, D) features of the labelled images.
        weights: (N,) weights u of at least 0, not all 0.
        sigma: σ of the kernel.
    """

    def __init__(
        self, candidates: torch.Tensor, labeled: torch.Tensor, weights: np.ndarray, sigma: float
    ) -> None:
        self.rows = Rows(normalised(candidates))
        self.squares = torch.from_numpy(self.rows.squares).to(self.rows.values.device)
        self.sigma = sigma
        self.weights = weights
        distances = None
        if len(labeled):
            known = Rows(normalised(labeled.to(candidates)))
            distances = self.rows.nearest_distances(known)
        self.nearest = NearestRows(self.rows, distances)
        self.free = np.ones(len(self.rows), dtype=bool)
        self.covered = self._covered()
        self.upper = self._all_upper()
        self.swept = True

    def choose(self, n: int) -> tuple[list[int], list[float]]:
        """Positions of ``n`` candidates in the order of choice, and their gains over N; 0 and the
        lowest positions once nothing more can be gained."""
        positions: list[int] = []
        gains: list[float] = []
        while len(positions) < n:
            position, gain = self._best()
            if gain <= _NOTHING * self.weights.sum():
                break
            positions.append(position)
            # A bound may stand for a gain and round up, but gains do not rise.
            score = float(np.float32(gain / len(self.rows)))
            gains.append(min([score, *gains[-1:]]))
            self.free[position] = False
            self.upper[position] = -1
            if len(positions) < n:
                self.nearest.add(position)
                self.covered, self.swept = self._covered(), False
        rest = np.flatnonzero(self.free)[: n - len(positions)]
        return [*positions, *rest.tolist()], [*gains, *[0.0] * len(rest)]

    def _best(self) -> tuple[int, float]:
        """The next choice and its gain."""
        fresh = ~self.free
        best, size = 0.0, _FIRST_BLOCK
        lower = np.zeros(len(self.rows))
        dtype = self._fast_dtype()
        while True:
            stale = np.flatnonzero(~fresh & (self.upper >= best))
            if not len(stale):
                break
            looked_at = int((fresh & self.free).sum())
            if not self.swept and looked_at > _SHARE * len(fresh) and len(stale) > looked_at:
                self.upper = np.where(self.free, np.minimum(self.upper, self._all_upper()), -1)
                self.swept = True
                continue
            if len(stale) > size:
                stale = np.sort(stale[np.argpartition(-self.upper[stale], size - 1)[:size]])
            lower[stale], self.upper[stale] = self._bounds(stale, dtype)
            fresh[stale] = True
            best = max(best, float(lower[stale].max()) * _TIE)
            size = min(2 * size, _LARGEST_BLOCK)
        open_ = np.flatnonzero(self.free & (self.upper >= best))
        if dtype == torch.float32:
            bounds = [self._bounds(part, torch.float64) for part in _parts(open_)]
            lower, self.upper[open_] = (np.concatenate(one) for one in zip(*bounds, strict=True))
            open_ = open_[self.upper[open_] >= lower.max() * _TIE]
        if self.upper[open_].max() <= _NOTHING * self.weights.sum():
            return int(open_[0]), 0.0
        if len(open_) == 1:
            return int(open_[0]), float(self.upper[open_[0]])
        exact = np.array([self._exact_gain(position) for position in open_.tolist()])
        first = int(exact.astype(np.float32).argmax())
        return int(open_[first]), float(exact[first])

    def _fast_dtype(self) -> torch.dtype:
        """float32 where its bounds tell gains apart."""
        values = self.rows.values
        decides = values.dtype == torch.float32 and self._exponent_error(torch.float32) <= 1
        return torch.float32 if decides else torch.float64

    def _exponent_error(self, dtype: torch.dtype) -> float:
        """Largest error of the kernel's exponent, and of the logarithms of what is computed."""
        error, absolute = product_error(self.rows.values[:1].to(dtype))
        eps = torch.finfo(dtype).eps
        return (2 * error + absolute + 16 * eps) / self.sigma**2 + 8 * eps

    def _bounds(self, positions: np.ndarray, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds of the gains at B positions, (B,) float64."""
        values = self.rows.values
        where = torch.from_numpy(positions).to(values.device)
        block = values[where].to(dtype)
        covered, weights = self._vectors(dtype)
        lower, upper = np.zeros((2, len(positions)))
        for start in range(0, len(values), _TILE):
            part = slice(start, start + _TILE)
            kernel = self._kernel(block, where, part)
            own = (where >= start) & (where < start + _TILE)
            kernel[own, where[own] - start] = 0
            low, high = self._tile_gains(kernel, covered[part], weights[part])
            lower += low
            upper += high
        own = self.weights[positions] * (1 - self.covered[positions])
        slack = 2 * _TILE * torch.finfo(dtype).eps
        return lower * (1 - slack) + own, upper * (1 + slack) + own

    def _tile_gains(
        self, kernel: torch.Tensor, covered: torch.Tensor, weights: torch.Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds of Σ_j u_j max(k − m_j, 0) over the columns of a tile."""
        factor = math.exp(self._exponent_error(kernel.dtype))
        low = (kernel / factor).sub_(covered).clamp_(min=0) @ weights
        high = kernel.mul_(factor).clamp_(max=1).sub_(covered).clamp_(min=0) @ weights
        return low.double().cpu().numpy(), high.double().cpu().numpy()

    def _all_upper(self) -> np.ndarray:
        """(N,) upper bounds of all gains; every pair of candidates is looked at once."""
        values = self.rows.values
        dtype = self._fast_dtype()
        covered, weights = self._vectors(dtype)
        factor = math.exp(min(self._exponent_error(dtype), 80.0))
        upper = np.zeros(len(values))
        for start in range(0, len(values), _TILE):
            one = slice(start, min(start + _TILE, len(values)))
            block = values[one].to(dtype)
            for begin in range(start, len(values), _TILE):
                other = slice(begin, min(begin + _TILE, len(values)))
                kernel = self._kernel(block, one, other).mul_(factor).clamp_(max=1)
                gains = (kernel - covered[other]).clamp_(min=0) @ weights[other]
                upper[one] += gains.double().cpu().numpy()
                if begin > start:
                    gains = weights[one] @ kernel.sub_(covered[one, None]).clamp_(min=0)
                    upper[other] += gains.double().cpu().numpy()
        return upper * (1 + 2 * _TILE * torch.finfo(dtype).eps)

    def _kernel(
        self, block: torch.Tensor, where: torch.Tensor | slice, others: slice
    ) -> torch.Tensor:
        """The kernel of the rows ``where``, given in the precision to compute in, and others."""
        own, theirs = (self.squares[part].to(block.dtype) for part in (where, others))
        values = self.rows.values[others].to(block.dtype)
        exponent = torch.addmm(-theirs, block, values.T, alpha=2).sub_(own[:, None])
        return exponent.clamp_(max=0).div_(self.sigma**2).exp_()

    def _covered(self) -> np.ndarray:
        """(N,) m: 0 without any image."""
        return np.exp(-self.nearest.squares / self.sigma**2)

    def _vectors(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.rows.values.device
        covered, weights = (torch.from_numpy(v) for v in (self.covered, self.weights))
        return covered.to(device, dtype), weights.to(device, dtype)

    def _exact_gain(self, position: int) -> float:
        distances = self.rows.distances(None, self.rows.values[position])
        kernel = np.exp(-(distances**2) / self.sigma**2)
        terms = self.weights * np.maximum(kernel - self.covered, 0)
        return float(np.sort(terms).sum())


def _parts(positions: np.ndarray) -> list[np.ndarray]:
    return [positions[part] for part in row_blocks(len(positions), _TILE)]
