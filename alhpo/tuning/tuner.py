"""``Tuner``: HPO4DL's interface to a search that can be killed and continued."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ConfigSpace import ConfigurationSpace

from alhpo.files import Journal, content_hash, exclusive, write_json
from alhpo.formats import claim_format
from alhpo.protocols import OptimizerFactory
from alhpo.tuning import arguments
from alhpo.tuning.configurations import SampledConfigurations
from alhpo.tuning.evaluation import Objective, Outcome, identity_of
from alhpo.tuning.history import Results as EarlierResults
from alhpo.tuning.history import best_first, earlier_searches
from alhpo.tuning.progress import SearchProgress
from alhpo.tuning.record import Record, SearchJournal
from alhpo.tuning.results import Results
from alhpo.tuning.search import Search
from alhpo.tuning.spaces import space_identity, space_to_json, to_plain
from alhpo.tuning.trials import TrialFolders
from alhpo.types import ConfigurationError, TunerError

logger = logging.getLogger("alhpo.tuning")


class Tuner:
    """Searches a space for the configuration with the best metric, epoch by epoch.

    Takes the arguments of ``hpo4dl.tuner.Tuner`` in their order, returns its keys and writes its
    files, to ``<output_path>/experiment_<hash>/``; the hash names everything that defines the
    search. ``journal.jsonl`` there holds every epoch the moment it is trained. The same search
    asked for again continues after the last of them, or returns its result if it was at its end.

    Args:
        objective_function: ``f(configuration, epoch, previous_epoch, checkpoint_path)``, called
            for one epoch at a time, returns a dict with ``epoch``, ``metric`` and whatever else
            is to be recorded (or a list of one such dict). ``checkpoint_path`` is the trial's own
            and does not exist before its first epoch. A metric that is not finite, or an
            exception, ends the trial. Two attributes are looked at: ``identity`` (a JSON-able
            value that tells it from other objectives; by default its source and plain values) and
            ``replaces_files`` (True if it only ever replaces files by renaming, which makes
            securing checkpoints cheap).
        configuration_space: what to search; neither it nor its generator is changed.
        max_epochs: the epoch at which a configuration is fully trained.
        max_budget: epochs to train in all; None lets an optimizer end by itself that does
            ("hyperband", "asha", "one-epoch", "random", "tpe").
        output_path: where the experiment folder is made.
        optimizer: a name (see ``optimizer_names``) or an ``OptimizerFactory``.
        minimize: whether the lowest metric is the best.
        num_configurations: how many configurations to choose from.
        seed: of the search; None draws one, so that each such Tuner is an experiment of its own.
        device: where the optimizer's model runs; None for its default.
        storage_path: where checkpoints live during the search; None for the experiment folder.
        initial_configurations: configurations to try first.
        warm_start: earlier searches, oldest first, on tasks like this one: each the rows of
            ``Tuner.results`` or the folder ``Tuner.experiment_path``. What was best in them is
            tried next, newest first; an optimizer that can ("dyhpo") also learns from all their
            observations, without taking the level of their metrics for that of this one.
        observed: rows of trials on this very task that were run elsewhere; an optimizer that can
            counts them among its own observations. They are no part of the results.
        min_gain: stop when the optimizer expects less improvement than this, in units of the
            metric; for optimizers that tell ("dyhpo").
        resume: False starts anew, in a folder with a number of its own.
        progress: show a progress bar, if stderr is a terminal.
        clock: what measures the seconds in the results; for tests.
        callback: called with the row of every epoch trained (not of those found in the journal).

    Raises:
        ConfigurationError: an argument that cannot be used.
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
        resume: bool = True,
        progress: bool = True,
        callback: Callable[[dict[str, Any]], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._objective: Objective = arguments.function("objective_function", objective_function)
        self._space = arguments.space(configuration_space)
        self._max_epochs = arguments.whole_number("max_epochs", max_epochs, 1)
        self._max_budget = (
            None if max_budget is None else arguments.whole_number("max_budget", max_budget, 1)
        )
        output = arguments.folder("output_path", output_path)
        self._factory = arguments.optimizer_factory(optimizer, self._max_budget)
        self._minimize = arguments.flag("minimize", minimize)
        self._n = arguments.whole_number("num_configurations", num_configurations, 1)
        self._seed = (
            secrets.randbits(32) if seed is None else arguments.whole_number("seed", seed, 0)
        )
        self._device = arguments.torch_device(device)
        self._storage = (
            None if storage_path is None else arguments.folder("storage_path", storage_path)
        )
        resume = arguments.flag("resume", resume)
        self._progress = arguments.flag("progress", progress)
        self._clock: Callable[[], float] = arguments.function("clock", clock)
        self._callback = None if callback is None else arguments.function("callback", callback)
        initial = arguments.configurations(self._space, initial_configurations)
        self._history = [
            one.maximised(minimize=self._minimize) for one in earlier_searches(warm_start, observed)
        ]
        promising = arguments.of_space(self._space, best_first(self._history))
        self._initial = [*initial, *(one for one in promising if one not in initial)]
        self._min_gain = arguments.gain(min_gain)
        if self._min_gain is not None and not arguments.says(self._factory, "tells_gain"):
            raise ConfigurationError(
                f"min_gain is {min_gain!r}, but optimizer {optimizer!r} does not tell what it "
                "expects to gain; use optimizer='dyhpo' or max_budget alone"
            )
        self._settings = {
            "optimizer": optimizer if isinstance(optimizer, str) else identity_of(optimizer),
            "max_epochs": self._max_epochs,
            "max_budget": self._max_budget,
            "minimize": self._minimize,
            "num_configurations": self._n,
            "seed": self._seed,
            "initial_configurations": to_plain(self._initial),
            **self._optional(),
            "objective": identity_of(objective_function),
            "space": space_identity(self._space),
        }
        self._path = _experiment_folder(output, content_hash(self._settings), resume=resume)
        self._journal = SearchJournal(Journal(self._path / "journal.jsonl"))

    def _optional(self) -> dict[str, Any]:
        """Settings that count only where they are used."""
        settings: dict[str, Any] = {}
        if self._history:
            rows = [[one.age, to_plain(one.rows)] for one in self._history]
            settings["history"] = content_hash(rows)
        if self._min_gain is not None:
            settings["min_gain"] = self._min_gain
        if packages := arguments.packages(self._factory):
            settings["versions"] = {name: version(name) for name in packages}
        return settings

    @property
    def experiment_path(self) -> Path:
        """The folder of this experiment; it may not exist before ``run``."""
        return self._path

    @property
    def epochs_spent(self) -> int:
        """Epochs trained in this experiment so far, in this process or before."""
        return len(self._journal.read().outcomes)

    @property
    def results(self) -> list[dict[str, Any]]:
        """The rows of all epochs trained in this experiment so far, oldest first."""
        return self._recall(self._journal.read()).rows

    @property
    def stop_reason(self) -> str | None:
        """Why the search ended; None while it has not."""
        return self._journal.read().stop_reason

    def run(self) -> dict[str, Any]:
        """Search, or go on with the search, until the budget is spent or nothing is left.

        Returns:
            The best row: ``configuration_id``, ``configuration``, ``epoch``, ``metric``, ``time``,
            ``overhead_time``, ``total_time`` (seconds), ``best_metric``, and what else the
            objective returned.

        Raises:
            TunerError: no epoch of any trial succeeded, the objective or the optimizer breaks its
                contract, or a checkpoint is gone.
            RunLockedError: another process is at work on this experiment.
            FormatError: it was begun by a version of alhpo that writes folders otherwise.
        """
        with exclusive(self._path):
            record = self._journal.read()
            if not record.ended:
                claim_format(self._path)
            if record.start is None:
                record.start = self._start()
            folders = self._folders(record.start)
            if record.ended:
                logger.info("%s is at its end; returning its result", self._path)
                results = self._recall(record)
                if not self._csv.exists():
                    results.write(self._csv)
                folders.close()
            else:
                results = self._search(record, folders)
            if results.best is None:
                raise TunerError(_why_nothing_succeeded(self._journal.read()))
            return dict(results.best)

    def _start(self) -> dict[str, Any]:
        write_json(self._path / "configuration_space.json", space_to_json(self._space))
        token = f"{self._path.name}-{secrets.token_hex(4)}"
        storage = None if self._storage is None else str(self._storage / "hpo4dl" / token)
        start = {**self._settings, "storage": storage}
        self._journal.start(start)
        return start

    def _folders(self, start: Mapping[str, Any]) -> TrialFolders:
        root = self._path / "trials" if start["storage"] is None else Path(start["storage"])
        replaces_files = bool(getattr(self._objective, "replaces_files", False))
        return TrialFolders(root, replaces_files=replaces_files)

    def _search(self, record: Record, folders: TrialFolders) -> Results:
        results = Results(minimize=self._minimize)
        _recover(record, folders, self._recorded_best(record), self._max_epochs)
        if record.outcomes:
            logger.info("%s goes on after %d epochs", self._path, len(record.outcomes))
        configurations = SampledConfigurations(self._space, self._seed, self._initial)
        history = (
            {"history": self._history} if arguments.says(self._factory, "uses_history") else {}
        )
        optimizer = self._factory(
            configurations,
            **history,
            max_epochs=self._max_epochs,
            max_budget=self._max_budget,
            num_configurations=self._n,
            seed=self._seed,
            device=self._device,
        )
        with SearchProgress(self._max_budget, shown=self._progress) as progress:

            def on_row(row: dict[str, Any]) -> None:
                n = len(results.rows)
                progress.trained(n, results.best)
                if n & (n - 1) == 0:  # at every doubling: linear in all
                    results.write(self._csv)
                if self._callback is not None:
                    self._callback(dict(row))

            search = Search(
                self._objective,
                optimizer,
                configurations,
                self._journal,
                folders,
                results,
                max_epochs=self._max_epochs,
                max_budget=self._max_budget,
                minimize=self._minimize,
                min_gain=self._min_gain,
                clock=self._clock,
                on_row=on_row,
                on_suggestion=progress.suggested,
            )
            try:
                reason = search.run(record.suggestions)
            finally:
                results.write(self._csv)
        if results.best is not None:
            number, epoch = results.best["configuration_id"], results.best["epoch"]
            if not folders.export_best(number, epoch, self._path / "best_trial"):
                logger.info("the objective wrote no checkpoint at the best epoch")
        self._journal.end(reason, search.observe_time)
        logger.info("%s ended: %s", self._path, reason)
        folders.close()
        return results

    def _recall(self, record: Record) -> Results:
        results = Results(minimize=self._minimize)
        for suggestion in record.suggestions:
            configurations = dict(
                zip(suggestion.configuration_ids, suggestion.configurations, strict=True)
            )
            overhead = suggestion.overhead(len(suggestion.outcomes))
            for outcome in suggestion.outcomes:
                results.add(outcome, configurations[outcome.configuration_id], overhead)
        return results

    def _recorded_best(self, record: Record) -> Outcome | None:
        ok = [outcome for outcome in record.outcomes if outcome.metric is not None]
        sign = -1 if self._minimize else 1
        return max(ok, key=lambda outcome: sign * (outcome.metric or 0.0), default=None)

    @property
    def _csv(self) -> Path:
        return self._path / "hpo4dl_results.csv"


def _experiment_folder(output: Path, identity: str, *, resume: bool) -> Path:
    """The latest folder of an experiment, or a new one beside those there are."""
    base = output / f"experiment_{identity}"
    numbered = (base if n == 1 else output / f"{base.name}-{n}" for n in itertools.count(1))
    latest = base
    for path in numbered:
        if resume and not path.exists():
            return latest
        if not resume:
            with contextlib.suppress(FileExistsError):
                path.mkdir(parents=True)
                return path
        latest = path
    raise AssertionError("counting never ends")


def _recover(record: Record, folders: TrialFolders, best: Outcome | None, max_epochs: int) -> None:
    """Undo in the trials' folders whatever the journal does not tell of."""
    last = {outcome.configuration_id: outcome for outcome in record.outcomes}
    if best is not None and not folders.has_best(best.configuration_id, best.epoch):
        if last[best.configuration_id] is best and folders.root.exists():
            folders.keep_best(best.configuration_id, best.epoch)
        elif best.checkpoint:
            logger.warning(
                "the checkpoint of the best epoch so far is gone from %s; best_trial may be "
                "missing at the end",
                folders.root,
            )
    folders.recover(
        {number: outcome.epoch for number, outcome in last.items()},
        {
            number: outcome.checkpoint
            for number, outcome in last.items()
            if outcome.status == "ok" and outcome.epoch < max_epochs
        },
    )


def _why_nothing_succeeded(record: Record) -> str:
    outcomes = record.outcomes
    if not outcomes:
        return "the optimizer suggested nothing to train"
    failed = next((outcome for outcome in outcomes if outcome.error), None)
    if failed is None:
        return f"no trial succeeded: all {len(outcomes)} epochs had a metric that is not finite"
    return f"no trial succeeded; the first failure was {failed.error}\n{failed.traceback}"
