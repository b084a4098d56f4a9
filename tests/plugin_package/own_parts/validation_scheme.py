"""Every k-th label, in the order of labelling, judges: ``every-kth:K``."""

import numpy as np

from alhpo.base.errors import ConfigurationError
from alhpo.validation import register_validation_scheme_family


class EveryKth:
    """Every k-th label is held out."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.name = f"every-kth:{k}"

    def splits(
        self, labels: np.ndarray, generator: np.random.Generator
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        if len(labels) < 2:
            raise ConfigurationError(f"{self.name} needs at least 2 labels.")
        held_out = np.arange(len(labels)) % self.k == 0
        return [(np.flatnonzero(~held_out), np.flatnonzero(held_out))]


def every_kth(text: str) -> EveryKth:
    """The scheme from what follows the colon of its name."""
    if not text.isdecimal() or int(text) < 2:
        raise ConfigurationError(f"every-kth:{text}: expected a number from 2, as every-kth:4.")
    return EveryKth(int(text))


register_validation_scheme_family("every-kth", every_kth, "K")
