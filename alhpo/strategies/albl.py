"""Active learning by learning (ALBL): a bandit over query strategies.

Hsu, Lin: Active Learning by Learning (AAAI 2015), Algorithm 1, with Exp4.P of Beygelzimer,
Langford, Li, Reyzin, Schapire: Contextual Bandit Algorithms with Supervised Learning Guarantees
(AISTATS 2011), Algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from alhpo.base.errors import ConfigurationError
from alhpo.base.types import PoolOutputs, Query
from alhpo.strategies import badge, coreset, margin, random_sampling  # noqa: F401 - DEFAULT_ARMS
from alhpo.strategies.checked import run_strategy
from alhpo.strategies.registry import (
    get_strategy,
    register_strategy,
    register_strategy_family,
    strategy_needs,
)

#: The arms of plain ``albl``: uncertainty, coverage, both, and neither.
DEFAULT_ARMS = ("margin", "coreset", "badge", "random")
#: T, the number of queries for which Exp4.P is tuned. More are possible.
HORIZON = 100
#: Probability with which Exp4.P's bound may fail, δ.
DELTA = 0.1


class ActiveLearningByLearning:
    """Draws from a mixture of other strategies (the arms), and learns the mixture.

    Exp4.P gives each of the K arms a probability p_k = (1 − K p_min) w_k / Σw + p_min, with
    p_min = min(1/K, √(ln K / (K T))). Arm k's advice ψ_k is uniform over the n candidates it
    chose; that of ``random`` is uniform over all candidates, whatever it drew. The query is drawn
    from q(x) = Σ p_k ψ_k(x) one by one without replacement: q is normalised over what is left
    before each draw, and W = 1/q(x) at that draw is the importance weight of the drawn image.

    At the next query, the reward is the importance-weighted accuracy of the model trained since, on
    all images drawn so far that have labels:
    r = 1/τ Σ W_t/N_t [ŷ_t = y_t], N_t being the number of candidates at draw t (the paper's eq.
    with the τ labels so far in place of the whole budget, which a strategy does not know). Then

        r̂_k = r · mean over the draws of ψ_k(x) W,    v̂_k = 1/p_k,
        w_k ← w_k exp(p_min/2 (r̂_k + v̂_k √(ln(K/δ) / (K T)))),

    which for queries of one image is the paper's algorithm. (Unlike there, labelled images are
    not drawn again.) Without ``random`` among the arms, images that no arm chose cannot be drawn,
    and r is the accuracy on a part of the pool only.

    Args:
        arms: names of at least two strategies, which may have state.

    Raises:
        ConfigurationError: there are fewer than two arms, an arm is there twice, is unknown, or is
            ``autoal``.
    """

    def __init__(self, arms: Sequence[str]) -> None:
        if len(arms) < 2 or len(set(arms)) < len(arms):
            raise ConfigurationError(
                f"Strategy albl has the arms {', '.join(arms) or 'none'}; expected at least two "
                "different strategies, as in 'albl:entropy,margin,random'."
            )
        self.arms = {name: get_strategy(name) for name in arms}
        for name, arm in self.arms.items():
            if "strategy_weights" in strategy_needs(arm):
                raise ConfigurationError(
                    f"Strategy {name!r} cannot be an arm of albl: networks are trained for its own "
                    "arms. Leave it out."
                )
        own = {"labels", "labeled_indices", "labeled_logits", "state"}
        self.needs = frozenset(own).union(*map(strategy_needs, self.arms.values()))

    def __call__(self, pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
        """Choose ``n`` candidates; scores are q(x) before the first draw.

        The query has the probabilities of the draws if every candidate could be drawn, as with
        ``random`` among the arms.

        Raises:
            ConfigurationError: ``pool.state`` is that of other arms.
        """
        state = self._state(pool)
        log_weights = _updated(state, _reward(state, pool), len(self.arms))
        probabilities = arm_probabilities(log_weights)
        advice, states = self._advice(pool, n, generator, state["states"])
        mixture = probabilities @ advice
        rows, weights = _draw(mixture, n, generator)
        indices = pool.indices[rows].tolist()
        ratios = weights / (len(pool) - np.arange(n))
        return Query(
            tuple(indices),
            tuple(mixture[rows].tolist()),
            state={
                "arms": list(self.arms),
                "log_weights": log_weights.tolist(),
                "probabilities": probabilities.tolist(),
                "payoffs": (advice[:, rows] * weights).mean(axis=1).tolist(),
                "drawn": [*state["drawn"], *indices],
                "ratios": [*state["ratios"], *ratios.tolist()],
                "states": states,
            },
            probabilities=tuple((1 / weights).tolist()) if mixture.all() else None,
        )

    def _state(self, pool: PoolOutputs) -> Mapping[str, Any]:
        names = list(self.arms)
        if pool.state is None:
            start = {"log_weights": [0.0] * len(names), "drawn": [], "ratios": []}
            return start | {"arms": names, "states": {}}
        if pool.state.get("arms") != names:
            raise ConfigurationError(
                f"The state is of albl with the arms {pool.state.get('arms')}; expected {names}. "
                "The run was begun with another strategy."
            )
        return pool.state

    def _advice(
        self,
        pool: PoolOutputs,
        n: int,
        generator: np.random.Generator,
        states: Mapping[str, Any],
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """(K, N) advice of the arms, with rows that sum to 1; and the states of the arms."""
        advice = np.zeros((len(self.arms), len(pool)))
        after: dict[str, Any] = {}
        rows = {index: row for row, index in enumerate(pool.indices.tolist())}
        for k, (name, arm) in enumerate(self.arms.items()):
            if arm is get_strategy("random"):
                advice[k] = 1 / len(pool)
                continue
            query = run_strategy(arm, replace(pool, state=states.get(name)), n, generator)
            advice[k, [rows[index] for index in query.indices]] = 1 / n
            if query.state is not None:
                after[name] = dict(query.state)
        return advice, after


def arm_probabilities(log_weights: np.ndarray) -> np.ndarray:
    """(K,) Exp4.P's probabilities of the arms from the logarithms of their weights."""
    weights = np.exp(log_weights - log_weights.max())
    floor = _floor(len(weights))
    return (1 - len(weights) * floor) * weights / weights.sum() + floor


