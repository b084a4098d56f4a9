"""Strategies by name: the built-in ones, those registered in Python, and installed plug-ins.

A family makes strategies from the text after its prefix, as in ``"albl:entropy,margin"``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from alhpo.base.errors import ConfigurationError
from alhpo.base.protocols import POOL_OUTPUTS, Strategy
from alhpo.base.registry import Registry, origin

#: The needs of a strategy without an attribute ``needs``: the outputs of one pass of the model.
DEFAULT_NEEDS = frozenset({"logits", "features", "labels", "labeled_features"})

AnyStrategy = TypeVar("AnyStrategy", bound=Strategy)


def _check(name: str, strategy: Any) -> Strategy:
    if isinstance(strategy, str) and ":" in name:  # a family may name another
        return get_strategy(strategy)
    if not callable(strategy) or isinstance(strategy, type):
        raise ConfigurationError(
            f"The strategy is {strategy!r}; expected a name ({', '.join(strategy_names())}) or a "
            "function (pool, n, generator) -> Query."
        )
    known = cast(Strategy, strategy)
    strategy_needs(known)
    return known


STRATEGIES: Registry[Strategy] = Registry(
    "strategy",
    "alhpo.strategies",
    check=_check,
    otherwise="a function (pool, n, generator) -> Query",
)


def register_strategy(
    name: str, *, needs: Iterable[str] | None = None, aliases: Iterable[str] = ()
) -> Callable[[AnyStrategy], AnyStrategy]:
    """Decorator that gives a strategy its name and its attribute ``needs``.

    Args:
        name: what users write, such as ``"entropy"``.
        needs: the fields of ``PoolOutputs`` that the strategy uses, besides ``indices``; None means
            ``DEFAULT_NEEDS``.
        aliases: further names for the same strategy, not listed by ``strategy_names``.

    Raises:
        ConfigurationError: ``needs`` is not legal, or another strategy has the name. A function of
            the same module and name replaces the earlier one, as when a notebook cell is run
            again.
    """
    wanted = DEFAULT_NEEDS if needs is None else _legal_needs(needs, name)

    def register(strategy: AnyStrategy) -> AnyStrategy:
        STRATEGIES.register(name, strategy, aliases)
        strategy.needs = wanted  # pyright: ignore[reportAttributeAccessIssue]
        return strategy

    return register


def register_strategy_family(
    prefix: str, factory: Callable[[str], Strategy], description: str
) -> None:
    """Register a family: strategies with arguments in their names: ``"albl:entropy,margin"``.

    Args:
        prefix: what comes before the colon.
        factory: makes a strategy from the text after it, or raises ``ConfigurationError``. It is
            called once for each name.
        description: the form of that text, for messages, such as ``"A,B,..."``. If it has a comma,
            commas in a list of names belong to that text (see ``split_strategy_names``).

    Raises:
        ConfigurationError: the prefix is not text, or another family has it. A factory of the same
            module and name replaces the earlier one.
    """
    STRATEGIES.register_family(prefix, factory, description)


def get_strategy(strategy: str | Strategy) -> Strategy:
    """The strategy of this name; a function is returned as it is.

    The same name always gives the same object.

    Raises:
        ConfigurationError: the name is unknown (the message lists the legal names), a family
            refuses the arguments in it, the argument is neither a name nor callable, its ``needs``
            are not legal, or an installed plug-in cannot be imported.
    """
    return STRATEGIES.get(strategy) if isinstance(strategy, str) else _check("", strategy)


def strategy_names() -> tuple[str, ...]:
    """All names, sorted, then the families as ``"albl:A,B,..."``. Plug-ins are listed but not
    imported."""
    return STRATEGIES.names()


def strategy_families() -> tuple[str, ...]:
    """The forms of the names of families, such as ``"albl:A,B,..."``, sorted."""
    return STRATEGIES.families()


def split_strategy_names(text: str) -> list[str]:
    """The names in a list of strategies, see ``Registry.split``."""
    return STRATEGIES.split(text)


def strategy_needs(strategy: Strategy) -> frozenset[str]:
    """The outputs that a strategy uses: its ``needs``, or ``DEFAULT_NEEDS`` if it has none.

    Raises:
        ConfigurationError: ``needs`` has a name that is not in ``PoolOutputs``.
    """
    needs = getattr(strategy, "needs", None)
    return DEFAULT_NEEDS if needs is None else _legal_needs(needs, strategy_name(strategy))


def strategy_name(strategy: str | Strategy) -> str:
    """The name under which a strategy is registered, else the name of its function or class."""
    return STRATEGIES.name_of(strategy) or origin(strategy).rpartition(":")[2]


def _legal_needs(needs: Iterable[str], name: str) -> frozenset[str]:
    legal = ", ".join(sorted(POOL_OUTPUTS))
    if isinstance(needs, str) or not isinstance(needs, Iterable):
        raise ConfigurationError(
            f"The needs of strategy {name!r} are {needs!r}; expected a set of names out of: "
            f"{legal}."
        )
    wanted = frozenset(needs)
    if illegal := wanted - POOL_OUTPUTS:
        raise ConfigurationError(
            f"Strategy {name!r} needs {sorted(map(str, illegal))}, which no pool offers. "
            f"Legal: {legal}."
        )
    return wanted
