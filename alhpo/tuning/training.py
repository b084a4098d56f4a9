"""Training trials epoch by epoch: whatever happens to a checkpoint or an objective meanwhile."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from alhpo.base.errors import CheckpointError, TunerError
from alhpo.tuning.evaluation import Objective, ObjectiveError, Outcome, evaluate, outcome_of
from alhpo.tuning.failures import in_one_line, is_out_of_memory, outside_cause
from alhpo.tuning.record import SearchJournal
from alhpo.tuning.trials import TrialFolders

logger = logging.getLogger("alhpo.tuning")


class NotReproducedError(TunerError):
    """A trial that was trained again had another metric than the record."""


@dataclass(frozen=True)
class Trial:
    """A trial that is to be trained one epoch further.

    Attributes:
        number: of the configuration.
        configuration: the configuration.
        known: the outcomes of the trial's epochs so far, all of them "ok".
    """

    number: int
    configuration: Mapping[str, Any]
    known: Sequence[Outcome]

    @property
    def epoch(self) -> int:
        """The epoch that is due."""
        return len(self.known) + 1


class TrialTraining:
    """Trains single epochs, and trains a trial again whose checkpoint is lost.

    Several trials are trained together where the objective has ``train_together``, one after the
    other where it has not. Where memory runs out among several, whatever has no result for it is
    trained alone, and so is everything after it in this process.

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
        self._together: Callable[[list[tuple[Any, ...]]], Any] | None
        self._together = getattr(objective, "train_together", None)
        self._folders = folders
        self._journal = journal
        self._clock = clock
        self._max_failures = max_failures
        self._failures = failures

    def train(self, trials: Sequence[Trial]) -> Iterator[Outcome]:
        """Train the next epoch of different trials; yields the outcomes in their order.

        A trial whose checkpoint is missing, or refused by the objective with ``CheckpointError``,
        is first trained again from epoch 0.

        Raises:
            TunerError: the search cannot go on for now.
        """
        attempts: dict[int, Callable[[], Outcome]] = {}
        intact = [trial for trial in trials if self._gone(trial) is None]
        if self._together is not None and len(intact) > 1:
            attempts = self._train_together(self._together, intact)
        for trial in trials:
            yield self._train(trial, attempts.get(trial.number))

    def _train(self, trial: Trial, attempt: Callable[[], Outcome] | None) -> Outcome:
        """Train an epoch, unless it was: then ``attempt`` gives its outcome."""
        lost = self._gone(trial) if attempt is None else None
        if lost is None:
            try:
                return self._alone(trial) if attempt is None else attempt()
            except ObjectiveError as failure:
                if not trial.known or not isinstance(failure.error, CheckpointError):
                    return self._failed(failure, trial)
                lost = str(failure.error)
        self.train_again(trial, lost)
        self._journal.retrained(trial.number)
        try:
            return self._alone(trial)
        except ObjectiveError as failure:
            return self._failed(failure, trial)

    def _gone(self, trial: Trial) -> str | None:
        """What to say of a trial whose checkpoint is missing; None where it is not."""
        path = self._folders.path(trial.number)
        if trial.known and trial.known[-1].checkpoint and not path.exists():
            return f"{path} is gone"
        return None

    def _alone(self, trial: Trial) -> Outcome:
        number, epoch = trial.number, trial.epoch
        path = self._folders.begin(number, epoch)
        return evaluate(self._objective, number, trial.configuration, epoch, path, self._clock)

    def _train_together(
        self, together: Callable[[list[tuple[Any, ...]]], Any], trials: Sequence[Trial]
    ) -> dict[int, Callable[[], Outcome]]:
        """Train the next epoch of several trials in one call, whose seconds they share equally.

        Returns:
            By the trial's number, what gives its outcome or raises its ``ObjectiveError``; of
            those only that memory sufficed for.
        """
        paths = [self._folders.begin(trial.number, trial.epoch) for trial in trials]
        requests = [
            (dict(trial.configuration), trial.epoch, trial.epoch - 1, str(path))
            for trial, path in zip(trials, paths, strict=True)
        ]
        start = self._clock()
        try:
            results = together(requests)
        except Exception as error:
            if not is_out_of_memory(error):
                self._stop(ObjectiveError(error, self._clock() - start), *trials)
            results = [error] * len(trials)
        seconds = (self._clock() - start) / len(trials)
        if not isinstance(results, list | tuple) or len(results) != len(trials):
            raise TunerError(
                f"the objective's train_together returned {results!r}; expected a list with one "
                f"result, or exception, for each of its {len(trials)} requests"
            )
        attempts: dict[int, Callable[[], Outcome]] = {}
        for trial, path, result in zip(trials, paths, results, strict=True):
            if isinstance(result, Exception) and is_out_of_memory(result):
                self._together = None
                self._folders.restore(trial.number, trial.epoch)
            else:
                attempts[trial.number] = partial(
                    outcome_of, result, trial.number, trial.epoch, path, seconds
                )
        if self._together is None:
            logger.warning(
                "memory does not suffice for %d trials together; trials are trained one by one "
                "from now on",
                len(trials),
            )
        return attempts

    def train_again(self, trial: Trial, reason: str) -> Path:
        """Train the known epochs of a trial once more, from epoch 0; they are not recorded again.

        Returns:
            The path of the checkpoint.

        Raises:
            NotReproducedError: an epoch has another metric than before.
            TunerError: the objective raised an exception.
        """
        number, configuration, known = trial.number, trial.configuration, trial.known
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
                self._stop(failure, Trial(number, configuration, known[: recorded.epoch - 1]))
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

    def _failed(self, failure: ObjectiveError, trial: Trial) -> Outcome:
        """The outcome of a trial that may fail; else the search stops."""
        number, epoch = trial.number, trial.epoch
        error = failure.error
        faultless = outside_cause(error) or (epoch > 1 and isinstance(error, CheckpointError))
        if faultless or self._failures >= self._max_failures:
            self._stop(failure, trial)
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

    def _stop(self, failure: ObjectiveError, *trials: Trial) -> NoReturn:
        """Note the failure, which is no outcome of these trials, and stop the search."""
        error, first = failure.error, trials[0]
        with contextlib.suppress(OSError):  # the disk is full: it is told of below
            text = "".join(traceback.format_exception(error))
            self._journal.stop(first.number, first.epoch, f"{type(error).__name__}: {error}", text)
            for trial in trials:
                self._folders.restore(trial.number, trial.epoch)
        what = (
            f"on configuration {first.number}, {dict(first.configuration)}, in epoch {first.epoch}"
        )
        outside = outside_cause(error)
        if outside is not None:
            advice = f"{outside}; then run the same search again: it goes on with this trial."
        elif len(trials) > 1:
            what = f"on configurations {[trial.number for trial in trials]} together"
            advice = (
                "Fix the cause and run the same search again: it goes on with these trials. Of a "
                "trial that fails, train_together is to return the exception in place of its "
                "result."
            )
        else:
            advice = (
                "Fix the cause and run the same search again: it goes on with this trial. To have "
                f"trials that fail left out instead, give max_failures={self._failures + 1} or "
                "more."
            )
            if first.epoch > 1 and self._folders.path(first.number).exists():
                advice += (
                    " Where the trial's checkpoint is damaged, remove "
                    f"{self._folders.path(first.number)}: it is then trained again from epoch 0."
                )
        raise TunerError(f"the objective failed {what}: {in_one_line(error)}. {advice}") from error
