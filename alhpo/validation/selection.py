"""The labelled images of a pool, and the weights that a validation scheme gives them.

Nothing here depends on fitted models: a resumed run has the same weights. A fitted model would also
be wrong, because it tells its training images from others, however they were selected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from alhpo.base.digests import digest
from alhpo.base.errors import ConfigurationError
from alhpo.base.protocols import SELECTION_NEEDS, ValidationScheme, WeightingScheme
from alhpo.base.seeding import numpy_generator
from alhpo.base.types import Selection
from alhpo.data.batches import Rows
from alhpo.data.pool import Pool

#: The largest number of unlabelled images that the labelled ones are compared with.
REFERENCE_SIZE = 5000
#: From rows of labelled and of other images to their (L, D) and (U, D) features.
Features = Callable[[torch.Tensor, torch.Tensor], tuple[np.ndarray, np.ndarray]]


def validation_weights(
    scheme: ValidationScheme, rows: Rows, pool: Pool, seed: int, features: Features
) -> tuple[np.ndarray | None, str]:
    """The weights that a scheme gives to the labelled images.

    Args:
        scheme: the scheme.
        rows: (N, ...), images of the pool, or features of them.
        pool: the labels of the images.
        seed: names the random streams.
        features: computes features of rows, if the scheme needs them.

    Returns:
        (L,) float64 weights in the order of labelling, and a hash of the selection that they are
        derived from; (None, "") if the scheme has no weights.

    Raises:
        ConfigurationError: the scheme needs probabilities that are not on record or fields that do
            not exist, or does not return (L,) weights.
    """
    if not isinstance(scheme, WeightingScheme):
        return None, ""
    needs = frozenset(scheme.needs)
    if illegal := needs - SELECTION_NEEDS:
        raise ConfigurationError(
            f"Validation scheme {scheme.name!r} needs {sorted(map(str, illegal))}, which no "
            f"selection has. Legal: {', '.join(sorted(SELECTION_NEEDS))}."
        )
    selection = Selection(len(rows))
    basis: list[Any] = [selection.pool_size]
    if "probabilities" in needs:
        draws, probabilities = _draws(pool, scheme.name)
        selection = replace(selection, draws=draws, probabilities=probabilities)
        basis += [draws, probabilities]
    if "features" in needs:
        others = np.setdiff1d(np.arange(len(rows)), pool.labeled)
        if len(others) > REFERENCE_SIZE:
            generator = numpy_generator(seed, "reference")
            others = np.sort(generator.choice(others, REFERENCE_SIZE, replace=False))
        reference = rows[torch.from_numpy(others)]
        basis.append(reference)
        ours, theirs = features(rows[torch.from_numpy(pool.labeled)], reference)
        selection = replace(selection, labeled_features=ours, unlabeled_features=theirs)
    weights = scheme.weights(selection, numpy_generator(seed, "weights", scheme.name))
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (len(pool),):
        raise ConfigurationError(
            f"Validation scheme {scheme.name!r} gave weights of shape {weights.shape} for "
            f"{len(pool)} labelled images; expected one for each."
        )
    return weights, digest(*basis)


def _draws(pool: Pool, scheme: str) -> tuple[np.ndarray, np.ndarray]:
    """(L,) draw number, from 1, and (L,) probability at the draw of each labelled image."""
    known, labeled = pool.draws, pool.labeled.tolist()
    missing = [index for index in labeled if known.get(index) is None]
    if missing:
        raise ConfigurationError(
            f"Validation by {scheme} needs the probability with which each labelled image was "
            f"drawn; {len(missing)} of {len(labeled)} have none on record. Strategies with known "
            "probabilities are random; those that draw by a score, such as softrank:entropy "
            "(unless an image could not be drawn: power at a score of 0, or a large @BETA); and "
            "albl with random among its arms, without query_subset. After other strategies, use "
            "weighted:SCHEME."
        )
    if len(known) > len(labeled):
        raise ConfigurationError(
            f"Validation by {scheme} needs the labels of all images that were drawn; "
            f"{len(known) - len(labeled)} are still waited for. Tell them first."
        )
    number = {index: draw for draw, index in enumerate(known, start=1)}
    draws = np.array([number[index] for index in labeled], dtype=np.int64)
    return draws, np.array([known[index] for index in labeled], dtype=np.float64)
