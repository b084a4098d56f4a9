"""The scale on which metrics are compared and predicted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scale:
    """The scale asinh((metric - centre) / unit) / spread: linear near the centre, logarithmic far
    from it, so that small differences near the centre and large ones far away both count."""

    centre: float
    unit: float
    spread: float

    @classmethod
    def of(cls, metrics: np.ndarray) -> Scale:
        """The scale of some metrics: centre is their median, unit their median absolute deviation,
        spread the standard deviation of the result."""
        centre = float(np.median(metrics))
        deviations = np.abs(metrics - centre)
        least = deviations.max() / np.finfo(float).max  # below it, the largest overflows
        units = float(np.median(deviations)), float(deviations.mean()), 1.0
        unit = next(unit for unit in units if unit > least)
        spread = float(np.arcsinh((metrics - centre) / unit).std()) or 1.0
        return cls(centre, unit, spread)

    def apply(self, metrics: np.ndarray) -> np.ndarray:
        return np.arcsinh((metrics - self.centre) / self.unit) / self.spread

    def undo(self, values: np.ndarray) -> np.ndarray:
        return self.centre + self.unit * np.sinh(values * self.spread)
