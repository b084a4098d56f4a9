"""Variational adversarial active learning (VAAL).

Sinha, Ebrahimi, Darrell: Variational Adversarial Active Learning (ICCV 2019), Algorithm 2. The
networks and their training are in ``alhpo.adversarial``.
"""

from __future__ import annotations

import numpy as np

from alhpo.strategies.ranking import highest
from alhpo.strategies.registry import register_strategy
from alhpo.types import PoolOutputs, Query


@register_strategy("vaal", needs={"labeled_scores"})
def vaal(pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
    """The candidates that the discriminator takes for labelled ones least of all.

    Deterministic; ties go to the lowest pool index. Scores are 1 less the discriminator's
    probability of "labelled", in [0, 1], so that the most wanted has the largest.
    """
    assert pool.labeled_scores is not None
    return highest(pool, n, -pool.labeled_scores, 1 - pool.labeled_scores)
