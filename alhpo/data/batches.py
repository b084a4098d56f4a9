"""Batches made on the device from uint8 images: no workers, no Python per image.

Images are kept as N x H x W x C. One indexing operation crops, flips and gathers a batch; its
result is in channels-last order.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from alhpo.base.digests import digest
from alhpo.base.seeding import Key, derive_seed, torch_generator

#: Images times pixels per forward pass without gradients.
INFERENCE_PIXELS = 2**19


@dataclass(frozen=True)
class InputFormat:
    """How uint8 images become model input.

    Attributes:
        mean: mean of each channel, of pixel values scaled to [0, 1].
        std: standard deviation of each channel, of pixel values scaled to [0, 1].
        size: (height, width) to which images are resized on the device; None keeps their size.
        channels_last: whether batches are in channels-last memory order.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None = None
    channels_last: bool = False


class _Input:
    """Turns uint8 images into model input, on a device."""

    def __init__(self, form: InputFormat, device: torch.device) -> None:
        self._form = form
        self._scale = torch.tensor(form.std, device=device).mul_(255).reciprocal_()
        self._shift = torch.tensor(form.mean, device=device).mul_(255).mul_(self._scale).neg_()

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) float32 from (B, H, W, C) uint8."""
        values = torch.addcmul(self._shift, pixels.float(), self._scale).permute(0, 3, 1, 2)
        if self._form.size is not None and self._form.size != tuple(values.shape[2:]):
            values = F.interpolate(values, self._form.size, mode="bilinear", antialias=True)
        if self._form.channels_last:
            return values.contiguous(memory_format=torch.channels_last)
        return values.contiguous()

    def slices(self, images: torch.Tensor, n: int) -> Iterator[slice]:
        """The rows of each forward pass without gradients over ``n`` images of this size."""
        height, width = self._form.size or images.shape[1:3]
        size = min(max(INFERENCE_PIXELS // (height * width), 32), 1024)
        return (slice(start, start + size) for start in range(0, n, size))


class PoolImages:
    """Some images of a pool, moved to the device block by block, without a copy of them all.


    Args:
        images: (P, H, W, C) uint8, the pool.
        indices: (N,) int64 rows of the pool.
        form: how images become model input.
        device: the device of the blocks.
    """

    def __init__(
        self, images: torch.Tensor, indices: torch.Tensor, form: InputFormat, device: torch.device
    ) -> None:
        self.device = device
        self._images = images
        self._indices = indices
        self._input = _Input(form, device)

    def __len__(self) -> int:
        return len(self._indices)

    def blocks(self) -> Iterator[tuple[torch.Tensor, None]]:
        """All images in order, unaugmented, as (B, C, H, W) float32, each block with None."""
        for rows in self._input.slices(self._images, len(self)):
            yield self._input(self._images[self._indices[rows]].to(self.device)), None


class DeviceImages:
    """A fixed set of images, with their labels if known, on one device.

    Args:
        images: (N, H, W, C) uint8.
        labels: (N,) int64, or None.
        form: how images become model input.
        device: the device of the images and batches.
    """

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor | None,
        form: InputFormat,
        device: torch.device,
    ) -> None:
        self.images = images.to(device)
        self.labels = None if labels is None else labels.to(device)
        self.device = device
        self._input = _Input(form, device)
        self._padded: dict[int, torch.Tensor] = {}
        self._rows: torch.Tensor | None = None

    def part(self, positions: torch.Tensor) -> DeviceImages:
        """The images at some positions, in that order; they share the memory of this set.

        Args:
            positions: (M,) int64 positions in this set.
        """
        part = copy.copy(self)  # the same tensors, and the same cache of padded images
        rows = positions.to(self.device)
        part._rows = rows if self._rows is None else self._rows[rows]
        return part

    def __len__(self) -> int:
        return len(self.images) if self._rows is None else len(self._rows)

    @property
    def digest(self) -> str:
        """Hash of the shapes and values of the images and labels, in order."""
        return digest(self._chosen(self.images), self._chosen(self.labels))

    def blocks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """All images in order, unaugmented, as (B, C, H, W) float32 with their labels."""
        for part in self._input.slices(self.images, len(self)):
            rows = part if self._rows is None else self._rows[part]
            labels = None if self.labels is None else self.labels[rows]
            yield self._input(self.images[rows]), labels

    def batches(self, batch_size: int) -> int:
        """The number of batches of an epoch."""
        n = max(len(self), 2)  # a single image is used twice
        return n // min(batch_size, n)

    def epoch(
        self, batch_size: int, augmentation: str, *key: Key
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One epoch of training batches, shuffled and augmented.

        A last, smaller batch is dropped unless it is the only one. A single image is in its batch
        twice, because batch norm needs two.

        Args:
            batch_size: images per batch.
            augmentation: "none", "crop" (zero-padded by 1/8 of the size), "flip" or "crop-flip".
            key: names the random stream of the order and the augmentation.

        Yields:
            (B, C, H, W) float32 and (B,) int64.
        """
        assert self.labels is not None
        n = len(self)
        generator = torch_generator(derive_seed(*key), "epoch")
        order = torch.randperm(n, generator=generator)
        if n == 1:
            order = order.repeat(2)
        size = min(batch_size, len(order))
        order = order[: self.batches(batch_size) * size].to(self.device)
        crop, flip = "crop" in augmentation, "flip" in augmentation
        height, width = self.images.shape[1:3]
        rows = columns = None
        pad = max(height // 8, 1) if crop else 0
        source = self._padded_by(pad)
        if crop or flip:
            rows = torch.arange(height).expand(len(order), height)
            columns = torch.arange(width).expand(len(order), width)
            if flip:
                flipped = torch.rand(len(order), 1, generator=generator) < 0.5
                columns = torch.where(flipped, columns.flip(1), columns)
            if crop:
                offsets = torch.randint(0, 2 * pad + 1, (2, len(order), 1), generator=generator)
                rows, columns = rows + offsets[0], columns + offsets[1]
            rows, columns = rows.to(self.device), columns.to(self.device)
        if self._rows is not None:
            order = self._rows[order]
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            if rows is None or columns is None:
                pixels = self.images[chosen]
            else:
                part = slice(start, start + size)
                pixels = source[chosen[:, None, None], rows[part, :, None], columns[part, None, :]]
            yield self._input(pixels), self.labels[chosen]

    def _padded_by(self, pad: int) -> torch.Tensor:
        if pad == 0:
            return self.images
        if pad not in self._padded:
            self._padded[pad] = F.pad(self.images, (0, 0, pad, pad, pad, pad))
        return self._padded[pad]

    def _chosen(self, values: torch.Tensor | None) -> torch.Tensor | None:
        return values if values is None or self._rows is None else values[self._rows]
