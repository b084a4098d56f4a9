"""``Tuner``: HPO4DL's interface to a search that can be killed and continued."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from ConfigSpace import ConfigurationSpace

from alhpo.base.errors import ConfigurationError, TunerError
from alhpo.base.files import Journal, content_hash, exclusive, write_json
from alhpo.base.formats import claim_format
from alhpo.base.plain import to_plain
from alhpo.base.protocols import OptimizerFactory
from alhpo.hyperparameters.description import space_identity, space_to_json
from alhpo.tuning import arguments
from alhpo.tuning.configurations import SampledConfigurations
from alhpo.tuning.evaluation import Objective, Outcome
from alhpo.tuning.failures import outside_cause
from alhpo.tuning.history import EarlierResults, best_first, earlier_searches
from alhpo.tuning.identity import identity_of
from alhpo.tuning.optuna_study import OptunaStudy, check_space
from alhpo.tuning.processes import TrialProcesses
from alhpo.tuning.processes.together import side_by_side
from alhpo.tuning.progress import SearchStatus, ShowStatus, search_view
from alhpo.tuning.record import Record, SearchJournal
from alhpo.tuning.recovery import (
    check_budget,
    experiment_folder,
    recorded_rows,
    recover,
    unfinished_trials,
    warn_of_earlier,
    why_nothing_succeeded,
)
from alhpo.tuning.results import Results
from alhpo.tuning.search import Search
from alhpo.tuning.training import Trial, TrialTraining
from alhpo.tuning.trials import TrialFolders

logger = logging.getLogger("alhpo.tuning")


class Tuner:
    """Search a space for the configuration with the best metric, epoch by epoch.

    It takes the arguments of ``hpo4dl.tuner.Tuner`` in the same order, returns the same keys and
    writes the same files, to ``<output_path>/experiment_<hash>/``. The hash is that of everything
    that defines the search but ``max_budget``. Every epoch is written to ``journal.jsonl`` as soon
    as it is trained. Run the same search again and it continues after the last epoch in the
    journal; a search that has ended returns its result, or goes on with a larger ``max_budget``.

    Args:
        objective_function: ``f(configuration, epoch, previous_epoch, checkpoint_path)``. It is
            called for one epoch at a time and returns a dict with ``epoch``, ``metric`` and
            anything else to record (or a list of one such dict). Each trial has its own
            ``checkpoint_path``, which does not exist before the first epoch. A metric that is not
            finite, or a ``DivergedError`` (of ``alhpo.base.errors``), ends the trial. After a
            ``CheckpointError`` the trial is trained again from epoch 0. Any other exception stops
            the search (see ``max_failures``). The objective may have these attributes: ``identity``
            (see the argument); ``replaces_files``, True if it only replaces files by renaming, so
            that a hard link can stand for a copy of a checkpoint; and ``checkpoints_lag``, True if
            a checkpoint may be of an earlier epoch than its trial, so that there is no best_trial.
            If it has a method ``train_together``, that trains several trials at a time (see
            ``parallel``), unless they are trained in ``processes``.
        configuration_space: the space to search. It and its generator do not change.
        max_epochs: the epoch at which a configuration is fully trained.
        max_budget: epochs to train in all. None is for optimizers that end by themselves
            ("hyperband", "asha", "one-epoch", "random", "tpe"). A search that spent a smaller
            budget goes on: it has the result of one search of the whole budget, unless the
            optimizer plans with its budget ("dyhpo", "one-epoch"; ``stop_reason`` then says so).
            With a budget that it ended with before, its result of then is returned.
        output_path: the folder in which the experiment folder is made.
        optimizer: a name (see ``optimizer_names``) or an ``OptimizerFactory``.
        minimize: True if the lowest metric is the best.
        num_configurations: the number of configurations to choose from.
        seed: of the search. None draws one, so that every such Tuner is a new experiment.
        device: where the optimizer's model runs; None for its default.
        storage_path: the folder of checkpoints during the search; None for the experiment folder.
        initial_configurations: configurations to try first.
        warm_start: earlier searches of similar tasks, oldest first. Each is the rows of
            ``Tuner.results`` or the folder ``Tuner.experiment_path``. Their best configurations
            are tried after the initial ones, those of the latest search first. The optimizer
            "dyhpo" also learns from all their observations; it does not assume that metrics of
            different searches have the same level.
        observed: rows of trials of this same task that were run elsewhere. The optimizers "dyhpo"
            and "tpe" count them as their own observations. They are not in the results.
        min_gain: stop when the optimizer expects less improvement than this, in units of the
            metric. Only for optimizers that predict it ("dyhpo").
        parallel: the number of trials trained at a time, 1 by default. More need an optimizer that
            suggests several configurations at once (HPO4DL's own do not). If the objective has a
            method ``train_together(requests)``, that trains one epoch of each: a request is the
            tuple of the objective's four arguments; the method returns a list with one item per
            request, what ``objective(*request)`` would return or the exception it would raise.
            Without the method, the trials are trained in ``processes``, or one after the other. The
            record depends on the seed and on ``parallel``, which is part of the search's identity
            unless it is 1.
        processes: whether ``parallel`` trials are trained in as many processes, which share the
            threads that torch has here and end with the search. None asks the attribute
            ``in_processes`` of the objective, which those of ``ActiveLearner`` have on the CPU.
            True is for objectives that can be pickled, and that keep nothing that counts in memory.
            ``TrialProcesses`` are used as if the objective had asked, and kept for later searches.
        resume: True continues the same search, or returns its result, with an
            ``EarlierResultWarning``; "quiet" does so without the warning; False starts a new
            search in a new folder.
        identity: a JSON-able value that tells the objective from others. None takes its attribute
            ``identity``, or else its module, name, source and plain values: functions that it calls
            and data that it holds do not count.
        max_failures: the number of trials that may fail by an exception of the objective; they are
            not trained any further. The next failure stops the search. Run again, the search goes
            on with the trial that failed. Lack of memory, a full disk and a broken GPU are
            not failures of a trial: they always stop the search.
        keep_best: whether the checkpoint of the best epoch is kept, and copied to ``best_trial`` at
            the end, as HPO4DL does.
        keep_mib: the room in MiB, 256 by default, for checkpoints of unfinished trials, the best
            first, after a budget is spent. A trial whose checkpoint is not kept is trained again
            from epoch 0 if the search goes on with a larger budget and with that trial, at no cost
            to the budget. 0 keeps none.
        progress: True shows the best configuration so far, the trials being trained, and epochs and
            time left, if stderr is a terminal. A function is called instead, with a
            ``SearchStatus`` (of ``alhpo.tuning.progress``) before and after every epoch.
        callback: called with the row of every newly trained epoch (not with rows of the journal).
        clock: measures the seconds in the results; for tests.
        optuna_storage: a file in which the search is also a study of Optuna, brought up to date
            after every epoch (see ``OptunaStudy`` of ``alhpo.tuning.optuna_study``). The file is an
            Optuna journal (``JournalFileBackend``) and may hold other studies. None for no study.
            It has no effect on the search.
        optuna_study: the name of that study; None for the name of the experiment folder.

    Raises:
        ConfigurationError: an argument that is not legal.
    """

    def __init__(
        self,
        objective_function: Objective,
        configuration_space: ConfigurationSpace,
        max_epochs: int,
        max_budget: int | None,
        output_path: str | os.PathLike[str],
        optimizer: str | OptimizerFactory = "dyhpo",
        minimize: bool = False,
        num_configurations: int = 1000,
        seed: int | None = None,
        device: str | None = None,
        storage_path: str | os.PathLike[str] | None = None,
        *,
        initial_configurations: Sequence[Mapping[str, Any]] = (),
        warm_start: Sequence[EarlierResults] = (),
        observed: EarlierResults | None = None,
        min_gain: float | None = None,
        parallel: int = 1,
        processes: bool | TrialProcesses | None = None,
        resume: bool | Literal["quiet"] = True,
        identity: Any = None,
        max_failures: int = 0,
        keep_best: bool = True,
        keep_mib: int = 256,
        progress: bool | ShowStatus = True,
        callback: Callable[[dict[str, Any]], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        optuna_storage: str | os.PathLike[str] | None = None,
        optuna_study: str | None = None,
    ) -> None:
        self._objective: Objective = arguments.objective(objective_function)
        self._space = arguments.space(configuration_space)
        self._max_epochs = arguments.whole_number("max_epochs", max_epochs, 1)
        self._max_budget = (
            None if max_budget is None else arguments.whole_number("max_budget", max_budget, 1)
        )
        output = arguments.folder("output_path", output_path)
        self._factory = arguments.optimizer_factory(optimizer, self._max_budget, self._space)
        self._parallel = arguments.parallel(parallel, self._factory, optimizer)
        self._processes = arguments.processes(processes, self._parallel)
        self._minimize = arguments.flag("minimize", minimize)
        self._n = arguments.whole_number("num_configurations", num_configurations, 1)
        self._seed = (
            secrets.randbits(32) if seed is None else arguments.whole_number("seed", seed, 0)
        )
        self._device = arguments.torch_device(device)
        self._storage = (
            None if storage_path is None else arguments.folder("storage_path", storage_path)
        )
        self._quiet = arguments.resume(resume) == "quiet"
        self._max_failures = arguments.whole_number("max_failures", max_failures, 0)
        self._keep_best = arguments.flag("keep_best", keep_best)
        self._keep_bytes = arguments.whole_number("keep_mib", keep_mib, 0) * 2**20
        self._progress = arguments.progress(progress)
        self._clock: Callable[[], float] = arguments.function("clock", clock)
        self._callback = None if callback is None else arguments.function("callback", callback)
        initial = arguments.configurations(self._space, initial_configurations)
        self._history = [
            one.maximised(minimize=self._minimize) for one in earlier_searches(warm_start, observed)
        ]
        promising = arguments.in_space(self._space, best_first(self._history))
        self._initial = [*initial, *(one for one in promising if one not in initial)]
        self._min_gain = arguments.min_gain(min_gain)
        if self._min_gain is not None and not arguments.has_trait(self._factory, "tells_gain"):
            raise ConfigurationError(
                f"Argument min_gain is {min_gain!r}, but optimizer {optimizer!r} does not tell "
                "what it expects to gain. Use optimizer='dyhpo', or max_budget alone."
            )
        self._settings = {
            "optimizer": optimizer if isinstance(optimizer, str) else identity_of(optimizer),
            "max_epochs": self._max_epochs,
            "minimize": self._minimize,
            "num_configurations": self._n,
            "seed": self._seed,
            "initial_configurations": to_plain(self._initial),
            **self._optional(),
            "objective": arguments.identity(identity, objective_function),
            "space": space_identity(self._space),
        }
        self._optuna = None
        if optuna_storage is not None:
            self._optuna = arguments.file("optuna_storage", optuna_storage)
            check_space(self._settings["space"])
        self._path = experiment_folder(output, content_hash(self._settings), resume=bool(resume))
        self._optuna_name = optuna_study or self._path.name
        self._journal = SearchJournal(Journal(self._path / "journal.jsonl"))

    def _optional(self) -> dict[str, Any]:
        """Settings that are part of the identity only if they are used."""
        settings: dict[str, Any] = {}
        if self._history:
            rows = [[one.age, to_plain(one.rows)] for one in self._history]
            settings["history"] = content_hash(rows)
        if self._min_gain is not None:
            settings["min_gain"] = self._min_gain
        if self._parallel > 1:
            settings["parallel"] = self._parallel
        if packages := arguments.packages(self._factory):
            settings["versions"] = {name: version(name) for name in packages}
        return settings

    @property
    def experiment_path(self) -> Path:
        """The folder of this experiment. It may not exist before ``run``."""
        return self._path

    @property
    def epochs_spent(self) -> int:
        """Epochs trained in this experiment so far, in this process or before."""
        return len(self._read().outcomes)

    @property
    def results(self) -> list[dict[str, Any]]:
        """The rows of all epochs trained in this experiment so far, oldest first."""
        return recorded_rows(self._read(), minimize=self._minimize).rows

    @property
    def stop_reason(self) -> str | None:
        """Why the search ended; None while it has not."""
        return self._read().stop_reason

    @property
    def budgets(self) -> list[int | None]:
        """The values of ``max_budget`` that the search had, oldest first; none before ``run``."""
        return self._read().budgets

    def run(self) -> dict[str, Any]:
        """Search, or continue the search, until the budget is spent or nothing is left to train.

        Returns:
            The best row: ``configuration_id``, ``configuration``, ``epoch``, ``metric``, ``time``,
            ``overhead_time``, ``total_time`` (seconds), ``best_metric``, and anything else that
            the objective returned.

        Raises:
            ConfigurationError: ``max_budget`` is smaller than what the search has spent, and it
                never ended with that budget.
            TunerError: the objective raised an exception; memory or disk are full; a trial that
                was trained again had other metrics; no trial succeeded; or the objective or the
                optimizer breaks its contract.
            RunLockedError: another process is using this experiment.
            FormatError: a version of alhpo with another folder format began it.
        """
        with exclusive(self._path), _full_disk_explained():
            whole = self._journal.read()
            record = self._seen(whole)
            goes_on = record.start is not None and record.budgets[-1] != self._max_budget
            if goes_on and not record.all_failed:
                check_budget(record, self._max_budget, self._path)
            if goes_on or record.all_failed or not record.ended:
                claim_format(self._path)
            if not self._quiet:
                warn_of_earlier(record, self._path, self._max_budget)
            if record.all_failed:
                self._journal.restart()
            if goes_on:
                self._journal.extend(self._max_budget)
            if goes_on or record.all_failed:
                whole = record = self._journal.read()
            if record.start is None:
                record.start = self._start()
            folders = self._folders(record.start)
            study = self._study()
            if record.ended:
                logger.info("The search in %s has ended; its result is returned.", self._path)
                results = recorded_rows(record, minimize=self._minimize)
                if record is whole:
                    if not self._csv.exists():
                        results.write(self._csv)
                    self._close(folders, results)
            else:
                with side_by_side(self._objective, self._parallel, self._processes) as objective:
                    results = self._search(record, folders, objective, study)
                if study is not None:
                    study.catch_up()
            if results.best is None:
                raise TunerError(why_nothing_succeeded(self._read()))
            return dict(results.best)

    def _read(self) -> Record:
        return self._seen(self._journal.read())

    def _seen(self, record: Record) -> Record:
        """The record as it was when the search ended with this budget; else all of it."""
        if record.start is None or record.budgets[-1] == self._max_budget:
            return record
        return record.ended_with(self._max_budget) or record

    def _close(self, folders: TrialFolders, results: Results) -> None:
        """Delete the checkpoints, but those that a larger budget could go on from."""
        keep: list[int] = []
        if self._max_budget is not None and len(results.rows) >= self._max_budget:
            keep = unfinished_trials(results, self._max_epochs, minimize=self._minimize)
        folders.close(keep, self._keep_bytes)

    def _start(self) -> dict[str, Any]:
        write_json(self._path / "configuration_space.json", space_to_json(self._space))
        token = f"{self._path.name}-{secrets.token_hex(4)}"
        storage = None if self._storage is None else str(self._storage / "hpo4dl" / token)
        start = {**self._settings, "max_budget": self._max_budget, "storage": storage}
        self._journal.start(start)
        return start

    def _study(self) -> OptunaStudy | None:
        """The search as a study of Optuna, up to date; None without ``optuna_storage``."""
        if self._optuna is None:
            return None
        study = OptunaStudy(self._optuna, self._optuna_name, self._path)
        study.catch_up()
        return study

    def _folders(self, start: Mapping[str, Any]) -> TrialFolders:
        root = self._path / "trials" if start["storage"] is None else Path(start["storage"])
        replaces_files = bool(getattr(self._objective, "replaces_files", False))
        return TrialFolders(root, replaces_files=replaces_files)

    def _search(
        self,
        record: Record,
        folders: TrialFolders,
        objective: Objective,
        study: OptunaStudy | None,
    ) -> Results:
        assert record.start is not None
        first_budget: int | None = record.start["max_budget"]
        results = Results(minimize=self._minimize)
        recover(record, folders, self._max_epochs, self._best_trial, minimize=self._minimize)
        if record.outcomes:
            logger.info(
                "The search in %s goes on after %d epochs.", self._path, len(record.outcomes)
            )
        configurations = SampledConfigurations(self._space, self._seed, self._initial)
        further: dict[str, Any] = {}
        if arguments.has_trait(self._factory, "uses_history"):
            further["history"] = self._history
        if self._parallel > 1:
            further["parallel"] = self._parallel
        optimizer = self._factory(
            configurations,
            **further,
            max_epochs=self._max_epochs,
            max_budget=first_budget,
            num_configurations=self._n,
            seed=self._seed,
            device=self._device,
        )
        if len(record.budgets) > 1 and hasattr(optimizer, "extend"):
            logger.info(
                "The optimizer plans with max_budget, which was %s: one search of the whole budget "
                "may choose otherwise.",
                ", then ".join(map(str, record.budgets)),
            )
        now: Sequence[Trial] = ()
        with search_view(self._progress, self._max_budget) as show:

            def on_step(trials: Sequence[Trial]) -> None:
                nonlocal now
                now = trials
                show(SearchStatus(len(results.rows), self._max_epochs, results.best, now))
                if study is not None:
                    study.begun(trials)

            def on_row(row: dict[str, Any], trial: Trial, outcome: Outcome) -> None:
                n = len(results.rows)
                show(SearchStatus(n, self._max_epochs, results.best, now))
                if study is not None:
                    study.trained(trial, outcome)
                if n & (n - 1) == 0:  # at every doubling: all writes together take linear time
                    results.write(self._csv)
                if self._callback is not None:
                    self._callback(dict(row))

            training = TrialTraining(
                objective,
                folders,
                self._journal,
                self._clock,
                max_failures=self._max_failures,
                failures=sum(outcome.status == "failed" for outcome in record.outcomes),
            )
            search = Search(
                training,
                optimizer,
                configurations,
                self._journal,
                folders,
                results,
                max_epochs=self._max_epochs,
                max_budget=first_budget,
                parallel=self._parallel,
                keep_best=self._keep_best,
                minimize=self._minimize,
                min_gain=self._min_gain,
                clock=self._clock,
                on_step=on_step,
                on_row=on_row,
            )
            try:
                reason = search.run(record.suggestions)
            finally:
                results.write(self._csv)
        search.export_best(self._best_trial)
        self._journal.end(reason, search.observe_time)
        logger.info("The search in %s has ended: %s.", self._path, reason)
        self._close(folders, results)
        return results

    @property
    def _best_trial(self) -> Path:
        return self._path / "best_trial"

    @property
    def _csv(self) -> Path:
        return self._path / "hpo4dl_results.csv"


@contextlib.contextmanager
def _full_disk_explained() -> Iterator[None]:
    """Turn a failed write of the search itself into an error that says what to do."""
    try:
        yield
    except OSError as error:
        advice = outside_cause(error)
        if advice is None:
            raise
        raise TunerError(
            f"{error}. {advice}; then run the same search again: it goes on where it was."
        ) from error
