"""Bounds of sums of a Gaussian kernel over a pool, by products of its rows in tiles."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from alhpo.strategies.rows import Rows, product_error, rows_at

#: Rows of which products are made at once.
TILE = 1024


class KernelSums:
    """What candidates i add to the coverage Σ_j u_j m_j: Σ_j u_j max(k(i, j) − m_j, 0).

    k(x, y) = exp(−‖x − y‖² / σ²) on rows of length 1 or 0. Products in float32 (float64, if their
    error is too large for σ) give lower and upper bounds, which include the largest error of
    products and sums. k(i, i) is 1.

    Args:
        rows: (N, D) unit rows.
        weights: (N,) weights u of at least 0.
        sigma: σ.
    """

    def __init__(self, rows: Rows, weights: np.ndarray, sigma: float) -> None:
        self.rows = rows
        self.weights = weights
        self.sigma = sigma
        self._log_errors = {d: self._log_error(d) for d in (torch.float32, torch.float64)}
        single = rows.values.dtype == torch.float32 and self._log_errors[torch.float32] <= 1
        self.dtype = torch.float32 if single else torch.float64
        # Memory that is new for each tile would take a third as long as the products.
        self._memory = {self.dtype: self._new_memory(self.dtype)}

    def everywhere(self, covered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bounds for all candidates, (N,) each; every pair is looked at once.

        Args:
            covered: (N,) m.
        """
        values, dtype = self.rows.values, self.dtype
        lower, upper = np.zeros((2, len(values)))
        known, weights = (
            torch.from_numpy(v).to(values.device, dtype) for v in (covered, self.weights)
        )
        for one in tiles(0, len(values)):
            block = values[one].to(dtype)
            for other in tiles(one.start, len(values)):
                kernel, spare = self._upper_kernel(block, one, values[other].to(dtype), other)
                kernel.clamp_(max=1)
                if other == one:
                    kernel.fill_diagonal_(0)
                for bound in (upper, lower):
                    if bound is lower:
                        kernel.mul_(self._lowered(dtype))
                    bound[one] += _sums(kernel, known[other], weights[other], spare)
                    if other != one:
                        bound[other] += _sums(kernel.T, known[one], weights[one], spare.T)
        return self._bounds(lower, upper, self.weights * (1 - covered), dtype)

    def at(
        self,
        some: np.ndarray,
        before: np.ndarray,
        levels: np.ndarray | None = None,
        after: np.ndarray | None = None,
        targets: np.ndarray | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of Σ_j u_j max(min(k(i, j), after_j) − before_j, 0) for B candidates.

        Args:
            some: (B,) positions i, at most a tile.
            before: (V, J) levels of m.
            levels: (B,) which of them is that of each candidate; the first by default.
            after: (J,) m that are no smaller; 1 by default, the largest value of k.
            targets: (J,) ascending positions j; all by default.
            dtype: of the products, if not the one of the others.
        """
        values, dtype = self.rows.values, dtype or self.dtype
        where = np.arange(len(values)) if targets is None else targets
        after = np.ones(len(where)) if after is None else after
        levels = np.zeros(len(some), np.int64) if levels is None else levels
        weights = self.weights[where]
        rounding = 2 * torch.finfo(dtype).eps
        lows, most, least, weight = (
            torch.from_numpy(v).to(values.device, dtype)
            for v in (before, after * (1 + rounding), after * (1 - rounding), weights)
        )
        level = torch.from_numpy(levels).to(values.device)
        block = rows_at(values, some).to(dtype)
        slots = np.minimum(where.searchsorted(some), len(where) - 1)
        found = np.flatnonzero(where[slots] == some)  # those that are targets themselves
        lower, upper = np.zeros((2, len(some)))
        for part in tiles(0, len(where)):
            others = values[part] if targets is None else rows_at(values, targets[part])
            kernel, spare = self._upper_kernel(block, some, others.to(dtype), where[part])
            mine = found[slots[found] // TILE == part.start // TILE]
            kernel[mine, slots[mine] - part.start] = 0
            low = lows[:, part] if len(lows) == 1 else lows[:, part][level]
            upper += _sums(torch.minimum(kernel, most[part], out=spare), low, weight[part], spare)
            kernel.mul_(self._lowered(dtype))
            lower += _sums(torch.minimum(kernel, least[part], out=spare), low, weight[part], spare)
        own = np.zeros(len(some))
        slots = slots[found]
        own[found] = weights[slots] * (after[slots] - before[levels[found], slots])
        return self._bounds(lower, upper, own, dtype)

    def _upper_kernel(
        self,
        block: torch.Tensor,
        own: np.ndarray | slice,
        others: torch.Tensor,
        theirs: np.ndarray | slice,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(A, B) upper bounds of the kernel of A and B rows, which stand at given positions, and
        spare memory of that shape. Both are valid until the next call."""
        scale = 1 / self.sigma**2
        squares = self.rows.squares
        shift = torch.from_numpy(self._log_errors[block.dtype] - scale * squares[theirs]).to(block)
        if block.dtype not in self._memory:
            self._memory[block.dtype] = self._new_memory(block.dtype)
        shape = len(block), len(others)
        parts = (part[: shape[0] * shape[1]].view(shape) for part in self._memory[block.dtype])
        exponents, spare = parts
        torch.addmm(shift, block, others.T, alpha=2 * scale, out=exponents)
        exponents -= torch.from_numpy(scale * squares[own]).to(block)[:, None]
        return exponents.exp_(), spare

    def _new_memory(self, dtype: torch.dtype) -> torch.Tensor:
        return self.rows.values.new_empty(2, TILE * TILE, dtype=dtype)

    def _log_error(self, dtype: torch.dtype) -> float:
        """Largest error of the logarithms of the kernel, and of what is computed with it."""
        error, absolute = product_error(self.rows.values[:1].to(dtype))
        eps = torch.finfo(dtype).eps
        return (2 * error + absolute + 16 * eps) / self.sigma**2 + 8 * eps

    def _lowered(self, dtype: torch.dtype) -> float:
        """By what upper bounds of the kernel become lower ones."""
        return math.exp(-2 * self._log_errors[dtype])

    def _bounds(
        self, lower: np.ndarray, upper: np.ndarray, own: np.ndarray, dtype: torch.dtype
    ) -> tuple[np.ndarray, np.ndarray]:
        """The bounds, given the computed sums over all but the candidates themselves."""
        slack = 2 * TILE * torch.finfo(dtype).eps
        return lower * (1 - slack) + own, upper * (1 + slack) + own


def tiles(start: int, stop: int) -> Iterator[slice]:
    return (slice(one, min(one + TILE, stop)) for one in range(start, stop, TILE))


def _sums(
    kernel: torch.Tensor, before: torch.Tensor, weights: torch.Tensor, out: torch.Tensor
) -> np.ndarray:
    """(A,) Σ_j u_j max(k_ij − before_ij, 0), through memory of the shape of the kernel."""
    rises = torch.sub(kernel, before, out=out).clamp_(min=0)
    return (rises @ weights).double().cpu().numpy()
