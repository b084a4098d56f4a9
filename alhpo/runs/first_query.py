"""A picture of the first images that a run's strategy picked.

An observer of the run draws it; reports read it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, PngImagePlugin

from alhpo.base.files import atomic_path
from alhpo.base.types import CycleRecord
from alhpo.data.dataset import ImageDataset
from alhpo.data.file_images import FileImages
from alhpo.runs.observer import Observer
from alhpo.runs.records import read_records

#: Images of a query that are kept as a picture, and the white columns between them.
PICTURED, GAP = 16, 2
#: Largest side in pixels of images that are decoded for the picture.
MOST_PIXELS = 224
FILE = "first_query.png"


class FirstQuery(Observer):
    """An observer that draws the picture into the run's folder after the first query.

    No run depends on the picture: if it cannot be drawn, that is a warning.
    """

    def __init__(self, path: Path, dataset: ImageDataset) -> None:
        self._path = path
        self._dataset = dataset

    def started(self, config: Any, path: Path, records: int, cycles: int) -> None:
        if records:  # a kill may have come before the picture
            self.recorded(read_records(self._path / "cycles.jsonl")[0])

    def recorded(self, record: CycleRecord) -> None:
        file = self._path / FILE
        if record.cycle > 0 or not record.queried or file.exists():
            return
        try:
            write_picture(file, self._dataset, record.queried[:PICTURED])
        except Exception as error:
            warnings.warn(
                f"The picture of the first query cannot be drawn: {error!r}.", stacklevel=2
            )


def write_picture(file: Path, dataset: ImageDataset, indices: Sequence[int]) -> None:
    """Write images of the pool side by side as a PNG, at their own size; image files that are not
    decoded yet are made smaller.

    Its texts "indices" and "classes" are JSON lists: the images' places in the pool and the names
    of their classes (empty without labels).
    """
    rows = torch.tensor(list(indices))
    pool = dataset.images
    if isinstance(pool, FileImages) and max(dataset.image_size) > MOST_PIXELS:
        scale = MOST_PIXELS / max(dataset.image_size)
        height, width = (max(round(scale * side), 1) for side in dataset.image_size)
        pool = pool.at(height, width)
    images = pool[rows]
    white = images.new_full((images.shape[1], GAP, images.shape[3]), 255)
    strip = torch.cat([part for image in images for part in (white, image)][1:], dim=1)
    labels = [] if dataset.labels is None else dataset.labels[rows].tolist()
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("indices", json.dumps(rows.tolist()))
    texts.add_itxt("classes", json.dumps([dataset.classes[label] for label in labels]))
    picture = Image.fromarray((strip.squeeze(2) if strip.shape[2] == 1 else strip).numpy())
    with atomic_path(file) as temporary:
        picture.save(temporary, format="PNG", pnginfo=texts)


def read_picture(file: Path) -> list[tuple[Image.Image, str]]:
    """The images of a picture in their order, each with the name of its class ("" without).

    Empty if there is no picture or it is not one of alhpo.
    """
    try:
        with Image.open(file) as strip:
            assert isinstance(strip, PngImagePlugin.PngImageFile)
            count = len(json.loads(strip.text["indices"]))
            names = json.loads(strip.text["classes"]) or [""] * count
            strip.load()
            width = (strip.width + GAP) // count
            lefts = range(0, count * width, width)
            images = [strip.crop((left, 0, left + width - GAP, strip.height)) for left in lefts]
    except (OSError, KeyError, ValueError, ZeroDivisionError):
        return []
    return list(zip(images, names, strict=False))
