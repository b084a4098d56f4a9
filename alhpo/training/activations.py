"""What the untrained part of a network makes of images: computed once, kept in the cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from alhpo.base.epoch_size import EpochImages
from alhpo.base.seeding import Key, derive_seed, torch_generator
from alhpo.data.batches import DeviceImages, DeviceRows, EpochPlan
from alhpo.data.stored_features import finite_as, stored_features
from alhpo.data.views import ImageViews
from alhpo.training.compute import Compute, gpu_memory

#: Images in a forward pass of the untrained part: always as many, because the last bits of an
#: image's activations may depend on it, and on nothing else.
PASS = 32
#: Forward passes between two savings.
PASSES = 4
#: Share of a GPU's memory that the activations of one set of images may take there.
RESIDENT = 1 / 4


class Activations:
    """Activations of views of images, from the cache or computed into it.

    Where the cache cannot be written or has no room for them, they are computed whenever they are
    asked for, with the same result.

    Args:
        part: the untrained part, from model input to activations, on the device.
        shape: of the activations of an image.
        views: the views.
        key: everything that activations depend on, apart from the views; JSON can hold it.
        what: what they are, for people.
        compute: device and precision. Computed in bfloat16, they are kept as float16.
    """

    def __init__(
        self,
        part: nn.Module,
        shape: Sequence[int],
        views: ImageViews,
        key: Mapping[str, Any],
        what: str,
        compute: Compute,
    ) -> None:
        self._part = part
        self._shape = tuple(shape)
        self._views = views
        self._compute = compute
        self._width = int(np.prod(self._shape))
        self._dtype = np.float16 if compute.precision == "bfloat16" else np.float32
        self._stored = stored_features(
            key,
            what,
            views.identities(),
            self._width,
            self._dtype,
            self._encode,
            block=PASSES * PASS,
        )
        #: (N * V, D) on the device, of all views; None where they are fetched for each batch.
        self._resident: torch.Tensor | None = None

    def reside(self) -> bool:
        """Put the activations of all views on the device unless they take too much of its memory.

        Returns:
            Whether they are there.
        """
        device = self._compute.device
        total = len(self._views) * self._views.count
        if self._resident is None and self._fits(total):
            kind = torch.float16 if self._dtype is np.float16 else torch.float32
            resident = torch.empty(total, self._width, dtype=kind, device=device)
            for places in torch.arange(total).split(PASSES * PASS):
                resident[places] = self._fetched(places).to(device, kind)
            self._resident = resident
        return self._resident is not None

    def _fits(self, total: int) -> bool:
        device, size = self._compute.device, np.dtype(self._dtype).itemsize
        if device.type != "cuda":
            return True
        return total * self._width * size <= RESIDENT * gpu_memory(device)

    def batch(self, rows: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """(B, ...) float32 on the device; see ``ImageViews.batch``."""
        places = rows * self._views.count + views
        if self._resident is not None:
            values = self._resident[places].float()
        else:
            values = self._fetched(places.cpu()).to(self._compute.device)
        values = values.view(-1, *self._shape)
        if self._compute.channels_last and values.ndim == 4:
            values = values.contiguous(memory_format=torch.channels_last)
        return values

    def _fetched(self, places: torch.Tensor) -> torch.Tensor:
        """(M, D) float32 from the cache, or computed."""
        if self._stored is not None:
            return self._stored[places]
        computed = finite_as(self._encode(places.tolist()), self._dtype)
        return torch.from_numpy(computed.astype(np.float32))

    def _encode(self, places: Sequence[int]) -> np.ndarray:
        """Of the views at these places among all views, image after image."""
        chosen = torch.tensor([*places, *[places[-1]] * (-len(places) % PASS)])
        found = []
        with torch.inference_mode(), self._compute.autocast():
            for part in chosen.split(PASS):
                part = part.to(self._compute.device)
                count = self._views.count
                inputs = self._views.batch(part // count, part % count)
                found.append(self._part(inputs).float().flatten(1).cpu())
        return torch.cat(found)[: len(places)].numpy()


class ViewBatches(DeviceRows):
    """Training images whose batches are views of them, or the activations of views.

    Args:
        images: the images with labels.
        views: views of all ``images.values``.
        source: gives the model's input for rows and views.
    """

    def __init__(
        self, images: DeviceImages, views: ImageViews, source: ImageViews | Activations
    ) -> None:
        super().__init__(images.values, images.labels, images.device)
        self._rows = images.rows
        self._count = views.count
        self._source = source

    def epoch(
        self, batch_size: int, augmentation: str, *key: Key, images: EpochImages = "fill"
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One epoch of training batches (see ``plan``).

        Yields:
            (B, ...) float32 and (B,) int64.
        """
        plan = self._drawn(batch_size, *key, images=images)
        for step in range(plan.steps):
            yield self.batch(plan.source, *(part[step] for part in plan.parts))

    def plan(
        self, batch_size: int, augmentation: str, *key: Key, images: EpochImages = "fill"
    ) -> EpochPlan:
        """Draw the order (see ``order``) and a view of each image; see ``DeviceImages.plan``.

        Activations are on the device from now on, if there is room for them.
        """
        resident = not isinstance(self._source, Activations) or self._source.reside()
        return replace(self._drawn(batch_size, *key, images=images), resident=resident)

    def batch(
        self, source: torch.Tensor, rows: torch.Tensor, views: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One batch of an epoch, as model input with its labels.

        Args:
            source: ``EpochPlan.source``, which is not used.
            rows, views: a step of ``EpochPlan.parts``.
        """
        assert self.labels is not None
        return self._source.batch(rows, views), self.labels[rows]

    def _drawn(self, batch_size: int, *key: Key, images: EpochImages) -> EpochPlan:
        generator = torch_generator(derive_seed(*key), "epoch")
        order = self.order(batch_size, generator, images)
        views = torch.randint(self._count, order.shape, generator=generator).to(self.device)
        return EpochPlan(self.values, (order, views))
