"""The conformance suite for query strategies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np
import torch

from alhpo.base.errors import AlhpoError, ConfigurationError, DivergedError
from alhpo.base.protocols import POOL_OUTPUTS, Strategy
from alhpo.base.seeding import torch_generator
from alhpo.base.types import Evaluation, PoolOutputs, Query
from alhpo.outputs.dropout_passes import TensorPasses
from alhpo.strategies import get_strategy, run_strategy, strategy_name, strategy_needs
from alhpo.testing.process_state import global_seed, process_left_alone, require

#: Outputs with one row per candidate; ``passes`` have one too.
ROWS = (
    *("logits", "features", "predicted_losses", "labeled_scores", "images", "true_labels"),
    "strategy_weights",
)
#: Outputs with one row per labelled image.
LABELED = ("labels", "labeled_indices", "labeled_logits", "labeled_features", "labeled_images")
#: Outputs with one row per labelled image that a model was not trained on.
HELD_OUT = ("heldout_logits", "heldout_labels")
#: The number of queries from which the frequencies of a random strategy's choices are compared.
DRAWS = 150


def check_strategy(strategy: str | Strategy) -> None:
    """Check that a strategy is a function of only the pool and the generator.

    On ordinary pools, one class, identical points, zero features, saturated logits, no labelled
    images, and a single candidate, among others, each with n = 1, some, and all:

    - the query has n candidates, each once;
    - the same generator state gives the same query, with any global seed and after any queries in
      between;
    - neither the pool nor the state of the process changes;
    - the outputs in ``needs`` suffice, also read-only ones (``torch.inference_mode``);
    - other pool indices of the same candidates, and another memory layout of the outputs, give the
      same choice;
    - a strategy that does not draw from the generator makes the same choice for candidates in
      another order, and of equal candidates chooses that with the lowest index first;
    - a strategy that draws chooses each candidate equally often in another order;
    - ``Query.state`` survives JSON: the state read back gives the same picks as the state itself,
      and a strategy that leaves a state has it in ``needs``;
    - empty pools, n out of range, and outputs that are not finite are refused.

    Args:
        strategy: a registered name, or the function.

    Raises:
        AssertionError: the message is the broken rule and the pool on which it was broken.
    """
    strategy = get_strategy(strategy)
    name = f"Strategy {strategy_name(strategy)!r}"
    for case, pool in _pools(strategy):
        for n in sorted({1, min(7, len(pool)), len(pool)}):
            where = f"{name} on {case}, {n} of {len(pool)}"
            before = _copy(pool)
            with process_left_alone(where):
                first = _query(strategy, pool, n, where)
            require(_equal(pool, before), f"{where}: changed the outputs it was given.")
            with global_seed(1):
                again = _query(strategy, pool, n, where)
            require(
                again == first,
                f"{where}: the same generator state gave {first} and then {again}; all "
                "randomness must come from the generator that is passed.",
            )
    _check_refusals(strategy, name)
    _check_numbering(strategy, name)
    _check_layout(strategy, name)
    _check_order(strategy, name)
    _check_ties(strategy, name)
    _check_state(strategy, name)


def _pools(strategy: Strategy) -> Iterator[tuple[str, PoolOutputs]]:
    """Pools that hold only what is needed, each with a description."""
    ordinary = _pool(30, strategy)
    zero_features = _changed(ordinary, ("features",), torch.zeros_like)
    yield "an ordinary pool", ordinary
    yield "a pool of one class", _pool(20, strategy, classes=1)
    yield "a pool with no labelled images", _pool(20, strategy, labeled=0)
    yield "a pool with one labelled image", _pool(20, strategy, labeled=1)
    yield "a single candidate", _pool(1, strategy)
    yield "zero features", zero_features
    yield "zero features everywhere", _changed(zero_features, LABELED[3:4], torch.zeros_like)
    yield (
        "features a million times as large",
        _changed(ordinary, ("features", "labeled_features"), lambda x: 1e6 * x),
    )
    yield "equal logits", _changed(ordinary, ("logits", "passes"), torch.zeros_like)
    yield (
        "zero features and equal logits",
        _changed(zero_features, ("logits", "passes"), torch.zeros_like),
    )
    yield (
        "saturated logits",
        _changed(ordinary, ("logits", "passes", "labeled_logits", HELD_OUT[0]), lambda x: 1e4 * x),
    )
    yield "identical points", _rows(ordinary, [3] * len(ordinary))
    yield "every point twice", _rows(ordinary, [i // 2 for i in range(len(ordinary))])
    yield "candidates like the labelled images", _like_labeled(ordinary)
    with torch.inference_mode():
        inferred = _copy(ordinary)
    yield "outputs made in inference mode", inferred


def _check_refusals(strategy: Strategy, name: str) -> None:
    """The engine refuses these on behalf of every strategy."""
    needs = strategy_needs(strategy)
    pool = _pool(12, strategy)
    empty = replace(_rows(pool, []), indices=pool.indices[:0])
    cases = [("an empty pool", empty, 1), ("n = 0", pool, 0), ("n of 13 of 12", pool, 13)]
    for field in sorted(needs):
        output = getattr(pool, field)
        values = output.values if isinstance(output, TensorPasses) else output
        if isinstance(values, torch.Tensor) and values.is_floating_point():
            for value in (torch.nan, torch.inf):
                case = f"{field} of {value}"
                cases.append((case, _changed(pool, (field,), lambda x, v=value: x.fill_(v)), 3))
    for case, broken, n in cases:
        try:
            run_strategy(strategy, broken, n, np.random.default_rng(5))
        except (ConfigurationError, DivergedError):
            continue
        if case.startswith("passes"):  # which are only looked at where the strategy asks for them
            continue
        raise AssertionError(f"{name}: {case} was not refused.")


def _check_numbering(strategy: Strategy, name: str) -> None:
    pool = _pool(40, strategy)
    renumbered = _numbered(pool, torch.arange(len(pool)) * 11 + 1000)
    positions = [
        [p.indices.tolist().index(i) for i in _query(strategy, p, 9, name).indices]
        for p in (pool, renumbered)
    ]
    require(
        positions[0] == positions[1],
        f"{name}: the choice depends on the numbers of the candidates, not only on their outputs.",
    )


def _check_layout(strategy: Strategy, name: str) -> None:
    """Engines hand out slices and transposed tensors too."""
    pool = _pool(40, strategy)
    strided = _changed(pool, (*ROWS, *LABELED[2:], *HELD_OUT), _strided)
    require(
        _query(strategy, strided, 9, name).indices == _query(strategy, pool, 9, name).indices,
        f"{name}: the choice depends on the order of the outputs in memory.",
    )


def _check_order(strategy: Strategy, name: str) -> None:
    if not strategy_needs(strategy):
        return
    pool = _pool(40, strategy)
    order = torch.randperm(len(pool), generator=torch_generator("order")).tolist()
    if not _draws(strategy, pool, 9):
        query = _query(strategy, pool, 9, name)
        reordered = _query(strategy, _rows(pool, order), 9, name)
        numbers = pool.indices.tolist()
        back = tuple(numbers[order[numbers.index(i)]] for i in reordered.indices)
        same = back == query.indices
        if query.scores is not None and reordered.scores is not None:
            # candidates of equal score may change places, also with those cut off at the end
            same = query.scores == reordered.scores and all(
                _of_score(s, query.indices, query.scores) == _of_score(s, back, query.scores)
                for s in set(query.scores) - {query.scores[-1]}
            )
        require(
            same,
            f"{name}: chose {query.indices}, and {back} after the same candidates were given in "
            "another order, though nothing was drawn from the generator and no two candidates are "
            "alike.",
        )
        return
    # few choices among many make pairs rare, whose members tie: they are equally far from their
    # mean
    pool = _pool(20, strategy)
    order = torch.randperm(len(pool), generator=torch_generator("order")).tolist()
    counts = np.zeros((2, len(pool)))
    for row, one in enumerate((pool, _rows(pool, order))):
        for seed in range(DRAWS):
            query = run_strategy(strategy, one, 2, np.random.default_rng((row, seed)))
            positions = np.searchsorted(one.indices.numpy(), query.indices)
            counts[row, positions if row == 0 else [order[i] for i in positions]] += 1
    share = counts.mean(axis=0) / DRAWS
    deviation = np.sqrt(2 * DRAWS * share * (1 - share))
    require(
        bool((np.abs(counts[0] - counts[1]) <= 5 * deviation + 5).all()),
        f"{name}: chose the candidates {counts[0].astype(int).tolist()} times in {DRAWS} queries, "
        f"and {counts[1].astype(int).tolist()} times after they were given in another order.",
    )


def _of_score(score: float, indices: tuple[int, ...], scores: tuple[float, ...]) -> set[int]:
    return {i for i, one in zip(indices, scores, strict=True) if one == score}


def _check_ties(strategy: Strategy, name: str) -> None:
    ordinary = _pool(30, strategy)
    for case, groups in (
        ("identical points", [0] * 30),
        ("every point twice", [i // 2 for i in range(30)]),
    ):
        pool = _rows(ordinary, groups)
        if _draws(strategy, pool, 12):
            continue
        chosen = _query(strategy, pool, 12, name).indices
        positions = [pool.indices.tolist().index(i) for i in chosen]
        for i, position in enumerate(positions):
            equals = [j for j in range(position) if groups[j] == groups[position]]
            require(
                set(equals) <= set(positions[:i]),
                f"{name} on {case}: chose {chosen[i]} before an equal candidate of a lower index, "
                "though nothing was drawn from the generator.",
            )


def _check_state(strategy: Strategy, name: str) -> None:
    """Make three queries in a row, and label the chosen candidates after each."""
    needs = strategy_needs(strategy)
    pool = _pool(40, strategy)
    for step in range(3):
        where = f"{name}, query {step + 1} of a run"
        before = _copy(pool)
        query = _query(strategy, pool, 4, where)
        require(_equal(pool, before), f"{where}: changed the state it was given.")
        if query.state is not None:
            require(
                "state" in needs,
                f"{where}: left a state, which it is never given back: add 'state' to needs.",
            )
            read_back = json.loads(json.dumps(pool.state))
            again = _query(strategy, replace(pool, state=read_back), 4, where)
            require(
                again == query,
                f"{where}: gave {query}, and {again} with the same state read back from JSON.",
            )
        pool = _labeled_now(pool, query) if step < 2 else pool


def _labeled_now(pool: PoolOutputs, query: Query) -> PoolOutputs:
    """The pool after what was chosen is labelled; the model is not trained again."""
    chosen = torch.isin(pool.indices, torch.tensor(query.indices))
    left = replace(_rows(pool, (~chosen).nonzero().flatten().tolist()), state=query.state)
    moved = {
        "labels": torch.arange(len(query)) % 5,
        "labeled_indices": pool.indices[chosen],
        **{f"labeled_{f}": getattr(pool, f) for f in ("logits", "features", "images")},
    }
    grown: dict[str, Any] = {}
    for field in LABELED:
        old, new = getattr(pool, field), moved[field]
        if old is not None:
            new = _random_rows(field, len(query)) if new is None else new
            grown[field] = torch.cat([old, new[chosen] if len(new) == len(chosen) else new])
    return replace(_numbered(left, pool.indices[~chosen]), **grown)


def _draws(strategy: Strategy, pool: PoolOutputs, n: int) -> bool:
    generator = np.random.default_rng(0)
    state = generator.bit_generator.state
    run_strategy(strategy, pool, n, generator)
    return generator.bit_generator.state != state


def _query(strategy: Strategy, pool: PoolOutputs, n: int, where: str) -> Query:
    try:
        return run_strategy(strategy, pool, n, np.random.default_rng(5))
    except AlhpoError as error:
        raise AssertionError(f"{where}: {error}") from error
    except Exception as error:
        raise AssertionError(
            f"{where}: raised {error!r} (needs={sorted(strategy_needs(strategy))})."
        ) from error


def _pool(n: int, strategy: Strategy, *, classes: int = 5, labeled: int = 10) -> PoolOutputs:
    arms = len(getattr(strategy, "arms", ())) or 3
    outputs = _outputs(n, classes, labeled, arms)
    needed = {name: outputs[name] for name in strategy_needs(strategy)}
    return PoolOutputs(torch.arange(n) * 3 + 7, **needed)


def _outputs(n: int, classes: int, labeled: int, arms: int) -> dict[str, Any]:
    draw = torch_generator("pool", n, classes)
    outputs = {
        "logits": 2 * torch.randn(n, classes, generator=draw),
        "features": torch.randn(n, 8, generator=draw),
        "labeled_features": torch.randn(labeled, 8, generator=draw),
        "passes": TensorPasses(2 * torch.randn(6, n, classes, generator=draw)),
        "predicted_losses": torch.randn(n, generator=draw),
        "labeled_scores": torch.rand(n, generator=draw),
        "images": _pixels(n, draw),
        "labels": torch.randint(classes, (labeled,), generator=draw),
        "labeled_indices": torch.randperm(labeled, generator=draw) * 3 + 8,
        "labeled_logits": 2 * torch.randn(labeled, classes, generator=draw),
        "labeled_images": _pixels(labeled, draw),
        "state": None,
        "classify": _Linear(torch.randn(8, classes, generator=draw)),
        "retrain": _Retrained(torch.arange(n) * 3 + 7, torch.rand(n, generator=draw)),
        "true_labels": torch.randint(classes, (n,), generator=draw),
        "heldout_logits": 2 * torch.randn(labeled, classes, generator=draw),
        "heldout_labels": torch.randint(classes, (labeled,), generator=draw),
        "strategy_weights": torch.randn(n, arms, generator=draw).softmax(dim=1),
        "strategy_search": {},
    }
    assert outputs.keys() == POOL_OUTPUTS
    return outputs


@dataclass(frozen=True, eq=False)
class _Linear:
    """A classifier of features."""

    weights: torch.Tensor

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        return features.float() @ self.weights


@dataclass(frozen=True, eq=False)
class _Retrained:
    """Retraining whose accuracy is the mean worth of the images of a batch."""

    indices: torch.Tensor
    values: torch.Tensor

    def __call__(
        self, batches: Sequence[Sequence[int]], max_epochs: int | None = None
    ) -> list[Evaluation]:
        return [self._of_batch(batch) for batch in batches]

    def _of_batch(self, batch: Sequence[int]) -> Evaluation:
        numbers = self.indices.tolist()
        worth = self.values[[numbers.index(int(i)) for i in batch]].double()
        accuracy = float(worth.sort().values.mean()) if len(worth) else 0.0
        return Evaluation(accuracy, 2 - accuracy, 50, 1 - accuracy, 0.0, accuracy, accuracy)


def _numbered(pool: PoolOutputs, indices: torch.Tensor) -> PoolOutputs:
    """The same candidates under other pool indices."""
    retrain = pool.retrain and _Retrained(indices, cast(_Retrained, pool.retrain).values)
    return replace(pool, indices=indices, retrain=retrain)


def _pixels(n: int, draw: torch.Generator) -> torch.Tensor:
    return torch.randint(256, (n, 8, 8, 3), generator=draw, dtype=torch.uint8)


def _random_rows(field: str, n: int) -> torch.Tensor:
    """Rows of an output for labelled images, if the pool did not have that output."""
    return _outputs(1, 5, n, 3)[field]


def _changed(
    pool: PoolOutputs, names: tuple[str, ...], function: Callable[[torch.Tensor], torch.Tensor]
) -> PoolOutputs:
    """The pool with these of its outputs replaced by a function of copies of them."""
    changed: dict[str, Any] = {}
    for name in names:
        output = getattr(pool, name)
        if isinstance(output, TensorPasses):
            changed[name] = TensorPasses(function(output.values.clone()))
        elif output is not None:
            changed[name] = function(output.clone())
    return replace(pool, **changed)


def _rows(pool: PoolOutputs, rows: list[int]) -> PoolOutputs:
    """The pool with its indices, and the outputs of these rows in their place."""
    moved = _changed(pool, ROWS, lambda x: x[rows])
    moved = _changed(moved, ("passes",), lambda x: x[:, rows])
    if pool.retrain is None:
        return moved
    values = cast(_Retrained, pool.retrain).values[rows]
    return replace(moved, retrain=_Retrained(pool.indices[: len(rows)], values))


def _like_labeled(pool: PoolOutputs) -> PoolOutputs:
    """The pool with every labelled image like the first candidate."""
    changed: dict[str, Any] = {}
    for field in ("logits", "features", "images"):
        mine, theirs = getattr(pool, field), getattr(pool, f"labeled_{field}")
        if mine is not None and theirs is not None:
            changed[f"labeled_{field}"] = mine[:1].expand_as(theirs).clone()
    return replace(_rows(pool, [0] * len(pool)), **changed)


def _strided(output: torch.Tensor) -> torch.Tensor:
    """The same values in another memory layout, with gaps."""
    spread = output.new_zeros(*output.shape[::-1], 2)
    spread[..., 0] = output.permute(*range(output.ndim)[::-1])
    return spread[..., 0].permute(*range(output.ndim)[::-1])


def _copy(pool: PoolOutputs) -> PoolOutputs:
    state = deepcopy(pool.state)
    tensors = ("indices", "passes", *ROWS, *LABELED, *HELD_OUT)
    return replace(_changed(pool, tensors, torch.clone), state=state)


def _equal(one: PoolOutputs, other: PoolOutputs) -> bool:
    for field in fields(one):
        a, b = (
            value.values if isinstance(value, TensorPasses) else value
            for value in (getattr(one, field.name), getattr(other, field.name))
        )
        if field.name in ("classify", "retrain"):  # functions
            continue
        same = a == b if a is None or isinstance(a, Mapping) else torch.equal(a, b)
        if not same:
            return False
    return True
