"""The source of a data set, by the name or path that a user gives."""

from __future__ import annotations

from alhpo.base.errors import DataError
from alhpo.base.schema import suggestion
from alhpo.data.sources.folder import read_folder
from alhpo.data.sources.registry import SOURCES, data_source_names
from alhpo.data.sources.source import DataSource, user_path


def find_source(name: str) -> DataSource:
    """The source of a data set: that of its name, else that of the folder or file at that path.

    Text that begins with a dot, such as ``./digits``, is always a path.

    Raises:
        DataError: there is neither; the message lists the names.
        ConfigurationError: an installed plug-in that cannot be imported or used.
    """
    source = None if name.startswith(".") else SOURCES.find(name)
    path = user_path(name)
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
