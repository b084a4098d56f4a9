"""Hold-outs: a share of the labels judges, drawn at random or stratified by class."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from alhpo.base.errors import ConfigurationError
from alhpo.base.protocols import Splits
from alhpo.validation.labels import class_blocks, need_labels
from alhpo.validation.registry import register_validation_scheme_family


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

    @classmethod
    def from_text(cls, text: str) -> Self:
        """A scheme from ``"F"`` or ``"FxR"``.

        Raises:
            ConfigurationError: text of another form, or a number out of range.
        """
        match = re.fullmatch(r"([0-9.eE+-]+)(?:x(\d+))?", text)
        try:
            fraction = float(match[1]) if match else None
        except ValueError:
            fraction = None
        if match is None or fraction is None:
            raise ConfigurationError(
                f"{cls.kind}:{text}: expected the fraction to hold out, in (0, 1), and xR for R "
                f"repeats, as in '{cls.kind}:0.2' or '{cls.kind}:0.1x3'."
            )
        return cls(fraction, int(match[2] or 1))

    @property
    def name(self) -> str:
        times = f"x{self.repeats}" if self.repeats > 1 else ""
        return f"{self.kind}:{self.fraction:g}{times}"

    def splits(self, labels: np.ndarray, generator: np.random.Generator) -> Splits:
        need_labels(2, labels, self.name)
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
        blocks = class_blocks(labels, generator)
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


register_validation_scheme_family("holdout", Holdout.from_text, "F[xR]")
register_validation_scheme_family("random", RandomHoldout.from_text, "F[xR]")
