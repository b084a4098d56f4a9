"""Query strategies: pure functions of pool outputs and a generator to a query.

One file per strategy. A new strategy is a function with the decorator ``@register_strategy``, or
``@register_score`` if it scores each candidate independently, in a module imported here or in
another package under the entry point group ``alhpo.strategies``. A family, whose names have
arguments, is registered by ``register_strategy_family``.
"""

from alhpo.strategies import albl as albl
from alhpo.strategies import alfamix as alfamix
from alhpo.strategies import autoal as autoal
from alhpo.strategies import badge as badge
from alhpo.strategies import bait as bait
from alhpo.strategies import batchbald as batchbald
from alhpo.strategies import boss as boss
from alhpo.strategies import centroids as centroids
from alhpo.strategies import coreset as coreset
from alhpo.strategies import ddu as ddu
from alhpo.strategies import dropquery as dropquery
from alhpo.strategies import entropy as entropy
from alhpo.strategies import kmeans as kmeans
from alhpo.strategies import least_confidence as least_confidence
from alhpo.strategies import lpl as lpl
from alhpo.strategies import margin as margin
from alhpo.strategies import maxherding as maxherding
from alhpo.strategies import mc_dropout as mc_dropout
from alhpo.strategies import probcover as probcover
from alhpo.strategies import random_sampling as random_sampling
from alhpo.strategies import refine as refine
from alhpo.strategies import scikit_activeml as scikit_activeml
from alhpo.strategies import stochastic_batch as stochastic_batch
from alhpo.strategies import tcm as tcm
from alhpo.strategies import typiclust as typiclust
from alhpo.strategies import uherding as uherding
from alhpo.strategies import vaal as vaal
from alhpo.strategies.checked import (
    check_dropout,
    check_initial,
    check_without_model,
    needs_model,
    run_strategy,
)
from alhpo.strategies.ranking import Scores, register_score, score_names
from alhpo.strategies.registry import (
    get_strategy,
    register_strategy,
    register_strategy_family,
    split_strategy_names,
    strategy_families,
    strategy_name,
    strategy_names,
    strategy_needs,
)

__all__ = [
    "Scores",
    "check_dropout",
    "check_initial",
    "check_without_model",
    "get_strategy",
    "needs_model",
    "register_score",
    "register_strategy",
    "register_strategy_family",
    "run_strategy",
    "score_names",
    "split_strategy_names",
    "strategy_families",
    "strategy_name",
    "strategy_names",
    "strategy_needs",
]
