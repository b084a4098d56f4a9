"""Least confidence (Lewis, Gale 1994; Settles 2009, section 3.1).

The same as querying the smallest softmax response, as active-iNAS does (Geifman, El-Yaniv: Deep
Active Learning with a Neural Architecture Search, NeurIPS 2019, supplement 2.3).
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from alhpo.base.types import PoolOutputs
from alhpo.strategies.confidence import logit_gaps
from alhpo.strategies.ranking import Scores, register_score


@register_score("least-confidence", needs={"logits"}, aliases=("softmax-response",))
def least_confidence(pool: PoolOutputs) -> Scores:
    """1 − p in [0, 1 − 1/C] for the probability p = max p of the predicted class.

    Candidates are ranked by the log-odds log((1 − p)/p), which stay exact if p rounds to 1.
    """
    assert pool.logits is not None
    odds = torch.cat([z[:, 1:].logsumexp(dim=1) for z in logit_gaps(pool.logits)])
    return Scores(odds.sigmoid(), order=odds, logs=F.logsigmoid(odds))
