"""Margin sampling (Scheffer et al. 2001; as a query strategy: Settles 2009, section 3.1)."""

from __future__ import annotations

import numpy as np
import torch

from alhpo.strategies.confidence import log_probabilities
from alhpo.strategies.ranking import highest
from alhpo.strategies.registry import register_strategy
from alhpo.types import PoolOutputs, Query


@register_strategy("margin", needs={"logits"})
def margin(pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
    """The candidates with the smallest margin p₁ − p₂ between the two most probable classes.

    Deterministic; ranked by log(1 − (p₁ − p₂)) = log(2p₂ + p₃ + … + p_C), which does not end where
    the margin rounds to 1; ties go to the lowest pool index. Scores are 1 − (p₁ − p₂), in [0, 1],
    so that the most wanted has the largest; with a single class they are 0.
    """
    assert pool.logits is not None
    logs = torch.cat(
        [
            torch.cat([log_p[:, 1:], log_p[:, 1:2]], dim=1).logsumexp(dim=1)
            for log_p in log_probabilities(pool.logits)
        ]
    )
    return highest(pool, n, logs, logs.exp())
