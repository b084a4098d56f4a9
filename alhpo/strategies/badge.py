"""BADGE: diverse gradient embeddings.

Ash, Zhang, Krishnamurthy, Langford, Agarwal: Deep Batch Active Learning by Diverse, Uncertain
Gradient Lower Bounds (ICLR 2020), Algorithm 1.
"""

from __future__ import annotations

import numpy as np
import torch

from alhpo.base.types import PoolOutputs, Query
from alhpo.strategies.clustering import draw
from alhpo.strategies.registry import register_strategy
from alhpo.strategies.rows import Rows, as_float64, product_error, products

# For at most this share of the candidates, exact distances are cheaper than a product of all rows.
_SHARE = 1 / 8


@register_strategy("badge", needs={"logits", "features"})
def badge(pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
    """k-means++ sampling of the gradients g = q ⊗ h that the last layer's weights would get.

    h is a candidate's feature vector, q = p − e_ŷ its predicted probabilities less the one-hot of
    the predicted class (the lowest of equals). The first choice has the largest ‖g‖. Each further
    choice is drawn with a probability proportional to D², the squared distance of g to the nearest
    chosen one: one uniform of ``generator`` is inverted on the cumulative D² in pool order. If all
    D² are 0, because the rest duplicates the chosen ones, the lowest pool index follows and no
    uniform is drawn.

    Scores are the squared gradient norm of the first choice, and D² at the time of choice of the
    others. D² is exact float64; float32 products find the candidates for which a choice can lower
    it. Time O(n·N·(C + D)); memory: q in float64 and float32, a few vectors of N numbers and
    blocks of some 30 MB. The features are not copied, and g itself, N×(C·D), is never made.
    """
    assert pool.logits is not None
    assert pool.features is not None
    gradients = Gradients(pool.logits, pool.features)
    indices = pool.indices.tolist()
    free = np.ones(len(indices), dtype=bool)
    chosen: list[int] = []
    scores: list[float] = []
    mass = gradients.squares
    nearest = np.full(len(indices), np.inf)
    while True:
        position = int(mass.argmax()) if not chosen else draw(mass, free, generator)
        chosen.append(indices[position])
        scores.append(float(mass[position]))
        if len(chosen) == n:
            return Query(tuple(chosen), tuple(scores))
        free[position] = False
        nearest[position] = 0.0
        near = gradients.candidates_within(nearest, position)
        nearest[near] = np.minimum(nearest[near], gradients.squared_distances(near, position))
        mass = nearest


class Gradients:
    """Distances between the outer products q ⊗ h from their factors.

    With Δq = qᵢ − qⱼ and q̄ their mean (h alike), qᵢ ⊗ hᵢ − qⱼ ⊗ hⱼ = Δq ⊗ h̄ + q̄ ⊗ Δh, hence

        D² = ‖Δq‖²‖h̄‖² + ‖q̄‖²‖Δh‖² + ½ (‖qᵢ‖² − ‖qⱼ‖²)(‖hᵢ‖² − ‖hⱼ‖²).

    This equals ‖qᵢ‖²‖hᵢ‖² + ‖qⱼ‖²‖hⱼ‖² − 2(qᵢ·qⱼ)(hᵢ·hⱼ), and does not cancel: duplicates are
    exactly 0 apart. The second form, which takes two matrix-vector products, gives a lower bound.

    Args:
        logits: (N, C).
        features: (N, D), the h.

    Attributes:
        squares: (N,) float64 squared norms of the gradients.
    """

    def __init__(self, logits: torch.Tensor, features: torch.Tensor) -> None:
        self.h = Rows(features)
        self.q = Rows(_output_gradients(as_float64(logits)))
        self.squares = self.q.squares * self.h.squares
        self.q_norms = np.sqrt(self.q.squares)
        norms = torch.from_numpy(np.where(self.q_norms > 0, self.q_norms, np.inf))
        # Unit vectors, because float32 cannot hold the q of confident predictions.
        self.unit_q = (self.q.values / norms.to(self.q.values.device)[:, None]).float()
        self.error = self.h.error + product_error(self.unit_q)[0]

    def candidates_within(self, limits: np.ndarray, j: int) -> np.ndarray:
        """Positions of all gradients whose squared distance to that of ``j`` is below their value
        in the (N,) ``limits``; a few others may be among them.

        Mostly |qᵢ·qⱼ|‖hᵢ‖‖hⱼ‖ ≥ (qᵢ·qⱼ)(hᵢ·hⱼ) is enough, without a product of the features.
        """
        q, h = self.q.squares, self.h.squares
        slack = self.error * (self.squares + self.squares[j])
        slack += self.h.absolute_error * (q + q[j])
        spare = (self.squares + self.squares[j] - slack - limits) / 2
        cosines = products(self.unit_q, [j])[0] * (self.q_norms * self.q_norms[j])
        near = np.flatnonzero(~(np.abs(cosines) * np.sqrt(h * h[j]) <= spare))
        if len(near) > len(q) * _SHARE:
            near = np.flatnonzero(~(cosines * self.h.products([j])[0] <= spare))
        return near

    def squared_distances(self, positions: np.ndarray, j: int) -> np.ndarray:
        """(M,) float64 squared distances of the gradients at these positions to that of ``j``."""
        q, h = self.q.squares, self.h.squares
        dq = self.q.distances(positions, self.q.values[j]) ** 2
        dh = self.h.distances(positions, self.h.values[j]) ** 2
        mean_q = (2 * (q[positions] + q[j]) - dq) / 4
        mean_h = (2 * (h[positions] + h[j]) - dh) / 4
        mixed = (q[positions] - q[j]) * (h[positions] - h[j]) / 2
        return np.maximum(dq * mean_h + mean_q * dh + mixed, 0)


def _output_gradients(logits: torch.Tensor) -> torch.Tensor:
    """(N, C) gradients p − e_ŷ of the cross-entropy at the predicted class.

    The predicted class takes minus the sum of the others, which stays exact where p is almost 1.
    """
    predicted = logits.argmax(dim=1, keepdim=True)
    others = logits.softmax(dim=1).scatter_(1, predicted, 0.0)
    return others.scatter_(1, predicted, -others.sum(dim=1, keepdim=True))
