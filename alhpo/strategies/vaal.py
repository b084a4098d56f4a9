"""Variational adversarial active learning (VAAL).

Sinha, Ebrahimi, Darrell: Variational Adversarial Active Learning (ICCV 2019), Algorithm 2. The
networks and their training are in ``alhpo.outputs.adversarial``.
"""

from __future__ import annotations

from alhpo.base.types import PoolOutputs
from alhpo.strategies.ranking import Scores, register_score


@register_score("vaal", needs={"labeled_scores"})
def vaal(pool: PoolOutputs) -> Scores:
    """1 − the discriminator's probability of "labelled", in [0, 1]."""
    assert pool.labeled_scores is not None
    return Scores(1 - pool.labeled_scores, order=-pool.labeled_scores)
