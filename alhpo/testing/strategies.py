"""What every query strategy must keep to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch

from alhpo.protocols import POOL_OUTPUTS, Strategy
from alhpo.seeding import torch_generator
from alhpo.strategies import get_strategy, run_strategy, strategy_name, strategy_needs
from alhpo.testing.process_state import global_seed, process_left_alone, require
from alhpo.types import AlhpoError, PoolOutputs, Query


def check_strategy(strategy: str | Strategy) -> None:
    """Check that a strategy is a function of the pool and the generator, and of nothing else.

    On ordinary pools, one class, identical points, zero features, saturated logits, no labelled
    images, and a single candidate, each with n = 1, some, and all:

    - the right number of candidates, each once, none from elsewhere;
    - the same generator state gives the same query, whatever the global seeds are and whatever
      was queried in between;
    - what it is given stays as it was, as does the state of the process;
    - the outputs it declares in ``needs`` suffice, read-only ones too (``torch.inference_mode``);
    - other numbers for the same candidates give the same choice;
    - if it draws nothing from the generator, reordering the candidates gives the same choice.

    Args:
        strategy: a registered name, or the function.

    Raises:
        AssertionError: with the rule that was broken and the pool it was broken on.
    """
    strategy = get_strategy(strategy)
    name = f"Strategy {strategy_name(strategy)!r}"
    for case, pool in _pools(strategy_needs(strategy)):
        for n in sorted({1, min(7, len(pool)), len(pool)}):
            where = f"{name} on {case}, {n} of {len(pool)}"
            before = _copy(pool)
            with process_left_alone(where):
                first = _query(strategy, pool, n, where)
            require(_equal(pool, before), f"{where}: changed the outputs it was given.")
            for seed in (1, 2):
                with global_seed(seed):
                    again = _query(strategy, pool, n, where)
                require(
                    again == first,
                    f"{where}: the same generator state gave {first} and then {again}; all "
                    "randomness must come from the generator that is passed.",
                )
    _check_numbering(strategy, name)
    _check_order(strategy, name)


def _pools(needs: frozenset[str]) -> Iterator[tuple[str, PoolOutputs]]:
    """Pools that hold only what is needed, each with a description."""
    ordinary = _pool(50, needs)
    logits, features = _zeros_like(ordinary.logits), _zeros_like(ordinary.features)
    yield "an ordinary pool", ordinary
    yield "a pool of one class", _pool(20, needs, classes=1)
    yield "a pool with no labelled images", _pool(20, needs, labeled=0)
    yield "a single candidate", _pool(1, needs)
    yield "zero features", replace(ordinary, features=features)
    yield "equal logits", replace(ordinary, logits=logits)
    yield "zero features and equal logits", replace(ordinary, features=features, logits=logits)
    yield "saturated logits", replace(ordinary, logits=_map(ordinary.logits, lambda x: 1e4 * x))
    yield "identical points", _rows(ordinary, [3] * len(ordinary))
    yield "every point twice", _rows(ordinary, [i // 2 for i in range(len(ordinary))])
    with torch.inference_mode():
        inferred = _copy(ordinary)
    yield "outputs made in inference mode", inferred


def _check_numbering(strategy: Strategy, name: str) -> None:
    pool = _pool(40, strategy_needs(strategy))
    renumbered = replace(pool, indices=torch.arange(len(pool)) * 11 + 1000)
    positions = [
        [p.indices.tolist().index(i) for i in _query(strategy, p, 9, name).indices]
        for p in (pool, renumbered)
    ]
    require(
        positions[0] == positions[1],
        f"{name}: the choice depends on the numbers of the candidates, not only on their outputs.",
    )


def _check_order(strategy: Strategy, name: str) -> None:
    needs = strategy_needs(strategy)
    pool = _pool(40, needs)
    generator = np.random.default_rng(0)
    state = generator.bit_generator.state
    chosen = run_strategy(strategy, pool, 9, generator).indices
    if not needs or generator.bit_generator.state != state:
        return
    order = torch.randperm(len(pool), generator=torch_generator("order")).tolist()
    reordered = _query(strategy, _rows(pool, order), 9, name).indices
    numbers = pool.indices.tolist()
    back = tuple(numbers[order[numbers.index(i)]] for i in reordered)
    require(
        back == chosen,
        f"{name}: chose {chosen}, and {back} after the same candidates were given in another "
        "order, though nothing was drawn from the generator and no two candidates are alike.",
    )


def _query(strategy: Strategy, pool: PoolOutputs, n: int, where: str) -> Query:
    try:
        return run_strategy(strategy, pool, n, np.random.default_rng(5))
    except AlhpoError as error:
        raise AssertionError(f"{where}: {error}") from error
    except Exception as error:
        raise AssertionError(
            f"{where}: raised {error!r} (needs={sorted(strategy_needs(strategy))})."
        ) from error


def _pool(n: int, needs: frozenset[str], *, classes: int = 5, labeled: int = 10) -> PoolOutputs:
    draw = torch_generator("pool", n, classes)
    outputs = {
        "logits": 2 * torch.randn(n, classes, generator=draw),
        "features": torch.randn(n, 8, generator=draw),
        "labeled_features": torch.randn(labeled, 8, generator=draw),
    }
    assert outputs.keys() == POOL_OUTPUTS
    return PoolOutputs(torch.arange(n) * 3 + 7, **{name: outputs[name] for name in needs})


def _map(
    output: torch.Tensor | None, function: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor | None:
    return None if output is None else function(output)


def _zeros_like(output: torch.Tensor | None) -> torch.Tensor | None:
    return _map(output, torch.zeros_like)


def _rows(pool: PoolOutputs, rows: list[int]) -> PoolOutputs:
    """The pool with its indices, and the outputs of these rows in their place."""
    return replace(
        pool,
        logits=_map(pool.logits, lambda x: x[rows]),
        features=_map(pool.features, lambda x: x[rows]),
    )


def _copy(pool: PoolOutputs) -> PoolOutputs:
    copies: dict[str, Any] = {
        f.name: _map(getattr(pool, f.name), torch.clone) for f in fields(pool)
    }
    return PoolOutputs(**copies)


def _equal(one: PoolOutputs, other: PoolOutputs) -> bool:
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(one)]
    return all(a is b or torch.equal(a, b) for a, b in pairs)
