"""Run a strategy between two checks: of what it is given, and of what it gives back."""

from __future__ import annotations

import operator
from collections import Counter

import numpy as np
import torch

from alhpo.protocols import Strategy
from alhpo.strategies.registry import get_strategy, strategy_name, strategy_needs
from alhpo.types import ConfigurationError, PoolOutputs, Query


def run_strategy(
    strategy: str | Strategy, pool: PoolOutputs, n: int, generator: np.random.Generator
) -> Query:
    """What the strategy wants labelled, as plain Python numbers.

    Args:
        strategy: a registered name, or a function.
        pool: the candidates, with at least the outputs that the strategy needs.
        n: how many to choose, at least 1 and at most ``len(pool)``.
        generator: the only source of randomness.

    Raises:
        ConfigurationError: ``n`` out of range; an output that the strategy needs is missing, of a
            wrong shape or not finite; or the strategy returned too few or too many indices, the
            same twice, or one that is no candidate.
    """
    strategy = get_strategy(strategy)
    name = strategy_name(strategy)
    if not isinstance(generator, np.random.Generator):
        raise ConfigurationError(
            f"A strategy draws from a numpy.random.Generator, not from {generator!r}."
        )
    n = _whole_number(n)
    candidates = _check_indices(pool)
    if not candidates:
        raise ConfigurationError("There are no candidates left to choose from: the pool is empty.")
    if not 1 <= n <= len(candidates):
        raise ConfigurationError(
            f"Cannot choose {n} of {len(candidates)} candidates; legal: 1 to {len(candidates)}."
        )
    _check_outputs(pool, strategy_needs(strategy), name)
    return _checked_query(strategy(pool, n, generator), candidates, n, name)


def _whole_number(n: int) -> int:
    try:
        if isinstance(n, bool):
            raise TypeError
        return operator.index(n)
    except TypeError:
        raise ConfigurationError(f"The number to choose must be an integer, not {n!r}.") from None


def _check_indices(pool: PoolOutputs) -> list[int]:
    indices = pool.indices
    if indices.ndim != 1 or indices.is_floating_point() or indices.dtype == torch.bool:
        raise ConfigurationError(
            f"Pool indices must be (N,) integers, not {tuple(indices.shape)} of {indices.dtype}."
        )
    if bool((indices[1:] <= indices[:-1]).any()):
        raise ConfigurationError("Pool indices must be ascending, each there once.")
    return indices.tolist()


def _check_outputs(pool: PoolOutputs, needs: frozenset[str], name: str) -> None:
    for field in sorted(needs):  # features come before labeled_features
        output = getattr(pool, field)
        if output is None:
            raise ConfigurationError(
                f"Strategy {name!r} needs {field} of the pool, which were not computed."
            )
        rows = "L" if field == "labeled_features" else len(pool)
        width = pool.features.shape[1] if rows == "L" and pool.features is not None else None
        fits = output.ndim == 2 and output.shape[1] >= 1 and output.is_floating_point()
        if not fits or rows not in ("L", len(output)) or width not in (None, output.shape[1]):
            raise ConfigurationError(
                f"Strategy {name!r} needs {field} of shape ({rows}, {width or 'at least 1'}) as "
                f"floating point numbers, not {tuple(output.shape)} of {output.dtype}."
            )
        broken = (~output.isfinite().all(dim=1)).nonzero().flatten()
        if len(broken):
            raise ConfigurationError(
                f"The {field} given to strategy {name!r} are not finite in {len(broken)} of "
                f"{len(output)} rows, first in row {int(broken[0])}. Has the training of the "
                "model diverged?"
            )


def _checked_query(query: Query, candidates: list[int], n: int, name: str) -> Query:
    try:
        indices = tuple(operator.index(i) for i in query.indices)
        scores = None if query.scores is None else tuple(float(s) for s in query.scores)
        paths = query.paths
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"Strategy {name!r} must return a Query of integer indices, not {query!r}."
        ) from error
    if len(indices) != n:
        raise ConfigurationError(
            f"Strategy {name!r} was asked for {n} candidates and returned {len(indices)}."
        )
    if len(set(indices)) != n:
        repeated = sorted(i for i, times in Counter(indices).items() if times > 1)
        raise ConfigurationError(f"Strategy {name!r} chose {_some(repeated)} more than once.")
    if strangers := sorted(set(indices).difference(candidates)):
        raise ConfigurationError(
            f"Strategy {name!r} chose {_some(strangers)}, which are not among the candidates. It "
            "must return values of pool.indices, not row numbers."
        )
    if scores is not None and len(scores) != n:
        raise ConfigurationError(
            f"Strategy {name!r} returned {len(scores)} scores for {n} candidates."
        )
    return Query(indices, scores, paths)


def _some(indices: list[int]) -> str:
    return ", ".join(map(str, indices[:5])) + (", …" if len(indices) > 5 else "")
