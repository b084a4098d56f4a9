"""AutoAL and voting: each image by which of several strategies (the arms) would choose it.

AutoAL: Wang et al., AutoAL: Automated Active Learning with Differentiable Query Strategy Search
(ICML 2025). The networks behind its weights are in ``alhpo.outputs.strategy_search``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from alhpo.base.errors import ConfigurationError
from alhpo.base.protocols import Strategy
from alhpo.base.types import PoolOutputs, Query
from alhpo.strategies import entropy, kmeans, least_confidence, margin, mc_dropout  # noqa: F401
from alhpo.strategies.arms import named_arms, split_arms
from alhpo.strategies.checked import run_strategy
from alhpo.strategies.registry import register_strategy, register_strategy_family, strategy_needs

#: The arms of plain ``autoal`` and ``votes``: those of the paper.
DEFAULT_ARMS = (
    *("entropy", "margin", "least-confidence", "kmeans"),
    *("bald", "variation-ratio", "mean-std"),
)
_ORACLE = "it is an oracle, which looks at labels that nobody gave yet"
_TRAINED = (
    "it looks at networks that are trained for it, which autoal's simulation on labelled images "
    "has not"
)
_ORACLES: dict[str, str] = dict.fromkeys(("retrain", "true_labels"), _ORACLE)
_SIMULATED: dict[str, str] = dict.fromkeys(
    ("predicted_losses", "labeled_scores", "heldout_logits", "heldout_labels", "strategy_weights"),
    _TRAINED,
)


class Votes:
    """The images that most arms would choose.

    Each of the K arms (other strategies) chooses n candidates. An image's score is the share of the
    arms that chose it. Of images with equal scores, which are many, the first are drawn: by pool
    index, those of the first classes would come first in folders. The state has, for the record,
    the equal weight of each arm and the share of the query that it had chosen.

    Args:
        arms: strategies, or their names.

    Raises:
        ConfigurationError: no arms, an arm that is there twice or is unknown, learns from its own
            queries (``albl``), or is an oracle.
    """

    def __init__(self, arms: Sequence[str | Strategy]) -> None:
        self.arms = named_arms("votes", arms, _ORACLES)
        self.needs = _needs(self.arms)

    def __call__(self, pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
        chosen = choices(self.arms, pool, n, dict.fromkeys(self.arms, generator))
        query = _highest(pool, n, chosen.double().mean(dim=1), generator)
        weights = torch.full(chosen.shape, 1 / len(self.arms), dtype=torch.float64)
        return replace(query, state={"arms": _told(self.arms, chosen, weights, pool, query)})


class AutoAL:
    """The images that the arms would choose, each arm with a weight that depends on the image.

    Each of the K arms (other strategies) chooses n candidates: S_jκ = 1 if arm κ chose image j. The
    score of an image is u_j = Σ_κ W_jκ S_jκ, with positive weights W that sum to 1 over the arms
    (``strategy_weights``). The n highest scores are chosen, with ties as in ``Votes``, which this
    is for equal weights. An image that an arm chose outranks all that none chose.

    The state is for the record: for each arm its mean weight over the images that any arm chose,
    its mean weight over the query, and the share of the query that it had chosen; and what the
    search for the weights did (``strategy_search``).

    Args:
        arms: strategies, or their names.

    Raises:
        ConfigurationError: as ``Votes``, or an arm for which networks are trained (``lpl``,
            ``vaal``, ``uherding``).
    """

    def __init__(self, arms: Sequence[str | Strategy]) -> None:
        self.arms = named_arms("autoal", arms, _ORACLES | _SIMULATED)
        self.needs = _needs(self.arms) | {"strategy_weights", "strategy_search"}

    def __call__(self, pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
        """Choose ``n`` candidates; scores are u.

        Raises:
            ConfigurationError: weights of another number of arms.
        """
        assert pool.strategy_weights is not None
        assert pool.strategy_search is not None
        weights = pool.strategy_weights.detach().cpu().double()
        if weights.shape[1] != len(self.arms):
            raise ConfigurationError(
                f"strategy_weights are of {weights.shape[1]} strategies; expected "
                f"{len(self.arms)}: {', '.join(self.arms)}."
            )
        chosen = choices(self.arms, pool, n, dict.fromkeys(self.arms, generator))
        values = (weights * chosen).sum(dim=1)
        order = torch.where(chosen.any(dim=1), values, -1.0)  # weights may underflow to 0
        query = _highest(pool, n, values, generator, order)
        told = _told(self.arms, chosen, weights, pool, query)
        return replace(query, state={"arms": told, "search": dict(pool.strategy_search)})


def choices(
    arms: Mapping[str, Strategy],
    pool: PoolOutputs,
    n: int,
    generators: Mapping[str, np.random.Generator],
) -> torch.Tensor:
    """Ask every arm once.

    Args:
        arms: the K arms by name.
        pool: the N candidates.
        n: number that each chooses.
        generators: the source of randomness of each arm.

    Returns:
        (N, K) booleans on the CPU, whether an arm chose a candidate; every column has n.
    """
    chosen = torch.zeros(len(pool), len(arms), dtype=torch.bool)
    indices = pool.indices.cpu().numpy()
    seen = replace(pool, state=None)
    for column, (name, arm) in enumerate(arms.items()):
        query = run_strategy(arm, seen, n, generators[name])
        chosen[np.searchsorted(indices, query.indices), column] = True
    return chosen


def _highest(
    pool: PoolOutputs,
    n: int,
    values: torch.Tensor,
    generator: np.random.Generator,
    order: torch.Tensor | None = None,
) -> Query:
    """The ``n`` candidates with the highest (N,) values, or the first in an order; ties drawn."""
    ranked = (values if order is None else order).numpy()
    rows = np.lexsort((generator.permutation(len(pool)), -ranked))[:n]
    return Query(tuple(pool.indices[rows].tolist()), tuple(values[rows].tolist()))


def _needs(arms: Mapping[str, Strategy]) -> frozenset[str]:
    return frozenset({"state"}).union(*map(strategy_needs, arms.values()))


def _told(
    arms: Mapping[str, Strategy],
    chosen: torch.Tensor,
    weights: torch.Tensor,
    pool: PoolOutputs,
    query: Query,
) -> dict[str, Any]:
    """What each arm did in a query, for its record."""
    rows = np.searchsorted(pool.indices.cpu().numpy(), query.indices)
    columns = zip(
        weights[chosen.any(dim=1)].mean(dim=0).tolist(),
        weights[rows].mean(dim=0).tolist(),
        chosen[rows].double().mean(dim=0).tolist(),
        strict=True,
    )
    return {
        name: {"weight": weight, "weight_of_picks": of_picks, "share_of_picks": share}
        for name, (weight, of_picks, share) in zip(arms, columns, strict=True)
    }


def _autoal(arguments: str) -> AutoAL:
    return AutoAL(split_arms(arguments))


def _votes(arguments: str) -> Votes:
    return Votes(split_arms(arguments))


_plain = AutoAL(DEFAULT_ARMS)
_plain_votes = Votes(DEFAULT_ARMS)
register_strategy("autoal", needs=_plain.needs)(_plain)
register_strategy("votes", needs=_plain_votes.needs)(_plain_votes)
register_strategy_family("autoal", _autoal, "A,B,...")
register_strategy_family("votes", _votes, "A,B,...")
