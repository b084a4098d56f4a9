"""For strategies that ask other strategies (their arms) about parts of a pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from alhpo.base.errors import ConfigurationError
from alhpo.base.protocols import Strategy
from alhpo.base.types import PoolOutputs, StochasticPasses
from alhpo.strategies.registry import get_strategy, strategy_name, strategy_needs
from alhpo.strategies.uherding import UncertaintyHerding

#: The fields of ``PoolOutputs`` with a row for each candidate.
OF_EACH = (
    *("indices", "logits", "features", "predicted_losses", "labeled_scores"),
    *("images", "true_labels"),
)


def sub_pool(pool: PoolOutputs, positions: np.ndarray) -> PoolOutputs:
    """The pool with only some candidates, and with the same labelled images.

    Args:
        pool: the pool.
        positions: positions of the candidates, ascending.
    """
    rows = torch.from_numpy(positions)
    found = {name: getattr(pool, name) for name in OF_EACH}
    parts = {n: one[rows.to(one.device)] for n, one in found.items() if one is not None}
    passes = None if pool.passes is None else _SubPasses(pool.passes, rows)
    return replace(pool, **parts, passes=passes)


def named_arms(
    owner: str,
    arms: Sequence[str | Strategy],
    refused: Mapping[str, str],
    own: Mapping[str, Strategy] | None = None,
) -> dict[str, Strategy]:
    """The arms of a strategy, by name.

    Args:
        owner: name of the strategy that asks them.
        arms: strategies, or their names.
        refused: outputs that an arm must not need, each with the reason.
        own: arms of the owner alone, by name.

    Raises:
        ConfigurationError: no arms, an arm that is there twice, is unknown, needs what is refused,
            or learns from its own queries.
    """
    names = [strategy_name(arm) if callable(arm) else arm for arm in arms]
    if not names or len(set(names)) < len(names):
        raise ConfigurationError(
            f"Strategy {owner} has the arms {', '.join(names) or 'none'}; expected different "
            f"strategies, as in '{owner}:margin,typiclust,random'."
        )
    found: dict[str, Strategy] = {}
    for name, arm in zip(names, arms, strict=True):
        found[name] = own[name] if own and name in own else get_strategy(arm)
        needs = strategy_needs(found[name])
        reasons = [reason for need, reason in refused.items() if need in needs]
        if "state" in needs and not isinstance(found[name], UncertaintyHerding):
            reasons.append("it learns from its own queries, of which this would be many")
        if reasons:
            raise ConfigurationError(
                f"Strategy {name!r} cannot be an arm of {owner}: {reasons[0]}. Leave it out."
            )
    return found


def split_arms(text: str) -> list[str]:
    """The names in ``"A,B,..."``."""
    return [name.strip() for name in text.split(",") if name.strip()]


@dataclass(frozen=True)
class _SubPasses:
    """Passes with dropout over some of the candidates."""

    passes: StochasticPasses
    positions: torch.Tensor

    def __len__(self) -> int:
        return len(self.passes)

    def logits(self, rows: slice | torch.Tensor) -> torch.Tensor:
        return self.passes.logits(self.positions[rows])