def _floor(n_arms: int) -> float:
    return min(1 / n_arms, math.sqrt(math.log(n_arms) / (n_arms * HORIZON)))


def _reward(state: Mapping[str, Any], pool: PoolOutputs) -> float | None:
    """Importance-weighted accuracy of the model on the drawn images; None if none has a label."""
    assert pool.labels is not None
    assert pool.labeled_indices is not None
    assert pool.labeled_logits is not None
    right = (pool.labeled_logits.argmax(dim=1).cpu() == pool.labels.cpu()).tolist()
    correct = dict(zip(pool.labeled_indices.tolist(), right, strict=True))
    drawn = zip(state["drawn"], state["ratios"], strict=True)
    parts = [ratio * correct[index] for index, ratio in drawn if index in correct]
    return sum(parts) / len(parts) if parts else None


def _updated(state: Mapping[str, Any], reward: float | None, n_arms: int) -> np.ndarray:
    """(K,) logarithms of the weights after the reward of the latest query."""
    log_weights = np.array(state["log_weights"])
    if reward is None:
        return log_weights
    confidence = math.sqrt(math.log(n_arms / DELTA) / (n_arms * HORIZON))
    gain = reward * np.array(state["payoffs"]) + confidence / np.array(state["probabilities"])
    return log_weights + _floor(n_arms) / 2 * gain


def _draw(
    mixture: np.ndarray, n: int, generator: np.random.Generator
) -> tuple[list[int], np.ndarray]:
    """Draw ``n`` rows without replacement, each from the mixture normalised over the rows left.

    Returns:
        The rows, and one over the probability of each at its draw.
    """
    left = mixture.copy()
    rows: list[int] = []
    weights = np.empty(n)
    for t in range(n):
        cumulative = left.cumsum()
        position = np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right")
        row = min(int(position), int(left.nonzero()[0][-1]))  # u · total may round up to the total
        weights[t] = cumulative[-1] / left[row]
        rows.append(row)
        left[row] = 0.0
    return rows, weights


def _family(arguments: str) -> ActiveLearningByLearning:
    return ActiveLearningByLearning([name.strip() for name in arguments.split(",") if name.strip()])


_plain = ActiveLearningByLearning(DEFAULT_ARMS)
register_strategy("albl", needs=_plain.needs)(_plain)
register_strategy_family("albl", _family, "A,B,...")
