"""Validation schemes: how the labelled images are split to judge a configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from alhpo.protocols import Splits, ValidationScheme
from alhpo.types import ConfigurationError


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
class Holdout:
    """Hold out a share of the labels, once or several times, each class as evenly as it goes.

    Classes with few labels may be missing on either side; nothing depends on them being there.

    Args:
        fraction: share held out, in (0, 1); at least one image, and one is always left to train.
        repeats: independent hold-outs, each with a model of its own.

    Raises:
        ConfigurationError: a fraction or number out of range.
    """

    fraction: float = 0.2
    repeats: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1 or self.repeats < 1:
            raise ConfigurationError(
                f"Hold-out of {self.fraction} x {self.repeats}: the fraction must lie in (0, 1) "
                "and the number of repeats must be at least 1, as in 'holdout:0.2' or "
                "'holdout:0.1x3'."
            )

    @property
    def name(self) -> str:
        times = f"x{self.repeats}" if self.repeats > 1 else ""
        return f"holdout:{self.fraction:g}{times}"

    def splits(self, labels: np.ndarray, generator: np.random.Generator) -> Splits:
        _need(2, labels, self.name)
        n = len(labels)
        n_validation = min(max(round(self.fraction * n), 1), n - 1)
        result = []
        for _ in range(self.repeats):
            blocks = _class_blocks(labels, generator)
            steps = (np.arange(n_validation) + generator.random()) * n / n_validation
            held_out = np.zeros(n, dtype=bool)
            held_out[blocks[steps.astype(int)]] = True
            result.append((np.flatnonzero(~held_out), np.flatnonzero(held_out)))
        return result


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


def get_validation(scheme: str | ValidationScheme) -> ValidationScheme:
    """A scheme from its text form, or itself.

    Args:
        scheme: ``"holdout:F"``, ``"holdout:FxR"`` (R hold-outs of the fraction F), ``"kfold:K"``,
            or an object that offers ``name`` and ``splits``.

    Raises:
        ConfigurationError: text of another form.
    """
    if not isinstance(scheme, str):
        return scheme
    if match := re.fullmatch(r"holdout:([0-9.eE+-]+)(?:x(\d+))?", scheme):
        try:
            fraction = float(match[1])
        except ValueError:
            fraction = -1.0
        return Holdout(fraction, int(match[2] or 1))
    if match := re.fullmatch(r"kfold:(\d+)", scheme):
        return KFold(int(match[1]))
    raise ConfigurationError(
        f"Unknown validation scheme {scheme!r}. Legal: holdout:F, holdout:FxR, kfold:K, "
        "such as holdout:0.2, holdout:0.1x3, kfold:5."
    )
