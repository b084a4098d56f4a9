"""Given weights: of a file or an installed source, read and put into a timm model."""

from alhpo.models.weights.fit import classifier_tensors, put_into
from alhpo.models.weights.given import Weights, read_weights, weights_identity
from alhpo.models.weights.registry import (
    register_weights,
    weights_names,
)
from alhpo.models.weights.source import WeightsSource

__all__ = [
    "Weights",
    "WeightsSource",
    "classifier_tensors",
    "put_into",
    "read_weights",
    "register_weights",
    "weights_identity",
    "weights_names",
]
