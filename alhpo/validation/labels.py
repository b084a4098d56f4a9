"""What schemes that split by class ask of the labels."""

from __future__ import annotations

import numpy as np

from alhpo.base.errors import ConfigurationError


def class_blocks(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(L,) positions in random order within a class, the classes one after the other."""
    shuffled = generator.permutation(len(labels))
    return shuffled[np.argsort(np.asarray(labels)[shuffled], kind="stable")]


def need_labels(minimum: int, labels: np.ndarray, scheme: str) -> None:
    """Refuse fewer labels than a scheme can split.

    Raises:
        ConfigurationError: there are fewer.
    """
    if len(labels) < minimum:
        raise ConfigurationError(
            f"Validation by {scheme} needs at least {minimum} labelled images, there are "
            f"{len(labels)}. Label more first, or choose another scheme."
        )
