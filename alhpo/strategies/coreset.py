"""Core-set selection by greedy k-centre.

Sener, Savarese: Active Learning for Convolutional Neural Networks: A Core-Set Approach (ICLR
2018), Algorithm 1.
"""

from __future__ import annotations

import numpy as np

from alhpo.strategies.registry import register_strategy
from alhpo.strategies.rows import as_float64, distances, nearest_distances
from alhpo.types import PoolOutputs, Query


@register_strategy("coreset", needs={"features", "labeled_features"}, aliases=("core-set",))
def coreset(pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
    """Repeatedly the candidate farthest from the nearest of labelled ∪ chosen features.

    Deterministic; ties go to the lowest pool index. Scores are those Euclidean distances at the
    time of choice; they never rise. Without labelled images every candidate is infinitely far
    from the empty set, so the first choice is the lowest pool index, with score ``inf``.

    Time O((L + n)·N·D); memory: the features in float64 and one running minimum.
    """
    assert pool.features is not None
    assert pool.labeled_features is not None
    features = as_float64(pool.features)
    labeled = as_float64(pool.labeled_features).to(features.device)
    nearest = nearest_distances(features, labeled)
    indices = pool.indices.tolist()
    chosen: list[int] = []
    scores: list[float] = []
    while True:
        farthest = int(nearest.argmax())  # the first of equals
        chosen.append(indices[farthest])
        scores.append(float(nearest[farthest]))
        if len(chosen) == n:
            return Query(tuple(chosen), tuple(scores))
        nearest = nearest.minimum(distances(features, features[farthest]))
        nearest[farthest] = -1  # stays below all distances
