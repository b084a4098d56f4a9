"""The values that travel between the parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Evaluation:
    """How a model does on labelled images.

    Attributes:
        accuracy: share of images classified correctly, in [0, 1].
        nll: mean negative log-likelihood of the true label, in nats.
        n: number of images.
        brier: mean over the images of the squared distance of the predicted probabilities from the
            one-hot label, Σ_c (p_c − y_c)², in [0, 2] (Brier 1950).
        ece: expected calibration error of the predicted class, in [0, 1]: over 15 equal-width bins
            of its probability, the mean distance of accuracy and probability, weighted with the
            images in the bin (Guo et al., On Calibration of Modern Neural Networks, eq. 3).
    """

    accuracy: float
    nll: float
    n: int
    brier: float
    ece: float

    @classmethod
    def uniform(cls, num_classes: int) -> Evaluation:
        """What the uniform prediction scores, as which diverged training counts: a guess that is
        right once in ``num_classes`` times, and says so, so that its calibration error is 0."""
        return cls(1 / num_classes, math.log(num_classes), 0, 1 - 1 / num_classes, 0.0)

    @classmethod
    def nothing(cls) -> Evaluation:
        """That of no images: NaN everywhere."""
        return cls(math.nan, math.nan, 0, math.nan, math.nan)

    @property
    def scores(self) -> dict[str, float]:
        """``accuracy``, ``nll``, ``brier`` and ``ece``, as a record holds them."""
        return {"accuracy": self.accuracy, "nll": self.nll, "brier": self.brier, "ece": self.ece}


class StochasticPasses(Protocol):
    """Logits of repeated passes with dropout over the candidates, made where they are asked for."""

    def __len__(self) -> int:
        """T, the number of passes."""
        ...

    def logits(self, rows: slice | torch.Tensor) -> torch.Tensor:
        """(T, B, C) float32 logits of the B candidates in these rows; the same at every call.

        Args:
            rows: positions among the candidates (not pool indices).
        """
        ...


@dataclass(frozen=True)
class PoolOutputs:
    """What a query strategy may look at; only what it declares in ``needs`` is filled in.

    Attributes:
        indices: (N,) pool indices of the candidates, ascending.
        logits: (N, C) the model's outputs before the softmax, float32.
        features: (N, D) penultimate features, float32.
        passes: T passes with dropout over the candidates.
        predicted_losses: (N,) float32, what the loss-prediction head that was trained with the
            model says of each candidate (learning loss).
        labeled_scores: (N,) float32 in [0, 1], how much a discriminator trained to tell labelled
            from unlabelled images takes each candidate for a labelled one (VAAL).
        images: (N, H, W, C) uint8, the candidates themselves.
        labels: (L,) int64 class of each labelled image, in the order of labelling.
        labeled_indices: (L,) int64 pool indices of the labelled images, in that order.
        labeled_logits: (L, C) logits of the labelled images, float32.
        labeled_features: (L, D) penultimate features of the labelled images.
        labeled_images: (L, H, W, C) uint8, the labelled images themselves.
        state: what the strategy's latest query left in ``Query.state``; None before the first.
        classify: (B, C) float32 logits that the model's classifier makes of (B, D) features.
        retrain: for oracles in simulations: how a model does on the evaluation split that is
            trained from the start, with the configuration fitted last, on the labelled images and
            the images with these pool indices, whose labels it is told.
    """

    indices: torch.Tensor
    logits: torch.Tensor | None = None
    features: torch.Tensor | None = None
    passes: StochasticPasses | None = None
    predicted_losses: torch.Tensor | None = None
    labeled_scores: torch.Tensor | None = None
    images: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    labeled_indices: torch.Tensor | None = None
    labeled_logits: torch.Tensor | None = None
    labeled_features: torch.Tensor | None = None
    labeled_images: torch.Tensor | None = None
    state: Mapping[str, Any] | None = None
    classify: Callable[[torch.Tensor], torch.Tensor] | None = None
    retrain: Callable[[Sequence[int]], Evaluation] | None = None

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Query:
    """The images a strategy wants labelled.

    Attributes:
        indices: pool indices, most wanted first.
        scores: the strategy's score of each (its unit is the strategy's own), or None.
        paths: the files of the images, where the data set came from files.
        state: what the strategy wants to remember until its next query, as a JSON-able mapping;
            recorded with the query, so that a killed run goes on with it.
        probabilities: of each pick at its draw, given those drawn before, where the strategy drew
            one by one without replacement and could have drawn any candidate; recorded with the
            query, for validation by ``acquisition:SCHEME``. None where it did not.
    """

    indices: tuple[int, ...]
    scores: tuple[float, ...] | None = None
    paths: tuple[str, ...] | None = None
    state: Mapping[str, Any] | None = None
    probabilities: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Selection:
    """Which L images were labelled out of a pool of N: what weights of them are derived from.

    Only what a validation scheme declares in ``needs`` is filled in.

    Attributes:
        pool_size: N.
        labeled_features: (L, D) float32 features of the labelled images, in the order of labelling;
            of a model that was not trained on them.
        unlabeled_features: (U, D) the same of all other images of the pool or a random subset.
        draws: (L,) int64, a permutation of 1 to L: the how-many-th draw each labelled image was.
        probabilities: (L,) float64 probability of each at its draw, among what was not drawn yet.
    """

    pool_size: int
    labeled_features: np.ndarray | None = None
    unlabeled_features: np.ndarray | None = None
    draws: np.ndarray | None = None
    probabilities: np.ndarray | None = None


@dataclass(frozen=True)
class CycleRecord:
    """One line of a run's ``cycles.jsonl``.

    Attributes:
        kind: "cycle"; "final" for the retraining after a search that follows the last cycle; or
            "tuned" for the tuning of a labelled pool (``tune_pool``).
        cycle: number of the cycle, from 0.
        n_labeled: labels the models of this cycle were trained on.
        configuration: all hyperparameters of the final fit.
        tuned: whether a search ran in this cycle.
        validation: ``accuracy``, ``nll`` (means over the validation splits) and ``epoch`` of the
            configuration at its best epoch (at its last for "tuned"), or None where it was not
            measured or diverged.
        test: ``accuracy``, ``nll``, ``brier`` and ``ece`` of the final fit on the evaluation split
            (records of older versions lack the last two).
        epochs: training epochs spent on the search (``hpo``) and on the final fit (``fit``), each
            counted once, in the record of the cycle that trained it.
        queried: pool indices chosen at the end of this cycle, in order.
        random_query: they were chosen at random instead of by the run's strategy, because the fit
            diverged, or what the strategy looks at was not finite.
        diverged: the final fit diverged; it then counts as the uniform prediction (accuracy 1/C,
            NLL log C, Brier score 1 − 1/C, calibration error 0).
        seconds: wall-clock seconds per part; the only values that differ between repetitions.
    """

    kind: Literal["cycle", "final", "tuned"]
    cycle: int
    n_labeled: int
    configuration: Mapping[str, Any]
    tuned: bool
    validation: Mapping[str, float] | None
    test: Mapping[str, float]
    epochs: Mapping[str, int]
    queried: Sequence[int] = ()
    random_query: bool = False
    diverged: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON holds it."""
        return asdict(self) | {"queried": list(self.queried)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CycleRecord:
        """The reverse of ``to_dict``."""
        return cls(**{**values, "queried": tuple(values.get("queried", ()))})


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        path: the run's folder.
        records: one per cycle, in order.
        resumed: whether some or all of it was there before.
    """

    path: Path
    records: tuple[CycleRecord, ...]
    resumed: bool
