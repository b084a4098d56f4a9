"""Predictive entropy (Shannon 1948; as a query strategy: Settles 2009, section 3.1)."""

from __future__ import annotations

import torch

from alhpo.base.types import PoolOutputs
from alhpo.strategies.confidence import logit_gaps
from alhpo.strategies.ranking import Scores, register_score


@register_score("entropy", needs={"logits"})
def entropy(pool: PoolOutputs) -> Scores:
    """The entropy of the predicted class in nats, H[p] = −Σ p log p, in [0, log C].

    Candidates are ranked by log H, which distinguishes entropies too small for float64.
    """
    assert pool.logits is not None
    logs = torch.cat([_log_entropy(z) for z in logit_gaps(pool.logits)])
    return Scores(logs.exp(), order=logs, logs=logs)


def _log_entropy(z: torch.Tensor) -> torch.Tensor:
    surprise = z[:, 1:].logsumexp(dim=1, keepdim=True).exp().log1p() - z  # −log p
    return (surprise.log() - surprise).logsumexp(dim=1)
