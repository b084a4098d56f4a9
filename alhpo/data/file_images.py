"""Image files that are decoded when somebody asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from alhpo.base.errors import DataError
from alhpo.base.plain import counted
from alhpo.data.decoding import Shape, need_memory
from alhpo.data.notes import listed
from alhpo.data.workers import decode_files


@dataclass(frozen=True)
class FileImages:
    """Image files as (N, H, W, C) uint8 rows (see ``batches.Rows``), which are not kept.

    An index (a number, a slice, or (M,) int64) decodes those files, each once.

    Attributes:
        where: what they are called in messages.
        image_shape: (height, width, channels) of a decoded image.
        asked_size: whether somebody asked for this size.
        paths: the N files.
        identities: SHA-256 of each.
    """

    where: str
    image_shape: Shape
    asked_size: bool
    paths: Sequence[str] = field(repr=False)
    identities: Sequence[str] = field(repr=False)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.paths), *self.image_shape

    def __len__(self) -> int:
        return len(self.paths)

    def at(self, height: int, width: int) -> FileImages:
        """The files decoded to a size in pixels: scaled to cover it, and cropped to its centre.
        Images whose size somebody asked for keep it."""
        if self.asked_size:
            return self
        return replace(self, image_shape=(height, width, self.image_shape[2]))

    def __getitem__(self, index: Any, /) -> torch.Tensor:
        """
        Raises:
            DataError: a file is gone, damaged or changed, or the images do not fit into the free
                memory.
        """
        chosen = index.cpu().numpy() if isinstance(index, torch.Tensor) else index
        rows = np.arange(len(self))[chosen]
        different, place = np.unique(rows, return_inverse=True)
        if rows.ndim == 0 or len(different) < rows.size:
            return self._decoded(different)[torch.from_numpy(place.reshape(rows.shape))]
        return self._decoded(rows)

    def _decoded(self, rows: np.ndarray) -> torch.Tensor:
        need_memory(
            self.where,
            len(rows),
            self.image_shape,
            "asked for at once",
            "Ask for fewer (for a query: query_subset), or choose a smaller image_size.",
        )
        pixels = np.empty((len(rows), *self.image_shape), dtype=np.uint8)
        paths = [self.paths[int(row)] for row in rows]
        reasons = decode_files(paths, [self.identities[int(row)] for row in rows], pixels)
        bad = [(path, reason) for path, reason in zip(paths, reasons, strict=True) if reason]
        if bad:
            raise DataError(
                f"{counted(len(bad), 'file')} of {self.where} cannot be decoded:{listed(bad)}\n"
                "Restore or replace each, or remove it from the data set; then run again."
            )
        return torch.from_numpy(pixels)
