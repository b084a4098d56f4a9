"""Run a strategy, with checks of its input and of its query."""

from __future__ import annotations

import json
import operator
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from alhpo.base.errors import ConfigurationError, DivergedError
from alhpo.base.protocols import MODEL_OUTPUTS, POOL_OUTPUTS, Strategy
from alhpo.base.types import PoolOutputs, Query, StochasticPasses
from alhpo.strategies.registry import get_strategy, strategy_name, strategy_names, strategy_needs

#: What a strategy may need to choose the first batch; nothing of it is from a trained model.
INITIAL_NEEDS = frozenset({"features", "labels", "labeled_indices", "labeled_features"})
#: Dimensions of the outputs that are tensors. Dimensions of the same name must be equal.
SHAPES = {
    "logits": "N C",
    "features": "N D",
    "labeled_logits": "L C",
    "labeled_features": "L D",
    "predicted_losses": "N",
    "labeled_scores": "N",
    "labels": "L",
    "labeled_indices": "L",
    "images": "N H W channels",
    "labeled_images": "L H W channels",
    "heldout_logits": "V C",
    "heldout_labels": "V",
    "true_labels": "N",
    "strategy_weights": "N K",
}
INTEGERS = frozenset({"labels", "labeled_indices", "heldout_labels", "true_labels"})
#: Dimensions that may be 0.
MAY_BE_EMPTY = frozenset("LV")
IMAGES = frozenset({"images", "labeled_images"})


def run_strategy(
    strategy: str | Strategy, pool: PoolOutputs, n: int, generator: np.random.Generator
) -> Query:
    """The query of a strategy, in plain Python numbers.

    Args:
        strategy: a registered name, or a function.
        pool: the candidates, with at least the outputs that the strategy needs.
        n: number to choose, from 1 to ``len(pool)``.
        generator: the only source of randomness.

    Raises:
        ConfigurationError: ``n`` is out of range; an output that the strategy needs is missing, has
            a wrong shape or is out of range; or the strategy returned a wrong number of indices, an
            index twice or of no candidate, or a state that JSON cannot hold.
        DivergedError: an output that the strategy needs is not finite.
    """
    strategy = get_strategy(strategy)
    name = strategy_name(strategy)
    if not isinstance(generator, np.random.Generator):
        raise ConfigurationError(
            f"The generator of a strategy is {generator!r}; expected a numpy.random.Generator."
        )
    n = _whole_number(n)
    candidates = _check_indices(pool)
    if not candidates:
        raise ConfigurationError("There are no candidates left to choose from: the pool is empty.")
    if not 1 <= n <= len(candidates):
        raise ConfigurationError(
            f"Cannot choose {n} of {len(candidates)} candidates. Legal: 1 to {len(candidates)}."
        )
    needs = strategy_needs(strategy)
    _check_outputs(pool, needs, name)
    if "passes" in needs:
        if pool.passes is None:
            raise ConfigurationError(
                f"Strategy {name!r} needs passes with dropout over the pool, which were not made."
            )
        pool = replace(pool, passes=_CheckedPasses(pool.passes, len(pool), name))
    return _checked_query(strategy(pool, n, generator), candidates, n, name)


def check_dropout(strategy: str | Strategy, dropout: float) -> None:
    """Refuse a strategy that needs passes with dropout for a model without dropout.

    Args:
        strategy: a registered name, or a function.
        dropout: probability of dropping a feature before the classifier.

    Raises:
        ConfigurationError: the strategy needs ``passes``, and ``dropout`` is 0.
    """
    strategy = get_strategy(strategy)
    if "passes" in strategy_needs(strategy) and not dropout:
        arms: Mapping[str, Strategy] = getattr(strategy, "arms", {})
        others = [name for name, arm in arms.items() if "passes" not in strategy_needs(arm)]
        raise ConfigurationError(
            f"Strategy {strategy_name(strategy)!r} looks at passes with dropout, but the model's "
            "classifier has none (dropout=0), so all passes would be equal. Set dropout=0.5"
            + (f", or ask only those that need none: {', '.join(others)}." if others else ".")
        )


def check_initial(strategy: str | Strategy) -> None:
    """Refuse a strategy that needs a trained model, for the first batch.

    Raises:
        ConfigurationError: the strategy is unknown, or needs more than features; the message lists
            those that do not.
    """
    strategy = get_strategy(strategy)
    if beyond := strategy_needs(strategy) - INITIAL_NEEDS:
        legal = [
            name for name in strategy_names() if ":" not in name and _within(name, INITIAL_NEEDS)
        ]
        raise ConfigurationError(
            f"Strategy {strategy_name(strategy)!r} cannot choose the initial labels: it needs "
            f"{', '.join(sorted(beyond))}, and no model is trained yet. Legal: "
            f"{', '.join(legal)}, and probcover:RADIUS."
        )


