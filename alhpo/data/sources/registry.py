"""Data sources by name: built in, registered in Python, or an installed plug-in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from alhpo.base.errors import ConfigurationError
from alhpo.base.registry import Registry
from alhpo.data.sources.source import DatasetSize, DataSource, SourceOptions

AnySource = TypeVar("AnySource", bound=DataSource)


def _check(name: str, source: Any) -> DataSource:
    if not callable(source) or isinstance(source, type):
        raise ConfigurationError(
            f"The data source {name!r} is {source!r}; expected a function (options) -> SourceData."
        )
    return cast(DataSource, source)


SOURCES: Registry[DataSource] = Registry(
    "data source", "alhpo.data_sources", check=_check, otherwise="a path", separator="/"
)


def register_data_source(
    name: str, *, size: Callable[[SourceOptions], DatasetSize | None] | None = None
) -> Callable[[AnySource], AnySource]:
    """Decorator that gives a data source its name.

    Args:
        name: what users write, such as ``"digits"``; or a family, such as ``"torch/NAME"``: the
            text after the slash is ``options.member``; or a file ending, such as ``".h5"``: the
            file is ``options.path``.
        size: returns the size of the data set without reading it, see ``DataSource``.

    Raises:
        ConfigurationError: another source has the name. A function of the same module and name
            replaces the earlier one, as when a notebook cell is run again.
    """

    def register(source: AnySource) -> AnySource:
        prefix, slash, form = name.partition("/")
        if slash:

            @functools.wraps(source)  # the same family when its cell is run again
            def member(_: str) -> DataSource:
                return source

            SOURCES.register_family(prefix, member, form)
        else:
            SOURCES.register(name, source)
        if size is not None:
            source.size = size  # pyright: ignore[reportAttributeAccessIssue]
        return source

    return register


def data_source_names() -> tuple[str, ...]:
    """All names, sorted, then the families as ``"torch/NAME"``. Plug-ins are listed but not
    imported."""
    return SOURCES.names()
