"""Batches of features, which a frozen network gave to images once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import functional as F

from alhpo.base.epoch_size import EpochImages
from alhpo.base.seeding import Key, derive_seed, torch_generator
from alhpo.data.batches import DeviceRows, Rows

#: Feature values per block without gradients: 64 MiB as float32.
BLOCK_VALUES = 2**24


Normalization = Literal["none", "l2", "layer"]


def normalized(features: torch.Tensor, normalization: Normalization) -> torch.Tensor:
    """(B, D) features, each row normalised by itself, so that adding images changes no other row.

    Args:
        features: (B, D) float32.
        normalization: "l2" divides by the Euclidean norm; "layer" subtracts the mean of the row
            and divides by its standard deviation (Ba, Kiros, Hinton 2016); "none" does nothing.
    """
    if normalization == "l2":
        return F.normalize(features, dim=1)
    if normalization == "layer":
        return F.layer_norm(features, features.shape[1:])
    return features


@dataclass(frozen=True)
class FeatureFormat:
    """How features become model input: as they are, in float32."""

    @property
    def identity(self) -> dict[str, Any]:
        """Nothing: what features depend on belongs to the recipe's weights."""
        return {}

    def on_device(
        self, rows: torch.Tensor, labels: torch.Tensor | None, device: torch.device
    ) -> DeviceFeatures:
        """Features with their labels on the device; see ``DeviceFeatures``."""
        return DeviceFeatures(rows, labels, device)

    def in_blocks(self, rows: Rows, indices: torch.Tensor, device: torch.device) -> PoolFeatures:
        """Features of a pool, block by block on the device; see ``PoolFeatures``."""
        return PoolFeatures(rows, indices, device)


class PoolFeatures:
    """Features of some images of a pool, moved to the device block by block.

    Args:
        features: (P, D), of the pool.
        indices: (N,) int64 rows of the pool.
        device: the device of the blocks.
    """

    def __init__(self, features: Rows, indices: torch.Tensor, device: torch.device) -> None:
        self.device = device
        self._features = features
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def blocks(self) -> Iterator[tuple[torch.Tensor, None]]:
        """All in order, as (B, D) float32, each block with None."""
        for rows in _slices(self._features, len(self)):
            yield self._features[self._indices[rows]].to(self.device).float(), None


class DeviceFeatures(DeviceRows):
    """Features of a fixed set of images, with their labels if known, on one device.

    Args:
        features: (N, D).
        labels: (N,) int64, or None.
        device: the device of the features and batches.
    """

    def __init__(
        self, features: torch.Tensor, labels: torch.Tensor | None, device: torch.device
    ) -> None:
        super().__init__(features.float(), labels, device)
        self._normalized: dict[tuple[str, int], torch.Tensor] = {}

    def normalized(self, normalization: Normalization, multiple: int = 1) -> torch.Tensor:
        """All ``values``, normalised; computed once.

        Args:
            normalization: see ``normalized``.
            multiple: zeros are put behind the features until their number is a multiple of it.
        """
        key = normalization, multiple
        if key not in self._normalized:
            values = normalized(self.values, normalization)
            self._normalized[key] = F.pad(values, (0, -values.shape[1] % multiple))
        return self._normalized[key]

    def blocks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """All in order, as (B, D) float32 with their labels."""
        for part in _slices(self.values, len(self)):
            rows = part if self._rows is None else self._rows[part]
            yield self.values[rows], None if self.labels is None else self.labels[rows]

    def epoch(
        self, batch_size: int, augmentation: str, *key: Key, images: EpochImages = "fill"
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One epoch of training batches, shuffled (see ``order``); features are not augmented.

        Args:
            batch_size: images per batch.
            augmentation: "none".
            key: names the random stream of the order.
            images: how many images the epoch has; see ``epoch_shape``.

        Yields:
            (B, D) float32 and (B,) int64.
        """
        assert self.labels is not None
        generator = torch_generator(derive_seed(*key), "epoch")
        for chosen in self.order(batch_size, generator, images):
            yield self.values[chosen], self.labels[chosen]


def _slices(features: Rows, n: int) -> Iterator[slice]:
    size = max(BLOCK_VALUES // features.shape[1], 1)
    return (slice(start, start + size) for start in range(0, n, size))
