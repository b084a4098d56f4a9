"""Strategies by name: the built-in ones, those registered in Python, and installed plug-ins.

A family makes strategies from the text after its prefix, as ``"albl:entropy,margin"``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from alhpo.base.errors import ConfigurationError
from alhpo.base.protocols import POOL_OUTPUTS, Strategy
from alhpo.base.registry import Registry, origin

#: What a strategy that does not say what it needs is given: what one pass of the model yields.
DEFAULT_NEEDS = frozenset({"logits", "features", "labels", "labeled_features"})

AnyStrategy = TypeVar("AnyStrategy", bound=Strategy)


def _check(name: str, strategy: Any) -> Strategy:
    if isinstance(strategy, str) and ":" in name:  # a family may name another
        return get_strategy(strategy)
    if not callable(strategy) or isinstance(strategy, type):
        raise ConfigurationError(
            f"A strategy is a name ({', '.join(strategy_names())}) or a function "
            f"(pool, n, generator) -> Query, not {strategy!r}."
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
        needs: the fields of ``PoolOutputs`` that the strategy looks at, besides ``indices``;
            ``DEFAULT_NEEDS`` where None.
        aliases: further names for the same strategy, not listed by ``strategy_names``.

    Raises:
        ConfigurationError: an illegal ``needs``, or a name that another strategy has. A named
            function of the same module replaces its former self, as when a notebook cell is run
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
    """Make strategies with arguments in their names, as ``"albl:entropy,margin"``.

    Args:
        prefix: what comes before the colon.
        factory: makes the strategy from the text after it, and raises ``ConfigurationError`` where
            it cannot. It is called once for each name.
        description: the form of that text, for messages, such as ``"A,B,..."``. With a comma in
            it, commas in a list of names belong to that text (``split_strategy_names``).

    Raises:
        ConfigurationError: a prefix that is no text, or that another family has. A named factory
            of the same module replaces its former self.
    """
    STRATEGIES.register_family(prefix, factory, description)


def get_strategy(strategy: str | Strategy) -> Strategy:
    """A strategy by its name, or itself where it is callable.

    The same name gives the same object, also where a family makes it.

    Raises:
        ConfigurationError: an unknown name (the message lists the legal ones), something that is
            neither a name nor callable, a callable with an illegal ``needs``, arguments that a
            family refuses, or an installed plug-in that cannot be imported.
    """
    return STRATEGIES.get(strategy) if isinstance(strategy, str) else _check("", strategy)


def strategy_names() -> tuple[str, ...]:
    """All names, sorted, then the families as ``"albl:A,B,..."``; plug-ins are listed without
    being imported."""
    return STRATEGIES.names()


def strategy_families() -> tuple[str, ...]:
    """The forms of names that families make, sorted, such as ``"albl:A,B,..."``."""
    return STRATEGIES.families()


def split_strategy_names(text: str) -> list[str]:
    """The names in a list of strategies, see ``Registry.split``."""
    return STRATEGIES.split(text)


def strategy_needs(strategy: Strategy) -> frozenset[str]:
    """What a strategy looks at: its ``needs``, or ``DEFAULT_NEEDS`` where it has none.

    Raises:
        ConfigurationError: ``needs`` holds something that ``PoolOutputs`` does not offer.
    """
    needs = getattr(strategy, "needs", None)
    return DEFAULT_NEEDS if needs is None else _legal_needs(needs, strategy_name(strategy))


def strategy_name(strategy: str | Strategy) -> str:
    """The name a strategy is registered under, or else what its function or class is called."""
    return STRATEGIES.name_of(strategy) or origin(strategy).rpartition(":")[2]


def _legal_needs(needs: Iterable[str], name: str) -> frozenset[str]:
    legal = ", ".join(sorted(POOL_OUTPUTS))
    if isinstance(needs, str) or not isinstance(needs, Iterable):
        raise ConfigurationError(
            f"needs={needs!r} of strategy {name!r} must be a set of names out of: {legal}."
        )
    wanted = frozenset(needs)
    if illegal := wanted - POOL_OUTPUTS:
        raise ConfigurationError(
            f"Strategy {name!r} needs {sorted(map(str, illegal))}, which no pool offers. "
            f"Legal: {legal}."
        )
    return wanted
