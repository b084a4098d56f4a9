"""Where and how numbers are computed: device, precision, memory order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from alhpo.base.errors import ConfigurationError

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class Compute:
    """Where and how numbers are computed.

    Attributes:
        device: the torch device.
        precision: of convolutions and matrix products; bfloat16 runs under autocast.
        channels_last: memory order of images and weights.
    """

    device: torch.device
    precision: Literal["float32", "bfloat16"]
    channels_last: bool

    @classmethod
    def resolve(
        cls, device: str = "auto", precision: Precision = "auto", image_size: int = 32
    ) -> Compute:
        """Settings for this machine.

        Args:
            device: "auto" (CUDA where there is one, else the CPU), "cpu" or a CUDA device.
            precision: "auto" is bfloat16 on CUDA devices that have it and float32 elsewhere.
            image_size: longer side in pixels. Channels-last is chosen on CUDA, and on the CPU
                from 16 pixels on; below, it is the slower order there.

        Raises:
            ConfigurationError: a device that torch does not know, that is not there, or on which
                random streams cannot be seeded, such as mps.
        """
        name = device
        if device == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            target = torch.device(name)
            if target.type not in ("cpu", "cuda"):
                raise ConfigurationError(
                    f"Device {device!r} cannot be used: on devices of type {target.type!r} random "
                    "streams are not seeded, and scores need float64. Legal: auto, cpu, cuda, "
                    "cuda:1, ..."
                )
            torch.zeros(1, device=target).tolist()
        except (RuntimeError, AssertionError) as error:
            raise ConfigurationError(
                f"Device {device!r} cannot be used here ({str(error).splitlines()[0]}). "
                "Legal: auto, cpu, cuda, cuda:1, ..."
            ) from error
        if precision == "auto":
            fast = target.type == "cuda" and torch.cuda.is_bf16_supported()
            precision = "bfloat16" if fast else "float32"
        elif precision not in ("float32", "bfloat16"):
            raise ConfigurationError(
                f"Unknown precision {precision!r}. Legal: auto, float32, bfloat16."
            )
        return cls(target, precision, target.type == "cuda" or image_size >= 16)

    def autocast(self) -> torch.autocast:
        """The context in which the forward pass runs."""
        enabled = self.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def place(self, model: nn.Module) -> nn.Module:
        """The model on the device, its weights in the memory order of the images."""
        order = torch.channels_last if self.channels_last else torch.contiguous_format
        return model.to(device=self.device, memory_format=order)  # type: ignore[call-overload]
