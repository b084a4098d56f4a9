"""Validation schemes: how the labelled images are split to judge a configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from alhpo.base.errors import ConfigurationError
from alhpo.base.protocols import Splits, ValidationScheme
from alhpo.base.types import Selection
from alhpo.validation.weights import density_ratio_weights, lure_weights


def _class_blocks(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Positions in random order within a class, the classes one after the other."""
    shuffled = generator.permutation(len(labels))
    return shuffled[np.argsort(np.asarray(labels)[shuffled], kind="stable")]


def _need(minimum: int, labels: np.ndarray, scheme: str) -> None:
    if len(labels) < minimum:
        raise ConfigurationError(
            f"Validation by {scheme} needs at least {minimum} labelled images, there are "
            f"{len(labels)}. Label more first, or choose another scheme."
        )


@dataclass(frozen=True)
class _HeldOut:
    """What hold-outs have in common: how many images are held out, and how often."""

    kind: ClassVar[str]
    fraction: float = 0.2
    repeats: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1 or self.repeats < 1:
            raise ConfigurationError(
                f"Hold-out of {self.fraction} x {self.repeats}: the fraction must lie in (0, 1) "
                f"and the number of repeats must be at least 1, as in '{self.kind}:0.2' or "
                f"'{self.kind}:0.1x3'."
            )

    @property
    def name(self) -> str:
        times = f"x{self.repeats}" if self.repeats > 1 else ""
        return f"{self.kind}:{self.fraction:g}{times}"

    def splits(self, labels: np.ndarray, generator: np.random.Generator) -> Splits:
        _need(2, labels, self.name)
        n = len(labels)
        n_validation = min(max(round(self.fraction * n), 1), n - 1)
        result = []
        for _ in range(self.repeats):
            held_out = np.zeros(n, dtype=bool)
            held_out[self._chosen(n_validation, labels, generator)] = True
            result.append((np.flatnonzero(~held_out), np.flatnonzero(held_out)))
        return result

    def _chosen(
        self, n_validation: int, labels: np.ndarray, generator: np.random.Generator
    ) -> np.ndarray:
        raise NotImplementedError


@dataclass(frozen=True)
class Holdout(_HeldOut):
    """Class-stratified hold-out: hold out a share of each class, as evenly as it goes.

    Classes with few labels may be missing on either side; nothing depends on them being there.

    Args:
        fraction: share held out, in (0, 1); at least one image, and one is always left to train.
        repeats: independent hold-outs, each with a model of its own.

    Raises:
        ConfigurationError: a fraction or number out of range.
    """

    kind = "holdout"

    def _chosen(
        self, n_validation: int, labels: np.ndarray, generator: np.random.Generator
    ) -> np.ndarray:
        blocks = _class_blocks(labels, generator)
        steps = (np.arange(n_validation) + generator.random()) * len(labels) / n_validation
        return blocks[steps.astype(int)]


@dataclass(frozen=True)
class RandomHoldout(_HeldOut):
    """Plain hold-out: a uniformly random share of the labels, whatever their classes.

    Arguments and errors are those of ``Holdout``.
    """

    kind = "random"

    def _chosen(
        self, n_validation: int, labels: np.ndarray, generator: np.random.Generator
    ) -> np.ndarray:
        return generator.permutation(len(labels))[:n_validation]


@dataclass(frozen=True)
class KFold:
    """k-fold cross-validation, each class dealt out to the folds as evenly as it goes.

    Args:
        k: number of folds, at least 2 and at most the number of labels.

    Raises:
        ConfigurationError: fewer than 2 folds.
    """

    k: int = 5

    def __post_init__(self) -> None:
        if self.k < 2:
            raise ConfigurationError(f"kfold:{self.k}: at least 2 folds are needed.")

    @property
    def name(self) -> str:
        return f"kfold:{self.k}"

    def splits(self, labels: np.ndarray, generator: np.random.Generator) -> Splits:
        _need(self.k, labels, self.name)
        fold = np.empty(len(labels), dtype=int)
        fold[_class_blocks(labels, generator)] = np.arange(len(labels)) % self.k
        return [(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(self.k)]


@dataclass(frozen=True)
class Weighted:
    """The splits of another scheme, with weights that make the labelled images look like the pool.

    The weights are those of ``weights.density_ratio_weights``.

    Args:
        scheme: the scheme that splits.
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

    The weights are those of ``weights.lure_weights``. Only strategies that draw by chance have
    probabilities: ``random``, ``albl`` with ``random`` among its arms, and those that draw by a
    score, such as ``softrank:entropy``.

    Args:
        scheme: the scheme that splits.
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


def get_validation(scheme: str | ValidationScheme) -> ValidationScheme:
    """A scheme from its text form, or itself.

    Args:
        scheme: ``"random:F"`` (a random hold-out of the fraction F), ``"random:FxR"`` (R of them),
            ``"holdout:F"``, ``"holdout:FxR"`` (the same, stratified by class), ``"kfold:K"``;
            ``"weighted:SCHEME"`` or ``"acquisition:SCHEME"``, which weigh the images of one of
            these; or an object that offers ``name`` and ``splits``.

    Raises:
        ConfigurationError: text of another form, or an object that is no scheme.
    """
    if not isinstance(scheme, str):
        if isinstance(scheme, type) or not isinstance(scheme, ValidationScheme):
            raise ConfigurationError(
                f"Validation scheme {scheme!r} has no name and splits(labels, generator). Give an "
                "object that has both, or text such as 'holdout:0.2'."
            )
        return scheme
    if match := re.fullmatch(r"(holdout|random):([0-9.eE+-]+)(?:x(\d+))?", scheme):
        try:
            fraction = float(match[2])
        except ValueError:
            fraction = -1.0
        kind = Holdout if match[1] == "holdout" else RandomHoldout
        return kind(fraction, int(match[3] or 1))
    if match := re.fullmatch(r"kfold:(\d+)", scheme):
        return KFold(int(match[1]))
    prefix, _, rest = scheme.partition(":")
    if prefix in _WEIGHTED and rest.partition(":")[0] not in _WEIGHTED:
        return _WEIGHTED[prefix](get_validation(rest))
    raise ConfigurationError(
        f"Unknown validation scheme {scheme!r}. Legal: random:F, random:FxR, holdout:F, "
        "holdout:FxR, kfold:K, such as random:0.1x3, holdout:0.2, kfold:5; and each of them with "
        "weights, such as weighted:kfold:5 or acquisition:random:0.1x3."
    )


_WEIGHTED = {"weighted": Weighted, "acquisition": AcquisitionWeighted}
