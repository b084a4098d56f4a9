"""Squared Euclidean distances between rows, in float64, block by block.

Rows are differenced before they are squared, so that equal rows are exactly 0 apart and ties stay
ties; no float64 copy of all rows and no N×N matrix is ever made.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

_CPU_BLOCK = 2**17  # elements: a block and its square stay in the cache of a core
_ACCELERATOR_BLOCK = 2**24
_CENTRES = 1024


def with_float64(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor where float64 exists: itself, or on the CPU where its device has none (MPS)."""
    return tensor.cpu() if tensor.device.type == "mps" else tensor


def row_blocks(
    rows: torch.Tensor, width: int | None = None
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Slices of the (N, D) rows and those rows in float64, some ``width`` (or D) values each."""
    limit = _CPU_BLOCK if rows.device.type == "cpu" else _ACCELERATOR_BLOCK
    step = max(1, limit // max(1, width or rows.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        yield part, rows[part].to(torch.float64, copy=True)


def squared_distances(rows: torch.Tensor, point: torch.Tensor | float = 0.0) -> torch.Tensor:
    """(N,) float64 squared distances of the (N, D) rows to one (D,) point, or to the origin."""
    if isinstance(point, torch.Tensor):
        point = point.to(torch.float64)
    result = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    for part, block in row_blocks(rows):
        block -= point
        result[part] = block.square_().sum(dim=1)
    return result


def nearest_squared_distances(rows: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """(N,) float64 squared distances of the (N, D) rows to the nearest of the (L, D) centres.

    The nearest is found through ‖x‖² + ‖c‖² − 2x·c, a matrix product, and its distance is then
    taken from the difference of the two rows. Infinite where there are no centres.
    """
    result = torch.full((len(rows),), torch.inf, dtype=torch.float64, device=rows.device)
    for some in centres.to(torch.float64).split(_CENTRES):
        norms = some.square().sum(dim=1)
        for part, block in row_blocks(rows, width=max(rows.shape[1], len(some))):
            nearest = torch.addmm(norms, block, some.T, alpha=-2).argmin(dim=1)
            block -= some[nearest]
            result[part] = torch.minimum(result[part], block.square_().sum(dim=1))
    return result
