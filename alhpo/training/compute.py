"""Device, precision and memory order of all computation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from alhpo.base.errors import ConfigurationError

Precision = Literal["auto", "float32", "bfloat16"]


def gpu_memory(device: torch.device) -> float:
    """Bytes that this process may use on a CUDA device: all, or its share of them."""
    share = getattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0)(device)
    return share * torch.cuda.get_device_properties(device).total_memory


@dataclass(frozen=True)
class Compute:
    """Device, precision and memory order.

    Attributes:
        device: the torch device.
        precision: precision of convolutions and matrix products; bfloat16 uses autocast.
        channels_last: whether images and weights are in channels-last order.
        captured: whether networks are trained by ``CapturedTraining``, several side by side, on
            CUDA devices with their steps as CUDA graphs. Results differ in their last bits.
    """

    device: torch.device
    precision: Literal["float32", "bfloat16"]
    channels_last: bool
    captured: bool = False

    @classmethod
    def resolve(
        cls, device: str = "auto", precision: Precision = "auto", image_size: int = 32
    ) -> Compute:
        """Resolve "auto" for this machine; on CUDA devices, steps are captured.

        Args:
            device: "auto" (CUDA if available, else the CPU), "cpu" or a CUDA device.
            precision: "auto" is bfloat16 on CUDA devices that support it and float32 elsewhere.
            image_size: longer side in pixels. On the CPU, channels-last is used from 16 pixels on;
                it is slower for smaller images.

        Raises:
            ConfigurationError: an unknown precision; or a device that torch does not know, that is
                missing, or whose random streams alhpo cannot seed, such as mps.
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
        cuda = target.type == "cuda"
        return cls(target, precision, cuda or image_size >= 16, captured=cuda)

    def autocast(self) -> torch.autocast:
        """The context in which the forward pass runs."""
        enabled = self.precision == "bfloat16"
        # its cache of weights is shared by the threads of a process, and a graph would keep its use
        cache = not self.captured
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=enabled, cache_enabled=cache
        )

    def place(self, model: nn.Module) -> nn.Module:
        """Move the model to the device, with weights in the memory order of the images."""
        order = torch.channels_last if self.channels_last else torch.contiguous_format
        return model.to(device=self.device, memory_format=order)  # type: ignore[call-overload]
