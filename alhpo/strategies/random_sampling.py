"""Uniformly random sampling, the baseline of every comparison."""

from __future__ import annotations

import numpy as np

from alhpo.base.types import PoolOutputs, Query
from alhpo.strategies.registry import register_strategy


@register_strategy("random", needs=())
def random_sampling(pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
    """The first ``n`` candidates of a random permutation, without scores."""
    chosen = generator.permutation(len(pool))[:n]
    indices = pool.indices.tolist()
    probabilities = tuple(1 / (len(pool) - draw) for draw in range(n))
    return Query(tuple(indices[i] for i in chosen), probabilities=probabilities)
