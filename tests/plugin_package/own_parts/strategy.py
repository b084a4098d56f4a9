"""Gap: the images whose two most likely classes are closest."""

import numpy as np

from alhpo import PoolOutputs, Query, register_strategy


@register_strategy("gap", needs={"logits"})
def gap(pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
    """The smallest difference of the two largest logits."""
    top = pool.logits.double().topk(min(2, pool.logits.shape[1])).values
    gaps, order = (top[:, 0] - top[:, -1]).sort(stable=True)  # ties: the lowest index first
    rows = order[:n]
    return Query(tuple(pool.indices[rows].tolist()), tuple(gaps[:n].tolist()))
