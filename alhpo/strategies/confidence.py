"""Logarithms of class probabilities that keep what tells two confident predictions apart.

Once the largest logit leads by 37 the float64 probability of its class is 1, and once it leads by
745 those of the others are 0. Logarithms of 1 − p and of p do not end there, so that strategies
which rank by them order saturated logits by the definition too.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from alhpo.strategies.rows import as_float64, row_blocks


def log_probabilities(logits: torch.Tensor) -> Iterator[torch.Tensor]:
    """(B, C) float64 log-softmax of blocks of the rows of (N, C) logits, the largest class first.

    That of the largest class is −log(1 + Σ exp(zₖ − z₁)), with full relative precision next to 0.
    Classes are sorted before anything is summed, so that rows which differ only in the order of
    their classes are equal.
    """
    for part in row_blocks(*logits.shape):
        z = as_float64(logits[part]).sort(dim=1, descending=True).values
        z -= z[:, :1].clone()
        yield z - z[:, 1:].logsumexp(dim=1, keepdim=True).exp_().log1p_()
