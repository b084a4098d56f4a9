"""The conformance suite for validation schemes."""

from __future__ import annotations

import numpy as np

from alhpo.base.errors import ConfigurationError
from alhpo.base.protocols import SELECTION_NEEDS, Splits, ValidationScheme, WeightingScheme
from alhpo.base.types import Selection
from alhpo.testing.process_state import global_seed, process_left_alone, require

#: Labels by description. Schemes may refuse small sets with a ConfigurationError.
_ORDINARY = {
    "200 labels of 5 classes": np.arange(200) % 5,
    "200 labels, one class missing": np.array([0, 1, 2, 4])[np.arange(200) % 4],
    "200 labels, one class with a single one": np.where(np.arange(200) == 17, 3, 0),
    "200 labels of a single class": np.zeros(200, dtype=np.int64),
}
_SCARCE = {
    "one label per class": np.arange(10)[::-1].copy(),
    "two labels": np.array([1, 0]),
    "two labels of one class": np.array([4, 4]),
}
_IMPOSSIBLE = {
    "one label": np.array([0]),
    "no labels": np.array([], dtype=np.int64),
}


def check_validation_scheme(scheme: ValidationScheme) -> None:
    """Check that a scheme splits the labels reproducibly and without side effects.

    The labels include missing, rare and single classes. Every split has a non-empty training and
    validation part, without common, repeated or illegal positions. The same generator state gives
    the same splits, with any global seed. Labels and process do not change. A scheme may refuse few
    labels with a ``ConfigurationError``; it must refuse fewer than two.

    For a scheme with weights (``WeightingScheme``): it uses only the fields in its ``needs``. There
    is one finite weight for each labelled image, none negative and not all 0. The same generator
    state gives the same weights. The selection does not change.

    Raises:
        AssertionError: the message is the broken rule and the labels on which it was broken.
    """
    name = scheme.name
    require(isinstance(name, str) and bool(name), f"name must be text, not {name!r}.")
    require(scheme.name == name, f"{name}: the name changes from one reading to the next.")
    for case, labels in (_ORDINARY | _SCARCE | _IMPOSSIBLE).items():
        where = f"Validation scheme {name!r} with {case}"
        try:
            splits = _splits(scheme, labels, where)
        except ConfigurationError as error:
            require(case not in _ORDINARY, f"{where}: refused with {error}")
            continue
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(
                f"{where}: raised {error!r}; what cannot be split is refused with a "
                "ConfigurationError."
            ) from error
        require(case not in _IMPOSSIBLE, f"{where}: must be refused with a ConfigurationError.")
        require(len(splits) > 0, f"{where}: no split at all.")
        for number, split in enumerate(splits):
            _check_split(split, len(labels), f"{where}, split {number}")
    if hasattr(scheme, "weights") or hasattr(scheme, "needs"):
        _check_weights(scheme)


def _check_weights(scheme: ValidationScheme) -> None:
    where = f"Validation scheme {scheme.name!r}"
    offers = isinstance(scheme, WeightingScheme)
    require(offers, f"{where}: a scheme with weights offers needs and weights, both of them.")
    assert isinstance(scheme, WeightingScheme)
    needs = frozenset(scheme.needs)
    legal = ", ".join(sorted(SELECTION_NEEDS))
    require(needs <= SELECTION_NEEDS, f"{where}: needs {sorted(needs)}; legal: {legal}.")
    for n, others in ((40, 60), (40, 1), (2, 60), (40, 0)):
        case = f"{where} with {n} labelled of {n + others} images"
        first, selection = _selection(n, others, needs), _selection(n, others, needs)
        with process_left_alone(case):
            weights = scheme.weights(first, np.random.default_rng(5))
        for name, value in vars(selection).items():
            same = np.array_equal(getattr(first, name), value)
            require(same, f"{case}: changed the selection it was given ({name}).")
        fits = isinstance(weights, np.ndarray) and weights.shape == (n,)
        require(fits, f"{case}: weights must be an array of ({n},), not {weights!r}.")
        usable = bool(np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0)
        require(usable, f"{case}: weights are negative, not finite, or all 0: {weights}.")
        for seed in (1, 2):
            with global_seed(seed):
                again = scheme.weights(selection, np.random.default_rng(5))
            same = np.array_equal(weights, again)
            require(same, f"{case}: the same generator state gave different weights.")


def _selection(n: int, others: int, needs: frozenset[str]) -> Selection:
    """``n`` labelled images out of ``n + others``, with what is needed and nothing else."""
    generator = np.random.default_rng(7)
    found: dict[str, np.ndarray] = {}
    if "features" in needs:
        values = generator.normal(size=(n + others, 6)).astype(np.float32)
        found = {"labeled_features": values[:n] + 1, "unlabeled_features": values[n:]}
    if "probabilities" in needs:
        draws = generator.permutation(n) + 1
        uniform = 1 / (n + others - draws + 1)
        # a single image left is drawn with probability 1
        told = np.where(uniform < 1, uniform * generator.uniform(0.1, 1, n), 1)
        found |= {"draws": draws, "probabilities": told}
    return Selection(n + others, **found)


def _splits(scheme: ValidationScheme, labels: np.ndarray, where: str) -> Splits:
    given = labels.copy()
    with process_left_alone(where):
        first = scheme.splits(given, np.random.default_rng(5))
    require(np.array_equal(given, labels), f"{where}: changed the labels it was given.")
    for seed in (1, 2):
        with global_seed(seed):
            again = scheme.splits(given, np.random.default_rng(5))
        same = len(first) == len(again) and all(
            np.array_equal(a, b)
            for one, other in zip(first, again, strict=True)
            for a, b in zip(one, other, strict=True)
        )
        require(same, f"{where}: the same generator state gave different splits.")
    return first


def _check_split(split: tuple[np.ndarray, np.ndarray], n: int, where: str) -> None:
    require(len(split) == 2, f"{where}: must be a pair (training, validation), not {split!r}.")
    for part, positions in zip(("training", "validation"), split, strict=True):
        fits = (
            isinstance(positions, np.ndarray)
            and positions.ndim == 1
            and np.issubdtype(positions.dtype, np.integer)
        )
        require(fits, f"{where}: {part} positions must be a 1-D array of integers: {positions!r}.")
        require(len(positions) > 0, f"{where}: the {part} part is empty.")
        in_range = bool(((positions >= 0) & (positions < n)).all())
        require(in_range, f"{where}: {part} positions outside 0 to {n - 1}: {positions}.")
        distinct = len(np.unique(positions)) == len(positions)
        require(distinct, f"{where}: {part} positions repeat: {positions}.")
    common = np.intersect1d(*split)
    require(len(common) == 0, f"{where}: positions {common} are in both parts.")
