"""A network's predictions as a scikit-activeml classifier. This module needs that package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from skactiveml.base import SkactivemlClassifier


class PredictionLookup(SkactivemlClassifier):
    """Looks up the predictions of the rows it was made with; fitting changes nothing.

    Rows are found by their bytes. Rows with equal features get the prediction of the first, as in a
    network whose classifier sees only the features.

    Args:
        rows: the position of each row, by the bytes of its float64 features (``row_positions``).
        probabilities: (N, C) prediction for each position.
        classes: (C,) the classes.
        missing_label: how scikit-activeml marks what has no label.
        cost_matrix: of misclassification; None is 0-1.
        random_state: for ties of ``predict``.
    """

    def __init__(
        self,
        rows: Mapping[bytes, int] | None = None,
        probabilities: np.ndarray | None = None,
        classes: Any = None,
        missing_label: float = np.nan,
        cost_matrix: Any = None,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            classes=classes,
            missing_label=missing_label,
            cost_matrix=cost_matrix,
            random_state=random_state,
        )
        self.rows = rows
        self.probabilities = probabilities

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> PredictionLookup:
        """Set the classes; nothing else is fitted."""
        self._validate_data(X, y, sample_weight)
        return self

    def predict_proba(self, X: Any, **kwargs: Any) -> np.ndarray:
        """(n, C) predictions for rows that this was made with."""
        assert self.rows is not None
        assert self.probabilities is not None
        matrix = np.ascontiguousarray(X, dtype=np.float64)
        return self.probabilities[[self.rows[row.tobytes()] for row in matrix]]


def row_positions(features: np.ndarray) -> dict[bytes, int]:
    """The first position of each row of a float64 matrix, by its bytes."""
    positions: dict[bytes, int] = {}
    for position, row in enumerate(np.ascontiguousarray(features, dtype=np.float64)):
        positions.setdefault(row.tobytes(), position)
    return positions
