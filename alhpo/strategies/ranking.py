"""From scores to a query."""

from __future__ import annotations

import torch

from alhpo.types import PoolOutputs, Query


def highest(
    pool: PoolOutputs, n: int, keys: torch.Tensor, scores: torch.Tensor | None = None
) -> Query:
    """The ``n`` candidates with the largest keys, largest first, ties to the lowest pool index.

    Args:
        pool: the candidates.
        n: how many to choose.
        keys: (N,) what to rank by; not NaN.
        scores: (N,) what to report, where it is not the keys themselves.
    """
    order = keys.sort(descending=True, stable=True).indices[:n]
    chosen = (keys if scores is None else scores)[order].tolist()
    return Query(tuple(pool.indices[order.to(pool.indices.device)].tolist()), tuple(chosen))
