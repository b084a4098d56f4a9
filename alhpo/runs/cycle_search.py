"""The search of a cycle: the current configuration measured, then an optimizer's search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ConfigSpace as CS

from alhpo.base.errors import DataError
from alhpo.base.seeding import derive_seed
from alhpo.base.types import CycleRecord
from alhpo.hyperparameters import TrainingHyperparameters
from alhpo.learner import ActiveLearner
from alhpo.runs.observer import Observer
from alhpo.runs.optuna_studies import optuna_arguments
from alhpo.runs.search import (
    EarlierSearches,
    epochs_in,
    has_ended,
    in_space,
    measure,
    results_in_space,
    run_search,
    test_metric,
    validation_of,
)
from alhpo.runs.setting_groups import CycleSettings
from alhpo.tuning import TrialProcesses, Tuner
from alhpo.tuning.progress import SearchStatus


@dataclass(frozen=True)
class Found:
    """A configuration for a fit, with its validation.

    Attributes:
        configuration: all hyperparameters.
        validation: as in a record; None if it was not measured or diverged.
        metric: the metric that the search maximises; −inf if ``validation`` is None.
        test: that metric on the evaluation split after full training; None if not measured.
        experiment: folder of the tuner's experiment; None without one.
        search: what the search gained, as in a record.
        row: the row of the tuner; None without a validation.
    """

    configuration: dict[str, Any]
    validation: dict[str, float] | None = None
    metric: float = -math.inf
    test: float | None = None
    experiment: Path | None = None
    search: dict[str, Any] | None = None
    row: Mapping[str, Any] | None = None


class CycleSearch:
    """Searches and measurements of one run or session, each in the folder of its cycle.

    Args:
        config: its settings.
        path: its folder.
        observer: is told of the progress.
        storage: folder for checkpoints; None for the folders of the searches.
        earlier: folder with searches of another run, in folders of their cycles.
        extend: whether those with a smaller budget may go on with a larger one.
        processes: where those that train trials are kept from search to search.
    """

    def __init__(
        self,
        config: CycleSettings,
        path: Path,
        observer: Observer,
        storage: Path | None = None,
        earlier: Path | None = None,
        extend: bool = False,
        processes: TrialProcesses | None = None,
    ) -> None:
        self._config = config
        self._folder = path / "hpo"
        self._observer = observer
        self._storage = storage
        self._earlier = earlier
        self._extend = extend
        self._processes = processes
        self._measure_test = config.measures_test

    def search(
        self,
        learner: ActiveLearner,
        cycle: int,
        records: Sequence[CycleRecord],
        budget: int | None = None,
    ) -> Found:
        """Search, and return the better of the current configuration and the one found.

        The current configuration is trained to the end first, at the cost of ``max_epochs`` of the
        budget. Without it, a short search would replace a good configuration by one that only began
        well. If every trial diverged, the current configuration stays. An optimizer with the trait
        ``starts_from_current`` gets the current configuration as its first one, and nothing else.

        Args:
            learner: the learner with the labels of the cycle.
            cycle: number of the cycle.
            records: records of the cycles before.
            budget: epochs to spend; by default ``max_budget``.
        """
        config, hp = self._config, self.current(records)
        budget, current = budget or config.max_budget, Found(hp.model_dump())
        measured: list[Path] = []
        objective = learner.objective(measure_test=self._measure_test)
        place = self._place(cycle, total=budget)
        compares = config.measure_current and not config.starts_from_current
        if compares and budget > config.max_epochs:
            objective.keeps_image_scores = True
            current = self._measured(learner, hp, place)
            measured = [path for path in (current.experiment,) if path]
            place = self._place(cycle, total=budget, measured=current)
            budget -= config.max_epochs
        start = self._start(objective.configuration_space, records, measured)
        optuna = optuna_arguments(config.optuna_storage, self._cycle_folder(cycle))
        tuner, best = run_search(
            *(objective, config),
            budget=budget,
            optuna=optuna,
            processes=self._processes,
            **place,
            **start,
        )
        budgets = tuner.budgets
        extended = {"extended_from": budgets[-2]} if len(budgets) > 1 else {}
        found = None
        if best is not None:
            found = self._found(tuner, best, objective.hyperparameters(best["configuration"]))
        if current.row is None:
            return replace(found or current, search=extended or None)
        adopted, gain = current, None
        if best is not None and found is not None:
            gain = objective.gain(best, over=current.row)
            if found.metric > current.metric and (config.adopt == "better" or gain.sure):
                adopted = found
        search = {
            "current": current.metric,
            "found": found and found.metric,
            "paired_gain": gain and gain.mean,
            "paired_error": gain.error if gain and math.isfinite(gain.error) else None,
            "adopted": adopted.metric,
            "replaced": adopted is found,
            "current_test": current.test,
            "adopted_test": adopted.test,
            **extended,
        }
        return replace(adopted, search=search)

    def measure(self, learner: ActiveLearner, cycle: int, hp: TrainingHyperparameters) -> Found:
        """The validation of one configuration, trained to the end."""
        return self._measured(learner, hp, self._place(cycle, total=self._config.max_epochs))

    def _measured(
        self, learner: ActiveLearner, hp: TrainingHyperparameters, place: Mapping[str, Any]
    ) -> Found:
        tuner, best = measure(
            learner, hp, measure_test=self._measure_test, image_scores=True, **place
        )
        return self._found(tuner, best, hp)

    def current(self, records: Sequence[CycleRecord]) -> TrainingHyperparameters:
        """The configuration of the last cycle; without one, the fixed hyperparameters."""
        values = records[-1].configuration if records else self._config.hyperparameters
        return self._config.hyperparameter_class.create(values)

    def epochs(self, cycle: int, records: Sequence[CycleRecord]) -> int:
        """Epochs trained in searches of this cycle that no record has counted yet."""
        counted = sum(record.epochs["hpo"] for record in records if record.cycle == cycle)
        return max(epochs_in(self._cycle_folder(cycle)) - counted, 0)

    def _place(self, cycle: int, *, total: int, measured: Found | None = None) -> dict[str, Any]:
        """Arguments for a search of the cycle: folder, seed, storage, and where it is shown.

        Args:
            cycle: number of the cycle.
            total: epochs of all that is shown as one search.
            measured: the current configuration, if it was measured with some of them before.
        """
        before, beat = 0, ""
        if measured is not None:
            before = self._config.max_epochs
            if measured.validation is not None:
                beat = f"\nbeat  {measured.metric:.4g}  the current configuration"

        def show(status: SearchStatus) -> None:
            done = before + status.epochs
            self._observer.progressed(cycle, "search", done, total, f"{status}{beat}")

        return {
            "folder": self._cycle_folder(cycle),
            "seed": derive_seed(self._config.seed, "hpo", cycle),
            "storage": self._storage and self._storage / f"cycle_{cycle:03d}",
            "earlier": self._earlier
            and EarlierSearches(self._earlier / f"cycle_{cycle:03d}", self._extend),
            "show": show,
        }

    def _start(
        self, space: CS.ConfigurationSpace, records: Sequence[CycleRecord], measured: Sequence[Path]
    ) -> dict[str, Any]:
        """Arguments that a search starts from: the current configuration, earlier results, or
        fixed hyperparameters."""
        if self._config.starts_from_current:
            current = self.current(records).model_dump()
            return {"initial_configurations": in_space(space, current)}
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
            DataError: they hold fewer epochs than are recorded; a search that learns from them
                would not be the same.
        """
        folder = self._cycle_folder(record.cycle)
        found = sorted(folder.glob("experiment_*"))
        held, recorded = epochs_in(folder), record.epochs["hpo"]
        if held < recorded:
            cut = [path / "journal.jsonl" for path in found if not has_ended(path)]
            raise DataError(
                f"{(*cut, folder)[0]} was cut short or removed: the searches of cycle "
                f"{record.cycle} trained {recorded} epochs, of which {held} are left. Later "
                f"searches learn from them. Restore it from a copy, or remove "
                f"{self._folder.parent} to run anew."
            )
        return found

    def _cycle_folder(self, cycle: int) -> Path:
        return self._folder / f"cycle_{cycle:03d}"

    def _found(
        self, tuner: Tuner, best: dict[str, Any] | None, hp: TrainingHyperparameters
    ) -> Found:
        """The best row of a search as a ``Found``."""
        if best is None:
            return Found(hp.model_dump(), experiment=tuner.experiment_path)
        test = test_metric(tuner.results, best, self._config.metric) if self._measure_test else None
        metric = float(best["metric"])
        validation = validation_of(best)
        return Found(hp.model_dump(), validation, metric, test, tuner.experiment_path, row=best)
