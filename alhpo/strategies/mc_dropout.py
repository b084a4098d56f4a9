"""How much repeated passes with dropout disagree on a candidate (Gal, Ghahramani 2016).

Candidates are scored block by block from their T × C logits; those of the whole pool are never in
memory at once. Scores are exactly 0 where all passes say the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from alhpo.strategies.ranking import highest
from alhpo.strategies.registry import register_strategy
from alhpo.strategies.rows import as_float64, row_blocks
from alhpo.types import PoolOutputs, Query

_PIECE = 2**18  # float64 values worked on at a time: they stay in the cache


@register_strategy("variation-ratio", needs={"passes"})
def variation_ratio(pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
    """The candidates on whose class the fewest passes agree: 1 − f/T, f votes for the mode.

    Freeman 1965; for dropout: Gal, Islam, Ghahramani: Deep Bayesian Active Learning with Image
    Data (ICML 2017). A pass votes for its most probable class, the lowest of equals. This is not
    1 − max p of the mean prediction. Deterministic; ties, of which there are many, go to the
    lowest pool index. Scores are multiples of 1/T in [0, 1 − 1/min(C, T)].
    """
    ratios = []
    for _, logits in _blocks(pool):
        votes = logits.argmax(dim=1)
        counts = torch.zeros_like(logits[:, :, 0])
        counts.scatter_add_(1, votes, torch.ones_like(logits[:, 0]))
        ratios.append((votes.shape[1] - counts.amax(dim=1)) / votes.shape[1])
    return highest(pool, n, torch.cat(ratios))


@register_strategy("mean-std", needs={"passes"})
def mean_std(pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
    """The candidates with the largest standard deviation over passes, averaged over classes.

    (1/C) Σ_c std_t p_t(c), over T passes without Bessel's correction; Kampffmeyer et al. 2016,
    Kendall et al. 2015; as a query strategy: Gal, Islam, Ghahramani (ICML 2017). Deterministic;
    ties go to the lowest pool index. Scores are in [0, 1/2].
    """
    deviations = []
    for _, logits in _blocks(pool):
        p = logits.softmax(dim=1)
        deviations.append((p - _mean(p)).square_().mean(dim=2).sqrt_().mean(dim=1))
    return highest(pool, n, torch.cat(deviations))


@register_strategy("bald", needs={"passes"})
def bald(pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
    """The candidates whose label tells most about which pass is right: H[E p] − E H[p].

    Houlsby et al.: Bayesian Active Learning for Classification and Preference Learning (2011),
    eq. 2; for dropout: Gal, Islam, Ghahramani (ICML 2017). Deterministic; ties go to the lowest
    pool index. Scores are the mutual information in nats, in [0, log min(C, T)].
    """
    return highest(pool, n, mutual_information(pool))


@register_strategy("mc-dropout", needs={"logits", "passes"})
def mc_dropout(pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
    """The candidates with the largest variance of the predicted class's probability over passes.

    The MC-dropout query of active-iNAS (Geifman, El-Yaniv: Deep Active Learning with a Neural
    Architecture Search, NeurIPS 2019, supplement 2.3: dropout 0.5, 100 passes). The paper says
    "prediction uncertainty estimated by MC-dropout"; its published code takes this variance, of
    the class predicted without dropout (here the lowest of equals), without Bessel's correction.
    Deterministic; ties go to the lowest pool index. Scores are in [0, 1/4].
    """
    assert pool.logits is not None
    variances = []
    for rows, logits in _blocks(pool):
        predicted = pool.logits[rows].argmax(dim=1)[:, None, None].to(logits.device)
        p = logits.softmax(dim=1)
        # 1 − p of the predicted class, which is exact where p is almost 1
        others = p.scatter_(1, predicted.expand(-1, 1, p.shape[2]), 0).sum(dim=1)
        variances.append((others - _mean(others)).square_().mean(dim=1))
    return highest(pool, n, torch.cat(variances))


def mutual_information(pool: PoolOutputs) -> torch.Tensor:
    """(N,) float64 H[E p] − E H[p] in nats between each candidate's class and the pass.

    Taken as the mean over passes of KL(p‖E p) = Σ_c (p̄ − p) − p log(1 + (p̄ − p)/p), whose terms
    are all at least 0, so that small values are not what rounding leaves of two large entropies.
    """
    scores = []
    tiny = torch.finfo(torch.float64).tiny
    for _, logits in _blocks(pool):
        p = logits.softmax(dim=1)
        excess = _mean(p) - p
        gain = p * (excess / p).log1p_()
        scores.append((excess - gain.where(p >= tiny, 0)).sum(dim=1).mean(dim=1).clamp_(min=0))
    return torch.cat(scores)


def _mean(p: torch.Tensor) -> torch.Tensor:
    """The mean over the last dimension, kept; exactly the first value where all are equal."""
    first = p[..., :1]
    return first + (p - first).mean(dim=-1, keepdim=True)


def _blocks(pool: PoolOutputs) -> Iterator[tuple[slice, torch.Tensor]]:
    """Rows of the pool, in order, with their (B, C, T) float64 logits."""
    assert pool.passes is not None
    classes = pool.passes.logits(slice(0, 1)).shape[2]
    width = len(pool.passes) * classes
    step = max(1, _PIECE // width)
    for part in row_blocks(len(pool), width):
        logits = pool.passes.logits(part)
        for start in range(0, logits.shape[1], step):
            piece = logits[:, start : start + step].permute(1, 2, 0).contiguous()
            rows = slice(part.start + start, part.start + start + piece.shape[0])
            yield rows, as_float64(piece)
