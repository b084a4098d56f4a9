"""Least confidence (Lewis, Gale 1994; Settles 2009, section 3.1).

The same as querying the smallest softmax response, as active-iNAS does (Geifman, El-Yaniv: Deep
Active Learning with a Neural Architecture Search, NeurIPS 2019, supplement 2.3).
"""

from __future__ import annotations

import numpy as np
import torch

from alhpo.strategies.confidence import logit_gaps
from alhpo.strategies.ranking import highest
from alhpo.strategies.registry import register_strategy
from alhpo.types import PoolOutputs, Query


@register_strategy("least-confidence", needs={"logits"}, aliases=("softmax-response",))
def least_confidence(pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
    """The candidates with the smallest probability of the predicted class, max p.

    Deterministic; ranked by the log-odds log((1 − p)/p) of p = max p, which do not end where p
    rounds to 1; ties go to the lowest pool index. Scores are 1 − max p, in [0, 1 − 1/C].
    """
    assert pool.logits is not None
    odds = torch.cat([z[:, 1:].logsumexp(dim=1) for z in logit_gaps(pool.logits)])
    return highest(pool, n, odds, odds.sigmoid())
