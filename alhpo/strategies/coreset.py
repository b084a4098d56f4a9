"""Core-set selection by greedy k-centre.

Sener, Savarese: Active Learning for Convolutional Neural Networks: A Core-Set Approach (ICLR
2018), Algorithm 1.
"""

from __future__ import annotations

import numpy as np

from alhpo.base.types import PoolOutputs, Query
from alhpo.strategies.registry import register_strategy
from alhpo.strategies.rows import NearestRows, Rows

_AHEAD = 4  # products computed together: the four farthest are usually the next choices


@register_strategy("coreset", needs={"features", "labeled_features"}, aliases=("core-set",))
def coreset(pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
    """Repeatedly choose the candidate farthest from the labelled and the chosen features.

    Deterministic; ties go to the lowest pool index. Scores are the Euclidean distances to the
    nearest of these at the time of choice; they never increase. Without labelled images the first
    choice is the lowest pool index, and its score is the largest distance from it.

    Distances are exact float64; float32 products find those that a choice can lower. Time
    O((L + n)·N·D), at less than a matrix-vector product of the features per choice; memory: a few
    vectors of N numbers and blocks of some 30 MB, no copy of the features.
    """
    assert pool.features is not None
    assert pool.labeled_features is not None
    rows = Rows(pool.features)
    labeled = pool.labeled_features
    nearest = NearestRows(rows, rows.nearest_distances(Rows(labeled)) if len(labeled) else None)
    left = nearest.distances.copy()  # -1, below all distances, for chosen candidates
    indices = pool.indices.tolist()
    chosen: list[int] = []
    scores: list[float] = []
    while len(chosen) < n:
        farthest = int(left.argmax())  # the first of equals
        chosen.append(indices[farthest])
        scores.append(float(left[farthest]))
        left[farthest] = -1
        if len(chosen) < n or scores == [np.inf]:
            nearest.add(farthest, ahead=_farthest(left, _AHEAD - 1))
            left = np.where(left < 0, -1, nearest.distances)
        if scores == [np.inf]:
            scores = [float(nearest.distances.max())]
    return Query(tuple(chosen), tuple(scores))


def _farthest(left: np.ndarray, count: int) -> list[int]:
    """Positions of the ``count`` largest distances, in any order, without those of -1."""
    count = min(count, len(left))
    farthest = np.argpartition(left, -count)[-count:]
    return farthest[left[farthest] >= 0].tolist()
