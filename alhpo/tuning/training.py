"""Train trials epoch by epoch, and handle lost checkpoints and failing objectives."""

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
    """A trial that was trained again has another metric than in the record."""


@dataclass(frozen=True)
class Trial:
    """A trial to train for one more epoch.

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
        """The next epoch to train."""
        return len(self.known) + 1


class TrialTraining:
    """Train single epochs, and train a trial again if its checkpoint is lost.

    Several trials are trained together if the objective has ``train_together``, else one after the
    other. If memory runs out, the trials without a result are trained one by one, and so are all
    later ones in this process.

    Args:
        objective: the user's.
        folders: the trials' checkpoints.
        journal: records trainings from epoch 0 and failures that stop the search.
        clock: measures seconds.
        max_failures: the number of trials that may fail before the search stops.
        failures: the number of trials that have failed.
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
        #: Whether checkpoints may be of an earlier epoch than their trial; then none is kept of the
        #: best epoch, and the objective itself trains the epochs in between again.
        self.checkpoints_lag = bool(getattr(objective, "checkpoints_lag", False))
        self._objective = objective
        self._together: Callable[[list[tuple[Any, ...]]], Any] | None
        self._together = getattr(objective, "train_together", None)
        self._folders = folders
        self._journal = journal
        self._clock = clock
        self._max_failures = max_failures
        self._failures = failures

    def train(self, trials: Sequence[Trial]) -> Iterator[Outcome]:
        """Train the next epoch of different trials; yield the outcomes in their order.

        A trial is first trained again from epoch 0 if its checkpoint is missing or the objective
        refuses it with a ``CheckpointError``.

        Raises:
            TunerError: a failure stops the search.
        """
        attempts: dict[int, Callable[[], Outcome]] = {}
        intact = [trial for trial in trials if self._missing_checkpoint(trial) is None]
        if self._together is not None and len(intact) > 1:
            attempts = self._train_together(self._together, intact)
        for trial in trials:
            yield self._train(trial, attempts.get(trial.number))

    def _train(self, trial: Trial, attempt: Callable[[], Outcome] | None) -> Outcome:
        """Train an epoch, or take its outcome from ``attempt`` if that is given."""
        lost = self._missing_checkpoint(trial) if attempt is None else None
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

    def _missing_checkpoint(self, trial: Trial) -> str | None:
        """The reason to train a trial again if its checkpoint is missing; else None."""
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
        """Train the next epoch of several trials in one call; they share its seconds equally.

        Returns:
            For each trial for which memory sufficed, by its number: a function that returns its
            outcome or raises its ``ObjectiveError``.
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
                f"The objective's train_together returned {results!r}; expected a list with one "
                f"result, or exception, for each of its {len(trials)} requests."
            )
        attempts: dict[int, Callable[[], Outcome]] = {}
        lacking: Exception | None = None
        for trial, path, result in zip(trials, paths, results, strict=True):
            if isinstance(result, Exception) and is_out_of_memory(result):
                lacking = result
                self._folders.restore(trial.number, trial.epoch)
            else:
                attempts[trial.number] = partial(
                    outcome_of, result, trial.number, trial.epoch, path, seconds
                )
        if lacking is not None:
            self._together = None
            logger.warning(
                "Memory does not suffice for %d trials together (%r); from now on trials are "
                "trained one by one.",
                *(len(trials), lacking),
            )
        return attempts

    def train_again(self, trial: Trial, reason: str) -> Path:
        """Train the recorded epochs of a trial again, from epoch 0, without recording them again.

        Returns:
            The path of the checkpoint.

        Raises:
            NotReproducedError: an epoch has another metric than in the record.
            TunerError: the objective raised an exception.
        """
        number, configuration, known = trial.number, trial.configuration, trial.known
        logger.warning(
            "Configuration %d is trained again from epoch 0 to %d, because its checkpoint is "
            "lost: %s.",
            *(number, known[-1].epoch, reason),
        )
        # until the journal says that it is done, the checkpoint in the folder must not be used
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
                    f"The metric of configuration {number} after epoch {recorded.epoch} is "
                    f"{again.metric!r}; expected {recorded.metric!r}, as in the record. The "
                    "configuration was trained again from epoch 0, because its checkpoint is lost "
                    f"({reason}). The objective is not deterministic, or it now runs on another "
                    "device, with another number of threads or with other versions. Restore what "
                    "is different and run the same search again, or start a new search with "
                    "resume=False."
                )
        return path

    def _failed(self, failure: ObjectiveError, trial: Trial) -> Outcome:
        """The outcome of a failed trial; stop the search if too many have failed."""
        number, epoch = trial.number, trial.epoch
        error = failure.error
        faultless = outside_cause(error) or (epoch > 1 and isinstance(error, CheckpointError))
        if faultless or self._failures >= self._max_failures:
            self._stop(failure, trial)
        self._failures += 1
        line = f"{type(error).__name__}: {error}"
        logger.warning(
            "Configuration %d failed in epoch %d and is not trained any further: %s",
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
        """Record the failure, which is not an outcome of these trials, and stop the search."""
        error, first = failure.error, trials[0]
        with contextlib.suppress(OSError):  # the disk is full, which the message below says
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
                "Fix the cause and run the same search again: it goes on with these trials. If a "
                "single trial fails, train_together must return the exception in place of its "
                "result."
            )
        else:
            advice = (
                "Fix the cause and run the same search again: it goes on with this trial. To leave "
                f"out trials that fail, give max_failures={self._failures + 1} or more."
            )
            if first.epoch > 1 and self._folders.path(first.number).exists():
                advice += (
                    " If the trial's checkpoint is damaged, remove "
                    f"{self._folders.path(first.number)}: it is then trained again from epoch 0."
                )
        raise TunerError(f"The objective failed {what}: {in_one_line(error)}. {advice}") from error
