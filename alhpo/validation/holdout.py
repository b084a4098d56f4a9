"""Hold-out validation: a share of the labels, drawn at random or stratified by class."""

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
    """Base of the hold-outs: the fraction held out, and the number of repeats."""

    kind: ClassVar[str]
    fraction: float = 0.2
    repeats: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1 or self.repeats < 1:
            raise ConfigurationError(
                f"Hold-out of {self.fraction} x {self.repeats}: expected a fraction in (0, 1) and "
                f"at least 1 repeat, as in '{self.kind}:0.2' or '{self.kind}:0.1x3'."
            )

    @classmethod
    def from_text(cls, text: str) -> Self:
        """A scheme from ``"F"`` or ``"FxR"``.

        Raises:
            ConfigurationError: the text has another form, or a number is out of range.
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
    """Hold-out stratified by class: each class has about the same share held out.

    A class with few labels may be missing from either part.

    Args:
        fraction: share held out, in (0, 1). Each part has at least one image.
        repeats: number of independent hold-outs, each with its own model.

    Raises:
        ConfigurationError: a fraction or number of repeats out of range.
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
    """Plain hold-out: a uniformly random share of the labels, regardless of class.

    Arguments and errors are those of ``Holdout``.
    """

    kind = "random"

    def _chosen(
        self, n_validation: int, labels: np.ndarray, generator: np.random.Generator
    ) -> np.ndarray:
        return generator.permutation(len(labels))[:n_validation]


register_validation_scheme_family("holdout", Holdout.from_text, "F[xR]")
register_validation_scheme_family("random", RandomHoldout.from_text, "F[xR]")
