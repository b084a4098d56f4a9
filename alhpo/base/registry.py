"""The rule of all registries: a name stays with what it was given to, but for a redefinition."""

from __future__ import annotations

import functools
from typing import Any

from alhpo.base.errors import ConfigurationError


def refuse_taken(what: str, name: str, holder: object | None, candidate: object) -> None:
    """Refuse a name that belongs to something else.

    The very same object may be registered again, and so may a function or class of the same module
    and name, as when a notebook cell is run again. Lambdas have no name, so that one never
    replaces another.

    Args:
        what: what is registered, such as ``"optimizer"``.
        name: the name.
        holder: what has the name, or None.
        candidate: what is to get it.

    Raises:
        ConfigurationError: the name belongs to something else.
    """
    if holder is not None and not _same(holder, candidate):
        raise ConfigurationError(
            f"The name {name!r} belongs to the {what} {origin(holder)}; choose another."
        )


def origin(thing: object) -> str:
    """Module and qualified name of a function, class or object: ``"package.module:function"``."""
    if isinstance(thing, functools.partial):
        return f"a functools.partial of {origin(thing.func)}"
    source: Any = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{source.__module__}:{source.__qualname__}"


def _same(one: object, other: object) -> bool:
    if one is other:
        return True
    if isinstance(one, functools.partial) and isinstance(other, functools.partial):
        values = (one.args, one.keywords) == (other.args, other.keywords)
        return values and _same(one.func, other.func)
    named = hasattr(one, "__qualname__") and hasattr(other, "__qualname__")
    return named and "<lambda>" not in origin(one) and origin(one) == origin(other)
