"""Batches made on the device from rows there: no workers, no Python per image.

Images are kept as N x H x W x C uint8. One indexing operation crops, flips and gathers a batch; its
result is in channels-last order. Batches of features are in ``feature_batches``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import torch
from torch.nn import functional as F

from alhpo.base.digests import digest
from alhpo.base.epoch_size import EpochImages, epoch_shape
from alhpo.base.seeding import Key, derive_seed, torch_generator

#: Images times pixels per forward pass without gradients.
INFERENCE_PIXELS = 2**19
#: The largest angle by which augmentation rotates images, in degrees.
ROTATION = 15.0


class Rows(Protocol):
    """Rows in memory or on disk, such as images or feature vectors; a tensor is one.

    An index (a slice, or (M,) int64) gives a tensor of those rows in memory.
    """

    @property
    def shape(self) -> Sequence[int]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> torch.Tensor: ...


class Blocks(Protocol):
    """Model input, block by block, with labels if they are known."""

    @property
    def device(self) -> torch.device: ...

    def __len__(self) -> int: ...

    def blocks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """All rows in order, unaugmented."""
        ...


class RowFormat(Protocol):
    """How stored rows become model input: ``InputFormat`` for images, ``FeatureFormat`` for
    features."""

    @property
    def identity(self) -> dict[str, Any]: ...

    def on_device(
        self, rows: torch.Tensor, labels: torch.Tensor | None, device: torch.device
    ) -> DeviceRows:
        """A fixed set of rows, with labels if they are known, on the device."""
        ...

    def in_blocks(self, rows: Rows, indices: torch.Tensor, device: torch.device) -> Blocks:
        """Some rows, moved to the device block by block."""
        ...


class DeviceRows:
    """A fixed set of rows, with their labels if known, on one device.

    Args:
        values: (N, ...), the rows.
        labels: (N,) int64, or None.
        device: the device of the rows and batches.

    Attributes:
        values, labels, device: on the device.
        derived: what users of ``values`` derived from them, for parts of this set to share.
    """

    def __init__(
        self, values: torch.Tensor, labels: torch.Tensor | None, device: torch.device
    ) -> None:
        self.values = values.to(device)
        self.labels = None if labels is None else labels.to(device)
        self.device = device
        self.derived: dict[Any, Any] = {}
        self._rows: torch.Tensor | None = None

    def part(self, positions: torch.Tensor) -> Self:
        """The rows at some positions, in that order; they share the memory of this set.

        Args:
            positions: (M,) int64 positions in this set.
        """
        part = copy.copy(self)  # the same tensors, and what was derived from them
        rows = positions.to(self.device)
        part._rows = rows if self._rows is None else self._rows[rows]
        return part

    def __len__(self) -> int:
        return len(self.values) if self._rows is None else len(self._rows)

    @property
    def rows(self) -> torch.Tensor:
        """(N,) int64 places of these rows in ``values``, in order."""
        every = torch.arange(len(self.values), device=self.device)
        return every if self._rows is None else self._rows

    @property
    def digest(self) -> str:
        """Hash of the shapes and values of the rows and labels, in order."""
        return digest(self._chosen(self.values), self._chosen(self.labels))

    @property
    def own_labels(self) -> torch.Tensor:
        """(N,) labels of these rows, in order. There must be labels."""
        labels = self._chosen(self.labels)
        assert labels is not None
        return labels

    def batches(self, batch_size: int, images: EpochImages = "fill") -> int:
        """The number of batches of an epoch; see ``epoch_shape``."""
        return epoch_shape(len(self), batch_size, images)[0]

    def order(
        self, batch_size: int, generator: torch.Generator, images: EpochImages = "fill"
    ) -> torch.Tensor:
        """The batches of an epoch, as rows of ``values``: permutations of all rows, one after the
        other, cut where the epoch ends.

        Args:
            batch_size: rows per batch.
            generator: draws the permutations.
            images: how many rows an epoch has; see ``epoch_shape``.

        Returns:
            (S, B) int64 on the device.
        """
        n, shape = len(self), epoch_shape(len(self), batch_size, images)
        passes = -(-math.prod(shape) // n)
        order = torch.cat([torch.randperm(n, generator=generator) for _ in range(passes)])
        order = order[: math.prod(shape)].to(self.device)
        return (order if self._rows is None else self._rows[order]).view(shape)

    def blocks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """All rows in order, unaugmented, as model input with their labels."""
        raise NotImplementedError

    def epoch(
        self, batch_size: int, augmentation: str, *key: Key, images: EpochImages = "fill"
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One epoch of training batches (see ``order``), augmented, as model input with labels."""
        raise NotImplementedError

    def _chosen(self, values: torch.Tensor | None) -> torch.Tensor | None:
        return values if values is None or self._rows is None else values[self._rows]


