"""Margin sampling (Scheffer et al. 2001; as a query strategy: Settles 2009, section 3.1)."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from alhpo.base.types import PoolOutputs
from alhpo.strategies.confidence import logit_gaps
from alhpo.strategies.ranking import Scores, register_score


@register_score("margin", needs={"logits"})
def margin(pool: PoolOutputs) -> Scores:
    """1 − m in [0, 1] for the margin m = p₁ − p₂ between the two most probable classes.

    Candidates are ranked by the log-odds log((1 − m)/m), which stay exact if m rounds to 1 or is
    close to 0. With a single class, scores are 0.
    """
    assert pool.logits is not None
    odds = torch.cat([_log_odds(z) for z in logit_gaps(pool.logits)])
    return Scores(odds.sigmoid(), order=odds, logs=F.logsigmoid(odds))


def _log_odds(z: torch.Tensor) -> torch.Tensor:
    """With Z = Σ exp(zₖ): log of Z(1 − m) = 2 exp(z₂) + Σ_k>2 exp(zₖ) over Zm = 1 − exp(z₂)."""
    others = F.pad(z[:, 1:], (0, 1), value=-torch.inf)
    second = others[:, :1]
    return torch.cat([second, others], dim=1).logsumexp(dim=1) - second[:, 0].expm1().neg().log()
