"""HPO modes: when a run searches hyperparameters.

A mode decides in which cycles a run searches, and whether one more search follows the last cycle. A
cycle without a search uses the configuration of the cycle before it; the first cycle uses the fixed
hyperparameters. ``MODE+final`` is MODE with one more search after the last cycle.

A new mode is one class here with a line of registration, or an entry point of another package in
the group ``alhpo.hpo_modes``. ``alhpo.testing.check_hpo_mode`` checks it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from alhpo.base.errors import ConfigurationError
from alhpo.base.registry import Registry

if TYPE_CHECKING:  # they import NumPy, which help and refusals must not
    from alhpo.base.protocols import HPOMode
    from alhpo.base.types import CycleRecord


class Schedule:
    """A mode whose searches are known before the run; a subclass defines ``cycles``."""

    searches_ever = True
    final_search = False
    when = "in some cycles"

    def cycles(self, sizes: Sequence[int]) -> Collection[int]:
        raise NotImplementedError

    def searches(self, cycle: int, sizes: Sequence[int], records: Sequence[CycleRecord]) -> bool:
        return cycle in self.cycles(sizes)


class Fixed(Schedule):
    """Never; all cycles use the fixed hyperparameters."""

    searches_ever = False
    when = "in no cycle"

    def cycles(self, sizes: Sequence[int]) -> Collection[int]:
        return ()


class PerCycle(Schedule):
    """In every cycle."""

    when = "in every cycle"

    def cycles(self, sizes: Sequence[int]) -> Collection[int]:
        return range(len(sizes))


class Every(Schedule):
    """In cycles 0, K, 2K, ..."""

    def __init__(self, interval: int) -> None:
        """
        Args:
            interval: K, at least 1.
        """
        self.interval = interval
        self.when = f"in every {interval} cycles"

    @classmethod
    def parse(cls, text: str) -> Every:
        """The mode ``every:K`` from its K."""
        if not text.isdecimal() or int(text) < 1:
            raise ConfigurationError(
                f"HPO mode is 'every:{text}'; expected every:K with a whole number K of at "
                "least 1, such as every:5."
            )
        return cls(int(text))

    def cycles(self, sizes: Sequence[int]) -> Collection[int]:
        return range(0, len(sizes), self.interval)


class Initial(Schedule):
    """Once, on the initial labels; the run keeps the configuration found."""

    when = "on the initial labels"

    def cycles(self, sizes: Sequence[int]) -> Collection[int]:
        return range(1)


class AtLabels(Schedule):
    """In the cycles with these numbers of labels."""

    def __init__(self, labels: Sequence[int]) -> None:
        """
        Args:
            labels: ascending numbers of labels.
        """
        self.labels = tuple(labels)
        self.when = f"at {', '.join(map(str, labels))} labels"

    @classmethod
    def parse(cls, text: str) -> AtLabels:
        """The mode ``at:N,...`` from its numbers."""
        parts = [part.strip() for part in text.split(",")]
        labels = [int(part) for part in parts if part.isdecimal()]
        if len(labels) < len(parts) or labels != sorted(set(labels)):
            raise ConfigurationError(
                f"HPO mode is 'at:{text}'; expected at:N,... with ascending numbers of labels, "
                "such as at:100,500."
            )
        return cls(labels)

    def cycles(self, sizes: Sequence[int]) -> Collection[int]:
        missing = [str(n) for n in self.labels if n not in sizes]
        if missing:
            raise ConfigurationError(
                f"No cycle has {' or '.join(missing)} labels. The cycles of this run have "
                f"{', '.join(map(str, sizes))}. Choose among these."
            )
        return [sizes.index(n) for n in self.labels]


class Final(Schedule):
    """Once, after the last cycle; the cycles use the fixed hyperparameters."""

    final_search = True
    when = "after the last cycle"

    def cycles(self, sizes: Sequence[int]) -> Collection[int]:
        return ()


class AndFinal(Schedule):
    """As another mode, and once more after the last cycle."""

    final_search = True

    def __init__(self, mode: HPOMode) -> None:
        """
        Args:
            mode: one that searches in some cycles.
        """
        self._mode = mode
        self.when = f"{mode.when}, and after the last cycle"

    def cycles(self, sizes: Sequence[int]) -> Collection[int]:
        return self._mode.cycles(sizes)

    def searches(self, cycle: int, sizes: Sequence[int], records: Sequence[CycleRecord]) -> bool:
        return self._mode.searches(cycle, sizes, records)


#: Attributes that a mode, or its class, must have.
_PARTS = ("searches_ever", "final_search", "when", "cycles", "searches")


def _check(name: str, mode: Any) -> HPOMode | type[HPOMode]:
    missing = [part for part in _PARTS if not hasattr(mode, part)]
    if missing:
        raise ConfigurationError(
            f"HPO mode {name!r} is {mode!r}, which lacks {', '.join(missing)}. Give an HPOMode "
            "(alhpo.base.protocols), or a class that makes one without arguments."
        )
    return mode


#: Modes, or classes that make them without arguments.
MODES: Registry[HPOMode | type[HPOMode]] = Registry("HPO mode", "alhpo.hpo_modes", check=_check)

MODES.register("fixed", Fixed)
MODES.register("initial", Initial)
MODES.register("per-cycle", PerCycle)
MODES.register("final", Final)
MODES.register_family("every", Every.parse, "K")
MODES.register_family("at", AtLabels.parse, "N,...")


#: Added to the name of a mode, for one more search after the last cycle.
AND_FINAL = "+final"


def get_mode(name: str) -> HPOMode:
    """The mode with this name, which may end in ``+final``.

    Raises:
        ConfigurationError: an unknown name, illegal arguments after the colon, or ``+final`` after
            a mode without searches in cycles.
    """
    if name.endswith(AND_FINAL):
        mode = get_mode(name.removesuffix(AND_FINAL))
        if mode.final_search or not mode.searches_ever:
            raise ConfigurationError(
                f"HPO mode is {name!r}; before {AND_FINAL}, expected a mode that searches in some "
                "cycles only, such as initial+final. For a final search alone, use final."
            )
        return AndFinal(mode)
    mode = MODES.get(name)
    return mode() if isinstance(mode, type) else mode


class _NotInstalled(Schedule):
    """The mode of a record whose package is not here, which is taken for one that searches."""

    when = "when its mode decides"

    def cycles(self, sizes: Sequence[int]) -> Collection[int]:
        return range(len(sizes))


def recorded_mode(name: str) -> HPOMode:
    """The mode of a run that was recorded; one that is not installed can be read, not run."""
    try:
        return get_mode(name)
    except ConfigurationError:
        return _NotInstalled()
