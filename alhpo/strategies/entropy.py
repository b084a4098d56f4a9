"""Predictive entropy (Shannon 1948; as a query strategy: Settles 2009, section 3.1)."""

from __future__ import annotations

import numpy as np
import torch

from alhpo.strategies.confidence import logit_gaps
from alhpo.strategies.ranking import highest
from alhpo.strategies.registry import register_strategy
from alhpo.types import PoolOutputs, Query


@register_strategy("entropy", needs={"logits"})
def entropy(pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
    """The candidates with the largest entropy of the predicted class, H[p] = −Σ p log p.

    Deterministic; ranked by log H, which tells apart entropies too small for float64; ties go to
    the lowest pool index. Scores are entropies in nats, in [0, log C].
    """
    assert pool.logits is not None
    logs = torch.cat([_log_entropy(z) for z in logit_gaps(pool.logits)])
    return highest(pool, n, logs, logs.exp())


def _log_entropy(z: torch.Tensor) -> torch.Tensor:
    surprise = z[:, 1:].logsumexp(dim=1, keepdim=True).exp().log1p() - z  # −log p
    return (surprise.log() - surprise).logsumexp(dim=1)
