"""The first images that each strategy picked, from the pictures in run folders."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

from alhpo.reports.findings import Findings
from alhpo.runs.first_query import FILE, read_picture

MOST_PIXELS = 96  # largest side of a picked image


@dataclass(frozen=True)
class Tile:
    """A picked image and the name of its class."""

    png: bytes
    name: str


@dataclass(frozen=True)
class Picks:
    """The first images that a strategy picked."""

    strategy: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class GalleryGroup:
    """The first picks of all strategies under one setting."""

    title: str
    seed: int
    picks: tuple[Picks, ...]


def read_gallery(findings: Findings) -> list[GalleryGroup]:
    """The first picks of every strategy, from the first seed with pictures."""
    rows = findings.curves.drop_duplicates("cell")
    several = len(rows[["dataset", "model"]].drop_duplicates()) > 1
    seed: int | None = None
    groups: dict[str, list[Picks]] = {}
    for row in rows.to_dict("records"):
        tiles = tuple(_tiles(findings, row["cell"])) if seed in (None, row["seed"]) else ()
        if tiles:
            seed = row["seed"]
            place = [row["dataset"], row["model"]] if several else []
            title = ", ".join(filter(None, [*place, row["setting"]]))
            groups.setdefault(title, []).append(Picks(row["strategy"], tiles))
    order = {name: i for i, name in enumerate(findings.settings)}
    titles = sorted(groups, key=lambda title: order.get(title, 0))
    return [GalleryGroup(title, seed or 0, tuple(groups[title])) for title in titles]


def _tiles(findings: Findings, cell: int) -> Iterator[Tile]:
    for image, name in read_picture(findings.cells[cell].cell.path / FILE):
        image.thumbnail((MOST_PIXELS, MOST_PIXELS))
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        yield Tile(buffer.getvalue(), name)
