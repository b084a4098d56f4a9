"""Training trials epoch by epoch: whatever happens to a checkpoint or an objective meanwhile."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from alhpo.base.errors import CheckpointError, TunerError
from alhpo.tuning.evaluation import Objective, ObjectiveError, Outcome, evaluate
from alhpo.tuning.failures import in_one_line, outside_cause
from alhpo.tuning.record import SearchJournal
from alhpo.tuning.trials import TrialFolders

logger = logging.getLogger("alhpo.tuning")


class NotReproducedError(TunerError):
    """A trial that was trained again had another metric than the record."""


class TrialTraining:
    """Trains single epochs, and trains a trial again whose checkpoint is lost.

    Args:
        objective: the user's.
        folders: the trials' checkpoints.
        journal: where trainings from epoch 0 and what stops the search are noted.
        clock: gives seconds.
        max_failures: how many trials may fail and be left out before the search stops.
        failures: how many have.
    """

    def __init__(
        self,
        objective: Objective,
        folders: TrialFolders,
        journal: SearchJournal,
        clock: Callable[[], float],
        *,
        max_failures: int,
        failures: int,
    ) -> None:
        self._objective = objective
        self._folders = folders
        self._journal = journal
        self._clock = clock
        self._max_failures = max_failures
        self._failures = failures

    def train(
        self, number: int, configuration: Mapping[str, Any], known: Sequence[Outcome]
    ) -> Outcome:
        """Train the epoch after those that are known.

        A trial whose checkpoint is missing, or refused by the objective with ``CheckpointError``,
        is first trained again from epoch 0.

        Args:
            number: of the configuration.
            configuration: the configuration.
            known: the outcomes of the trial's epochs so far, all of them "ok".

        Raises:
            TunerError: the search cannot go on for now.
        """
        epoch = len(known) + 1
        lost = None
        if known and known[-1].checkpoint and not self._folders.path(number).exists():
            lost = f"{self._folders.path(number)} is gone"
        if lost is None:
            try:
                return self._epoch(number, configuration, epoch)
            except ObjectiveError as failure:
                if not known or not isinstance(failure.error, CheckpointError):
                    return self._failed(failure, number, configuration, epoch)
                lost = str(failure.error)
        self.train_again(number, configuration, known, lost)
        self._journal.retrained(number)
        try:
            return self._epoch(number, configuration, epoch)
        except ObjectiveError as failure:
            return self._failed(failure, number, configuration, epoch)

    def train_again(
        self,
        number: int,
        configuration: Mapping[str, Any],
        known: Sequence[Outcome],
        reason: str,
    ) -> Path:
        """Train the known epochs of a trial once more, from epoch 0; they are not recorded again.

        Returns:
            The path of the checkpoint.

        Raises:
            NotReproducedError: an epoch has another metric than before.
            TunerError: the objective raised an exception.
        """
        logger.warning(
            "configuration %d is trained again from epoch 0 to %d, for its checkpoint is lost: %s",
            *(number, known[-1].epoch, reason),
        )
        # until the journal says that it is done, what is in the folder is not to be gone on from
        self._journal.retrain(number, reason)
        self._folders.forget(number)
        path = self._folders.begin(number, 1)
        for recorded in known:
            try:
                again = evaluate(
                    self._objective, number, configuration, recorded.epoch, path, self._clock
                )
            except ObjectiveError as failure:
                self._stop(failure, number, configuration, recorded.epoch)
            if again.metric != recorded.metric:
                raise NotReproducedError(
                    f"configuration {number} was trained again from epoch 0, for its checkpoint is "
                    f"lost ({reason}), and its metric after epoch {recorded.epoch} is "
                    f"{again.metric!r} where it was {recorded.metric!r}: the objective is not "
                    "deterministic, or runs on another device, with another number of threads or "
                    "with other versions now. Restore what is different and run the same search "
                    "again, or search anew with resume=False."
                )
        return path

    def _epoch(self, number: int, configuration: Mapping[str, Any], epoch: int) -> Outcome:
        path = self._folders.begin(number, epoch)
        return evaluate(self._objective, number, configuration, epoch, path, self._clock)

    def _failed(
        self, failure: ObjectiveError, number: int, configuration: Mapping[str, Any], epoch: int
    ) -> Outcome:
        """The outcome of a trial that may fail; else the search stops."""
        error = failure.error
        faultless = outside_cause(error) or (epoch > 1 and isinstance(error, CheckpointError))
        if faultless or self._failures >= self._max_failures:
            self._stop(failure, number, configuration, epoch)
        self._failures += 1
        line = f"{type(error).__name__}: {error}"
        logger.warning(
            "configuration %d failed in epoch %d and is left out from now on: %s",
            *(number, epoch, line),
        )
        return Outcome(
            number,
            epoch,
            metric=None,
            status="failed",
            time=failure.seconds,
            error=line,
            traceback="".join(traceback.format_exception(error)),
        )

    def _stop(
        self, failure: ObjectiveError, number: int, configuration: Mapping[str, Any], epoch: int
    ) -> NoReturn:
        """Note the failure, which is no outcome of the trial, and stop the search."""
        error = failure.error
        with contextlib.suppress(OSError):  # the disk is full: it is told of below
            text = "".join(traceback.format_exception(error))
            self._journal.stop(number, epoch, f"{type(error).__name__}: {error}", text)
            self._folders.restore(number, epoch)
        outside = outside_cause(error)
        if outside is not None:
            advice = f"{outside}; then run the same search again: it goes on with this trial."
        else:
            advice = (
                "Fix the cause and run the same search again: it goes on with this trial. To have "
                f"trials that fail left out instead, give max_failures={self._failures + 1} or "
                "more."
            )
            if epoch > 1 and self._folders.path(number).exists():
                advice += (
                    " Where the trial's checkpoint is damaged, remove "
                    f"{self._folders.path(number)}: it is then trained again from epoch 0."
                )
        raise TunerError(
            f"the objective failed on configuration {number}, {dict(configuration)}, in epoch "
            f"{epoch}: {in_one_line(error)}. {advice}"
        ) from error
