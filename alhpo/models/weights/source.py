"""A source of weights: what is registered under a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

#: Gives the tensors of a file the names that they have in the model.
Convert = Callable[[dict[str, torch.Tensor], nn.Module], Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class WeightsSource:
    """Weights of one timm model, such as those in an installed package.

    Attributes:
        model: the timm model that the weights are of, without a tag, such as ``"resnet18"``.
        find: returns the file; ``ConfigurationError`` says how to install what is missing. It is
            called whenever settings are checked.
        convert: gives the tensors of the file timm's names; it gets the model too, and raises
            ``ConfigurationError`` for tensors that it does not know. None for a file that has
            timm's names, or those that timm converts itself.
    """

    model: str
    find: Callable[[], Path]
    convert: Convert | None = None
