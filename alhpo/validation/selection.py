"""Which images of a pool were labelled, and the weights that a validation scheme gives them.

Nothing here depends on models that were fitted, so that a resumed run has the same weights; nor
should it: a model tells the images it was trained on from others whatever their selection.
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
from alhpo.data.dataset import ImageDataset
from alhpo.data.pool import Pool

#: Unlabelled images, at most, that the labelled ones are compared with.
REFERENCE_SIZE = 5000
#: Makes (L, D) and (U, D) features of labelled and of other images, both (N, H, W, C) uint8.
Features = Callable[[torch.Tensor, torch.Tensor], tuple[np.ndarray, np.ndarray]]


def validation_weights(
    scheme: ValidationScheme, dataset: ImageDataset, pool: Pool, seed: int, features: Features
) -> tuple[np.ndarray | None, str]:
    """The weights of the labelled images by the scheme, and what they are derived from.

    Args:
        scheme: one that does not weigh gives None and "".
        dataset: the images.
        pool: which of them are labelled.
        seed: names the random streams.
        features: what is said of images, where the scheme needs that.

    Returns:
        (L,) float64 in the order of labelling, and a hash of the selection.

    Raises:
        ConfigurationError: probabilities that are needed and not on record, or a scheme that needs
            what there is not or gives another number of weights.
    """
    if not isinstance(scheme, WeightingScheme):
        return None, ""
    needs = frozenset(scheme.needs)
    if illegal := needs - SELECTION_NEEDS:
        raise ConfigurationError(
            f"Validation scheme {scheme.name!r} needs {sorted(map(str, illegal))}. Legal: "
            f"{', '.join(sorted(SELECTION_NEEDS))}."
        )
    selection = Selection(len(dataset))
    basis: list[Any] = [selection.pool_size]
    if "probabilities" in needs:
        draws, probabilities = _draws(pool, scheme.name)
        selection = replace(selection, draws=draws, probabilities=probabilities)
        basis += [draws, probabilities]
    if "features" in needs:
        others = np.setdiff1d(np.arange(len(dataset)), pool.labeled)
        if len(others) > REFERENCE_SIZE:
            generator = numpy_generator(seed, "reference")
            others = np.sort(generator.choice(others, REFERENCE_SIZE, replace=False))
        reference = dataset.images[torch.from_numpy(others)]
        basis.append(reference)
        ours, theirs = features(dataset.images[torch.from_numpy(pool.labeled)], reference)
        selection = replace(selection, labeled_features=ours, unlabeled_features=theirs)
    weights = scheme.weights(selection, numpy_generator(seed, "weights", scheme.name))
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (len(pool),):
        raise ConfigurationError(
            f"Validation scheme {scheme.name!r} gave weights of shape {weights.shape} for "
            f"{len(pool)} labelled images; expected is one for each."
        )
    return weights, digest(*basis)


def _draws(pool: Pool, scheme: str) -> tuple[np.ndarray, np.ndarray]:
    """(L,) number and probability of the draw of each labelled image."""
    known, labeled = pool.draws, pool.labeled.tolist()
    missing = [index for index in labeled if known.get(index) is None]
    if missing:
        raise ConfigurationError(
            f"Validation by {scheme} needs the probability with which each labelled image was "
            f"drawn; {len(missing)} of {len(labeled)} have none on record. The strategies that "
            "draw with known probabilities are random, those that draw by a score, such as "
            "softrank:entropy (unless an image could not be drawn: power at a score of 0, or a "
            "large @BETA), and albl with random among its arms, without query_subset; after "
            "others, use weighted:SCHEME."
        )
    if len(known) > len(labeled):
        raise ConfigurationError(
            f"Validation by {scheme} needs the labels of all images that were drawn; "
            f"{len(known) - len(labeled)} are still waited for. Tell them first."
        )
    number = {index: draw for draw, index in enumerate(known, start=1)}
    draws = np.array([number[index] for index in labeled], dtype=np.int64)
    return draws, np.array([known[index] for index in labeled], dtype=np.float64)
