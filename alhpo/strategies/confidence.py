"""Logits by how far each class is behind, which tells apart any two confident predictions.

Once the largest logit leads by 37 the float64 probability of its class is 1, and once it leads by
745 those of the others are 0. Logarithms of odds do not end there, so that strategies which rank by
them order saturated logits by the definition too.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from alhpo.strategies.rows import as_float64, row_blocks


def logit_gaps(logits: torch.Tensor) -> Iterator[torch.Tensor]:
    """Of blocks of the rows of (N, C) logits, z₁ = 0 ≥ z₂ ≥ … ≥ z_C: (B, C) float64.

    Logits less the largest, sorted before anything is summed, so that rows which differ only in
    the order of their classes are equal. Class k has the probability exp(zₖ) / (1 + Σ_j>1 exp(zⱼ)).
    """
    for part in row_blocks(*logits.shape):
        ordered = as_float64(logits[part]).contiguous().sort(dim=1, descending=True).values
        yield ordered - ordered[:, :1]
