"""Query strategies: pure functions of pool outputs and a generator to a query.

One file per strategy; a new one is a function under ``@register_strategy`` in a module that is
imported here, or in another package under the entry point group ``alhpo.strategies``.
"""

from alhpo.strategies import badge as badge
from alhpo.strategies import coreset as coreset
from alhpo.strategies import entropy as entropy
from alhpo.strategies import random_sampling as random_sampling
from alhpo.strategies.checked import run_strategy
from alhpo.strategies.registry import (
    get_strategy,
    register_strategy,
    strategy_name,
    strategy_names,
    strategy_needs,
)

__all__ = [
    "get_strategy",
    "register_strategy",
    "run_strategy",
    "strategy_name",
    "strategy_names",
    "strategy_needs",
]
