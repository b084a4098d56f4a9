"""Centroids: k-means sampling by direction, for a first batch without labels.

Gupte, Aklilu, Nirschl, Yeung-Levy: Revisiting Active Learning in the Era of Vision Foundation
Models (TMLR 2024): the initial batch of their experiments.
"""

from __future__ import annotations

import numpy as np

from alhpo.base.types import PoolOutputs, Query
from alhpo.strategies.registry import register_strategy
from alhpo.strategies.representatives import representatives
from alhpo.strategies.rows import Rows, normalised


@register_strategy("centroids", needs={"features"})
def centroids(pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
    """``kmeans`` of the features scaled to length 1; rows of zeros stay.

    Only features are needed, so it can choose the first batch. Scores are the sizes of the
    clusters, and 0 for choices without a cluster. ``generator`` draws the seeds. Time O(n·N·D) for
    each iteration of k-means; memory: a copy of the features, those of ``kmeans``.
    """
    assert pool.features is not None
    rows = Rows(normalised(pool.features))
    positions, sizes = representatives(rows, n, generator)
    return Query(tuple(pool.indices[positions].tolist()), tuple(sizes.tolist()))
