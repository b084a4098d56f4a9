"""A run. This module alone knows the order of an active-learning cycle.

    labels -> search or fixed hyperparameters -> fit on all labels -> evaluation -> query -> record
    -> labels

Cycles that ``evaluate_at`` leaves out only query.

All state is on disk, so the same call continues a killed run:

    format.json           the format of the folder, and the version that began it
    config.yaml           the settings
    dataset.json          classes, and identity, label and file of every image
    sessions.jsonl        versions, device and threads of every start
    labels.jsonl          what was asked and told, in order
    cycles.jsonl          one record per cycle
    hpo/cycle_000/        the tuner's experiment of a cycle
    fit/cycle_000/        the model of the last cycle with one (with start="warm" of the last two),
                          and that of the cycle under way
    fit/final/            the model of the fit after a final search
    earlier_run.json      the run whose first records these are, if there is one
    earlier_hpo/          searches of it that a cycle may find again, until the end
    query/cycle_000/      what a strategy trains for a query, until that is recorded
    queried_indices.json  the labelled pool in dal-toolbox's form
    first_query.png       the first images that the first query picked
    run.json              written at the end
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from alhpo.base.errors import (
    CheckpointError,
    ConfigurationError,
    DataError,
    DivergedError,
    LabelError,
)
from alhpo.base.files import Journal, exclusive, write_json, write_text
from alhpo.base.formats import claim_format
from alhpo.base.types import CycleRecord, RunResult
from alhpo.data.dataset import ImageDataset
from alhpo.learner import ActiveLearner
from alhpo.runs.cycle_search import CycleSearch, Found
from alhpo.runs.data import (
    check_data_of_finished,
    check_dataset,
    load_data,
    need_evaluation_split,
)
from alhpo.runs.earlier_run import SEARCHES, finish_taking_over, take_over
from alhpo.runs.first_query import FirstQuery
from alhpo.runs.fit import Fit, fit_or_continue
from alhpo.runs.observer import Observer, Observers
from alhpo.runs.provenance import Sessions
from alhpo.runs.records import read_records
from alhpo.runs.search import storage_of
from alhpo.runs.settings import RunConfig
from alhpo.runs.stopwatch import Stopwatch
from alhpo.strategies import needs_model, strategy_name
from alhpo.training.compute import Compute
from alhpo.tuning import TrialProcesses


def run_experiment(
    config: RunConfig | Mapping[str, Any],
    *,
    dataset: ImageDataset | None = None,
    observer: Observer | None = None,
) -> RunResult:
    """Run active learning, or continue or return an earlier run with the same settings.

    A new run takes over the cycles of earlier runs in ``output_dir`` that differ in numbers of
    labels or in budgets only, where it would do the same: see ``alhpo.runs.earlier_run``.

    Args:
        config: the settings, or a mapping of them.
        dataset: use this data set instead of loading ``config.dataset``.
        observer: receives the progress.

    Returns:
        The run's folder and its records.

    Raises:
        ConfigurationError: settings that cannot be used, or another type of device than before;
            raised before any training.
        DataError: a data set that cannot be loaded or is not the run's, or a damaged record.
        LabelError: the records of labels and of cycles do not fit each other.
        CheckpointError: with ``start="warm"``, the model to continue from is missing or damaged.
        RunLockedError: another process works in the run's folder.
        FormatError: the folder has the format of another version of alhpo.
    """
    if not isinstance(config, RunConfig):
        config = RunConfig.create(config)
    path = Path(config.output_dir).expanduser() / config.name
    with exclusive(path), TrialProcesses() as processes:
        finish_taking_over(path)
        return _Run(config, path, dataset, Observers(observer), processes).complete()


class _Run:
    def __init__(
        self,
        config: RunConfig,
        path: Path,
        dataset: ImageDataset | None,
        observer: Observer,
        processes: TrialProcesses,
    ) -> None:
        self.config = config
        self.path = path
        self._dataset = dataset
        self._observer = observer
        self._journal = Journal(path / "cycles.jsonl")
        self.records = read_records(path / "cycles.jsonl")
        self._processes = processes
        self._cycles = len(config.sizes)
        self._mode = config.mode
        self._watch = Stopwatch()

    def complete(self) -> RunResult:
        if self._ended():
            check_data_of_finished(self.path / "dataset.json", self.config, self._dataset)
            return RunResult(self.path, tuple(self.records), resumed=True)
        claim_format(self.path)
        learner = self._begin()
        resumed = bool(self.records)
        self._observer = Observers(FirstQuery(self.path, learner.dataset), self._observer)
        self._searches = CycleSearch(
            self.config,
            self.path,
            self._observer,
            storage_of(self.config),
            earlier=self.path / SEARCHES,
            extend=self.config.extend,
            processes=self._processes if self.config.searches > 1 else None,
        )
        total = self._cycles + self._mode.final_search
        self._observer.started(self.config, self.path, len(self.records), total)
        self._observer.loaded(learner.dataset)
        learner.prepare(self._observer.encoded)
        learner.label_initial(self.config.initial_size)
        if self.records:
            self._take_up(learner)
        while not self._finished():
            self._cycle(learner)
        if self._mode.final_search and self.records[-1].kind == "cycle":
            self._final(learner)
        self._clean_up()  # a kill after the last record may have prevented it
        shutil.rmtree(self.path / SEARCHES, ignore_errors=True)
        learner.pool.export(self.path / "queried_indices.json")
        write_json(self.path / "run.json", {"cycles": self._cycles, "records": len(self.records)})
        return RunResult(self.path, tuple(self.records), resumed)

    def _ended(self) -> bool:
        """Whether the run was finished before.

        Raises:
            DataError: it was, with another number of records.
        """
        try:
            records = json.loads((self.path / "run.json").read_text(encoding="utf-8"))["records"]
        except (OSError, ValueError, KeyError, TypeError):
            return False  # unfinished, or a damaged file, which is then written again
        if records != len(self.records):
            raise DataError(
                f"{self._journal.path} holds {len(self.records)} records, but the run was finished "
                f"with {records}: the file was cut short or changed. {self._advice()}"
            )
        return True

    def _advice(self) -> str:
        return f"Restore it from a copy, or remove {self.path} to run anew."

    def _begin(self) -> ActiveLearner:
        config = self.config
        sessions = Sessions(self.path / "sessions.jsonl", config.search_packages)
        precision = sessions.precision(config.precision)
        compute = Compute.resolve(config.device, precision)
        sessions.check(compute, image_size_known=False)  # before any loading
        dataset = self._dataset or load_data(config)
        if config.budget > len(dataset):
            raise ConfigurationError(
                f"budget is {config.budget} labels, but the pool of {dataset.name!r} has "
                f"{len(dataset)} images. Lower the budget."
            )
        need_evaluation_split(dataset)
        if take_over(config, self.path, dataset, compute):
            self.records = read_records(self._journal.path)
            sessions = Sessions(self.path / "sessions.jsonl", config.search_packages)
        check_dataset(self.path / "dataset.json", dataset)
        learner = ActiveLearner.of(config, dataset, precision=precision, path=self.path)
        self._check_labels(learner)
        if config.mode.searches_ever:
            learner.check_space()
        storage_of(config)  # fail now if it cannot be made
        sessions.begin(learner.compute)
        settings = yaml.safe_dump(config.model_dump(), sort_keys=False)
        write_text(self.path / "config.yaml", settings)
        return learner

    def _check_labels(self, learner: ActiveLearner) -> None:
        """Refuse labels that do not fit the records, because a file was damaged."""
        pool, truth = learner.pool, learner.dataset.labels
        labeled, pending = set(pool.labeled.tolist()), set(pool.pending.tolist())
        expected, found = self.config.initial_size, len(labeled)
        if self.records:
            last = self.records[-1]
            expected = last.n_labeled + len(last.queried)
            found = len(labeled | pending & set(last.queried))
        elif not labeled:
            return
        queried = {index for record in self.records for index in record.queried}
        true = truth is None or bool(np.array_equal(truth.numpy()[pool.labeled], pool.labels))
        if found != expected or not queried <= labeled | pending or not true:
            raise LabelError(
                f"{self.path / 'labels.jsonl'} holds {found} labels and does not fit "
                f"{self._journal.path.name}, which has {expected}; or images and classes differ. "
                f"One of the files was cut short or changed. {self._advice()}"
            )

    def _take_up(self, learner: ActiveLearner) -> None:
        """Bring the learner to the state after the last record."""
        last = self.records[-1]
        if set(last.queried) & set(learner.pool.pending.tolist()):
            learner.answer()
        if self.config.start == "warm" and not last.diverged and self._fits_again():
            try:
                learner.restore(
                    self._fit_folder(last.kind, last.cycle),
                    configuration=last.configuration,
                    n_labeled=last.n_labeled,
                )
            except CheckpointError as error:
                raise CheckpointError(
                    f"A run with start=warm needs the model of its last fit. {error} "
                    f"{self._advice()}"
                ) from error

    def _finished(self) -> bool:
        return bool(self.records) and not self.records[-1].queried

    def _fits_again(self) -> bool:
        """Whether a cycle or the final fit is still to come after the last record."""
        last = self.records[-1]
        return bool(last.queried) or (self._mode.final_search and last.kind == "cycle")

    def _cycle(self, learner: ActiveLearner) -> None:
        config, cycle = self.config, len(self.records)
        self._watch = Stopwatch()
        tuned, fit = False, None
        if learner.n_labeled in config.evaluated_sizes:
            tuned = self._mode.searches(cycle, config.sizes, tuple(self.records))
            with self._watch.timed("hpo"):
                found = (self._search if tuned else self._keep)(learner, cycle)
            fit = self._fit(learner, found, "cycle", cycle)
        else:
            found = Found(self._searches.current(self.records).model_dump())
        queried: tuple[int, ...] = ()
        if cycle + 1 < self._cycles:
            with self._watch.timed("query"):
                n = config.sizes[cycle + 1] - learner.n_labeled
                queried = self._query(learner, n, fit)
        self._record(learner, "cycle", cycle, found, tuned, fit, queried)
        if queried:
            learner.answer()
        learner.pool.export(self.path / "queried_indices.json")

    def _final(self, learner: ActiveLearner) -> None:
        """The search after the last cycle, and the model retrained with what it found."""
        cycle = self.records[-1].cycle
        self._watch = Stopwatch()
        with self._watch.timed("hpo"):
            found = self._search(learner, cycle, final=True)
        fit = self._fit(learner, found, "final", cycle)
        self._record(learner, "final", cycle, found, True, fit, ())

    def _search(self, learner: ActiveLearner, cycle: int, *, final: bool = False) -> Found:
        budget = self.config.search_budget(cycle, final=final)
        return self._searches.search(learner, cycle, self.records, budget)

    def _keep(self, learner: ActiveLearner, cycle: int) -> Found:
        """The current configuration, measured if ``validate_fixed`` is on."""
        hp = self._searches.current(self.records)
        if not self.config.validate_fixed:
            return Found(hp.model_dump())
        return self._searches.measure(learner, cycle, hp)

    def _fit(self, learner: ActiveLearner, found: Found, kind: str, cycle: int) -> Fit:
        total = self.config.max_epochs

        def progress(epoch: int) -> None:
            note = f"on {learner.n_labeled} labels"
            self._observer.progressed(cycle, "fit", epoch, total, note)

        with self._watch.timed("fit"):
            folder = self._fit_folder(kind, cycle)
            return fit_or_continue(learner, found.configuration, folder, progress)

    def _fit_folder(self, kind: str, cycle: int) -> Path:
        """Each fit has its own folder: with ``start="warm"`` the next fit starts from its model."""
        return self.path / "fit" / ("final" if kind == "final" else f"cycle_{cycle:03d}")

    def _query(self, learner: ActiveLearner, n: int, fit: Fit | None) -> tuple[int, ...]:
        """Ask for labels, unless a killed process did: with the strategy, or at random if the
        model that it looks at diverged or its outputs are not finite."""
        if not len(learner.pool.pending):
            without = fit is not None and fit.diverged and needs_model(learner.strategy)
            try:
                learner.ask(n, strategy="random" if without else None)
            except DivergedError as error:
                warnings.warn(
                    f"Cycle {len(self.records)} of {self.path.name} queries at random. {error}",
                    stacklevel=2,
                )
                learner.ask(n, strategy="random")
        return tuple(learner.pool.pending.tolist())

    def _record(
        self,
        learner: ActiveLearner,
        kind: Literal["cycle", "final"],
        cycle: int,
        found: Found,
        tuned: bool,
        fit: Fit | None,
        queried: tuple[int, ...],
    ) -> None:
        """Write the record of a cycle, and delete checkpoints that are no longer needed."""
        strategy = strategy_name(learner.strategy)
        random_query = any(learner.pool.asked_by(index) != strategy for index in queried)
        record = CycleRecord(
            kind=kind,
            cycle=cycle,
            n_labeled=learner.n_labeled,
            configuration=found.configuration,
            tuned=tuned,
            validation=found.validation,
            test=fit and fit.test.scores,
            epochs={
                "hpo": self._searches.epochs(cycle, self.records),
                "fit": fit.epochs if fit else 0,
            },
            queried=queried,
            random_query=random_query,
            diverged=fit is not None and fit.diverged,
            fitted=fit is not None,
            search=found.search,
            arms=self._arms(learner, strategy) if queried and not random_query else None,
            seconds=self._watch.seconds,
        )
        self._journal.append(record.to_dict())
        self.records.append(record)
        self._clean_up()
        self._observer.recorded(record)

    def _arms(self, learner: ActiveLearner, strategy: str) -> Mapping[str, Any] | None:
        """What the strategies did that the strategy of the query asked, if it tells."""
        told = (learner.pool.state(strategy) or {}).get("arms")
        return told if isinstance(told, Mapping) else None

    def _clean_up(self) -> None:
        """Delete checkpoints that are no longer needed; failures are ignored.

        What cannot be deleted now is tried again after the next record.
        """
        fitted = [record for record in self.records if record.fitted]
        # a run to more labels goes on from the last cycle; warm, from the fit before it
        cycles = [record for record in fitted if record.kind == "cycle"]
        needed = [*cycles[-2 if self.config.start == "warm" else -1 :], *fitted[-1:]]
        kept = [self._fit_folder(record.kind, record.cycle) for record in needed]
        old = [folder for folder in (self.path / "fit").glob("*") if folder not in kept]
        for folder in (*old, self.path / "query"):
            shutil.rmtree(folder, ignore_errors=True)
