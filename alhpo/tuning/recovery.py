"""Find an earlier search again: its folder, its checkpoints, its result."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import sys
import warnings
from pathlib import Path

from alhpo.base.errors import ConfigurationError, EarlierResultWarning
from alhpo.tuning.evaluation import Outcome
from alhpo.tuning.record import Record
from alhpo.tuning.results import Results
from alhpo.tuning.trials import TrialFolders, checksum

logger = logging.getLogger("alhpo.tuning")


def experiment_folder(output: Path, identity: str, *, resume: bool) -> Path:
    """The latest folder of an experiment if ``resume``; else a new one with the next number.

    Raises:
        ConfigurationError: a new folder cannot be made.
    """
    base = output / f"experiment_{identity}"
    numbered = (base if n == 1 else output / f"{base.name}-{n}" for n in itertools.count(1))
    latest = base
    for path in numbered:
        if resume and not path.exists():
            return latest
        if not resume:
            try:
                with contextlib.suppress(FileExistsError):
                    path.mkdir(parents=True)
                    return path
            except OSError as error:
                raise ConfigurationError(
                    f"Argument output_path is {str(output)!r}, where no folder can be made "
                    f"({error.strerror}). Choose another folder, or make this one writable."
                ) from error
        latest = path
    raise AssertionError("counting never ends")


def recorded_rows(record: Record, *, minimize: bool) -> Results:
    """The rows of all recorded epochs."""
    results = Results(minimize=minimize)
    for suggestion in record.suggestions:
        configurations = dict(
            zip(suggestion.configuration_ids, suggestion.configurations, strict=True)
        )
        overhead = suggestion.overhead(len(suggestion.outcomes))
        for outcome in suggestion.outcomes:
            results.add(outcome, configurations[outcome.configuration_id], overhead)
    return results


def unfinished_trials(results: Results, max_epochs: int, *, minimize: bool) -> list[int]:
    """The trials that can be trained further, those with the best latest metric first."""
    last = {row["configuration_id"]: row for row in results.rows}
    metrics = {
        number: row["metric"]
        for number, row in last.items()
        if row["epoch"] < max_epochs and not math.isnan(row["metric"])
    }
    return sorted(metrics, key=lambda number: metrics[number] * (1 if minimize else -1))


def recover(
    record: Record, folders: TrialFolders, max_epochs: int, exported: Path, *, minimize: bool
) -> None:
    """Bring the checkpoints back to the last epochs in the journal.

    Args:
        record: the journal.
        folders: the checkpoints.
        max_epochs: the epoch at which a trial has ended.
        exported: the best checkpoint when the search ended with an earlier budget, if it did.
        minimize: whether the best metric is the lowest.
    """
    best = _recorded_best(record, minimize=minimize)
    last = {outcome.configuration_id: outcome for outcome in record.outcomes}
    if best is not None and best.checkpoint:
        number, epoch = best.configuration_id, best.epoch
        if not folders.has_best(number, epoch, best.digest) and checksum(exported) != best.digest:
            if last[number] is best and folders.checksum(number) == best.digest:
                folders.keep_best(number, epoch, anew=True)
            else:
                logger.info("The checkpoint of the best epoch is missing in %s.", folders.root)
    going_on = {
        number: outcome.epoch
        for number, outcome in last.items()
        if outcome.status == "ok" and outcome.epoch < max_epochs
    }
    folders.recover(going_on, record.unusable)


def _recorded_best(record: Record, *, minimize: bool) -> Outcome | None:
    ok = [outcome for outcome in record.outcomes if outcome.metric is not None]
    sign = -1 if minimize else 1
    return max(ok, key=lambda outcome: sign * (outcome.metric or 0.0), default=None)


def check_budget(record: Record, max_budget: int | None, path: Path) -> None:
    """Refuse a budget that is smaller than what the search in ``path`` has spent.

    Raises:
        ConfigurationError: the message names the budgets that are legal.
    """
    spent = len(record.outcomes)
    if max_budget is None or max_budget >= spent:
        return
    ended = [str(one.max_budget) for one in record.segments]
    known = f"{' or '.join(dict.fromkeys(ended))} for an earlier result, " if ended else ""
    raise ConfigurationError(
        f"Argument max_budget is {max_budget}, but the search in {path} has spent {spent} epochs. "
        f"Give {known}{spent} or more to go on, or resume=False for a new search."
    )


def warn_of_earlier(record: Record, path: Path, max_budget: int | None) -> None:
    """Warn the caller of ``Tuner.run`` that an earlier search was found, every time.

    Python shows the same warning of the same line only once. But it must be seen when a notebook
    cell is run again after its objective was changed.
    """
    epochs = len(record.outcomes)
    if record.all_failed:
        what = f"Every trial of the earlier search in {path} had failed; it starts anew."
    elif record.budgets and record.budgets[-1] != max_budget:
        what = (
            f"The earlier search in {path} with max_budget {record.budgets[-1]} goes on after "
            f"{epochs} epochs with max_budget {max_budget}."
        )
    elif record.ended:
        what = f"This is the result of an earlier search of {epochs} epochs in {path}."
    elif epochs:
        what = f"The earlier search in {path} goes on after {epochs} epochs."
    else:
        return
    caller = sys._getframe(2)
    warnings.warn_explicit(
        f"{what} If the objective, or anything that it uses, has changed since, give resume=False "
        "to start a new search. Give resume='quiet' to hide this warning.",
        EarlierResultWarning,
        caller.f_code.co_filename,
        caller.f_lineno,
    )


def why_nothing_succeeded(record: Record) -> str:
    """The message of ``Tuner.run`` if no epoch of any trial has a metric."""
    outcomes = record.outcomes
    if not outcomes:
        return "The optimizer suggested nothing to train. Give another optimizer or a larger space."
    failed = next((outcome for outcome in outcomes if outcome.error), None)
    if failed is None:
        return f"No trial succeeded: the metrics of all {len(outcomes)} epochs are not finite."
    return (
        "No trial succeeded. Run the same search again once the cause is gone: it starts anew. The "
        f"first failure was {failed.error}\n{failed.traceback}"
    )
