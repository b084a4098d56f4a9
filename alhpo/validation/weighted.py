"""Schemes that add weights to another scheme, against the bias of the selection of labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alhpo.base.errors import ConfigurationError
from alhpo.base.protocols import Splits, ValidationScheme, WeightingScheme
from alhpo.base.types import Selection
from alhpo.validation.registry import get_validation, register_validation_scheme_family
from alhpo.validation.weights import density_ratio_weights, lure_weights


@dataclass(frozen=True)
class Weighted:
    """The splits of another scheme, with weights that make the labelled images look like the pool.

    The weights are those of ``weights.density_ratio_weights``.

    Args:
        scheme: the scheme that makes the splits.
    """

    scheme: ValidationScheme
    needs = frozenset({"features"})

    @property
    def name(self) -> str:
        return f"weighted:{self.scheme.name}"

    def splits(self, labels: np.ndarray, generator: np.random.Generator) -> Splits:
        return self.scheme.splits(labels, generator)

    def weights(self, selection: Selection, generator: np.random.Generator) -> np.ndarray:
        assert selection.labeled_features is not None
        assert selection.unlabeled_features is not None
        return density_ratio_weights(
            selection.labeled_features,
            selection.unlabeled_features,
            selection.pool_size,
            generator,
        )


@dataclass(frozen=True)
class AcquisitionWeighted:
    """The splits of another scheme, with weights from the probabilities of the draws.

    The weights are those of ``weights.lure_weights``. Only strategies that draw at random have
    probabilities: ``random``, ``albl`` with ``random`` among its arms, and those that draw by a
    score, such as ``softrank:entropy``.

    Args:
        scheme: the scheme that makes the splits.
    """

    scheme: ValidationScheme
    needs = frozenset({"probabilities"})

    @property
    def name(self) -> str:
        return f"acquisition:{self.scheme.name}"

    def splits(self, labels: np.ndarray, generator: np.random.Generator) -> Splits:
        return self.scheme.splits(labels, generator)

    def weights(self, selection: Selection, generator: np.random.Generator) -> np.ndarray:
        assert selection.draws is not None
        assert selection.probabilities is not None
        return lure_weights(selection.draws, selection.probabilities, selection.pool_size)


def unweighted(scheme: ValidationScheme) -> ValidationScheme:
    """The scheme that makes the splits, without the weights of ``weighted`` or ``acquisition``."""
    return scheme.scheme if isinstance(scheme, Weighted | AcquisitionWeighted) else scheme


def _unweighted(prefix: str, text: str) -> ValidationScheme:
    """The scheme of this name, which must not have weights itself."""
    scheme = get_validation(text)
    if isinstance(scheme, WeightingScheme):
        raise ConfigurationError(
            f"Validation scheme '{prefix}:{text}' weighs twice: {text} has weights already. Give a "
            f"scheme without weights, as in '{prefix}:kfold:5' or '{prefix}:holdout:0.2'."
        )
    return scheme


def _weighted(text: str) -> Weighted:
    return Weighted(_unweighted("weighted", text))


def _acquisition(text: str) -> AcquisitionWeighted:
    return AcquisitionWeighted(_unweighted("acquisition", text))


register_validation_scheme_family("weighted", _weighted, "SCHEME")
register_validation_scheme_family("acquisition", _acquisition, "SCHEME")
