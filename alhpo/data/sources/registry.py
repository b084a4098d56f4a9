"""Data sources by name: built in, registered in Python, or an installed plug-in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from alhpo.base.errors import ConfigurationError, DataError
from alhpo.base.registry import Registry
from alhpo.base.schema import suggestion
from alhpo.data.sources.folder import read_folder
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
            text after the slash is ``options.member``; or a file ending, such as ``".npz"``: the
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


def find_source(name: str) -> DataSource:
    """The source of a data set: that of its name, else that of the folder or file at that path.

    Text that begins with a dot, such as ``./digits``, is always a path.

    Raises:
        DataError: there is neither; the message lists the names.
        ConfigurationError: an installed plug-in that cannot be imported or used.
    """
    source = None if name.startswith(".") else SOURCES.find(name)
    path = Path(name).expanduser()
    if source is None and path.is_dir():
        source = read_folder
    if source is None and path.is_file():
        source = SOURCES.find(path.suffix.lower())
    if source is not None:
        return source
    known = data_source_names()
    names = [known_name for known_name in known if not known_name.startswith(".")]
    endings = [known_name for known_name in known if known_name.startswith(".")]
    files = f", nor a file that can be read ({', '.join(endings)})" if endings else ""
    found = "is a file" if path.is_file() else "does not exist"
    raise DataError(
        f"Data set {name!r} is neither the name of a data source ({', '.join(names)}), nor a "
        f"folder{files}: {path.absolute()} {found}.{suggestion(name, names)} If a folder was "
        "moved, give its new path."
    )


def data_source_names() -> tuple[str, ...]:
    """All names, sorted, then the families as ``"torch/NAME"``. Plug-ins are listed but not
    imported."""
    return SOURCES.names()