def needs_model(strategy: str | Strategy) -> bool:
    """Whether the strategy looks at outputs of a fitted model.

    Raises:
        ConfigurationError: the strategy is unknown.
    """
    return bool(strategy_needs(get_strategy(strategy)) & MODEL_OUTPUTS)


def check_without_model(strategy: str | Strategy) -> None:
    """Refuse a strategy that looks at a fitted model, for queries without one.

    Raises:
        ConfigurationError: the strategy is unknown, or needs outputs of a model; the message lists
            those that do not.
    """
    strategy = get_strategy(strategy)
    if of_model := strategy_needs(strategy) & MODEL_OUTPUTS:
        without = POOL_OUTPUTS - MODEL_OUTPUTS
        legal = [name for name in strategy_names() if ":" not in name and _within(name, without)]
        raise ConfigurationError(
            f"Strategy {strategy_name(strategy)!r} looks at a trained model in every cycle (its "
            f"{', '.join(sorted(of_model))}). Legal: {', '.join(legal)}."
        )


def _within(name: str, needs: frozenset[str]) -> bool:
    try:
        return strategy_needs(get_strategy(name)) <= needs
    except ConfigurationError:  # a plug-in that cannot be imported
        return False


def _whole_number(n: int) -> int:
    try:
        if isinstance(n, bool):
            raise TypeError
        return operator.index(n)
    except TypeError:
        raise ConfigurationError(f"The number to choose is {n!r}; expected an integer.") from None


def _check_indices(pool: PoolOutputs) -> list[int]:
    indices = pool.indices
    if indices.ndim != 1 or indices.is_floating_point() or indices.dtype == torch.bool:
        raise ConfigurationError(
            f"Pool indices are {tuple(indices.shape)} of {indices.dtype}; expected (N,) integers."
        )
    if bool((indices[1:] <= indices[:-1]).any()):
        raise ConfigurationError(
            "Pool indices are not ascending; expected each index once, in ascending order."
        )
    return indices.tolist()


def _check_outputs(pool: PoolOutputs, needs: frozenset[str], name: str) -> None:
    """Refuse outputs that are missing, have a wrong shape, or are not finite."""
    if "state" in needs and pool.state is not None:
        _json_state(pool.state, f"The state given to strategy {name!r}")
    sizes = {"N": len(pool)}
    for field in [field for field in SHAPES if field in needs]:
        output = getattr(pool, field)
        if output is None:
            raise ConfigurationError(
                f"Strategy {name!r} needs {field} of the pool, which were not computed."
            )
        if field in INTEGERS:
            kind = "integers"
            fits = not (output.is_floating_point() or output.dtype == torch.bool)
        elif field in IMAGES:
            kind, fits = "bytes (uint8)", output.dtype == torch.uint8
        else:
            kind, fits = "floating point numbers", output.is_floating_point()
        names = SHAPES[field].split()
        shape = dict(zip(names, output.shape, strict=False))
        fits &= output.ndim == len(names) and all(
            size == sizes.get(dim, size) and (size >= 1 or dim in MAY_BE_EMPTY)
            for dim, size in shape.items()
        )
        if not fits:
            wanted = [str(sizes.get(d, d if d in MAY_BE_EMPTY else "at least 1")) for d in names]
            raise ConfigurationError(
                f"Strategy {name!r} was given {field} of shape {tuple(output.shape)} as "
                f"{output.dtype}; expected shape ({', '.join(wanted)}{',' * (len(wanted) == 1)}) "
                f"as {kind}."
            )
        sizes |= shape
        if output.is_floating_point():
            _check_finite(output, field, name)
    _check_values(pool, needs, sizes.get("C"), name)
    for field in sorted(needs & {"classify", "retrain", "strategy_search"}):
        if getattr(pool, field) is None:
            raise ConfigurationError(
                f"Strategy {name!r} needs {field} of the pool, which is not offered here."
            )


def _check_finite(output: torch.Tensor, field: str, name: str) -> None:
    if not output.numel() or torch.stack(output.aminmax()).isfinite().all():
        return  # a check without N × D booleans in memory
    finite = output.isfinite()
    broken = (~(finite.all(dim=1) if finite.ndim > 1 else finite)).nonzero().flatten()
    if len(broken):
        raise DivergedError(
            f"The {field} given to strategy {name!r} are not finite in {len(broken)} of "
            f"{len(output)} rows, first in row {int(broken[0])}. Has the training of the "
            "model diverged?"
        )


