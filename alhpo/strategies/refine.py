"""Refine: many strategies filter the pool in rounds, and the best cover of what is left is chosen.

Huseljic et al.: Cleaning the Pool: Progressive Filtering of Unlabeled Pools in Deep Active Learning
(CVPR 2026).
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
    dropquery,
    margin,
    maxherding,
    random_sampling,
    typiclust,
)
from alhpo.strategies.arms import named_arms, split_arms, sub_pool
from alhpo.strategies.checked import run_strategy
from alhpo.strategies.registry import register_strategy, register_strategy_family, strategy_needs
from alhpo.strategies.uherding import UncertaintyHerding

#: The arms of plain ``refine``.
ARMS = (
    *("random", "margin", "badge", "bait", "typiclust", "alfamix", "dropquery"),
    *("maxherding", "uherding"),
)
ROUNDS = 5
#: Batches of a round, shared equally by the arms.
BATCHES = 100
#: Candidates that an arm sees in the first round; in later rounds, their share of what is left.
FIRST_SUBSET, LATER_SHARE = 5000, 0.4
#: Candidates left after a round, at most.
MOST_LEFT = 10_000
_ORACLE = "it is an oracle, which looks at labels that nobody gave yet"


class Refine:
    """Keeps what any arm wants of random parts of the pool, in rounds; then covers what is left.

    In each of five rounds every one of the M arms (other strategies) is asked ⌊100/M⌋ times for n
    candidates, each time of another random subset of what is left: of 5,000 in the first round, of
    max(n, 40 %) later. What is left after the round is the union of all these batches, at most
    10,000 drawn at random. Then ``uherding`` chooses the query from what is left alone. (Numbers
    as in the authors' code, which has 11 batches for each of nine arms.) If no more than n are
    left, they are ordered by ``uherding``.

    Scores are those of ``uherding`` on what is left. ``generator`` draws a seed for each of the
    arms' queries and for the subsets, so that the number of draws of an arm changes nothing else.
    Time: some 500 queries of the arms, on few candidates after the first round unless n is large.
    Memory: that of the arms, on 5,000 candidates.

    Args:
        arms: strategies, or their names; by default the nine of the paper's experiments.
        rounds: number of rounds; with 0, this is ``uherding``.
        batches: batches of a round, shared equally by the arms; at least one for each.

    Raises:
        ConfigurationError: no arms, an arm that is there twice or is unknown, learns from its own
            queries (``albl``), or is an oracle.
    """

    def __init__(
        self, arms: Sequence[str | Strategy] = ARMS, *, rounds: int = ROUNDS, batches: int = BATCHES
    ) -> None:
        self.rounds, self.batches = rounds, batches
        self.last = UncertaintyHerding()
        self.arms = named_arms("refine", arms, dict.fromkeys(("retrain", "true_labels"), _ORACLE))
        self.needs = self.last.needs.union(*map(strategy_needs, self.arms.values()))

    def __call__(self, pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
        last, *arms = (
            one.adapted(pool) if isinstance(one, UncertaintyHerding) else one
            for one in (self.last, *self.arms.values())
        )
        left = np.arange(len(pool))
        for number in range(self.rounds):
            if len(left) > n:
                left = self._round(pool, n, left, arms, number, generator)
        query = run_strategy(last, sub_pool(pool, left), n, generator)
        return Query(query.indices, query.scores, state=query.state)

    def _round(
        self,
        pool: PoolOutputs,
        n: int,
        left: np.ndarray,
        arms: Sequence[Strategy],
        number: int,
        generator: np.random.Generator,
    ) -> np.ndarray:
        """Positions that are left after a round, ascending."""
        size = FIRST_SUBSET if number == 0 else int(LATER_SHARE * len(left))
        size = min(max(n, size), len(left))
        wanted = np.zeros(len(pool), dtype=bool)
        repeats = max(1, self.batches // len(arms))
        seeds = generator.integers(2**63, size=(len(arms), repeats))
        for arm, own in zip(arms, seeds, strict=True):
            for seed in own.tolist():
                draws = np.random.default_rng(seed)
                subset = np.sort(draws.choice(left, size, replace=False))
                part = sub_pool(pool, subset)
                before = draws.bit_generator.state
                chosen = run_strategy(arm, part, n, draws).indices
                wanted[subset[np.searchsorted(part.indices.cpu().numpy(), chosen)]] = True
                if size == len(left) and draws.bit_generator.state == before:
                    break  # the arm drew nothing: on all that is left it always chooses the same
        after = np.flatnonzero(wanted)
        if len(after) > MOST_LEFT:
            after = np.sort(generator.choice(after, max(n, MOST_LEFT), replace=False))
        return after


def _family(arguments: str) -> Refine:
    return Refine(split_arms(arguments))


_plain = Refine()
register_strategy("refine", needs=_plain.needs)(_plain)
register_strategy_family("refine", _family, "A,B,...")
