"""Predictive entropy (Shannon 1948; as a query strategy: Settles 2009, section 3.1)."""

from __future__ import annotations

import numpy as np
import torch

from alhpo.strategies.registry import register_strategy
from alhpo.strategies.rows import as_float64, row_blocks
from alhpo.types import PoolOutputs, Query


@register_strategy("entropy", needs={"logits"})
def entropy(pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
    """The candidates with the largest entropy of the predicted class, H[p] = −Σ p log p.

    Deterministic; ties go to the lowest pool index. Scores are entropies in nats.
    """
    assert pool.logits is not None
    entropies, order = predictive_entropy(pool.logits).sort(descending=True, stable=True)
    indices = pool.indices.tolist()
    return Query(
        indices=tuple(indices[i] for i in order[:n].tolist()), scores=tuple(entropies[:n].tolist())
    )


def predictive_entropy(logits: torch.Tensor) -> torch.Tensor:
    """(N,) float64 entropies in nats of the softmax of (N, C) logits.

    A row is sorted first, so that rows which differ only in the order of their classes tie.
    """
    parts = []
    for part in row_blocks(*logits.shape):
        log_p = as_float64(logits[part]).sort(dim=1).values.log_softmax(dim=1)
        parts.append(-(log_p.exp() * log_p).sum(dim=1))
    return torch.cat(parts).clamp_(min=0)
