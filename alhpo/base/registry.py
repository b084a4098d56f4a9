"""Objects by name: built in, registered in Python, or offered by an installed plug-in.

There is one registry each for strategies, optimizers, data sources and other objects that settings
name. A family makes objects from the text after its prefix, as in ``"albl:entropy,margin"``,
``"kfold:5"`` or ``"torch/cifar10"``. Another package offers objects under the registry's group of
entry points.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from alhpo.base.errors import ConfigurationError
from alhpo.base.schema import suggestion

T = TypeVar("T")


class _Family(NamedTuple):
    factory: Callable[[str], Any]
    form: str


class Registry(Generic[T]):
    """Objects of one kind by their names."""

    def __init__(
        self,
        what: str,
        group: str,
        *,
        check: Callable[[str, Any], T] = lambda name, thing: thing,
        otherwise: str = "",
        separator: str = ":",
    ) -> None:
        """
        Args:
            what: the kind of object, for messages, such as ``"strategy"``.
            group: the group of entry points of other packages, such as ``"alhpo.strategies"``.
            check: a function of a name and an object that returns the object to use, or raises
                ``ConfigurationError``. It is called for registered objects, for those of plug-ins
                and for those that families make.
            otherwise: what users may give instead of a name, for messages, such as
                ``"a function (pool, n, generator) -> Query"``.
            separator: between the prefix of a family and the text after it.
        """
        self.what = what
        self.group = group
        self._check = check
        self._otherwise = otherwise
        self._separator = separator
        self._things: dict[str, T] = {}
        self._aliases: dict[str, str] = {}
        self._families: dict[str, _Family] = {}
        self._members: dict[str, T] = {}  # objects that families made, by their full names

    def register(self, name: str, thing: T, aliases: Iterable[str] = ()) -> T:
        """Give an object a name.

        Args:
            name: what users write.
            thing: the object.
            aliases: further names for it, which ``names`` does not list.

        Returns:
            The object that ``check`` returned.

        Raises:
            ConfigurationError: the name is not text, or another object has it. The same object may
                be registered again. A function or class of the same module and name replaces the
                earlier one, as when a notebook cell is run again.
        """
        for key in (name, *aliases):
            self._check_name(key)
            self._refuse_taken(key, self._things.get(self._aliases.get(key, key)), thing)
        thing = self._check(name, thing)
        if name in self._things:
            self._members.clear()  # they may contain the object that is replaced
        self._things[name] = thing
        self._aliases.update(dict.fromkeys(aliases, name))
        return thing

    def register_family(self, prefix: str, factory: Callable[[str], Any], form: str) -> None:
        """Register a family: objects with arguments in their names.

        Args:
            prefix: what comes before the separator.
            factory: makes an object from the text after it, or raises ``ConfigurationError``. It is
                called once for each name, or by several threads at once; one object is kept.
            form: the form of that text, for messages, such as ``"A,B,..."``. If it has a comma,
                commas in a list of names belong to that text (see ``split``).

        Raises:
            ConfigurationError: the prefix is not text, or another family has it.
        """
        self._check_name(prefix)
        holder = self._families.get(prefix)
        self._refuse_taken(prefix, holder and holder.factory, factory, f"family of {self.what}")
        self._families[prefix] = _Family(factory, form)
        for name in [
            name for name in self._members if name.startswith(f"{prefix}{self._separator}")
        ]:
            del self._members[name]

    def get(self, name: str) -> T:
        """The object of this name. The same name always gives the same object.

        Raises:
            ConfigurationError: the name is unknown (the message lists the legal names and the
                closest one), a family refuses the arguments, or an installed plug-in cannot be
                imported or used.
        """
        found = self.find(name)
        if found is None:
            raise self.unknown(name)
        return found

    def find(self, name: str) -> T | None:
        """The object of this name, or None.

        Raises:
            ConfigurationError: as for ``get``, except for an unknown name.
        """
        if not isinstance(name, str):
            raise ConfigurationError(f"The name of a {self.what} is {name!r}; expected text.")
        found = self._things.get(self._aliases.get(name, name))
        if found is None:
            found = self._member(name)
        if found is None and (plugin := self._plugins().get(name)) is not None:
            found = self._load(plugin)
        return found

    def unknown(self, name: object) -> ConfigurationError:
        """The error for an unknown name."""
        legal = ", ".join(self.names()) + (f", or {self._otherwise}" if self._otherwise else "")
        meant = suggestion(name, self.names()) if isinstance(name, str) else ""
        return ConfigurationError(f"Unknown {self.what} {name!r}.{meant} Legal: {legal}.")

    def names(self) -> tuple[str, ...]:
        """All names, sorted, then the families as ``"albl:A,B,..."``. Plug-ins are listed but not
        imported."""
        plugins = self._plugins().keys() - self._families.keys()  # their modules were imported
        return (*sorted(self._things.keys() | plugins), *self.families())

    def families(self) -> tuple[str, ...]:
        """The forms of the names of families, such as ``"albl:A,B,..."``, sorted."""
        return tuple(
            f"{prefix}{self._separator}{self._families[prefix].form}"
            for prefix in sorted(self._families)
        )

    def registered(self) -> dict[str, T]:
        """The registered objects by name, without families and plug-ins not yet imported."""
        return dict(self._things)

    def name_of(self, thing: object) -> str | None:
        """The name (not an alias) of an object, or None."""
        if isinstance(thing, str):
            return self._aliases.get(thing, thing)
        for name, known in (*self._things.items(), *self._members.items()):
            if known is thing:
                return name
        return None

    def split(self, text: str) -> list[str]:
        """The names in a list that is separated by commas or semicolons.

        If the text after a family's prefix may have commas, it ends at the next semicolon, as in
        ``"random,badge,albl:entropy,margin; entropy"``.
        """
        names: list[str] = []
        for part in text.split(";"):
            first, *rest = part.split(",", maxsplit=1)
            while rest and not self._takes_lists(first):
                names.append(first.strip())
                part = rest[0]
                first, *rest = part.split(",", maxsplit=1)
            names.append(part.strip())
        return names

    @contextmanager
    def temporary(self) -> Iterator[None]:
        """A block after which its registrations are undone; for tests."""
        names = ("_things", "_aliases", "_families", "_members")
        before = {name: dict(getattr(self, name)) for name in names}
        try:
            yield
        finally:
            vars(self).update(before)

    def _takes_lists(self, name: str) -> bool:
        prefix, found, _ = name.strip().partition(self._separator)
        return bool(found) and prefix in self._families and "," in self._families[prefix].form

    def _check_name(self, name: object) -> None:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"The name of a {self.what} is {name!r}; expected text.")

    def _refuse_taken(
        self, name: str, holder: object | None, candidate: object, what: str | None = None
    ) -> None:
        if holder is not None and not _same(holder, candidate):
            raise ConfigurationError(
                f"The name {name!r} belongs to the {what or self.what} {origin(holder)}. "
                "Choose another name."
            )

    def _member(self, name: str) -> T | None:
        """The object that a family makes of this full name, or None if no family has the prefix."""
        prefix, found, arguments = name.partition(self._separator)
        if not found:
            return None
        if prefix not in self._families and (plugin := self._plugins().get(prefix)) is not None:
            self._import(plugin)  # its module may register the family
        if prefix not in self._families:
            return None
        if name not in self._members:  # another thread may make it meanwhile: the first one stays
            made = self._check(name, self._families[prefix].factory(arguments))
            return self._members.setdefault(name, made)
        return self._members[name]

    def _plugins(self) -> Mapping[str, EntryPoint]:
        return installed_plugins(self.group)

    def _load(self, plugin: EntryPoint) -> T:
        loaded = self._import(plugin)
        if plugin.name not in self._things:  # importing the module may have registered it
            try:
                self._things.setdefault(plugin.name, self._check(plugin.name, loaded))
            except ConfigurationError as error:
                raise ConfigurationError(
                    f"The plug-in {self.what} {plugin.name!r} ({plugin.value}) cannot be used: "
                    f"{error}"
                ) from error
        return self._things[plugin.name]

    def _import(self, plugin: EntryPoint) -> Any:
        try:
            return plugin.load()
        except Exception as error:  # whatever a foreign module raises while it is imported
            raise ConfigurationError(
                f"The plug-in {self.what} {plugin.name!r} ({plugin.value}) cannot be imported: "
                f"{error!r}. Repair or uninstall it."
            ) from error


def installed_plugins(group: str) -> Mapping[str, EntryPoint]:
    """The entry points of a group by name. They are read again only after ``sys.path`` or one of
    its folders has changed: reading those of all packages takes longer than making settings."""
    return _read_plugins(group, tuple(_state_of(Path(folder)) for folder in sys.path))


@functools.lru_cache(maxsize=64)
def _read_plugins(group: str, folders: tuple[object, ...]) -> Mapping[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


def _state_of(folder: Path) -> tuple[object, ...]:
    """What changes when a package is installed into the folder."""
    try:
        found = folder.stat()
    except OSError:
        return (str(folder),)
    return (str(folder), found.st_ino, found.st_mtime_ns)


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
