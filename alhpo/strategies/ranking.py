"""Strategies that score each candidate by itself: scores by name, and from scores to a query."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from alhpo.base.errors import ConfigurationError
from alhpo.base.schema import unknown_name
from alhpo.base.types import PoolOutputs, Query
from alhpo.strategies.registry import (
    STRATEGIES,
    get_strategy,
    register_strategy,
    strategy_name,
    strategy_names,
)


@dataclass(frozen=True)
class Scores:
    """The scores of the candidates; the most wanted has the highest.

    Attributes:
        values: (N,) the scores; not NaN.
        order: (N,) what to rank by, if different values may round to the same float; None ranks by
            the values.
        logs: (N,) logarithms of the values, if the values may underflow; None takes the logarithms
            of the values.
    """

    values: torch.Tensor
    order: torch.Tensor | None = None
    logs: torch.Tensor | None = None

    @property
    def ranked_by(self) -> torch.Tensor:
        """(N,) what to rank by."""
        return self.values if self.order is None else self.order


Score = Callable[[PoolOutputs], Scores | torch.Tensor]


class ScoringStrategy:
    """Chooses the candidates with the highest scores.

    Args:
        score: function of a pool to (N,) scores; the strategy takes its name and docstring.
        signed: whether scores may be negative.
    """

    needs: frozenset[str]

    def __init__(self, score: Score, *, signed: bool) -> None:
        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            setattr(self, name, getattr(score, name, None))
        self._score = score
        self.signed = signed

    def __call__(self, pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
        """Choose the ``n`` candidates with the highest scores, without randomness."""
        return highest(pool, n, self.scores(pool))

    def __reduce__(self) -> str:
        """Pickled by name, as functions are."""
        return self.__qualname__  # pyright: ignore[reportAttributeAccessIssue]

    def scores(self, pool: PoolOutputs) -> Scores:
        """The scores of all candidates.

        Raises:
            ConfigurationError: the function did not return (N,) numbers, or some are NaN.
        """
        found = self._score(pool)
        scores = found if isinstance(found, Scores) else Scores(found)
        told = [part for part in (scores.order, scores.logs) if part is not None]
        for part in (scores.values, *told):
            if not isinstance(part, torch.Tensor) or part.shape != (len(pool),):
                shape = f" of shape {tuple(part.shape)}" if isinstance(part, torch.Tensor) else ""
                raise ConfigurationError(
                    f"The score {strategy_name(self)!r} is a {type(part).__name__}{shape}; "
                    f"expected a tensor of shape ({len(pool)},)."
                )
            if part.isnan().any():
                raise ConfigurationError(
                    f"The score {strategy_name(self)!r} is NaN for some images; expected numbers."
                )
        return scores


def register_score(
    name: str,
    *,
    needs: Iterable[str] | None = None,
    aliases: Iterable[str] = (),
    signed: bool = False,
) -> Callable[[Score], ScoringStrategy]:
    """Decorator that makes a strategy from a function that scores each candidate of a pool.

    The strategy ``name`` chooses the candidates with the highest scores; ties go to the lowest pool
    index. Families that draw by a score, such as ``"power:NAME"``, can use it too.

    Args:
        name: what users write, such as ``"entropy"``.
        needs: as for ``register_strategy``.
        aliases: as for ``register_strategy``.
        signed: whether scores may be negative; ``"power:NAME"`` refuses such scores.

    Raises:
        ConfigurationError: as ``register_strategy`` does.
    """

    def register(score: Score) -> ScoringStrategy:
        strategy = ScoringStrategy(score, signed=signed)
        return register_strategy(name, needs=needs, aliases=aliases)(strategy)

    return register


def scoring_strategy(name: str) -> ScoringStrategy:
    """The strategy of this name, which scores each candidate by itself.

    Raises:
        ConfigurationError: the name is unknown, or that of a strategy that was not registered with
            ``register_score``. The message lists the legal names.
    """
    legal = score_names()
    try:
        strategy = get_strategy(name)
    except ConfigurationError:
        if name in strategy_names():  # an installed plug-in that cannot be imported
            raise
        raise unknown_name("score", name, legal) from None
    if not isinstance(strategy, ScoringStrategy):
        raise ConfigurationError(
            f"Strategy {name!r} does not score each candidate by itself. Legal: "
            f"{', '.join(legal)}, or what you register with register_score."
        )
    return strategy


def score_names() -> tuple[str, ...]:
    """The names of the strategies of ``register_score``, sorted; of plug-ins, those imported."""
    strategies = STRATEGIES.registered().items()
    return tuple(sorted(name for name, one in strategies if isinstance(one, ScoringStrategy)))


def highest(pool: PoolOutputs, n: int, scores: Scores) -> Query:
    """The ``n`` candidates with the highest scores, highest first; ties to the lowest index."""
    order = scores.ranked_by.sort(descending=True, stable=True).indices[:n]
    chosen = scores.values[order].tolist()
    return Query(tuple(pool.indices[order.to(pool.indices.device)].tolist()), tuple(chosen))
