"""A network that trains in milliseconds, for tests of what happens around training."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from timm.layers.drop import DropPath
from timm.models import register_model
from torch import nn


class ToyNet(nn.Module):
    """Two convolutions. Images of one colour have no contrast to divide by: outputs of NaN."""

    def __init__(self, num_classes: int, in_chans: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.body = nn.Sequential(
            nn.Conv2d(in_chans, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.fc = nn.Linear(8, num_classes)
        self.feature_info = [{"module": "body.2", "num_chs": 8}, {"module": "body.4", "num_chs": 8}]

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        contrast = x.flatten(1).amax(1) - x.flatten(1).amin(1)
        return self.body(x / contrast[:, None, None, None])

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = nn.functional.dropout(x.mean((2, 3)), self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


@register_model
def alhpo_toy(pretrained=False, num_classes=10, in_chans=3, drop_rate=0.0, **kwargs):
    return ToyNet(num_classes, in_chans, drop_rate)


class StagedNet(nn.Module):
    """A stem and three stages, with the layer groups and the stochastic depth of timm's models."""

    def __init__(
        self, num_classes: int, in_chans: int, drop_rate: float, drop_path_rate: float
    ) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.stem = nn.Sequential(nn.Conv2d(in_chans, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.stages = nn.Sequential(
            *(StagedBlock(6, drop_path_rate * number / 2) for number in range(3))
        )
        self.norm = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, num_classes)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        return {"stem": "^stem", "blocks": r"^stages\.(\d+)"}

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.stages(self.stem(x)))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = x.relu().mean((2, 3))
        x = nn.functional.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


class StagedBlock(nn.Module):
    def __init__(self, width: int, drop_path: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.drop_path(self.bn(self.conv(x)).relu())


@register_model
def alhpo_stages(
    pretrained=False, num_classes=10, in_chans=3, drop_rate=0.0, drop_path_rate=0.0, **kwargs
):
    return StagedNet(num_classes, in_chans, drop_rate, drop_path_rate)


def random_weights(folder: Path, name: str, in_chans: int = 1, **options: object) -> str:
    """A file of random weights for a timm model with three classes, as if they were pretrained;
    the same for the same arguments."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=3, in_chans=in_chans, **options)
    file = folder / f"{name}.safetensors"
    save_file(model.state_dict(), file)
    return str(file)


#: The smallest network of timm itself, which it has since 1.0.9; and of versions before.
SMALLEST = "test_resnet" if timm.is_model("test_resnet") else "lcnet_035"


def toy_weights(folder: Path) -> str:
    """A file of weights for ``alhpo_toy`` on colour images, as if they were pretrained."""
    file = folder / "toy.safetensors"
    generator = torch.Generator().manual_seed(0)
    state = ToyNet(3, 3).state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            state[name] = torch.rand(value.shape, generator=generator) - 0.3 * ("var" not in name)
    save_file(state, file)
    return str(file)


#: Settings of a run of three cycles that takes a second.
TOY = {
    "model": alhpo_toy.__name__,
    "strategy": "entropy",
    "initial_size": 12,
    "acquisition_size": 8,
    "budget": 28,
    "max_epochs": 2,
    "max_budget": 4,
    "num_configurations": 4,
    "optimizer": "random",
    "hyperparameters": {"batch_size": 8},
    "precision": "float32",
    "device": "cpu",
}
