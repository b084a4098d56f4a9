"""The values that the packages exchange."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from alhpo.base.metrics import SCORES

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a model on labelled images.

    Attributes:
        accuracy: share of images classified correctly, in [0, 1].
        nll: mean negative log-likelihood of the true label, in nats.
        n: number of images.
        brier: mean squared distance of the predicted probabilities from the one-hot label,
            Σ_c (p_c − y_c)², in [0, 2] (Brier 1950).
        ece: expected calibration error, in [0, 1]: the mean difference between accuracy and mean
            probability of the predicted class over 15 equal-width bins of that probability,
            weighted by the images in each bin (Guo et al., On Calibration of Modern Neural
            Networks, eq. 3).
        balanced_accuracy: mean over the classes that occur of the share of their images classified
            correctly, in [0, 1] (scikit-learn's ``balanced_accuracy_score``).
        macro_f1: mean F1 over the classes that occur as a label or as a prediction, in [0, 1]; F1
            is 0 for a class without a correct prediction (scikit-learn's ``f1_score`` with
            ``average="macro"``).
    """

    accuracy: float
    nll: float
    n: int
    brier: float
    ece: float
    balanced_accuracy: float
    macro_f1: float

    @classmethod
    def uniform(cls, num_classes: int) -> Evaluation:
        """The metrics of the uniform prediction, which stand for diverged training.

        They are those of equal logits on as many images of each of the C classes: all images are
        predicted as one class, the first. Accuracy and balanced accuracy are 1 / C. F1 is
        2 / (C + 1) for that class and 0 for the others, so macro-F1 is 2 / (C (C + 1)), below the
        1 / C of guessing: a model that always says the same is not better than diverged. The
        accuracy equals the probability, so the calibration error is 0.
        """
        chance = 1 / num_classes
        macro_f1 = 2 / (num_classes * (num_classes + 1))
        return cls(chance, math.log(num_classes), 0, 1 - chance, 0.0, chance, macro_f1)

    @classmethod
    def nothing(cls) -> Evaluation:
        """The metrics on no images: all NaN."""
        return cls(math.nan, math.nan, 0, math.nan, math.nan, math.nan, math.nan)

    @property
    def scores(self) -> dict[str, float]:
        """All metrics by name (``SCORES``), as in a record."""
        return {name: getattr(self, name) for name in SCORES}


class StochasticPasses(Protocol):
    """Logits of T passes with dropout over the candidates, computed on demand."""

    def __len__(self) -> int:
        """T, the number of passes."""
        ...

    def logits(self, rows: slice | torch.Tensor) -> torch.Tensor:
        """(T, B, C) float32 logits of the B candidates in these rows, the same at every call.

        Args:
            rows: positions among the candidates (not pool indices).
        """
        ...


class Retraining(Protocol):
    """Training of new models with labels that nobody gave yet, for oracles in simulations."""

    def __call__(
        self, batches: Sequence[Sequence[int]], max_epochs: int | None = None
    ) -> list[Evaluation]:
        """Train a new model for each batch, on the labelled images and the batch's true labels.

        Args:
            batches: pool indices of unlabelled images, each once in a batch.
            max_epochs: epochs of a full training, at most those of the latest fit (default), whose
                configuration all have.

        Returns:
            The scores of each on the evaluation split.
        """
        ...


