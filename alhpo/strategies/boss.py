"""BoSS: the best of many batches by true labels and test images. An oracle, not a strategy.

Huseljic et al.: BoSS: A Best-of-Strategies Selector as an Oracle for Deep Active Learning
(arXiv 2603.13109).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alhpo.base.protocols import Strategy
from alhpo.base.types import PoolOutputs, Query
from alhpo.strategies import (  # noqa: F401 - ARMS
    alfamix,
    badge,
    bait,
    coreset,
    margin,
    random_sampling,
    typiclust,
)
from alhpo.strategies.arms import named_arms, split_arms, sub_pool
from alhpo.strategies.checked import run_strategy
from alhpo.strategies.dropquery import changing
from alhpo.strategies.registry import register_strategy, register_strategy_family, strategy_needs
from alhpo.strategies.rows import Rows, normalised

#: Batches that are compared.
BATCHES = 100
#: Epochs of a training that compares them, at most.
EPOCHS = 50
#: Candidates that an arm sees: at least this many a choice, and at most.
LEAST_PER_CHOICE, MOST_SEEN = 4, 5000


class TypicalOfClasses:
    """Typical candidates of the classes with the fewest labels, by the candidates' true labels.

    Each choice is, of the class with the fewest labelled and chosen images among those that have
    candidates left (the lowest of equals), the candidate with the least sum of squared distances to
    the class's remaining candidates. Ties go to the lowest pool index.

    Args:
        changing_first: choose among the candidates of DropQuery first, and on features scaled to
            length 1.
    """

    def __init__(self, *, changing_first: bool) -> None:
        self.changing_first = changing_first
        own = {"classify"} if changing_first else set[str]()
        self.needs = frozenset({"features", "labels", "true_labels", *own})

    def __call__(self, pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
        if not self.changing_first:
            return Query(_of_classes(pool, np.arange(len(pool)), n, unit=False))
        first, _ = changing(pool, n, generator)
        others = np.setdiff1d(np.arange(len(pool)), first)
        chosen = _of_classes(pool, first, min(n, len(first)), unit=True)
        return Query(chosen + _of_classes(pool, others, n - len(chosen), unit=True))


#: Arms that look at true labels, by the names that they have among the arms.
OF_TRUTH: dict[str, Strategy] = {
    "typiclass": TypicalOfClasses(changing_first=False),
    "dropqueryclass": TypicalOfClasses(changing_first=True),
}
#: The arms of plain ``boss``.
ARMS = (
    *("random", "margin", "coreset", "badge", "bait", "typiclust", "alfamix", "dropquery"),
    *OF_TRUTH,
)


class BestOfStrategies:
    """The best of 100 batches that other strategies (the arms) propose, by what it leads to.

    For each batch an arm is drawn, and asked for n of a random subset of the candidates, between
    4 n and 5,000 of them. A new model is trained on the labelled images and the batch **with its
    true labels**, and the batch whose model classifies most images **of the evaluation split**
    correctly is chosen; the first of equals. So this is an upper bound for comparisons, and the
    accuracy that a run with it reports is of the images that it chose by. It is refused where
    labels or an evaluation split are missing. Models are trained with the run's configuration, for
    50 epochs or the run's, if these are fewer (in the paper, 50 to 200 epochs choose equally well).

    There are no scores. ``generator`` draws the arms, the sizes of the subsets, and a seed for each
    query. Time: 100 queries of the arms and 100 trainings.

    Args:
        arms: strategies, or their names, also "typiclass" and "dropqueryclass", which look at true
            labels. By default the ten of the paper's experiments.
        batches: number of batches.
        epochs: epochs of each training, at most.

    Raises:
        ConfigurationError: no arms, an arm that is there twice or is unknown, learns from its own
            queries (``albl``), or is such an oracle itself.
    """

    def __init__(
        self, arms: Sequence[str | Strategy] = ARMS, *, batches: int = BATCHES, epochs: int = EPOCHS
    ) -> None:
        self.batches, self.epochs = batches, epochs
        refused = {"retrain": "it is such an oracle itself"}
        self.arms = named_arms("boss", arms, refused, OF_TRUTH)
        own = {"retrain", "true_labels"}
        self.needs = frozenset(own).union(*map(strategy_needs, self.arms.values()))

    def __call__(self, pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
        assert pool.retrain is not None
        arms = list(self.arms.values())
        most = max(n, min(len(pool), MOST_SEEN))
        least = min(LEAST_PER_CHOICE * n, most)
        batches: dict[frozenset[int], tuple[int, ...]] = {}
        for arm, size, seed in zip(
            generator.integers(len(arms), size=self.batches).tolist(),
            generator.integers(least, most, endpoint=True, size=self.batches).tolist(),
            generator.integers(2**63, size=self.batches).tolist(),
            strict=True,
        ):
            draws = np.random.default_rng(seed)
            subset = np.sort(draws.choice(len(pool), size, replace=False))
            batch = run_strategy(arms[arm], sub_pool(pool, subset), n, draws).indices
            batches.setdefault(frozenset(batch), batch)
        different = list(batches.values())
        accuracies = [result.accuracy for result in pool.retrain(different, self.epochs)]
        return Query(different[int(np.argmax(accuracies))])  # the first of equals


def _of_classes(pool: PoolOutputs, among: np.ndarray, n: int, *, unit: bool) -> tuple[int, ...]:
    """Pool indices of ``n`` typical candidates among those at these ascending positions."""
    if n == 0:
        return ()
    assert pool.features is not None
    assert pool.labels is not None
    assert pool.true_labels is not None
    part = sub_pool(pool, among)
    assert part.features is not None
    assert part.true_labels is not None
    values = normalised(part.features) if unit else part.features
    classes = part.true_labels.cpu().numpy()
    counts = np.bincount(pool.labels.cpu().numpy(), minlength=classes.max() + 1)
    left = [np.flatnonzero(classes == c) for c in range(classes.max() + 1)]
    chosen: list[int] = []
    while len(chosen) < n:
        open_ = [c for c, own in enumerate(left) if len(own)]
        wanted = min(open_, key=lambda c: counts[c])  # the first of equals
        members = left[wanted]
        rows = Rows(values[members])
        # the sum of squared distances is least for the row nearest to the mean
        from_mean = rows.distances(None, rows.values.double().mean(dim=0)).astype(np.float32)
        nearest = int(from_mean.argmin())
        chosen.append(int(members[nearest]))
        left[wanted] = np.delete(members, nearest)
        counts[wanted] += 1
    return tuple(part.indices[chosen].tolist())


def _family(arguments: str) -> BestOfStrategies:
    return BestOfStrategies(split_arms(arguments))


_plain = BestOfStrategies()
register_strategy("boss", needs=_plain.needs)(_plain)
register_strategy_family("boss", _family, "A,B,...")
