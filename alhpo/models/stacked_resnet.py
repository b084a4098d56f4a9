"""Residual networks of stacks of basic blocks, the family A(B_r, i, j) of active-iNAS.

Geifman, El-Yaniv: Deep Active Learning with a Neural Architecture Search (NeurIPS 2019). timm knows
them as ``stacked_resnet`` with the arguments ``blocks`` (i) and ``stacks`` (j).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from timm.models import register_model
from timm.models.resnet import BasicBlock
from torch import nn
from torch.nn import functional as F

#: timm's name of the family.
NAME = "stacked_resnet"
#: Channels of the stem and of the first stack; every further stack has twice as many.
WIDTH = 64


class StackedResNet(nn.Module):
    """A stem, ``stacks`` stacks of ``blocks`` basic blocks each, and a linear classifier.

    The stem is a 3x3 convolution and a max-pool of stride 2. Every stack but the first halves the
    map and doubles the channels. So (2, 4) has the parameters of a ResNet-18 with a 3x3 stem.
    Convolutions have no biases; all weights of convolutions start from Kaiming's normal
    distribution, and no batch norm starts at 0.

    Args:
        blocks: i, blocks per stack, at least 1.
        stacks: j, at least 1.
        num_classes: C; 0 makes a network without a classifier.
        in_chans: channels of the images.
        drop_rate: probability of dropping a feature before the classifier.
        global_pool: "avg", or "" for features that are not pooled, as in timm.
    """

    def __init__(
        self,
        blocks: int,
        stacks: int,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        global_pool: Literal["avg", ""] = "avg",
    ) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.global_pool = global_pool
        self.num_classes = num_classes
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, WIDTH, 3, padding=1, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.stacks = nn.Sequential()
        self.feature_info: list[dict[str, Any]] = []
        width = before = WIDTH
        for number in range(stacks):
            width = WIDTH * 2**number
            stack = [_block(before if n == 0 else width, width) for n in range(blocks)]
            self.stacks.append(nn.Sequential(*stack))
            info = {"num_chs": width, "reduction": 2 ** (number + 1), "module": f"stacks.{number}"}
            self.feature_info.append(info)
            before = width
        self.num_features = self.head_hidden_size = width
        self.fc: nn.Module = nn.Linear(width, num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 64·2^(stacks−1), H', W') of (B, C, H, W) images."""
        return self.stacks(self.stem(x))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """(B, C) logits of ``forward_features``; with ``pre_logits`` the (B, D) features."""
        if self.global_pool:
            x = x.mean((2, 3))
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: Literal["avg", ""] = "avg") -> None:
        """As in timm; 0 classes take the classifier away."""
        self.num_classes, self.global_pool = num_classes, global_pool
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """timm's groups of layers: the stem, and the stacks (``coarse``) or their blocks."""
        return {
            "stem": r"^stem",
            "blocks": r"^stacks\.(\d+)" if coarse else r"^stacks\.(\d+)\.(\d+)",
        }


def _block(before: int, width: int) -> BasicBlock:
    if before == width:
        return BasicBlock(width, width)
    shortcut = nn.Sequential(
        nn.Conv2d(before, width, 1, stride=2, bias=False), nn.BatchNorm2d(width)
    )
    return BasicBlock(before, width, stride=2, downsample=shortcut)


@register_model
def stacked_resnet(
    pretrained: bool = False, blocks: int = 1, stacks: int = 1, **arguments: Any
) -> StackedResNet:
    """The network A(B_r, ``blocks``, ``stacks``); it has no pretrained weights."""
    if pretrained:
        raise RuntimeError(f"No pretrained weights exist for {NAME}.")
    known = ("num_classes", "in_chans", "drop_rate", "global_pool")
    given = {name: arguments[name] for name in known if arguments.get(name) is not None}
    return StackedResNet(blocks, stacks, **given)


def most_stacks(size: tuple[int, int]) -> int:
    """The largest number of stacks for images of (height, width): none strides over a single
    pixel. 3 for 8x8, 5 for 17x17 to 32x32."""
    return max(math.ceil(math.log2(max(size))), 1)
