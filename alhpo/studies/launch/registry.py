"""Launchers by name: built in, registered in Python, or an installed plug-in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alhpo.base.errors import ConfigurationError
from alhpo.base.registry import Registry
from alhpo.base.schema import Settings, parse
from alhpo.runs.observer import Observer
from alhpo.studies.config import Cell
from alhpo.studies.launch.protocol import Launcher, LauncherClass


def _check(name: str, launcher: Any) -> LauncherClass:
    options = getattr(launcher, "options_class", None)
    declares = isinstance(options, type) and issubclass(options, Settings)
    if not declares or not callable(getattr(launcher, "for_cells", None)):
        raise ConfigurationError(
            f"Launcher {name!r} is {launcher!r}; expected a class with options_class, a "
            "subclass of alhpo.base.schema.Settings, and the class method for_cells(options, "
            "cells, observer)."
        )
    return launcher


LAUNCHERS: Registry[LauncherClass] = Registry("launcher", "alhpo.launchers", check=_check)


def register_launcher(name: str, launcher: LauncherClass) -> None:
    """Make a launcher available as ``run_study(launcher=name)``.

    Args:
        name: its name.
        launcher: see ``LauncherClass``.

    Raises:
        ConfigurationError: a name that is not text or is taken, or a class without
            ``options_class`` or ``for_cells``.
    """
    LAUNCHERS.register(name, launcher)


def launcher_names() -> tuple[str, ...]:
    """Names of all launchers, sorted; plug-ins are not imported."""
    return LAUNCHERS.names()


def make_launcher(
    name: str,
    cells: Sequence[Cell],
    options: Mapping[str, Any] | None = None,
    observer: Observer | None = None,
) -> Launcher:
    """A launcher by name, ready for cells.

    Args:
        name: one of ``launcher_names()``.
        cells: the cells to run.
        options: its options, see ``LocalOptions``, ``RayOptions`` and ``ThreadsOptions``.
        observer: receives the progress within cells; only "in-process" has it.

    Raises:
        ConfigurationError: an unknown launcher or option, a missing package, or a device that its
            processes do not have.
    """
    launcher = LAUNCHERS.get(name)
    parsed = parse(launcher.options_class, options or {}, f"option of launcher {name!r}:")
    return launcher.for_cells(parsed, cells, observer)
