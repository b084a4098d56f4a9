"""Conformance suites for the extension points, for the tests of this package and of plug-ins.

Each suite is a function that raises ``AssertionError`` with the broken rule. None needs a test
framework::

    from alhpo.testing import check_strategy

    def test_my_strategy_conforms():
        check_strategy(my_strategy)
"""

from alhpo.testing.data_sources import check_data_source
from alhpo.testing.hpo_modes import check_hpo_mode
from alhpo.testing.launchers import check_launcher
from alhpo.testing.optimizers import check_optimizer
from alhpo.testing.recipes import check_recipe
from alhpo.testing.strategies import check_strategy
from alhpo.testing.validation import check_validation_scheme

__all__ = [
    "check_data_source",
    "check_hpo_mode",
    "check_launcher",
    "check_optimizer",
    "check_recipe",
    "check_strategy",
    "check_validation_scheme",
]
