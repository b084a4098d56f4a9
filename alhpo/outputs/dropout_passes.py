"""Passes with dropout before the classifier, from features that are computed once.

In a pass, all candidates share one mask (Kirsch, van Amersfoort, Gal: BatchBALD, NeurIPS 2019,
section 3.1, "consistent" MC dropout). A pass is one sampled network, so the joint distribution of
several candidates' labels is defined. For a single candidate, passes are distributed as in MC
dropout (Gal, Ghahramani: Dropout as a Bayesian Approximation, ICML 2016).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from alhpo.base.errors import ConfigurationError

BLOCK = 2**22  # weights of a group of passes, in elements


def keep_masks(passes: int, width: int, p: float, generator: torch.Generator) -> torch.Tensor:
    """(T, D) booleans, each True (kept) with probability 1 − ``p``, on the generator's device.

    Args:
        passes: T, the number of passes.
        width: D, the number of features.
        p: probability that a feature is dropped, in [0, 1).
        generator: torch generator that the masks are drawn from.
    """
    draws = torch.rand(passes, width, generator=generator, device=generator.device)
    return draws >= p


@dataclass(frozen=True)
class DropoutPasses:
    """Logits of T networks that differ in the features that their classifier sees.

    Pass t gives ``classifier(features * keep[t] / (1 - p))``.

    Attributes:
        features: (N, D) float32, the features before dropout.
        classifier: ``nn.Linear``, or another function from (B, D) features to (B, C) logits, row
            by row.
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
                f"Features are {shapes[0]} and masks {shapes[1]}; expected are (N, D) and (T, D)."
            )
        if not len(self.keep) or self.keep.dtype != torch.bool:
            raise ConfigurationError(
                f"Masks are {len(self.keep)} passes of {self.keep.dtype}; expected is at "
                "least 1 of torch.bool."
            )
        if not 0 <= self.p < 1:
            raise ConfigurationError(f"Dropout is {self.p!r}; expected is a probability in [0, 1).")

    def __len__(self) -> int:
        return len(self.keep)

    @torch.no_grad()
    def logits(self, rows: slice | torch.Tensor) -> torch.Tensor:
        """(T, B, C) float32 logits of the candidates in these rows, on the device of the features.

        For ``nn.Linear``, masks multiply the weights, and a group of passes is one matrix product.
        Time O(T·B·D·C). Memory: the result, and about 4 million weights at a time.
        """
        features = self.features[rows].float()
        scales = self.keep.to(features.device, torch.float32).div_(1 - self.p)
        if not isinstance(self.classifier, nn.Linear):
            passes = [self.classifier(features * scale).float() for scale in scales]
            return torch.stack(passes)
        weight, bias = self.classifier.weight.float(), self.classifier.bias
        result = features.new_empty(len(self), len(features), len(weight))
        step = max(1, BLOCK // weight.numel())
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
    """Passes whose logits are already computed.

    Attributes:
        values: (T, N, C) logits, T at least 1.

    Raises:
        ConfigurationError: another shape.
    """

    values: torch.Tensor

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or not len(self.values):
            raise ConfigurationError(
                f"Passes are {tuple(self.values.shape)}; expected is (T, N, C) with T at least 1."
            )

    def __len__(self) -> int:
        return len(self.values)

    def logits(self, rows: slice | torch.Tensor) -> torch.Tensor:
        """(T, B, C) float32 logits of the candidates in these rows."""
        return self.values[:, rows].float()
