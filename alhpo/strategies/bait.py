"""BAIT: images that lower a bound on the error of the last layer's maximum-likelihood estimate.

Ash, Goel, Krishnamurthy, Kakade: Gone Fishing: Neural Active Learning with Fisher Embeddings
(NeurIPS 2021), and its form with binary labels of Huseljic, Hahn, Herde, Rauch, Sick: Fast Fishing:
Approximating BAIT for Efficient and Scalable Deep Active Image Classification (ECML PKDD 2024).
"""

from __future__ import annotations

import math

import numpy as np
import torch

from alhpo.base.errors import ConfigurationError
from alhpo.base.types import PoolOutputs, Query
from alhpo.strategies.fisher import Factors, information, select
from alhpo.strategies.registry import register_strategy, register_strategy_family
from alhpo.strategies.rows import Rows, as_float64, coordinates, row_blocks

_MOST_CLASSES = 32
_MOST_PARAMETERS = 8192
#: λ relative to the largest information of one image below which float64 cannot tell it from 0.
_SMALLEST_PENALTY = 1e-8


class Bait:
    """Greedily minimises tr(M⁻¹F), with M the information of the labelled and the chosen images.

    I is the Fisher information of an image about the weights of the last layer, h its D features:

    - binary: p̂(1 − p̂) h hᵀ, D × D, as if the label only told whether the predicted class is
      right, p̂ being its probability;
    - full: (diag p − p pᵀ) ⊗ h hᵀ, C·D × C·D, the expectation over the class.

    F is the mean of I over candidates and labelled images. M is λ plus the sum of I over the L
    labelled images / (L + n) plus n / (L + n) times the sum of I over the chosen ones: a chosen
    image weighs n times as much as a labelled one, as in the authors' code. 2n images (at most all)
    are added one by one, each the one that lowers the trace most, then n removed again, each the
    one that raises it least. The n that are left are in the order of their addition, which is not
    that of a smaller n.

    Deterministic; ties go to the lowest pool index. Scores are the decreases of the trace at the
    addition. A λ below 10⁻⁸ of the largest trace of an I counts as that, because float64 could not
    tell it from 0.

    Float32 products of the features propose, values in float64 from M⁻¹ and F decide. Time
    O(N·D² + n·N·D), a product with two columns for each addition; memory: three D × D matrices in
    float64, one of 2n × 2n or fewer, a few vectors of N numbers, and blocks of some 30 MB. The full
    form has C·D in place of D in the matrices, products with 2C² columns, N·C² numbers three times
    and N inversions of C × C matrices for each addition. With N + L ≤ 0.8 D images, these are first
    turned into their span, and N + L takes the place of D.

    Args:
        full: the full form, for at most 32 classes and C·D ≤ 8192.
        penalty: λ > 0. Features times s with λ choose as features with λ / s² do.
    """

    needs = frozenset({"logits", "features", "labeled_logits", "labeled_features"})

    def __init__(self, full: bool = False, penalty: float = 1.0) -> None:
        self.full = full
        self.penalty = penalty

    def __call__(self, pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
        """Choose ``n`` candidates.

        Raises:
            ConfigurationError: the full form is asked for more than 32 classes or 8192 weights.
        """
        assert pool.logits is not None
        assert pool.features is not None
        assert pool.labeled_logits is not None
        assert pool.labeled_features is not None
        if self.full:
            _check_size(pool.logits.shape[1], pool.features.shape[1])
        # the trace depends on inner products alone
        features, known = coordinates(pool.features, pool.labeled_features.to(pool.features.device))
        rows = Rows(features)
        factors, known_factors = self._factors(pool.logits), self._factors(pool.labeled_logits)
        n_labeled = len(known)
        weight = n / (n_labeled + n)
        penalty = max(self.penalty, _SMALLEST_PENALTY * _largest(rows, factors))
        if n_labeled:
            penalty = max(penalty, _SMALLEST_PENALTY * _largest(Rows(known), known_factors))
        labeled = information(known, known_factors).to(as_float64(features[:0]).device)
        fisher = information(rows.values, factors).add_(labeled)
        fisher /= (len(rows) + n_labeled) * penalty
        labeled /= (n_labeled + n) * penalty
        labeled.diagonal().add_(1)
        scale = math.sqrt(weight / penalty)
        positions, scores = select(rows, lambda part: scale * factors(part), labeled, fisher, n)
        return Query(tuple(pool.indices[positions].tolist()), tuple(scores))

    def _factors(self, logits: torch.Tensor) -> Factors:
        return _full_factors(logits) if self.full else _binary_factors(logits)


def _binary_factors(logits: torch.Tensor) -> Factors:
    """Factors √(p̂(1 − p̂)), of 1 × 1."""
    roots = np.empty((len(logits), 1, 1))
    for part in row_blocks(len(logits), logits.shape[1]):
        p, rest, predicted = (x.cpu() for x in _probabilities(logits[part]))
        product = p.gather(1, predicted) * rest.gather(1, predicted)
        roots[part] = product.sqrt_().numpy()[:, :, None]
    return lambda part: roots[part]


def _full_factors(logits: torch.Tensor) -> Factors:
    """Factors (1 − p 1ᵀ) diag √p, of C × C."""
    p, rest, _ = (x.cpu().numpy() for x in _probabilities(logits))

    def factors(part: np.ndarray | slice) -> np.ndarray:
        roots = np.sqrt(p[part])
        result = -p[part][:, :, None] * roots[:, None, :]
        diagonal = np.arange(p.shape[1])
        result[:, diagonal, diagonal] = rest[part] * roots
        return result

    return factors


def _probabilities(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(N, C) p and 1 − p in float64, and (N, 1) predicted classes.

    For these 1 − p is the sum of the others, exact where p is almost 1.
    """
    values = as_float64(logits)
    predicted = values.argmax(dim=1, keepdim=True)
    p = values.softmax(dim=1)
    others = p.scatter(1, predicted, 0.0).sum(dim=1, keepdim=True)
    return p, (1 - p).scatter_(1, predicted, others), predicted


def _largest(rows: Rows, factors: Factors) -> float:
    """The largest trace of the information of a row."""
    n_classes = factors(slice(0, 0)).shape[1]
    parts = row_blocks(len(rows), n_classes**2)
    return max(float(((factors(p) ** 2).sum((1, 2)) * rows.squares[p]).max()) for p in parts)


def _check_size(n_classes: int, width: int) -> None:
    if n_classes > _MOST_CLASSES or n_classes * width > _MOST_PARAMETERS:
        raise ConfigurationError(
            f"Strategy 'bait:full' has a matrix of C·D rows; the pool has C = {n_classes} classes "
            f"and D = {width} features, expected C of at most {_MOST_CLASSES} and C·D of at most "
            f"{_MOST_PARAMETERS}. Use 'bait', whose matrix has D rows."
        )


def _of_form(text: str) -> Bait:
    form, at, number = text.partition("@")
    try:
        penalty = float(number) if at else 1.0
    except ValueError:
        penalty = math.nan
    if form not in ("binary", "full") or not 0 < penalty < math.inf:
        raise ConfigurationError(
            f"The arguments of 'bait:{text}' are not legal; expected 'binary' or 'full', and after "
            "@ a finite λ above 0. Write 'bait:binary@0.01' or 'bait:full'; 'bait' is "
            "'bait:binary@1'."
        )
    return Bait(form == "full", penalty)


register_strategy("bait", needs=Bait.needs)(Bait())
register_strategy_family("bait", _of_form, "FORM@LAMBDA")
