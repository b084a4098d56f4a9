"""Greedy coverage of a pool by a Gaussian kernel: weighted facility location.

Bae, Noh, Sutherland: Generalized Coverage for More Robust Low-Budget Active Learning (ECCV 2024).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from alhpo.strategies.kernel_sums import TILE, KernelSums, tiles
from alhpo.strategies.rows import NearestRows, Rows, normalised, rows_at

_FIRST_BLOCK = 64
# Bounds are lowered by what choices took that together changed this share of all m_j.
_SHARE = 1 / 8
# So many gains that may be the largest are computed exactly without more ado.
_FEW = 16
# Gains below this share of all that can be gained are rounding errors of float64.
_NOTHING = 1e-12
# Gains that may be equal as float32.
_TIE = 1 - 2**-22


class KernelCoverage:
    """Chooses candidates one by one, each with the largest gain of weighted coverage.

    With unit rows z, k(x, y) = exp(−‖z_x − z_y‖² / σ²) and m_j the largest k of candidate j and a
    labelled or chosen image, choosing i gains g_i = Σ_j u_j max(k(i, j) − m_j, 0).

    One pass over all pairs bounds all gains. A choice changes few m_j, and gains only fall, so that
    an old bound holds until its candidate comes up (lazy greedy; Minoux 1978); then it is lowered
    by what the choices since then took, which needs only products with the rows whose m_j they
    changed. Products in float32 give bounds that rule out all but a few candidates. The gains of
    these are summed in sorted order from float64 differences and compared as float32, so that what
    is equal up to rounding is equal, and the lowest position is taken. No N×N matrix is ever made.

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
        self.sigma = sigma
        self.weights = weights
        distances = None
        if len(labeled):
            known = Rows(normalised(labeled.to(candidates)))
            distances = self.rows.nearest_distances(known)
        self.nearest = NearestRows(self.rows, distances)
        self.free = np.ones(len(self.rows), dtype=bool)
        self.covered = self._covered()
        self.changes: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.n_changed = np.zeros(1, np.int64)  # how many m_j the first choices changed in all
        self.marks = [0]  # numbers of choices that together changed a share of all m_j
        self.sums = KernelSums(self.rows, weights, sigma)
        # Bounds of the gains after the first `seen` choices; -1 for what is chosen.
        self.lower, self.upper = self.sums.everywhere(self.covered)
        self.seen = np.zeros(len(self.rows), np.int64)

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
            # Gains do not rise, but equal ones may round to different sides.
            gains.append(min([float(np.float32(gain / len(self.rows))), *gains[-1:]]))
            if len(positions) < n:
                self._take(position)
            self.free[position] = False
        rest = np.flatnonzero(self.free)[: n - len(positions)]
        return [*positions, *rest.tolist()], [*gains, *[0.0] * len(rest)]

    def _take(self, position: int) -> None:
        self.lower[position] = self.upper[position] = -1
        self.nearest.add(position)
        before, self.covered = self.covered, self._covered()
        changed = np.flatnonzero(self.covered > before)
        self.changes.append((changed, before[changed], self.covered[changed]))
        if self.n_changed[-1] - self.n_changed[self.marks[-1]] > len(self.rows) * _SHARE:
            self.marks.append(len(self.changes) - 1)
        self.n_changed = np.append(self.n_changed, self.n_changed[-1] + len(changed))

    def _best(self) -> tuple[int, float]:
        """The next choice and its gain."""
        now, n, spent = len(self.changes), len(self.rows), 0
        size = min(_FIRST_BLOCK, TILE)
        while True:
            fresh = self.seen == now
            best = max(0.0, float(self.lower[fresh].max(initial=0))) * _TIE
            stale = np.flatnonzero(~fresh & (self.upper >= best))
            if not len(stale):
                break
            missed = np.minimum(n, self.n_changed[now] - self.n_changed[self.seen[stale]])
            if spent > n**2 / 16 and missed.sum() > n**2 / 2:  # what one pass over all pairs takes
                chosen = ~self.free
                self.lower, self.upper = self.sums.everywhere(self.covered)
                self.lower[chosen] = self.upper[chosen] = -1
                self.seen[:] = now
                continue
            if len(stale) > size:
                top = np.argpartition(-self.upper[stale], size - 1)[:size]
                stale, missed = stale[top], missed[top]
            spent += int(missed.sum())
            self._update(stale, best)
            size = min(2 * size, TILE)
        return self._first(np.flatnonzero(self.free & fresh & (self.upper >= best)))

    def _first(self, open_: np.ndarray) -> tuple[int, float]:
        """The one with the largest gain of ascending positions, the lowest of equals; its gain."""
        if len(open_) > _FEW:
            for part in tiles(0, len(open_)):
                some = open_[part]
                bounds = self.sums.at(some, self.covered[None], dtype=torch.float64)
                self.lower[some], self.upper[some] = bounds
            open_ = open_[self.upper[open_] >= self.lower[open_].max() * _TIE]
            if self.upper[open_].max() <= _NOTHING * self.weights.sum():
                return int(open_[0]), 0.0
            # of equal rows, whose gains are equal, the first
            rows = rows_at(self.rows.values, open_).cpu().numpy()
            open_ = open_[np.sort(np.unique(rows, axis=0, return_index=True)[1])]
        exact = []
        for start in range(0, len(open_), _FEW):
            some = open_[start : start + _FEW].tolist()
            exact += [self._exact_gain(one, some[k + 1 :]) for k, one in enumerate(some)]
        first = int(np.array(exact, np.float32).argmax())
        return int(open_[first]), exact[first]

    def _exact_gain(self, position: int, ahead: list[int]) -> float:
        near, distances = self.nearest.nearer(position, ahead)
        kernel = np.exp(-(distances**2) / self.sigma**2)
        terms = self.weights[near] * np.maximum(kernel - self.covered[near], 0)
        return float(np.sort(terms).sum())

    def _update(self, some: np.ndarray, best: float) -> None:
        """Make at most a tile of bounds those of now, or of as many choices as it takes to bring
        them below ``best``."""
        now = len(self.changes)
        for start, stop in pairwise([*self.marks, now]):
            behind = some[(self.seen[some] < stop) & (self.upper[some] >= best)]
            if len(behind):
                low, high = self._taken(behind, start, stop)
                self.lower[behind] -= high
                self.upper[behind] = np.maximum(self.upper[behind] - low, 0)
                self.seen[behind] = stop

    def _taken(self, some: np.ndarray, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of what the choices from ``start`` to ``stop``, as far as they have not seen them,
        took of the gains of some."""
        seen = np.maximum(self.seen[some], start)
        values, levels = np.unique(seen, return_inverse=True)
        covered, after = np.zeros((2, len(self.rows)))
        for changed, _, new in self.changes[start:stop]:
            after[changed] = new
        targets = np.flatnonzero(after)
        before, row = np.empty((len(values), len(targets))), len(values)
        covered[:] = after
        for step in range(stop - 1, start - 1, -1):
            changed, old, _ = self.changes[step]
            covered[changed] = old
            if step == values[row - 1]:
                row -= 1
                before[row] = covered[targets]
        return self.sums.at(some, before, levels, after[targets], targets)

    def _covered(self) -> np.ndarray:
        """(N,) m: 0 without any image."""
        return np.exp(-self.nearest.squares / self.sigma**2)
