"""The fit on all labels, resumable after a kill."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alhpo.base.errors import DivergedError
from alhpo.base.types import Evaluation
from alhpo.learner import ActiveLearner


@dataclass(frozen=True)
class Fit:
    """A fit on all labels.

    Attributes:
        test: scores on the evaluation split; those of the uniform prediction after divergence.
        epochs: epochs trained, by this process or before.
        diverged: whether training diverged; then there is no model.
    """

    test: Evaluation
    epochs: int
    diverged: bool = False


def fit_or_continue(
    learner: ActiveLearner,
    configuration: Mapping[str, Any],
    folder: Path,
    callback: Callable[[int], None],
) -> Fit:
    """Fit on all labels and evaluate, or continue the fit in the folder.

    Args:
        learner: the learner with the labels.
        configuration: hyperparameters that replace the learner's fixed ones.
        folder: folder of the fit's checkpoint.
        callback: called after every epoch with the number of epochs trained so far.
    """
    try:
        test = learner.fit(configuration, checkpoint_path=folder, callback=callback)
    except DivergedError as error:
        return Fit(Evaluation.uniform(learner.dataset.num_classes), error.epochs, diverged=True)
    return Fit(test, learner.max_epochs)
