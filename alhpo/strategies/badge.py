"""BADGE: diverse gradient embeddings.

Ash, Zhang, Krishnamurthy, Langford, Agarwal: Deep Batch Active Learning by Diverse, Uncertain
Gradient Lower Bounds (ICLR 2020), Algorithm 1.
"""

from __future__ import annotations

import numpy as np
import torch

from alhpo.strategies.registry import register_strategy
from alhpo.strategies.rows import as_float64, distances, squared_norms
from alhpo.types import PoolOutputs, Query


@register_strategy("badge", needs={"logits", "features"})
def badge(pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
    """k-means++ sampling of the gradients g = q ⊗ h that the last layer's weights would get.

    h is a candidate's feature vector, q = p − e_ŷ its predicted probabilities less the one-hot of
    the predicted class (the lowest of equals). First comes the largest ‖g‖. Each further choice is
    drawn with a probability proportional to D², the squared distance of g to the nearest chosen
    one: one uniform of ``generator`` is inverted on the cumulative D² in pool order. Where no mass
    is left, because the rest duplicates what is chosen, the lowest pool index follows and no
    uniform is drawn.

    Scores are the squared gradient norm of the first choice and D² at the time of choice of the
    others. Time O(n·N·(C + D)); memory: logits and features in float64; g itself,
    N×(C·D), is never made.
    """
    assert pool.logits is not None
    assert pool.features is not None
    gradients = _Gradients(as_float64(pool.logits), as_float64(pool.features))
    indices = pool.indices.tolist()
    free = np.ones(len(indices), dtype=bool)
    chosen: list[int] = []
    scores: list[float] = []
    mass = (gradients.q_norms * gradients.h_norms).cpu().numpy()
    nearest = np.full(len(indices), np.inf)
    while True:
        position = int(mass.argmax()) if not chosen else _draw(mass, free, generator)
        chosen.append(indices[position])
        scores.append(float(mass[position]))
        if len(chosen) == n:
            return Query(tuple(chosen), tuple(scores))
        free[position] = False
        nearest = np.minimum(nearest, gradients.squared_distances(position).cpu().numpy())
        mass = np.where(free, nearest, 0.0)


def _draw(mass: np.ndarray, free: np.ndarray, generator: np.random.Generator) -> int:
    """A position with a probability proportional to its mass; the lowest free one without mass."""
    cumulative = mass.cumsum()
    if not cumulative[-1] > 0:
        return int(free.argmax())
    position = np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right")
    return min(int(position), int(mass.nonzero()[0][-1]))  # u · total may round up to the total


class _Gradients:
    """Distances between the outer products q ⊗ h from their factors.

    With Δq = qᵢ − qⱼ and q̄ their mean (h alike), qᵢ ⊗ hᵢ − qⱼ ⊗ hⱼ = Δq ⊗ h̄ + q̄ ⊗ Δh, hence

        D² = ‖Δq‖²‖h̄‖² + ‖q̄‖²‖Δh‖² + ½ (‖qᵢ‖² − ‖qⱼ‖²)(‖hᵢ‖² − ‖hⱼ‖²).

    This equals ‖qᵢ‖²‖hᵢ‖² + ‖qⱼ‖²‖hⱼ‖² − 2(qᵢ·qⱼ)(hᵢ·hⱼ), and does not cancel: duplicates are
    exactly 0 apart.
    """

    def __init__(self, logits: torch.Tensor, features: torch.Tensor) -> None:
        self.q = _output_gradients(logits)
        self.h = features
        self.q_norms = squared_norms(self.q)
        self.h_norms = squared_norms(self.h).to(self.q.device)

    def squared_distances(self, j: int) -> torch.Tensor:
        """(N,) float64 squared distances of all gradients to that of position ``j``."""
        dq = distances(self.q, self.q[j]).square_()
        dh = distances(self.h, self.h[j]).square_().to(dq.device)
        mean_q = (2 * (self.q_norms + self.q_norms[j]) - dq) / 4
        mean_h = (2 * (self.h_norms + self.h_norms[j]) - dh) / 4
        mixed = (self.q_norms - self.q_norms[j]) * (self.h_norms - self.h_norms[j]) / 2
        return (dq * mean_h + mean_q * dh + mixed).clamp_(min=0)


def _output_gradients(logits: torch.Tensor) -> torch.Tensor:
    """(N, C) gradients p − e_ŷ of the cross-entropy at the predicted class.

    The predicted class takes minus the sum of the others, which stays exact where p is almost 1.
    """
    predicted = logits.argmax(dim=1, keepdim=True)
    others = logits.softmax(dim=1).scatter_(1, predicted, 0.0)
    return others.scatter_(1, predicted, -others.sum(dim=1, keepdim=True))
