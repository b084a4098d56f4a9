"""Reports without the seconds that their figures take, for tests of everything else in them."""

from __future__ import annotations

import base64

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

#: A PNG of one white pixel.
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="
)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made of the findings, but not rendered: each file is a picture of one pixel."""
    monkeypatch.setattr(FigureCanvasAgg, "print_png", lambda _, file, **settings: file.write(PIXEL))
