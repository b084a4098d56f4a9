"""Learning loss (LPL).

Yoo, Kweon: Learning Loss for Active Learning (CVPR 2019), section 3.1. The head and its training
are in ``alhpo.loss_prediction``.
"""

from __future__ import annotations

import numpy as np

from alhpo.strategies.ranking import highest
from alhpo.strategies.registry import register_strategy
from alhpo.types import PoolOutputs, Query


@register_strategy("lpl", needs={"predicted_losses"})
def lpl(pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
    """The candidates with the largest losses, as the head predicts them that was trained with the
    model.

    Deterministic; ties go to the lowest pool index. Scores are the predicted losses: only their
    order has a meaning, because the head learns to rank.
    """
    assert pool.predicted_losses is not None
    return highest(pool, n, pool.predicted_losses)
