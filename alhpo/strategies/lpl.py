"""Learning loss (LPL).

Yoo, Kweon: Learning Loss for Active Learning (CVPR 2019), section 3.1. The head and its training
are in ``alhpo.training.loss_prediction``.
"""

from __future__ import annotations

import torch

from alhpo.base.types import PoolOutputs
from alhpo.strategies.ranking import register_score


@register_score("lpl", needs={"predicted_losses"}, signed=True)
def lpl(pool: PoolOutputs) -> torch.Tensor:
    """The loss predicted by a head that was trained with the model.

    Only the order of the scores is meaningful, because the head learns to rank.
    """
    assert pool.predicted_losses is not None
    return pool.predicted_losses
