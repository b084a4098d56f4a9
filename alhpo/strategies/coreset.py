"""Core-set selection by greedy k-centre.

Sener, Savarese: Active Learning for Convolutional Neural Networks: A Core-Set Approach (ICLR
2018), Algorithm 1.
"""

from __future__ import annotations

import numpy as np
import torch

from alhpo.strategies.registry import register_strategy
from alhpo.strategies.rows import Rows
from alhpo.types import PoolOutputs, Query

_AHEAD = 4  # products made together: the farthest four are mostly the next choices


@register_strategy("coreset", needs={"features", "labeled_features"}, aliases=("core-set",))
def coreset(pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
    """Repeatedly the candidate farthest from the nearest of labelled ∪ chosen features.

    Deterministic; ties go to the lowest pool index. Scores are those Euclidean distances at the
    time of choice; they never rise. Without labelled images the first choice is the lowest pool
    index, and its score is the largest distance from it.

    Distances are exact float64; float32 products tell which of them a choice can lower. Time
    O((L + n)·N·D), at less than a matrix-vector product of the features per choice; memory: a few
    vectors of N numbers and blocks of some 20 MB, no copy of the features.
    """
    assert pool.features is not None
    assert pool.labeled_features is not None
    nearest = _Nearest(Rows(pool.features), pool.labeled_features)
    indices = pool.indices.tolist()
    chosen: list[int] = []
    scores: list[float] = []
    while len(chosen) < n:
        farthest = int(nearest.distances.argmax())  # the first of equals
        distance = float(nearest.distances[farthest])
        if len(chosen) < n - 1 or distance == np.inf:
            nearest.choose(farthest)
        chosen.append(indices[farthest])
        scores.append(distance if distance < np.inf else max(0.0, float(nearest.distances.max())))
    return Query(tuple(chosen), tuple(scores))


class _Nearest:
    """(N,) distances to the nearest centre; -1 for what has become a centre itself."""

    def __init__(self, rows: Rows, centres: torch.Tensor) -> None:
        self.rows = rows
        if len(centres):
            self.distances = rows.nearest_distances(Rows(centres))
        else:
            self.distances = np.full(len(rows), np.inf)
        self._squares = self.distances**2
        self._products: dict[int, np.ndarray] = {}

    def choose(self, position: int) -> None:
        """Make the row at ``position`` a centre."""
        rows = self.rows
        self.distances[position] = -1  # stays below all distances
        self._squares[position] = -np.inf
        if position not in self._products:
            ahead = [position, *self._farthest(_AHEAD - 1)]
            self._products = dict(zip(ahead, rows.products(ahead), strict=True))
        norms = rows.squares + rows.squares[position]
        bound = (1 - rows.error) * norms - 2 * self._products.pop(position) - rows.absolute_error
        near = np.flatnonzero(~(bound > self._squares))
        exact = rows.distances(near, rows.values[position])
        self.distances[near] = np.minimum(self.distances[near], exact)
        self._squares[near] = self.distances[near] ** 2

    def _farthest(self, count: int) -> list[int]:
        """Some ``count`` rows that are farthest now, in any order, none of them a centre."""
        farthest = np.argpartition(self.distances, -min(count, len(self.rows)))[-count:]
        return farthest[self.distances[farthest] >= 0].tolist()