@dataclass(frozen=True)
class InputFormat:
    """How uint8 images become model input.

    Attributes:
        mean: mean of each channel, of pixel values scaled to [0, 1].
        std: standard deviation of each channel, of pixel values scaled to [0, 1].
        size: (height, width) to which images are resized on the device; None keeps their size.
        channels_last: whether batches are in channels-last memory order.
        interpolation: how images are resized, always with antialiasing.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None = None
    channels_last: bool = False
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    @property
    def identity(self) -> dict[str, Any]:
        """What model input depends on, apart from the image; a mapping that JSON can hold."""
        size = None if self.size is None else list(self.size)
        identity: dict[str, Any] = {"mean": list(self.mean), "std": list(self.std), "size": size}
        if self.interpolation != "bilinear":
            identity["interpolation"] = self.interpolation
        return identity

    def on_device(
        self, rows: torch.Tensor, labels: torch.Tensor | None, device: torch.device
    ) -> DeviceImages:
        """Images with their labels on the device; see ``DeviceImages``."""
        return DeviceImages(rows, labels, self, device)

    def in_blocks(self, rows: Rows, indices: torch.Tensor, device: torch.device) -> PoolImages:
        """Images of a pool, block by block on the device; see ``PoolImages``."""
        return PoolImages(rows, indices, self, device)


class _Input:
    """Turns uint8 images into model input, on a device."""

    def __init__(self, form: InputFormat, device: torch.device) -> None:
        self._form = form
        self._scale = torch.tensor(form.std, device=device).mul_(255).reciprocal_()
        self._shift = torch.tensor(form.mean, device=device).mul_(255).mul_(self._scale).neg_()

    def __call__(self, pixels: torch.Tensor, turns: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, H, W) float32 from (B, H, W, C) uint8.

        Args:
            pixels: the images.
            turns: (B, 2) float32, the cosine and sine of the angle to rotate each by, or None.
        """
        values = torch.addcmul(self._shift, pixels.float(), self._scale).permute(0, 3, 1, 2)
        if turns is not None:
            values = _rotated(values, turns)
        if self._form.size is not None and self._form.size != tuple(values.shape[2:]):
            values = _covering(values, self._form.size, self._form.interpolation)
        if self._form.channels_last:
            return values.contiguous(memory_format=torch.channels_last)
        return values.contiguous()

    def slices(self, images: Rows, n: int) -> Iterator[slice]:
        """The rows of each forward pass without gradients over ``n`` images of this size."""
        size = self.per_pass(images)
        return (slice(start, start + size) for start in range(0, n, size))

    def per_pass(self, images: Rows) -> int:
        """The number of images of this size in a forward pass without gradients."""
        height, width = self._form.size or images.shape[1:3]
        return min(max(INFERENCE_PIXELS // (height * width), 32), 1024)


def _covering(images: torch.Tensor, size: tuple[int, int], interpolation: str) -> torch.Tensor:
    """(B, C, H, W) images, scaled to cover ``size`` and cropped to its centre."""
    scale = max(size[0] / images.shape[2], size[1] / images.shape[3])
    height, width = (max(round(scale * images.shape[2 + i]), size[i]) for i in range(2))
    images = F.interpolate(images, (height, width), mode=interpolation, antialias=True)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return images[:, :, top : top + size[0], left : left + size[1]]


def turns_of(shares: torch.Tensor) -> torch.Tensor:
    """(..., 2) float32, the cosine and sine of angles of up to ``ROTATION`` degrees, as computed on
    the CPU for every device.

    Args:
        shares: uniform draws in [0, 1), one for each angle, on the CPU.
    """
    angles = (2 * shares - 1) * math.radians(ROTATION)
    return torch.stack([angles.cos(), angles.sin()], -1)


def _rotated(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) images rotated about their centres, bilinear, with edge pixels repeated outside.

    Args:
        images: float32.
        turns: (B, 2) cosine and sine of the angle of each.
    """
    height, width = images.shape[2:]
    cosine, sine = turns.unbind(1)
    zero = torch.zeros_like(sine)  # coordinates are in units of half the width and height
    across = torch.stack([cosine, -sine * (height / width), zero], 1)
    down = torch.stack([sine * (width / height), cosine, zero], 1)
    grid = F.affine_grid(torch.stack([across, down], 1), list(images.shape), align_corners=False)
    turned = F.grid_sample(images, grid, "bilinear", "border", align_corners=False)
    return torch.where((sine == 0)[:, None, None, None], images, turned)  # exactly the image


class PoolImages:
    """Some images of a pool, moved to the device block by block, without a copy of them all.

    Args:
        images: (P, H, W, C) uint8, the pool.
        indices: (N,) int64 rows of the pool.
        form: how images become model input.
        device: the device of the blocks.
    """

    def __init__(
        self, images: Rows, indices: torch.Tensor, form: InputFormat, device: torch.device
    ) -> None:
        self.device = device
        self._images = images
        self._indices = indices
        self._input = _Input(form, device)

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def per_pass(self) -> int:
        """The number of images in a block; the last may have fewer."""
        return self._input.per_pass(self._images)

    def blocks(self) -> Iterator[tuple[torch.Tensor, None]]:
        """All images in order, unaugmented, as (B, C, H, W) float32, each block with None."""
        for rows in self._input.slices(self._images, len(self)):
            yield self._input(self._images[self._indices[rows]].to(self.device)), None


@dataclass(frozen=True)
class EpochPlan:
    """What the S steps of an epoch see.

    Attributes:
        source: (N, H', W', C) uint8, the images that the parts index, padded if they are cropped.
        parts: (S, B) int64 images of each batch; with augmentation also (S, B, H) int64 rows and
            (S, B, W) int64 columns of each image; and with rotation (S, B, 2) float32, the cosine
            and sine of its angle. They are contiguous, and may be written to.
        resident: whether batches are made from what is on the device, so that a CUDA graph can
            capture it.
    """

    source: torch.Tensor
    parts: tuple[torch.Tensor, ...]
    resident: bool = True

    @property
    def steps(self) -> int:
        """S, the number of batches."""
        return len(self.parts[0])


class DeviceImages(DeviceRows):
    """A fixed set of images, with their labels if known, on one device.

    Args:
        images: (N, H, W, C) uint8.
        labels: (N,) int64, or None.
        form: how images become model input.
        device: the device of the images and batches.

    Attributes:
        form: how images become model input.
    """

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor | None,
        form: InputFormat,
        device: torch.device,
    ) -> None:
        super().__init__(images, labels, device)
        self.form = form
        self._input = _Input(form, device)
        self._padded: dict[int, torch.Tensor] = {}

    def blocks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """All images in order, unaugmented, as (B, C, H, W) float32 with their labels."""
        for part in self._input.slices(self.values, len(self)):
            rows = part if self._rows is None else self._rows[part]
            labels = None if self.labels is None else self.labels[rows]
            yield self._input(self.values[rows]), labels

    def epoch(
        self, batch_size: int, augmentation: str, *key: Key, images: EpochImages = "fill"
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One epoch of training batches, shuffled and augmented (see ``plan``).

        Yields:
            (B, C, H, W) float32 and (B,) int64.
        """
        plan = self.plan(batch_size, augmentation, *key, images=images)
        for step in range(plan.steps):
            yield self.batch(plan.source, *(part[step] for part in plan.parts))

    def plan(
        self, batch_size: int, augmentation: str, *key: Key, images: EpochImages = "fill"
    ) -> EpochPlan:
        """Draw the order, crops, flips and rotations of an epoch.

        They are drawn on the CPU, so that the images seen are the same on every device.

        Args:
            batch_size: images per batch.
            augmentation: "none", or one or more of "crop" (zero-padded by 1/8 of the size), "flip"
                and "rotate" (by up to ``ROTATION`` degrees either way), such as "crop-flip".
            key: names the random stream.
            images: how many images the epoch has; see ``epoch_shape``.
        """
        generator = torch_generator(derive_seed(*key), "epoch")
        order = self.order(batch_size, generator, images)
        crop, flip, rotate = (part in augmentation for part in ("crop", "flip", "rotate"))
        if not (crop or flip or rotate):
            return EpochPlan(self.values, (order,))
        n, (height, width) = order.numel(), self.values.shape[1:3]
        pad = max(height // 8, 1) if crop else 0
        rows = torch.arange(height, device=self.device).expand(n, height)
        columns = torch.arange(width, device=self.device).expand(n, width)
        if flip:
            flipped = (torch.rand(n, 1, generator=generator) < 0.5).to(self.device)
            columns = torch.where(flipped, columns.flip(1), columns)
        if crop:
            offsets = torch.randint(0, 2 * pad + 1, (2, n, 1), generator=generator).to(self.device)
            rows, columns = rows + offsets[0], columns + offsets[1]
        parts = [rows, columns]
        if rotate:  # drawn last, so that crops and flips are those without rotation
            parts.append(turns_of(torch.rand(n, generator=generator)).to(self.device))
        shaped = (part.reshape(*order.shape, -1).contiguous() for part in parts)
        return EpochPlan(self.padded(pad), (order, *shaped))

    def batch(
        self,
        source: torch.Tensor,
        chosen: torch.Tensor,
        rows: torch.Tensor | None = None,
        columns: torch.Tensor | None = None,
        turns: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One batch of an epoch, as model input with its labels.

        Args:
            source: ``EpochPlan.source``.
            chosen, rows, columns, turns: a step of ``EpochPlan.parts``.
        """
        assert self.labels is not None
        if rows is None or columns is None:
            pixels = source[chosen]
        else:
            pixels = source[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
        return self._input(pixels, turns), self.labels[chosen]

    def padded(self, pad: int) -> torch.Tensor:
        """All ``values`` with ``pad`` rows and columns of zeros on every side; made once."""
        if pad == 0:
            return self.values
        if pad not in self._padded:
            self._padded[pad] = F.pad(self.values, (0, 0, pad, pad, pad, pad))
        return self._padded[pad]
