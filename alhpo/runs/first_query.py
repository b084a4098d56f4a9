"""The picture of the first images that a run's strategy picked, for people to look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, PngImagePlugin

from alhpo.base.files import atomic_path
from alhpo.data.dataset import ImageDataset

#: Images of a query that are kept as a picture, and the white columns between them.
PICTURED, GAP = 16, 2


def write_picture(file: Path, dataset: ImageDataset, indices: Sequence[int]) -> None:
    """Write images of the pool side by side, at their own size, as a PNG.

    Its texts "indices" and "classes" are JSON lists: the images' places in the pool and the names
    of their classes (empty without labels).
    """
    rows = torch.tensor(list(indices))
    images = dataset.images[rows]
    white = images.new_full((images.shape[1], GAP, images.shape[3]), 255)
    strip = torch.cat([part for image in images for part in (white, image)][1:], dim=1)
    labels = [] if dataset.labels is None else dataset.labels[rows].tolist()
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("indices", json.dumps(rows.tolist()))
    texts.add_itxt("classes", json.dumps([dataset.classes[label] for label in labels]))
    picture = Image.fromarray((strip.squeeze(2) if strip.shape[2] == 1 else strip).numpy())
    with atomic_path(file) as temporary:
        picture.save(temporary, format="PNG", pnginfo=texts)
