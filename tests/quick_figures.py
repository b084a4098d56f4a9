"""Reports without the seconds that their figures take, for tests of everything else in them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

#: A PNG of one white pixel.
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="
)


@contextmanager
def without_drawing() -> Iterator[None]:
    """Figures are made of the findings, but not rendered: each file is a picture of one pixel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FigureCanvasAgg, "print_png", lambda _, file, **settings: file.write(PIXEL))
        yield


@pytest.fixture
def undrawn() -> Iterator[None]:
    """``without_drawing`` for a whole test."""
    with without_drawing():
        yield
