"""Euclidean distances between rows, in float64.

Rows are differenced before they are squared, so that equal rows are exactly 0 apart. Distances,
not their squares, are compared: a square root squared again may not tie with the square. No N×N
matrix is ever made. Each distance vector is one operation: splitting it into many small ones costs
a hundred times more when other processes compete for the cores.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

_BLOCK = 2**22  # elements of a block in float64, 32 MiB
_CENTRES = 1024


def as_float64(tensor: torch.Tensor) -> torch.Tensor:
    """A float64 copy on the tensor's device, or on the CPU where the device has none (MPS)."""
    if tensor.device.type == "mps":
        tensor = tensor.cpu()
    return tensor.detach().to(torch.float64, copy=True)


def row_blocks(n_rows: int, width: int) -> Iterator[slice]:
    """Consecutive slices of ``n_rows`` rows, each of at most some 4 million values."""
    step = max(1, _BLOCK // max(1, width))
    return (slice(start, start + step) for start in range(0, n_rows, step))


def distances(rows: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
    """(N,) distances of the (N, D) float64 rows to one (D,) point."""
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cdist(rows, point[None], compute_mode=mode)[:, 0]


def squared_norms(rows: torch.Tensor) -> torch.Tensor:
    """(N,) squared norms of the (N, D) float64 rows."""
    return distances(rows, torch.zeros_like(rows[0])).square_()


def nearest_distances(rows: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """(N,) distances of the (N, D) float64 rows to the nearest of the (L, D) centres.

    The nearest is found through ‖x‖² + ‖c‖² − 2x·c, a matrix product, and its distance is then
    taken from the difference of the two rows. Infinite where there are no centres.
    """
    result = torch.full_like(rows[:, 0], torch.inf)
    for some in centres.split(_CENTRES) if len(centres) else ():
        norms = squared_norms(some)
        for part in row_blocks(len(rows), max(rows.shape[1], len(some))):
            nearest = torch.addmm(norms, rows[part], some.T, alpha=-2).argmin(dim=1)
            exact = (rows[part] - some[nearest]).square_().sum(dim=1).sqrt_()
            result[part] = result[part].minimum(exact)
    return result
