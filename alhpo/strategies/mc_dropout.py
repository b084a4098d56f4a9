"""Scores of the disagreement of passes with dropout on a candidate (Gal, Ghahramani 2016).

Candidates are scored in blocks, so that the T × C logits of the whole pool are never in memory at
once. Scores are exactly 0 if all passes are equal.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from alhpo.base.types import PoolOutputs
from alhpo.strategies.ranking import register_score
from alhpo.strategies.rows import as_float64

BLOCK = 2**22  # logits per call of the passes, which prepare their weights at every call
PIECE = 2**19  # float64 values per block: few operations, small enough for the cache


@register_score("variation-ratio", needs={"passes"})
def variation_ratio(pool: PoolOutputs) -> torch.Tensor:
    """The share of passes that do not vote for the most voted class: 1 − f/T with its f votes.

    Freeman 1965; for dropout: Gal, Islam, Ghahramani: Deep Bayesian Active Learning with Image
    Data (ICML 2017). A pass votes for its most probable class, the lowest of equals. This is not
    1 − max p of the mean prediction. Scores are multiples of 1/T in [0, 1 − 1/min(C, T)], with many
    ties.
    """

    def ratio(rows: slice, logits: torch.Tensor) -> torch.Tensor:
        votes = logits.argmax(dim=1)
        counts = torch.zeros_like(logits[:, :, 0])
        counts.scatter_add_(1, votes, torch.ones_like(logits[:, 0]))
        return (votes.shape[1] - counts.amax(dim=1)) / votes.shape[1]

    return _scores(pool, ratio)


@register_score("mean-std", needs={"passes"})
def mean_std(pool: PoolOutputs) -> torch.Tensor:
    """The standard deviation of a probability over passes, averaged over classes, in [0, 1/2].

    (1/C) Σ_c std_t p_t(c), over T passes without Bessel's correction; Kampffmeyer et al. 2016,
    Kendall et al. 2015; as a query strategy: Gal, Islam, Ghahramani (ICML 2017).
    """

    def deviation(rows: slice, logits: torch.Tensor) -> torch.Tensor:
        p = logits.softmax(dim=1)
        return _from_mean(p).square_().mean(dim=2).sqrt_().mean(dim=1)

    return _scores(pool, deviation)


@register_score("mc-dropout", needs={"logits", "passes"})
def mc_dropout(pool: PoolOutputs) -> torch.Tensor:
    """The variance of the predicted class's probability over passes, in [0, 1/4].

    The MC-dropout query of active-iNAS (Geifman, El-Yaniv: Deep Active Learning with a Neural
    Architecture Search, NeurIPS 2019, supplement 2.3: dropout 0.5, 100 passes). The paper says
    "prediction uncertainty estimated by MC-dropout"; its published code takes this variance, of
    the class predicted without dropout (here the lowest of equals), without Bessel's correction.
    """
    predicted = pool.logits
    assert predicted is not None

    def variance(rows: slice, logits: torch.Tensor) -> torch.Tensor:
        own = predicted[rows].argmax(dim=1)[:, None, None].to(logits.device)
        p = logits.softmax(dim=1)
        # 1 − p of the predicted class, which is exact where p is almost 1
        others = p.scatter_(1, own.expand(-1, 1, p.shape[2]), 0).sum(dim=1)
        return _from_mean(others).square_().mean(dim=1)

    return _scores(pool, variance)


@register_score("bald", needs={"passes"})
def bald(pool: PoolOutputs) -> torch.Tensor:
    """The information of the label about the pass, in nats, in [0, log min(C, T)].

    H[E p] − E H[p]: Houlsby et al.: Bayesian Active Learning for Classification and Preference
    Learning (2011), eq. 2; for dropout: Gal, Islam, Ghahramani (ICML 2017).
    """
    return mutual_information(pool)


def mutual_information(pool: PoolOutputs) -> torch.Tensor:
    """(N,) float64 H[E p] − E H[p] in nats between each candidate's class and the pass.

    It is computed as the mean over passes of KL(p‖E p) = Σ_c (p̄ − p) − p log(1 + (p̄ − p)/p), whose
    terms are all at least 0. So small values are exact, unlike differences of large entropies.
    """
    tiny = torch.finfo(torch.float64).tiny

    def information(rows: slice, logits: torch.Tensor) -> torch.Tensor:
        p = logits.softmax(dim=1)
        excess = -_from_mean(p)
        gain = p * (excess / p).log1p_()
        return (excess - gain.where(p >= tiny, 0)).sum(dim=1).mean(dim=1).clamp_(min=0)

    return _scores(pool, information)


def _from_mean(p: torch.Tensor) -> torch.Tensor:
    """Values of passes minus their mean; 0 if they differ only by rounding (vector instructions
    may round the last few passes differently)."""
    difference = p - _mean(p)
    return difference.where(difference.abs() > 8 * torch.finfo(p.dtype).eps * p, 0)


def _mean(p: torch.Tensor) -> torch.Tensor:
    """The mean over the last dimension, which is kept; exactly the first value if all are equal."""
    first = p[..., :1]
    return first + (p - first).mean(dim=-1, keepdim=True)


def _scores(
    pool: PoolOutputs, score: Callable[[slice, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """(N,) float64 values of a function of rows of the pool and their (B, C, T) float64 logits.

    They are written into one tensor: many small results between large temporary blocks would keep
    the allocator from reusing the memory of the blocks.
    """
    assert pool.passes is not None
    classes = pool.passes.logits(slice(0, 1)).shape[2]
    width = len(pool.passes) * classes
    result = None
    start, step = 0, max(1, BLOCK // width)
    while start < len(pool):
        logits = pool.passes.logits(slice(start, start + step))
        for piece in logits.split(max(1, PIECE // width), dim=1):
            rows = slice(start, start + piece.shape[1])
            values = score(rows, as_float64(piece.permute(1, 2, 0).contiguous()))
            result = values.new_empty(len(pool)) if result is None else result
            result[rows] = values
            start = rows.stop
    assert result is not None
    return result
