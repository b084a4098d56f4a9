"""Rows that stand for the others: one for each k-means cluster."""

from __future__ import annotations

import numpy as np
import torch

from alhpo.strategies.clustering import k_means
from alhpo.strategies.rows import Rows, normalised, row_blocks


def representatives(
    rows: Rows, n: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The row nearest to the mean of each of ``n`` k-means clusters.

    It is taken from the cluster's own rows, so that all are distinct. Ties, as in a cluster of two,
    go to the row nearer to the mean of all rows, then to the first. Larger clusters come first; of
    equal ones, that whose chosen row comes first. If there are fewer distinct rows than ``n``, the
    first of the rest follow.

    Args:
        rows: the (N, D) rows.
        n: how many, 1 to N.
        generator: draws the seeds of ``k_means``.

    Returns:
        (n,) positions, and the (n,) int64 sizes of their clusters, 0 for rows without a cluster.
    """
    clusters = k_means(rows, n, generator)
    rounded = clusters.distances.astype(np.float32)  # equal up to rounding is equal
    by_distance = np.lexsort((clusters.from_middle, rounded, clusters.labels))
    starts = np.flatnonzero(np.diff(clusters.labels[by_distance], prepend=-1))
    nearest = np.sort(by_distance[starts])
    sizes = clusters.sizes[clusters.labels[nearest]]
    order = np.argsort(-sizes, kind="stable")
    rest = np.setdiff1d(np.arange(len(rows)), nearest)[: n - len(nearest)]
    return np.concatenate([nearest[order], rest]), np.concatenate([sizes[order], 0 * rest])


def representatives_among(
    features: torch.Tensor, candidates: np.ndarray, n: int, generator: np.random.Generator
) -> np.ndarray:
    """``n`` rows: representatives of some candidates by their directions, others if these are few.

    Args:
        features: (N, D).
        candidates: (M,) ascending positions; M may be 0.
        n: how many, 1 to N.
        generator: draws the seeds of k-means, then the others.

    Returns:
        (n,) positions: ``representatives`` of the candidates, scaled to length 1, in min(n, M)
        clusters; then others, drawn uniformly.
    """
    chosen = candidates
    if len(candidates):
        k = min(n, len(candidates))
        chosen = candidates[representatives(_directions(features, candidates), k, generator)[0]]
    others = np.setdiff1d(np.arange(len(features)), candidates)
    return np.concatenate([chosen, generator.choice(others, n - len(chosen), replace=False)])


def _directions(features: torch.Tensor, positions: np.ndarray) -> Rows:
    """The rows at these positions, scaled to length 1 in the only copy that is made."""
    values = features.detach()[torch.from_numpy(positions).to(features.device)]
    values = values if values.dtype == torch.float64 else values.float()
    for part in row_blocks(*values.shape):
        values[part] = normalised(values[part])
    return Rows(values)
