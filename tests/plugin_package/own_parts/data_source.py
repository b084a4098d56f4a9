"""Stripes: noisy 8 x 8 images whose class is the direction of their stripes."""

import numpy as np

from alhpo.data.lazy import LazyImages
from alhpo.data.sources import SourceData, SourceOptions, register_data_source


@register_data_source("stripes")
def stripes(options: SourceOptions) -> SourceData:
    """200 images, of which alhpo holds out a share for evaluation."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 200)
    across = np.broadcast_to((np.arange(8) % 2 * 120)[:, None], (8, 8))
    images = np.where(labels[:, None, None], across, across.T)
    images = (images + generator.integers(0, 100, images.shape)).astype(np.uint8)
    pool = LazyImages.of_arrays("stripes", images, labels, ["down", "across"])
    return SourceData(pool, augmentation="none")
