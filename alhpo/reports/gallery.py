"""What each strategy of a study picked first, from the pictures that its runs left."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, PngImagePlugin

from alhpo.reports.results import StudyResults
from alhpo.runs.first_query import GAP

MOST_PIXELS = 96  # of a side of a picked image


@dataclass(frozen=True)
class Tile:
    """A picked image and the name of its class."""

    png: bytes
    name: str


@dataclass(frozen=True)
class Picks:
    """What one strategy picked first."""

    strategy: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class GalleryGroup:
    """What the strategies picked first under one setting of everything else."""

    title: str
    seed: int
    picks: tuple[Picks, ...]


def read_gallery(results: StudyResults) -> list[GalleryGroup]:
    """What each strategy picked first, in the runs of the first seed that have the picture."""
    rows = results.curves.drop_duplicates("cell")
    several = len(rows[["dataset", "model"]].drop_duplicates()) > 1
    seed: int | None = None
    groups: dict[str, list[Picks]] = {}
    for row in rows.to_dict("records"):
        tiles = tuple(_tiles(results, row["cell"])) if seed in (None, row["seed"]) else ()
        if tiles:
            seed = row["seed"]
            place = [row["dataset"], row["model"]] if several else []
            title = ", ".join(filter(None, [*place, row["setting"]]))
            groups.setdefault(title, []).append(Picks(row["strategy"], tiles))
    order = {name: i for i, name in enumerate(results.settings)}
    titles = sorted(groups, key=lambda title: order.get(title, 0))
    return [GalleryGroup(title, seed or 0, tuple(groups[title])) for title in titles]


def _tiles(results: StudyResults, cell: int) -> Iterator[Tile]:
    """The images in a run's ``first_query.png``; none where there is no such picture."""
    try:
        with Image.open(results.cells[cell].cell.path / "first_query.png") as strip:
            assert isinstance(strip, PngImagePlugin.PngImageFile)
            count = len(json.loads(strip.text["indices"]))
            names = json.loads(strip.text["classes"]) or [""] * count
            strip.load()
    except (OSError, KeyError, ValueError):  # not written yet, or not by us
        return
    width = (strip.width + GAP) // count - GAP
    for place, name in enumerate(names):
        left = place * (width + GAP)
        tile = strip.crop((left, 0, left + width, strip.height))
        tile.thumbnail((MOST_PIXELS, MOST_PIXELS))
        buffer = io.BytesIO()
        tile.save(buffer, format="PNG")
        yield Tile(buffer.getvalue(), name)
