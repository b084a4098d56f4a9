"""Launchers: where the cells of a study are run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alhpo.base.errors import ConfigurationError
from alhpo.base.schema import parse, unknown_name
from alhpo.runs.observer import Observer
from alhpo.studies.config import Cell
from alhpo.studies.launch.in_process import InProcessLauncher, InProcessOptions
from alhpo.studies.launch.local import LocalLauncher, LocalOptions
from alhpo.studies.launch.protocol import Launcher
from alhpo.studies.launch.ray import RayLauncher, RayOptions

__all__ = ["LAUNCHERS", "Launcher", "make_launcher"]

#: Names of the launchers.
LAUNCHERS = ("in-process", "local", "ray")


def make_launcher(
    name: str,
    cells: Sequence[Cell],
    options: Mapping[str, Any] | None = None,
    observer: Observer | None = None,
) -> Launcher:
    """A launcher by name, ready for cells.

    Args:
        name: one of ``LAUNCHERS``.
        cells: those it will be given.
        options: its options, see ``LocalOptions`` and ``RayOptions``.
        observer: for the progress within a cell, which only "in-process" can show.

    Raises:
        ConfigurationError: no such launcher or option, a package that is missing, or a device
            that its processes do not have.
    """
    what = f"option of launcher {name!r}:"
    options = options or {}
    if name == "in-process":
        return InProcessLauncher(parse(InProcessOptions, options, what), observer)
    if name not in LAUNCHERS:
        raise unknown_name("launcher", name, LAUNCHERS)
    for cell in cells:
        if cell.config.device not in ("auto", "cpu", "cuda", "cuda:0"):
            raise ConfigurationError(
                f"Cell {cell.index} has device {cell.config.device!r}, but launcher {name!r} "
                "chooses the GPU, and its processes see one each. Use device auto or cuda."
            )
    gpus = any(cell.config.device != "cpu" for cell in cells)
    if name == "ray":
        return RayLauncher(parse(RayOptions, options, what), gpus=gpus)
    return LocalLauncher(parse(LocalOptions, options, what), gpus=gpus)
