"""scikit-learn's digits: 1,797 grey images of 8 x 8, no download."""

from __future__ import annotations

from typing import Any

import numpy as np

from alhpo.data.lazy import LazyImages
from alhpo.data.sources.registry import register_data_source
from alhpo.data.sources.source import SourceData, SourceOptions


@register_data_source("digits")
def digits(options: SourceOptions) -> SourceData:
    """All digits as the pool. They are never flipped: a mirrored digit is not a digit."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)
    classes = [str(i) for i in range(10)]
    return SourceData(
        LazyImages.of_arrays("digits", images, data.target, classes), augmentation="crop"
    )
