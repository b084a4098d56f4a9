"""Helpers of schemes that split by class."""

from __future__ import annotations

import numpy as np

from alhpo.base.errors import ConfigurationError


def class_blocks(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(L,) positions of the labels, grouped by class, in random order within a class."""
    shuffled = generator.permutation(len(labels))
    return shuffled[np.argsort(np.asarray(labels)[shuffled], kind="stable")]


def need_labels(minimum: int, labels: np.ndarray, scheme: str) -> None:
    """Refuse fewer than ``minimum`` labels.

    Raises:
        ConfigurationError: there are fewer.
    """
    if len(labels) < minimum:
        raise ConfigurationError(
            f"Validation by {scheme} needs at least {minimum} labelled images, but there "
            f"are {len(labels)}. Label more first, or choose another scheme."
        )
