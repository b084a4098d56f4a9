"""Sorted gaps between logits, which distinguish confident predictions.

If the largest logit leads by 37, the float64 probability of its class is 1; if it leads by 745, the
probabilities of the others are 0. Log-odds have no such limits, so strategies that rank by them
also order saturated logits correctly.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from alhpo.strategies.rows import as_float64, row_blocks


def logit_gaps(logits: torch.Tensor) -> Iterator[torch.Tensor]:
    """Blocks of (B, C) float64 gaps z₁ = 0 ≥ z₂ ≥ … ≥ z_C of the rows of (N, C) logits.

    These are the logits minus the largest, sorted before any sum, so that rows that differ only in
    the order of their classes are equal. Class k has the probability exp(zₖ) / (1 + Σ_j>1 exp(zⱼ)).
    """
    for part in row_blocks(*logits.shape):
        ordered = as_float64(logits[part]).contiguous().sort(dim=1, descending=True).values
        yield ordered - ordered[:, :1]