def _check_values(pool: PoolOutputs, needs: frozenset[str], classes: int | None, name: str) -> None:
    """Refuse values out of range, in outputs of the right shape."""
    for field in sorted(needs & {"labeled_scores", "strategy_weights"}):
        low, high = map(float, getattr(pool, field).aminmax())
        if low < 0 or high > 1:
            raise ConfigurationError(
                f"The {field} given to strategy {name!r} are in [{low:g}, {high:g}]; "
                "expected values in [0, 1]."
            )
    for field in sorted(needs & {"labels", "heldout_labels", "true_labels"}):
        labels = getattr(pool, field)
        if not len(labels):
            continue
        low, high = map(int, labels.aminmax())
        if low < 0 or (classes is not None and high >= classes):
            raise ConfigurationError(
                f"The {field} given to strategy {name!r} are {low} to {high}; expected "
                f"classes from 0{f' to {classes - 1}' if classes is not None else ''}."
            )
    if "labeled_indices" in needs and pool.labeled_indices is not None:
        labeled = pool.labeled_indices.tolist()
        if len(set(labeled)) < len(labeled) or set(labeled) & set(pool.indices.tolist()):
            raise ConfigurationError(
                f"The labeled_indices given to strategy {name!r} repeat, or are among the "
                "candidates; expected each labelled image once."
            )


@dataclass(frozen=True)
class _CheckedPasses:
    """Passes with a check of every block before the strategy gets it."""

    passes: StochasticPasses
    n: int
    name: str

    def __post_init__(self) -> None:
        if len(self.passes) < 1:
            raise ConfigurationError(
                f"Strategy {self.name!r} was given 0 passes; expected 1 or more."
            )
        self.logits(slice(0, 1))

    def __len__(self) -> int:
        return len(self.passes)

    def logits(self, rows: slice | torch.Tensor) -> torch.Tensor:
        logits = self.passes.logits(rows)
        if isinstance(rows, slice):
            expected = len(range(*rows.indices(self.n)))
        else:
            expected = int(rows.sum()) if rows.dtype == torch.bool else len(rows)
        shape = tuple(logits.shape)
        if len(shape) != 3 or shape[:2] != (len(self), expected) or not shape[2]:
            raise ConfigurationError(
                f"The passes given to strategy {self.name!r} yield logits of shape {shape}; "
                f"expected ({len(self)}, {expected}, at least 1)."
            )
        if logits.numel() and not torch.stack(logits.aminmax()).isfinite().all():
            raise DivergedError(
                f"The passes given to strategy {self.name!r} are not finite. Has the training of "
                "the model diverged?"
            )
        return logits


def _json_state(state: Any, what: str) -> dict[str, Any]:
    """A copy of the state, as read back from JSON."""
    try:
        if not isinstance(state, Mapping):
            raise TypeError(f"it is a {type(state).__name__}")
        copy = json.loads(json.dumps(dict(state), allow_nan=False))
        if copy != state:
            raise ValueError("it comes back from JSON as another value")
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"{what} cannot be recorded: {error}. Give a mapping of text to what JSON "
            "holds (lists rather than tuples, finite numbers, text keys)."
        ) from error
    return copy


def _checked_query(query: Query, candidates: list[int], n: int, name: str) -> Query:
    try:
        indices = tuple(operator.index(i) for i in query.indices)
        scores = None if query.scores is None else tuple(float(s) for s in query.scores)
        drawn = query.probabilities
        probabilities = None if drawn is None else tuple(float(p) for p in drawn)
        paths, state = query.paths, query.state
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"Strategy {name!r} returned {query!r}; expected a Query of integer indices."
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
            f"Strategy {name!r} chose {_some(strangers)}, which are not among the candidates. "
            "Return values of pool.indices, not row numbers."
        )
    if scores is not None and len(scores) != n:
        raise ConfigurationError(
            f"Strategy {name!r} returned {len(scores)} scores for {n} candidates."
        )
    if probabilities is not None and (
        len(probabilities) != n or not all(0 < p <= 1 for p in probabilities)
    ):
        raise ConfigurationError(
            f"Strategy {name!r} returned the probabilities {probabilities} for {n} candidates; "
            "expected one in (0, 1] for each."
        )
    if state is not None:
        state = _json_state(state, f"The state that strategy {name!r} returned")
    return Query(indices, scores, paths, state, probabilities)


def _some(indices: list[int]) -> str:
    return ", ".join(map(str, indices[:5])) + (", …" if len(indices) > 5 else "")
