"""The search of a cycle: the current configuration measured, then an optimizer's search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ConfigSpace as CS

from alhpo.base.errors import DataError
from alhpo.base.seeding import derive_seed
from alhpo.base.types import CycleRecord
from alhpo.hyperparameters import TrainingHyperparameters
from alhpo.learner import ActiveLearner
from alhpo.runs.observer import Observer
from alhpo.runs.search import (
    epochs_in,
    has_ended,
    in_space,
    measure,
    results_in_space,
    run_search,
    storage_of,
    validation_of,
)
from alhpo.runs.settings import RunConfig
from alhpo.tuning import Tuner


@dataclass(frozen=True)
class Found:
    """A configuration for a fit, and how it was judged.

    Attributes:
        configuration: all hyperparameters.
        validation: ``accuracy``, ``nll`` and ``epoch``, as a record holds them; None where it was
            not measured, or diverged.
        metric: what the search maximises; −inf where ``validation`` is None.
        experiment: the folder of the tuner's experiment, where there is one.
    """

    configuration: dict[str, Any]
    validation: dict[str, float] | None = None
    metric: float = -math.inf
    experiment: Path | None = None


class CycleSearch:
    """Searches and measurements of one run, each in the folder of its cycle.

    Args:
        config: the run's settings.
        path: the run's folder.
        observer: is told of the progress.
    """

    def __init__(self, config: RunConfig, path: Path, observer: Observer) -> None:
        self._config = config
        self._folder = path / "hpo"
        self._observer = observer
        self._storage = storage_of(config)

    def search(self, learner: ActiveLearner, cycle: int, records: Sequence[CycleRecord]) -> Found:
        """The better of the current configuration, fully trained, and of what a search finds.

        Without that measurement, which is a part of the budget, a search that had too few epochs
        to train anything through would replace what works by what began well. Where all that the
        search tried diverged, the current configuration stays.

        Args:
            learner: with the labels of the cycle.
            cycle: its number.
            records: of the cycles before.
        """
        config, hp = self._config, self.current(records)
        budget, current = config.max_budget, Found(hp.model_dump())
        measured: list[Path] = []
        if config.measure_current and budget > config.max_epochs:
            current = self.measure(learner, cycle, hp)
            measured = [path for path in (current.experiment,) if path]
            budget -= config.max_epochs
        objective = learner.objective()
        start = self._start(objective.configuration_space, records, measured)
        place = self._place(cycle, budget)
        tuner, best = run_search(objective, config, budget=budget, **place, **start)
        if best is None:
            return current
        found = _found(tuner, best, objective.hyperparameters(best["configuration"]))
        return found if found.metric > current.metric else current

    def measure(self, learner: ActiveLearner, cycle: int, hp: TrainingHyperparameters) -> Found:
        """The validation of one configuration, trained to the end."""
        tuner, best = measure(learner, hp, **self._place(cycle, self._config.max_epochs))
        return _found(tuner, best, hp)

    def current(self, records: Sequence[CycleRecord]) -> TrainingHyperparameters:
        """The configuration of the cycle before, in the first cycle the fixed hyperparameters."""
        values = records[-1].configuration if records else self._config.hyperparameters
        return self._config.hyperparameter_class.create(values)

    def epochs(self, cycle: int, records: Sequence[CycleRecord]) -> int:
        """Epochs trained in searches of this cycle that none of these records has counted."""
        counted = sum(record.epochs["hpo"] for record in records if record.cycle == cycle)
        return max(epochs_in(self._cycle_folder(cycle)) - counted, 0)

    def _place(self, cycle: int, budget: int) -> dict[str, Any]:
        """Where a search of the cycle lies, its seed, and who is told of its progress."""

        def progress(done: int, row: dict[str, Any]) -> None:
            note = f"validation {row['metric']:.3f}"
            self._observer.progressed(cycle, "search", done, budget, note)

        return {
            "folder": self._cycle_folder(cycle),
            "seed": derive_seed(self._config.seed, "hpo", cycle),
            "storage": self._storage and self._storage / f"cycle_{cycle:03d}",
            "callback": progress,
        }

    def _start(
        self, space: CS.ConfigurationSpace, records: Sequence[CycleRecord], measured: Sequence[Path]
    ) -> dict[str, Any]:
        """What a search starts from: the fixed hyperparameters, or the searches before it."""
        observed = results_in_space(space, measured)
        tuned = [record for record in records if record.tuned and self._config.transfer]
        earlier = [results_in_space(space, self._experiments(record)) for record in tuned]
        if any(earlier):
            return {"warm_start": earlier, "observed": observed}
        fixed = self._config.hyperparameter_class.create(self._config.hyperparameters).model_dump()
        known = [row["configuration"] for row in observed]
        initial = [one for one in in_space(space, fixed) if one not in known]
        return {"initial_configurations": initial, "observed": observed}

    def _experiments(self, record: CycleRecord) -> list[Path]:
        """The experiments of a cycle that is recorded.

        Raises:
            DataError: they have fewer epochs than are recorded, so that a search which learns from
                them would not be the one that was begun.
        """
        folder = self._cycle_folder(record.cycle)
        found = sorted(folder.glob("experiment_*"))
        held, recorded = epochs_in(folder), record.epochs["hpo"]
        if held < recorded:
            cut = [path / "journal.jsonl" for path in found if not has_ended(path)]
            raise DataError(
                f"{(*cut, folder)[0]} was cut short or removed: the searches of cycle "
                f"{record.cycle} trained {recorded} epochs, of which {held} are left, and later "
                f"searches learn from them. Restore it from a copy, or remove "
                f"{self._folder.parent} to run anew."
            )
        return found

    def _cycle_folder(self, cycle: int) -> Path:
        return self._folder / f"cycle_{cycle:03d}"


def _found(tuner: Tuner, best: dict[str, Any] | None, hp: TrainingHyperparameters) -> Found:
    """What the best row of a search says of the configuration in it."""
    experiment = tuner.experiment_path
    if best is None:
        return Found(hp.model_dump(), experiment=experiment)
    return Found(hp.model_dump(), validation_of(best), float(best["metric"]), experiment)
