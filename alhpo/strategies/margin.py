"""Margin sampling (Scheffer et al. 2001; as a query strategy: Settles 2009, section 3.1)."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from alhpo.strategies.confidence import logit_gaps
from alhpo.strategies.ranking import highest
from alhpo.strategies.registry import register_strategy
from alhpo.types import PoolOutputs, Query


@register_strategy("margin", needs={"logits"})
def margin(pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
    """The candidates with the smallest margin p₁ − p₂ between the two most probable classes.

    Deterministic; ranked by the log-odds log((1 − m)/m) of the margin m = p₁ − p₂, which neither
    end where m rounds to 1 nor round where it is 0; ties go to the lowest pool index. Scores are
    1 − m, in [0, 1], so that the most wanted has the largest; with a single class they are 0.
    """
    assert pool.logits is not None
    odds = torch.cat([_log_odds(z) for z in logit_gaps(pool.logits)])
    return highest(pool, n, odds, odds.sigmoid())


def _log_odds(z: torch.Tensor) -> torch.Tensor:
    """With Z = Σ exp(zₖ): log of Z(1 − m) = 2 exp(z₂) + Σ_k>2 exp(zₖ) over Zm = 1 − exp(z₂)."""
    others = F.pad(z[:, 1:], (0, 1), value=-torch.inf)
    second = others[:, :1]
    return torch.cat([second, others], dim=1).logsumexp(dim=1) - second[:, 0].expm1().neg().log()
