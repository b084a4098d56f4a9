"""Repeated passes with dropout before the classifier, from features that are computed once.

All candidates share one mask a pass (Kirsch, van Amersfoort, Gal: BatchBALD, NeurIPS 2019, section
3.1, "consistent" MC dropout): a pass is one drawn network, so that the joint distribution of
several candidates' labels is defined. A single candidate's passes are distributed as those of MC
dropout with masks of its own (Gal, Ghahramani: Dropout as a Bayesian Approximation, ICML 2016).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from alhpo.base.errors import ConfigurationError

_BLOCK = 2**22  # weights of a group of passes, in elements


def keep_masks(passes: int, width: int, p: float, generator: torch.Generator) -> torch.Tensor:
    """(T, D) booleans, each True (kept) with probability 1 − ``p``, on the generator's device.

    Args:
        passes: T.
        width: D, the number of features.
        p: probability that a feature is dropped, in [0, 1).
        generator: the source of randomness.
    """
    draws = torch.rand(passes, width, generator=generator, device=generator.device)
    return draws >= p


@dataclass(frozen=True)
class DropoutPasses:
    """Logits of T networks that differ in which features their classifier sees.

    Pass t gives ``classifier(features * keep[t] / (1 - p))``.

    Attributes:
        features: (N, D) float32, what comes before dropout.
        classifier: ``nn.Linear``, or another function of (B, D) features to (B, C) logits which
            treats each row by itself.
        keep: (T, D) booleans, the features that each pass keeps.
        p: probability with which features were dropped, in [0, 1).

    Raises:
        ConfigurationError: shapes that do not fit each other, no pass, or ``p`` out of range.
    """

    features: torch.Tensor
    classifier: Callable[[torch.Tensor], torch.Tensor]
    keep: torch.Tensor
    p: float

    def __post_init__(self) -> None:
        shapes = tuple(self.features.shape), tuple(self.keep.shape)
        if not all(len(shape) == 2 for shape in shapes) or shapes[0][1] != shapes[1][1]:
            raise ConfigurationError(
                f"Features must be (N, D) and masks (T, D), not {shapes[0]} and {shapes[1]}."
            )
        if not len(self.keep) or self.keep.dtype != torch.bool:
            raise ConfigurationError(
                f"Masks must be booleans of at least 1 pass, not {len(self.keep)} of "
                f"{self.keep.dtype}."
            )
        if not 0 <= self.p < 1:
            raise ConfigurationError(f"Dropout is {self.p!r}; it must be in [0, 1).")

    def __len__(self) -> int:
        return len(self.keep)

    @torch.no_grad()
    def logits(self, rows: slice | torch.Tensor) -> torch.Tensor:
        """(T, B, C) float32 logits of the candidates in these rows, on the device of the features.

        For ``nn.Linear`` the masks go into the weights, and a group of passes is one matrix
        product. Time O(T·B·D·C); memory: the result, and T·D·C weights in groups of at most some
        4 million.
        """
        features = self.features[rows].float()
        scales = self.keep.to(features.device, torch.float32).div_(1 - self.p)
        if not isinstance(self.classifier, nn.Linear):
            passes = [self.classifier(features * scale).float() for scale in scales]
            return torch.stack(passes)
        weight, bias = self.classifier.weight.float(), self.classifier.bias
        result = features.new_empty(len(self), len(features), len(weight))
        step = max(1, _BLOCK // weight.numel())
        for start in range(0, len(self), step):
            some = scales[start : start + step, None, :] * weight
            products = F.linear(features, some.flatten(0, 1)).unflatten(1, some.shape[:2])
            torch.add(
                products.transpose(0, 1),
                0 if bias is None else bias.float(),
                out=result[start : start + step],
            )
        return result


@dataclass(frozen=True)
class TensorPasses:
    """Passes whose logits are all there.

    Attributes:
        values: (T, N, C) logits, T at least 1.

    Raises:
        ConfigurationError: another shape.
    """

    values: torch.Tensor

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or not len(self.values):
            raise ConfigurationError(
                f"Passes must be (T, N, C) with T at least 1, not {tuple(self.values.shape)}."
            )

    def __len__(self) -> int:
        return len(self.values)

    def logits(self, rows: slice | torch.Tensor) -> torch.Tensor:
        """(T, B, C) float32 logits of the candidates in these rows."""
        return self.values[:, rows].float()
