"""Everything that is chosen by name: built in, registered in Python, or an installed plug-in.

One registry each for strategies, optimizers, data sources and whatever else a setting names. A
family makes things from the text after its prefix, as ``"albl:entropy,margin"``, ``"kfold:5"`` or
``"torch/cifar10"``.
Another package offers its own under the registry's group of entry points.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, NamedTuple, TypeVar

from alhpo.base.errors import ConfigurationError
from alhpo.base.schema import suggestion

T = TypeVar("T")


class _Family(NamedTuple):
    factory: Callable[[str], Any]
    form: str


class Registry(Generic[T]):
    """Things of one kind by their names."""

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
            what: what is registered, for messages, such as ``"strategy"``.
            group: of the entry points under which other packages offer theirs, such as
                ``"alhpo.strategies"``.
            check: takes a name and what is to have it, and returns it (or what stands for it);
                raises ``ConfigurationError`` where it cannot be used. It sees what is registered,
                what a plug-in offers and what a family makes.
            otherwise: what may be given instead of a name, for messages, such as
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
        self._members: dict[str, T] = {}  # made by families, by their full names

    def register(self, name: str, thing: T, aliases: Iterable[str] = ()) -> T:
        """Give a thing its name.

        Args:
            name: what users write.
            thing: what they get.
            aliases: further names for it, which ``names`` does not list.

        Returns:
            What ``check`` made of it.

        Raises:
            ConfigurationError: a name that is no text or that something else has. The very same
                object may be registered again, and a function or class of the same module and name
                replaces its former self, as when a notebook cell is run again.
        """
        for key in (name, *aliases):
            self._check_name(key)
            self._refuse_taken(key, self._things.get(self._aliases.get(key, key)), thing)
        thing = self._check(name, thing)
        if name in self._things:
            self._members.clear()  # which may have been made of what is replaced
        self._things[name] = thing
        self._aliases.update(dict.fromkeys(aliases, name))
        return thing

    def register_family(self, prefix: str, factory: Callable[[str], Any], form: str) -> None:
        """Make things with arguments in their names.

        Args:
            prefix: what comes before the separator.
            factory: makes the thing from the text after it, and raises ``ConfigurationError`` where
                it cannot. It is called once for each name.
            form: of that text, for messages, such as ``"A,B,..."``. With a comma in it, commas in a
                list of names belong to that text (see ``split``).

        Raises:
            ConfigurationError: a prefix that is no text, or that another family has.
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
        """What has this name; the same name gives the same object, also where a family makes it.

        Raises:
            ConfigurationError: an unknown name (the message has the legal ones and what was
                probably meant), arguments that a family refuses, or an installed plug-in that
                cannot be imported or used.
        """
        found = self.find(name)
        if found is None:
            raise self.unknown(name)
        return found

    def find(self, name: str) -> T | None:
        """What has this name, or None.

        Raises:
            ConfigurationError: as ``get``, but for an unknown name.
        """
        if not isinstance(name, str):
            raise ConfigurationError(f"The name of a {self.what} is text, not {name!r}.")
        found = self._things.get(self._aliases.get(name, name))
        if found is None:
            found = self._member(name)
        if found is None and (plugin := self._plugins().get(name)) is not None:
            found = self._load(plugin)
        return found

    def unknown(self, name: object) -> ConfigurationError:
        """The error for something that is not one of the names."""
        legal = ", ".join(self.names()) + (f", or {self._otherwise}" if self._otherwise else "")
        meant = suggestion(name, self.names()) if isinstance(name, str) else ""
        return ConfigurationError(f"Unknown {self.what} {name!r}.{meant} Legal: {legal}.")

    def names(self) -> tuple[str, ...]:
        """All names, sorted, then the families as ``"albl:A,B,..."``; plug-ins are listed without
        being imported."""
        plugins = self._plugins().keys() - self._families.keys()  # their modules were imported
        return (*sorted(self._things.keys() | plugins), *self.families())

    def families(self) -> tuple[str, ...]:
        """The forms of the names that families make, sorted."""
        return tuple(
            f"{prefix}{self._separator}{self._families[prefix].form}"
            for prefix in sorted(self._families)
        )

    def registered(self) -> dict[str, T]:
        """What is there by its names: no families, and no plug-in before its import."""
        return dict(self._things)

    def name_of(self, thing: object) -> str | None:
        """The name of a thing, or None; an alias gives the name that it stands for."""
        if isinstance(thing, str):
            return self._aliases.get(thing, thing)
        for name, known in (*self._things.items(), *self._members.items()):
            if known is thing:
                return name
        return None

    def split(self, text: str) -> list[str]:
        """The names in a list that is separated by commas, or by semicolons.

        Where the text after a family's prefix may hold commas itself, it goes on to the next
        semicolon or to the end, as in ``"random,badge,albl:entropy,margin; entropy"``.
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
        """What is registered within is forgotten at the end; for tests."""
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
            raise ConfigurationError(f"The name of a {self.what} is text, not {name!r}.")

    def _refuse_taken(
        self, name: str, holder: object | None, candidate: object, what: str | None = None
    ) -> None:
        if holder is not None and not _same(holder, candidate):
            raise ConfigurationError(
                f"The name {name!r} belongs to the {what or self.what} {origin(holder)}; "
                "choose another."
            )

    def _member(self, name: str) -> T | None:
        """What a family makes of this full name, made at the first time; None of no family."""
        prefix, found, arguments = name.partition(self._separator)
        if not found:
            return None
        if prefix not in self._families and (plugin := self._plugins().get(prefix)) is not None:
            self._import(plugin)  # its module may register the family
        if prefix not in self._families:
            return None
        if name not in self._members:
            self._members[name] = self._check(name, self._families[prefix].factory(arguments))
        return self._members[name]

    def _plugins(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}

    def _load(self, plugin: EntryPoint) -> T:
        loaded = self._import(plugin)
        if plugin.name not in self._things:  # importing the module may have registered it
            try:
                self._things[plugin.name] = self._check(plugin.name, loaded)
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
                f"{error!r}"
            ) from error


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
