"""DropQuery: diverse images whose prediction changes when features are dropped.

Gupte, Aklilu, Nirschl, Yeung-Levy: Revisiting Active Learning in the Era of Vision Foundation
Models (TMLR 2024; arXiv 2401.14555).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from alhpo.base.types import PoolOutputs, Query
from alhpo.strategies.registry import register_strategy
from alhpo.strategies.representatives import representatives_among
from alhpo.strategies.rows import row_blocks

_PASSES = 3
_CANDIDATES_PER_CHOICE = 25


@register_strategy("dropquery", needs={"features", "classify"})
def dropquery(pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
    """One image of each of ``n`` clusters of those whose prediction dropout changes.

    In each of 3 passes, every feature of every image is dropped before the classifier with
    probability 3/4, independently, and those that are kept are multiplied by 4. This is done at the
    query only, whatever the dropout of the model. Candidates are images whose predicted class (the
    lowest of equals) differs from that of all features in 2 passes or more; if they are fewer than
    25 · n, in 1 pass or more. Of each of ``n`` k-means clusters of their features, scaled to length
    1, the image nearest to the centre is chosen, as by ``centroids``. If there are fewer than
    ``n``, all are chosen, and others are drawn uniformly.

    Labels are not needed. Scores are the shares of passes that differ. ``generator`` draws, in this
    order, the masks, the seeds of k-means, and the others. Time O(N·D·C), and O(n·N·D) for each
    iteration of k-means; memory: a copy of the clustered features, those of ``kmeans``.
    """
    assert pool.features is not None
    candidates, shares = changing(pool, n, generator)
    positions = representatives_among(pool.features, candidates, n, generator)
    return Query(tuple(pool.indices[positions].tolist()), tuple(shares[positions].tolist()))


def changing(
    pool: PoolOutputs, n: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Ascending positions of DropQuery's candidates for ``n`` choices, and the (N,) shares of
    passes that differ. ``generator`` draws the masks."""
    assert pool.features is not None
    assert pool.classify is not None
    changes = _changes(pool.features, pool.classify, generator)
    least = _PASSES // 2 + 1
    while least > 1 and np.count_nonzero(changes >= least) < _CANDIDATES_PER_CHOICE * n:
        least -= 1
    return np.flatnonzero(changes >= least), changes / _PASSES


def _changes(
    features: torch.Tensor,
    classify: Callable[[torch.Tensor], torch.Tensor],
    generator: np.random.Generator,
) -> np.ndarray:
    """(N,) number of passes with dropout that predict another class than all features do."""
    n_rows, width = features.shape
    changes = np.empty(n_rows, np.int64)
    for part in row_blocks(n_rows, _PASSES * width):
        block = features[part].detach()
        kept = torch.from_numpy(_kept(len(block), width, generator)).to(block).mul_(4)
        dropped = classify(kept.mul_(block[:, None]).flatten(0, 1)).argmax(dim=1)
        whole = classify(block).argmax(dim=1)
        changes[part] = (dropped.view(-1, _PASSES) != whole[:, None]).sum(dim=1).cpu().numpy()
    return changes


def _kept(n_rows: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """(B, passes, D) uint8, 1 with probability 1/4: where both of two random bits are set.

    Words of 64 bits are drawn row by row, so that blocks of rows of any size draw the same.
    """
    shape = n_rows, _PASSES, 2, -(-width // 64)
    words = generator.integers(2**64, size=shape, dtype=np.uint64)
    both = (words[:, :, 0] & words[:, :, 1]).astype("<u8")
    return np.unpackbits(both.view(np.uint8), axis=2, count=width)
