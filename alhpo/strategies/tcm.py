"""TCM: TypiClust for the first labels, margin sampling after them.

Doucet, Estermann, Aczel, Wattenhofer: Bridging Diversity and Uncertainty in Active Learning with
Self-Supervised Pre-Training (ICLR 2024 workshop; arXiv 2403.03728).
"""

from __future__ import annotations

import numpy as np

from alhpo.base.errors import ConfigurationError
from alhpo.base.types import PoolOutputs, Query
from alhpo.strategies.margin import margin
from alhpo.strategies.registry import register_strategy, register_strategy_family, strategy_needs
from alhpo.strategies.typiclust import typiclust

_LABELS_PER_CLASS = 4


class TCM:
    """``typiclust`` while there are fewer than K labels a class on average, then ``margin``.

    With L labelled images and C classes the rule is L < K·C. It is looked at once for each query,
    before the choice, whatever the size of the query, and needs no memory of earlier ones. Scores,
    time and memory are those of the strategy that chooses.

    Args:
        labels_per_class: K, at least 1.
    """

    needs = strategy_needs(typiclust) | strategy_needs(margin)

    def __init__(self, labels_per_class: int = _LABELS_PER_CLASS) -> None:
        self.labels_per_class = labels_per_class

    def __call__(self, pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
        assert pool.logits is not None
        assert pool.labeled_features is not None
        few = len(pool.labeled_features) < self.labels_per_class * pool.logits.shape[1]
        return (typiclust if few else margin)(pool, n, generator)


def _with_labels_per_class(text: str) -> TCM:
    try:
        labels_per_class = int(text)
    except ValueError:
        labels_per_class = 0
    if labels_per_class < 1:
        raise ConfigurationError(
            f"The labels per class of 'tcm:{text}' are not legal; expected a whole number from 1, "
            f"as in 'tcm:20'. Without : they are {_LABELS_PER_CLASS}."
        )
    return TCM(labels_per_class)


register_strategy("tcm", needs=TCM.needs)(TCM())
register_strategy_family("tcm", _with_labels_per_class, "K")
