"""Strategies by name: the built-in ones, those registered in Python, and installed plug-ins.

A family makes strategies from the text after its prefix, as ``"albl:entropy,margin"``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import NamedTuple, TypeVar

from alhpo.base.errors import ConfigurationError
from alhpo.base.protocols import POOL_OUTPUTS, Strategy
from alhpo.base.registry import origin, refuse_taken
from alhpo.base.schema import suggestion

ENTRY_POINT_GROUP = "alhpo.strategies"
#: What a strategy that does not say what it needs is given: what one pass of the model yields.
DEFAULT_NEEDS = frozenset({"logits", "features", "labels", "labeled_features"})

AnyStrategy = TypeVar("AnyStrategy", bound=Strategy)


class _Family(NamedTuple):
    factory: Callable[[str], Strategy]
    form: str


_strategies: dict[str, Strategy] = {}
_aliases: dict[str, str] = {}
_families: dict[str, _Family] = {}
_members: dict[str, Strategy] = {}  # by their full names


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
        for key in (name, *aliases):
            _check_name(key)
            refuse_taken("strategy", key, _strategies.get(_aliases.get(key, key)), strategy)
        strategy.needs = wanted  # pyright: ignore[reportAttributeAccessIssue]
        if name in _strategies:
            _members.clear()  # which may have been made of what is replaced
        _strategies[name] = strategy
        _aliases.update(dict.fromkeys(aliases, name))
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
    _check_name(prefix)
    holder = _families.get(prefix)
    refuse_taken("family of strategies", prefix, holder and holder.factory, factory)
    _families[prefix] = _Family(factory, description)
    for name in [name for name in _members if name.startswith(f"{prefix}:")]:
        del _members[name]


def get_strategy(strategy: str | Strategy) -> Strategy:
    """A strategy by its name, or itself where it is callable.

    The same name gives the same object, also where a family makes it.

    Raises:
        ConfigurationError: an unknown name (the message lists the legal ones), something that is
            neither a name nor callable, a callable with an illegal ``needs``, arguments that a
            family refuses, or an installed plug-in that cannot be imported.
    """
    if isinstance(strategy, str):
        found = _strategies.get(_aliases.get(strategy, strategy)) or _member(strategy)
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
    """All names, sorted, then the families as ``"albl:A,B,..."``; plug-ins are listed without
    being imported."""
    return (*sorted({*_strategies, *_plugins()}), *strategy_families())


def registered_strategies() -> dict[str, Strategy]:
    """The strategies that are there by their names: no families, and no plug-in before its
    import."""
    return dict(_strategies)


def strategy_families() -> tuple[str, ...]:
    """The forms of names that families make, sorted, such as ``"albl:A,B,..."``."""
    return tuple(f"{prefix}:{_families[prefix].form}" for prefix in sorted(_families))


def split_strategy_names(text: str) -> list[str]:
    """The names in a list that is separated by commas, or by semicolons.

    Where the text after a family's prefix may hold commas itself, it goes on to the next semicolon
    or to the end, as in ``"random,badge,albl:entropy,margin; entropy"``.
    """
    names: list[str] = []
    for part in text.split(";"):
        first, *rest = part.split(",", maxsplit=1)
        while rest and not _takes_lists(first):
            names.append(first.strip())
            part = rest[0]
            first, *rest = part.split(",", maxsplit=1)
        names.append(part.strip())
    return names


def strategy_needs(strategy: Strategy) -> frozenset[str]:
    """What a strategy looks at: its ``needs``, or ``DEFAULT_NEEDS`` where it has none.

    Raises:
        ConfigurationError: ``needs`` holds something that ``PoolOutputs`` does not offer.
    """
    needs = getattr(strategy, "needs", None)
    return DEFAULT_NEEDS if needs is None else _legal_needs(needs, strategy_name(strategy))


def strategy_name(strategy: str | Strategy) -> str:
    """The name a strategy is registered under, or else what its function or class is called."""
    if isinstance(strategy, str):
        return _aliases.get(strategy, strategy)
    for name, registered in (*_strategies.items(), *_members.items()):
        if registered is strategy:
            return name
    return origin(strategy).rpartition(":")[2]


def _takes_lists(name: str) -> bool:
    prefix, colon, _ = name.strip().partition(":")
    return bool(colon) and prefix in _families and "," in _families[prefix].form


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"A strategy's name must be text, not {name!r}.")


def _member(name: str) -> Strategy | None:
    """The strategy of a family with this full name, made at the first time; None of no family."""
    prefix, colon, arguments = name.partition(":")
    if colon and prefix not in _families and (plugin := _plugins().get(prefix)) is not None:
        _load(plugin)  # its module may register the family
    if not colon or prefix not in _families:
        return None
    if name not in _members:
        _members[name] = get_strategy(_families[prefix].factory(arguments))
    return _members[name]


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
