"""Strategies by name: the built-in ones, those registered in Python, and installed plug-ins."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from alhpo.protocols import POOL_OUTPUTS, Strategy
from alhpo.schema import suggestion
from alhpo.types import ConfigurationError

ENTRY_POINT_GROUP = "alhpo.strategies"

AnyStrategy = TypeVar("AnyStrategy", bound=Strategy)

_strategies: dict[str, Strategy] = {}
_aliases: dict[str, str] = {}


def register_strategy(
    name: str, *, needs: Iterable[str] | None = None, aliases: Iterable[str] = ()
) -> Callable[[AnyStrategy], AnyStrategy]:
    """Decorator that gives a strategy its name and its attribute ``needs``.

    Args:
        name: what users write, such as ``"entropy"``.
        needs: the fields of ``PoolOutputs`` that the strategy looks at, besides ``indices``; all
            of them where None.
        aliases: further names for the same strategy, not listed by ``strategy_names``.

    Raises:
        ConfigurationError: an illegal ``needs``, or a name that another strategy has. A function
            of the same module and name replaces its former self, as when a notebook cell is run
            again.
    """
    wanted = POOL_OUTPUTS if needs is None else _legal_needs(needs, name)

    def register(strategy: AnyStrategy) -> AnyStrategy:
        for key in (name, *aliases):
            if not isinstance(key, str) or not key:
                raise ConfigurationError(f"A strategy's name must be text, not {key!r}.")
            holder = _strategies.get(_aliases.get(key, key))
            if holder is not None and _origin(holder) != _origin(strategy):
                raise ConfigurationError(
                    f"The name {key!r} belongs to the strategy {_origin(holder)}; choose another."
                )
        strategy.needs = wanted  # pyright: ignore[reportAttributeAccessIssue]
        _strategies[name] = strategy
        _aliases.update(dict.fromkeys(aliases, name))
        return strategy

    return register


def get_strategy(strategy: str | Strategy) -> Strategy:
    """A strategy by its name, or itself where it is callable.

    Raises:
        ConfigurationError: an unknown name (the message lists the legal ones), something that is
            neither a name nor callable, a callable with an illegal ``needs``, or an installed
            plug-in that cannot be imported.
    """
    if isinstance(strategy, str):
        found = _strategies.get(_aliases.get(strategy, strategy))
        if found is None and (plugin := _plugins().get(strategy)) is not None:
            found = _load(plugin)
        if found is None:
            raise ConfigurationError(
                f"Unknown strategy {strategy!r}.{suggestion(strategy, strategy_names())} "
                f"Legal: {', '.join(strategy_names())}, or a function (pool, n, generator) -> "
                "Query."
            )
        return found
    if not callable(strategy) or isinstance(strategy, type):
        raise ConfigurationError(
            f"A strategy is a name ({', '.join(strategy_names())}) or a function "
            f"(pool, n, generator) -> Query, not {strategy!r}."
        )
    strategy_needs(strategy)
    return strategy


def strategy_names() -> tuple[str, ...]:
    """All names, sorted; plug-ins are listed without being imported."""
    return tuple(sorted({*_strategies, *_plugins()}))


def strategy_needs(strategy: Strategy) -> frozenset[str]:
    """What a strategy looks at: its ``needs``, or everything where it has none.

    Raises:
        ConfigurationError: ``needs`` holds something that ``PoolOutputs`` does not offer.
    """
    needs = getattr(strategy, "needs", None)
    return POOL_OUTPUTS if needs is None else _legal_needs(needs, strategy_name(strategy))


def strategy_name(strategy: str | Strategy) -> str:
    """The name a strategy is registered under, or else what its function or class is called."""
    if isinstance(strategy, str):
        return _aliases.get(strategy, strategy)
    for name, registered in _strategies.items():
        if registered is strategy:
            return name
    return _origin(strategy).rpartition(":")[2]


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


def _origin(strategy: Strategy) -> str:
    """Module and qualified name, ``"package.module:function"``."""
    source = strategy if hasattr(strategy, "__qualname__") else type(strategy)
    return f"{source.__module__}:{source.__qualname__}"  # pyright: ignore[reportAttributeAccessIssue]


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _load(plugin: EntryPoint) -> Strategy:
    try:
        loaded = plugin.load()
    except Exception as error:  # whatever a foreign module raises while it is imported
        raise ConfigurationError(
            f"The plug-in strategy {plugin.name!r} ({plugin.value}) cannot be imported: {error!r}"
        ) from error
    if plugin.name not in _strategies:  # importing the module may have registered it
        if isinstance(loaded, str):
            raise ConfigurationError(
                f"The plug-in strategy {plugin.name!r} ({plugin.value}) is not a function."
            )
        _strategies[plugin.name] = get_strategy(loaded)
    return _strategies[plugin.name]