@dataclass(frozen=True)
class PoolOutputs:
    """The input of a query strategy. Fields that are not in its ``needs`` are None.

    Attributes:
        indices: (N,) pool indices of the candidates, ascending.
        logits: (N, C) float32 outputs of the model before the softmax.
        features: (N, D) float32 penultimate features.
        passes: logits of T passes with dropout over the candidates.
        predicted_losses: (N,) float32 loss of each candidate, predicted by a head that was trained
            with the model (learning loss).
        labeled_scores: (N,) float32 in [0, 1], the probability of "labelled" by a discriminator of
            labelled and unlabelled images (VAAL).
        images: (N, H, W, C) uint8 images of the candidates.
        labels: (L,) int64 class of each labelled image, in the order of labelling.
        labeled_indices: (L,) int64 pool indices of the labelled images, in that order.
        labeled_logits: (L, C) float32 logits of the labelled images.
        labeled_features: (L, D) float32 penultimate features of the labelled images.
        labeled_images: (L, H, W, C) uint8 labelled images.
        heldout_logits: (V, C) float32 logits of labelled images by models that were not trained on
            them: those of the validation scheme's splits, trained with the configuration and for
            the epochs of the model. V is 0 if there are too few labels to split.
        heldout_labels: (V,) int64 class of each of these images.
        state: ``Query.state`` of the strategy's latest query; None before the first query.
        classify: the model's classifier, from (B, D) features to (B, C) float32 logits. It treats
            rows alone, and has gradients of the features if these require them.
        retrain: for oracles in simulations: what models would score with more labels.
        true_labels: for oracles in simulations: (N,) int64 class of each candidate.
        strategy_weights: (N, K) float32 in [0, 1], for each candidate a weight of each of the K
            strategies that the strategy asks (its ``arms``, in their order), which sum to 1; from
            networks that are trained for the query (AutoAL).
        strategy_search: what that training did, as a mapping that JSON can hold.
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
    heldout_logits: torch.Tensor | None = None
    heldout_labels: torch.Tensor | None = None
    state: Mapping[str, Any] | None = None
    classify: Callable[[torch.Tensor], torch.Tensor] | None = None
    retrain: Retraining | None = None
    true_labels: torch.Tensor | None = None
    strategy_weights: torch.Tensor | None = None
    strategy_search: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Query:
    """The images that a strategy chose for labelling.

    Attributes:
        indices: pool indices, most wanted first.
        scores: the strategy's score of each (in the strategy's own unit), or None.
        paths: the files of the images, if the data set came from files.
        state: the strategy's state until its next query, as a JSON-able mapping. It is recorded
            with the query, so that a killed run continues with it. If its entry ``arms`` is a
            mapping, of strategies that were asked to numbers by name, records of cycles have it.
        probabilities: the probability of each image at its draw, given the earlier draws, if the
            strategy drew one by one without replacement and could have drawn any candidate; else
            None. It is recorded with the query, for validation by ``acquisition:SCHEME``.
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
    """The L labelled images of a pool of N, from which a validation scheme derives weights.

    Fields that are not in the scheme's ``needs`` are None.

    Attributes:
        pool_size: N.
        labeled_features: (L, D) float32 features of the labelled images, in the order of labelling,
            not from a model that was trained on them.
        unlabeled_features: (U, D) float32 features of the other images, or of a random subset.
        draws: (L,) int64 draw number of each labelled image, from 1; a permutation of 1 to L.
        probabilities: (L,) float64 probability of each at its draw, among the images left then.
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
        kind: "cycle"; "final" for the search and fit that follow the last cycle; or "tuned" for
            the tuning of a labelled pool (``tune_pool``).
        cycle: number of the cycle, from 0.
        n_labeled: number of labels that the models of this cycle were trained on.
        configuration: all hyperparameters of the final fit.
        tuned: whether a search ran in this cycle.
        validation: ``accuracy``, ``balanced_accuracy``, ``macro_f1`` and ``nll`` of the
            configuration (means over the validation splits) and ``epoch``: its best epoch, or the
            last for "tuned". None if it was not measured or diverged.
        test: ``Evaluation.scores`` of the final fit on the evaluation split (records of older
            versions, also ``validation``, lack some of them). None without a fit.
        epochs: training epochs of the search (``hpo``) and of the final fit (``fit``). An epoch
            counts only in the cycle that trained it.
        queried: pool indices chosen at the end of this cycle, in order.
        random_query: whether they were chosen at random instead of by the run's strategy, because
            the fit diverged or the strategy's input was not finite.
        diverged: whether the final fit diverged. ``test`` is then that of the uniform prediction
            (``Evaluation.uniform``).
        fitted: whether a model was fitted and evaluated; false in cycles that ``evaluate_at``
            leaves out, whose ``configuration`` is what a fit would have used.
        search: what the search gained, in values of the metric that it maximised: ``current``, of
            the configuration before it, ``found``, of the best that it tried, and ``adopted``, of
            the one that it left. ``paired_gain`` and ``paired_error`` are the mean paired
            difference between the first two over the validation images and its standard error
            (``alhpo.training.image_scores``); ``replaced`` tells whether the best replaced the
            current one. On the evaluation split, of fully trained models of the validation splits,
            ``current_test`` and ``adopted_test``, None if not measured. ``extended_from`` is there
            if the search went on from one with that smaller budget. ``search`` is None without
            a search, or if the current configuration was not measured in it or diverged. Tunings,
            and records of older versions, lack some of them.
        arms: of a strategy that asks other strategies, numbers by name for each of these, from the
            entry ``arms`` of ``Query.state``; None if there is none.
        seconds: wall-clock seconds per part; the only values that differ between repetitions.
    """

    kind: Literal["cycle", "final", "tuned"]
    cycle: int
    n_labeled: int
    configuration: Mapping[str, Any]
    tuned: bool
    validation: Mapping[str, float] | None
    test: Mapping[str, float] | None
    epochs: Mapping[str, int]
    queried: Sequence[int] = ()
    random_query: bool = False
    diverged: bool = False
    fitted: bool = True
    search: Mapping[str, float | None] | None = None
    arms: Mapping[str, Mapping[str, float]] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The record as a JSON-able mapping."""
        return asdict(self) | {"queried": list(self.queried)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CycleRecord:
        """The record from ``to_dict``."""
        return cls(**{**values, "queried": tuple(values.get("queried", ()))})


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        path: the run's folder.
        records: one per cycle, in order.
        resumed: whether some or all records were on disk before.
    """

    path: Path
    records: tuple[CycleRecord, ...]
    resumed: bool
