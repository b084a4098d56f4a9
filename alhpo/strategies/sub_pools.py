"""Parts of a pool, for strategies that ask other strategies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
import torch

from alhpo.base.errors import ConfigurationError
from alhpo.base.types import PoolOutputs, StochasticPasses

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


def refuse_arm(name: str, owner: str, reason: str) -> NoReturn:
    """Refuse a strategy that another one cannot ask.

    Raises:
        ConfigurationError: always; the message names the strategy and the reason.
    """
    raise ConfigurationError(
        f"Strategy {name!r} cannot be an arm of {owner}: {reason}. Leave it out."
    )


@dataclass(frozen=True)
class _SubPasses:
    """Passes with dropout over some of the candidates."""

    passes: StochasticPasses
    positions: torch.Tensor

    def __len__(self) -> int:
        return len(self.passes)

    def logits(self, rows: slice | torch.Tensor) -> torch.Tensor:
        return self.passes.logits(self.positions[rows])
