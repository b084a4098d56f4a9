"""k-means sampling: one candidate for each cluster of the pool."""

from __future__ import annotations

import numpy as np

from alhpo.base.types import PoolOutputs, Query
from alhpo.strategies.registry import register_strategy
from alhpo.strategies.representatives import representatives
from alhpo.strategies.rows import Rows


@register_strategy("kmeans", needs={"features"}, aliases=("k-means",))
def kmeans(pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
    """The candidate nearest to the mean of each of ``n`` k-means clusters of the features.

    It is taken from the cluster's own candidates, so that all choices are distinct. Ties, as in a
    cluster of two, go to the candidate nearer to the mean of all candidates, then to the lowest
    pool index. Larger clusters come first; of equal ones, that with the lower chosen index. If
    there are fewer distinct candidates than ``n``, the lowest pool indices of the rest follow.

    Scores are the sizes of the clusters, and 0 for choices without a cluster. Clusters are those of
    ``alhpo.strategies.clustering.k_means``; ``generator`` draws its seeds. Time O(n·N·D) for each
    of its iterations; memory: blocks of some 30 MB and, from 10,000 candidates on, a sample of
    as many features, or of 20·n.
    """
    assert pool.features is not None
    positions, sizes = representatives(Rows(pool.features), n, generator)
    return Query(tuple(pool.indices[positions].tolist()), tuple(sizes.tolist()))
