"""The identity of an objective or an optimizer factory, a part of the identity of a search."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Mapping
from typing import Any

from alhpo.base.files import sha256
from alhpo.base.plain import to_plain


def identity_of(function: Any) -> Any:
    """The identity of an objective (or optimizer factory), as a JSON-able value.

    Its attribute ``identity``, if it has one. Otherwise the module, name and code of the function
    or class, and the plain values (numbers, strings, None, tuples of them) among its defaults,
    closure, bound arguments or instance attributes. An objective that depends on anything else
    needs an attribute ``identity``.
    """
    identity = getattr(function, "identity", None)
    if identity is not None:
        return to_plain(identity() if callable(identity) else identity)
    if isinstance(function, functools.partial):
        values = {"args": function.args, **function.keywords}
        return ["partial", identity_of(function.func), _plain_items(values)]
    if inspect.ismethod(function):
        return ["method", function.__name__, identity_of(function.__self__)]
    if inspect.isfunction(function):
        defaults = {f"default {n}": value for n, value in enumerate(function.__defaults__ or ())}
        values = {**_closure(function), **defaults, **(function.__kwdefaults__ or {})}
        return [*_where(function), _plain_items(values)]
    if inspect.isclass(function):
        return _where(function)
    return [*_where(type(function)), _plain_items(getattr(function, "__dict__", {}))]


def _where(definition: Any) -> list[Any]:
    try:
        source = inspect.getsource(definition)
    except (OSError, TypeError):
        code = getattr(definition, "__code__", None)
        source = "" if code is None else f"{code.co_code!r}{[*filter(_is_plain, code.co_consts)]}"
    name = getattr(definition, "__qualname__", type(definition).__qualname__)
    return [getattr(definition, "__module__", None), name, sha256(source.encode())]


def _closure(function: Any) -> dict[str, Any]:
    values = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # a variable without a value yet
            values[name] = cell.cell_contents
    return values


def _plain_items(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: repr(value) for name, value in sorted(values.items()) if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
