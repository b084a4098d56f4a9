"""Fixed views of images: the image itself, and variations of it that augmentation makes once."""

from __future__ import annotations

import torch

from alhpo.base.seeding import derive_seed
from alhpo.data.batches import DeviceImages, turns_of
from alhpo.data.pixels import pixel_identity


class ImageViews:
    """V views of each of N images.

    View 0 is the image. With flips, views of odd number are mirrored; with crops, all but view 0
    are zero-padded by 1/8 of the size and cropped at random; with rotations, all but view 0 are
    rotated at random. A view is a function of the image's
    pixels and the number of the view, so that what was computed from it holds for every data set
    and seed.

    Args:
        images: the N images, all ``values`` of them.
        augmentation: as of ``DeviceImages.plan``.
        count: the number of views, at least 1. Views that would be the same are left out: without
            augmentation there is one, with flips alone there are two.

    Attributes:
        augmentation: as given.
        count: V.
    """

    def __init__(self, images: DeviceImages, augmentation: str, count: int) -> None:
        self._crop, self._flip = "crop" in augmentation, "flip" in augmentation
        rotate = "rotate" in augmentation
        self.count = count if self._crop or rotate else min(count, 1 + self._flip)
        self._images = images
        self.augmentation = augmentation
        pixels = images.values.cpu().numpy()
        self._identities = [pixel_identity(one) for one in pixels]
        height, width = pixels.shape[1:3]
        device = images.device
        self._pad = max(height // 8, 1) if self._crop and self.count > 1 else 0
        self._axes = torch.arange(height, device=device), torch.arange(width, device=device)
        offsets = torch.full((len(pixels), self.count, 2), self._pad)
        for row, identity in enumerate(self._identities if self._pad else ()):
            for view in range(1, self.count):
                drawn, places = derive_seed("view", identity, view), 2 * self._pad + 1
                offsets[row, view, 0] = drawn % places
                offsets[row, view, 1] = drawn // places % places
        shares = torch.full((len(pixels), self.count), 0.5)
        for row, identity in enumerate(self._identities if rotate else ()):
            for view in range(1, self.count):
                shares[row, view] = derive_seed("turn of view", identity, view) % 2**20 / 2**20
        #: (N, V, 2) cosine and sine of the angle of a view.
        self._turns = turns_of(shares).to(device) if rotate and self.count > 1 else None
        #: (N, V, 2) rows and columns by which the window of a view is moved.
        self._offsets = offsets.to(device)

    def __len__(self) -> int:
        """N, the number of images."""
        return len(self._identities)

    def identities(self) -> list[str]:
        """N·V identities of the views, image after image."""
        return [
            f"{identity} {self.augmentation} {view}" if view else identity
            for identity in self._identities
            for view in range(self.count)
        ]

    def batch(self, rows: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) float32 model input of views of images that have labels.

        Args:
            rows: (B,) int64 rows of ``images.values``, on the device.
            views: (B,) int64 numbers of views, on the device.
        """
        images = self._images
        if self.count == 1:
            return images.batch(images.values, rows)[0]
        offsets = self._offsets[rows, views]
        down, across = self._axes
        if self._flip:
            mirrored = (views % 2 == 1)[:, None]
            across = torch.where(mirrored, across.flip(0), across)
        axes = down + offsets[:, :1], across + offsets[:, 1:]
        turns = None if self._turns is None else self._turns[rows, views]
        return images.batch(images.padded(self._pad), rows, *axes, turns)[0]
