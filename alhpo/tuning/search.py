"""The loop of a search: suggest, train epoch by epoch, observe. The record is replayed first.

A search goes on with another budget where it was, within a suggestion or after it. The optimizer
observes a suggestion that a budget cut short only once the rest of it is trained. So an optimizer
whose choices do not depend on the budget chooses as in one search of the whole.

Up to ``parallel`` trials of a suggestion are trained at a time: each step trains one epoch of the
first trials that have not reached their target, and records them in the order of the suggestion.
So the record is a function of the seed and of ``parallel``, and an interrupted step continues with
the trials whose epoch is not recorded.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alhpo.base.errors import DataError, TunerError
from alhpo.base.plain import to_plain
from alhpo.base.protocols import Configurations, Optimizer
from alhpo.tuning.evaluation import Outcome
from alhpo.tuning.record import RecordedSuggestion, SearchJournal
from alhpo.tuning.results import Results
from alhpo.tuning.training import NotReproducedError, Trial, TrialTraining
from alhpo.tuning.trials import TrialFolders, checksum

logger = logging.getLogger("alhpo.tuning")

#: The search ends after this many suggestions in a row with nothing new to train.
_FRUITLESS = 100


class Search:
    """One run of the search, from the start or from a record.

    Args:
        training: trains the epochs.
        optimizer: a new one; the record is replayed to it from the start.
        configurations: those that the optimizer chooses from.
        journal: every step is written to it before the next begins.
        folders: the trials' checkpoints, as of the last epochs in the record.
        results: gets one row per epoch.
        max_epochs: the epoch at which a configuration is fully trained.
        max_budget: epochs to spend in all, or None; the first budget, if the record has several.
        parallel: the number of trials of a suggestion that are trained at a time.
        keep_best: whether the checkpoint of the best epoch is kept, for ``export_best``.
        minimize: whether the optimizer gets negated metrics.
        min_gain: stop when the optimizer expects less gain than this; None never stops.
        clock: measures seconds.
        on_step: called with the trials before an epoch of them is trained.
        on_row: called with each newly trained row (not with rows of the record), its trial and its
            outcome.
    """

    def __init__(
        self,
        training: TrialTraining,
        optimizer: Optimizer,
        configurations: Configurations,
        journal: SearchJournal,
        folders: TrialFolders,
        results: Results,
        *,
        max_epochs: int,
        max_budget: int | None,
        parallel: int,
        keep_best: bool,
        minimize: bool,
        min_gain: float | None,
        clock: Callable[[], float],
        on_step: Callable[[Sequence[Trial]], None],
        on_row: Callable[[dict[str, Any], Trial, Outcome], None],
    ) -> None:
        self._training = training
        self._optimizer = optimizer
        self._configurations = configurations
        self._journal = journal
        self._folders = folders
        self._results = results
        self._max_epochs = max_epochs
        self._budget = math.inf if max_budget is None else max_budget
        self._parallel = parallel
        self._keep_best = keep_best and not training.checkpoints_lag
        self._sign = -1.0 if minimize else 1.0
        self._min_gain = min_gain
        self._clock = clock
        self._on_step = on_step
        self._on_row = on_row
        self._outcomes: dict[int, list[Outcome]] = {}
        self._recorded_configurations: dict[int, dict[str, Any]] = {}
        self._earlier_budgets: list[float] = []
        #: Seconds of the latest ``observe``.
        self.observe_time: float | None = None

    def run(self, recorded: list[RecordedSuggestion]) -> str:
        """Replay the record, then continue to the end of the search.

        Returns:
            Why the search ended.

        Raises:
            TunerError: the objective or the optimizer breaks its contract.
            DataError: the record contradicts itself.
        """
        reason = self._run(deque(recorded))
        if self._earlier_budgets and self.plans_with_budget:
            earlier = ", then ".join(f"{budget:.0f}" for budget in self._earlier_budgets)
            reason += (
                f"; max_budget was {earlier} before, and one search of the whole budget may have "
                "chosen otherwise"
            )
        return reason

    @property
    def plans_with_budget(self) -> bool:
        """Whether the optimizer's choices depend on ``max_budget``."""
        return hasattr(self._optimizer, "extend")

    def _run(self, record: deque[RecordedSuggestion]) -> str:
        fruitless = 0
        while len(self._results.rows) < self._budget:
            suggestion = self._replayed(record.popleft()) if record else self._suggested()
            if isinstance(suggestion, str):
                return suggestion
            before = len(self._results.rows)
            observations = self._train_all(suggestion)
            self._observe(observations, suggestion, self._results.rows[before:])
            fruitless = fruitless + 1 if len(self._results.rows) == before else 0
            if fruitless == _FRUITLESS:
                reason = f"the optimizer suggested nothing new {fruitless} times in a row"
                logger.warning("The search ends: %s.", reason)
                return reason
        return f"max_budget, {self._budget:.0f} epochs, is spent"

    def export_best(self, destination: Path) -> None:
        """Copy the checkpoint of the best epoch to ``destination``, if the objective wrote one and
        it is to be kept.

        If the copy of that checkpoint is missing or damaged, the trial is trained again. If that
        gives other metrics, nothing is exported, with a warning.

        Raises:
            TunerError: the objective raised an exception.
        """
        if self._results.best is None or not self._keep_best:
            return
        number, epoch = self._results.best["configuration_id"], self._results.best["epoch"]
        known = self._outcomes[number][:epoch]
        if not known[-1].checkpoint:
            logger.info("The objective wrote no checkpoint at the best epoch.")
            return
        digest = known[-1].digest
        if digest is not None and checksum(destination) == digest:
            return  # since the search ended with an earlier budget
        if digest is None or not self._folders.has_best(number, epoch, digest):
            reason = "the copy of the best epoch's checkpoint is missing or damaged"
            trial = Trial(number, self._configuration(number), tuple(known))
            try:
                self._training.train_again(trial, reason)
            except NotReproducedError as error:
                logger.warning("There is no best_trial: %s", error)
                return
            self._folders.keep_best(number, epoch, anew=True)
            self._folders.forget(number)
        self._folders.export_best(number, epoch, destination)

    def _suggested(self) -> RecordedSuggestion | str:
        """The next suggestion, or the reason why there is none."""
        start = self._clock()
        ids, epochs = self._optimizer.suggest()
        if ids is None or epochs is None:
            return "the optimizer has nothing left to suggest"
        if self._min_gain is not None:
            gain: float | None = self._optimizer.expected_gain()  # type: ignore[attr-defined]
            if gain is not None and gain < self._min_gain:
                return f"the expected gain, {gain:.3g}, is below min_gain, {self._min_gain:g}"
        seconds = self._clock() - start
        ids, epochs = self._checked(ids, epochs)
        configurations = [self._configuration(number) for number in ids]
        self._journal.suggestion(ids, epochs, configurations, seconds, self.observe_time)
        return RecordedSuggestion(ids, epochs, configurations, seconds)

    def _replayed(self, recorded: RecordedSuggestion) -> RecordedSuggestion:
        ids, epochs = self._optimizer.suggest()
        now = (to_plain(list(ids or ())), to_plain(list(epochs or ())))
        if now != (recorded.configuration_ids, recorded.epochs):
            logger.warning(
                "The optimizer suggests %s where the record has %s; the search goes on with the "
                "record. Has the version of a library changed, or is the optimizer not "
                "deterministic?",
                *(now, (recorded.configuration_ids, recorded.epochs)),
            )
        for number, configuration in zip(
            recorded.configuration_ids, recorded.configurations, strict=True
        ):
            known = number < len(self._configurations)
            if not known or to_plain(self._configuration(number)) != configuration:
                logger.warning(
                    "Configuration %d is %s in the record, but is now sampled differently; the "
                    "search goes on with the record.",
                    *(number, configuration),
                )
                self._recorded_configurations[number] = configuration
        return recorded

    def _checked(self, ids: Any, epochs: Any) -> tuple[list[int], list[int]]:
        ids, epochs = [int(number) for number in ids], [int(epoch) for epoch in epochs]
        in_range = all(0 <= number < len(self._configurations) for number in ids)
        if len(ids) != len(epochs) or not in_range or not all(e >= 1 for e in epochs):
            raise TunerError(
                f"The optimizer suggested configurations {ids} and epochs {epochs}; expected "
                f"numbers from 0 to {len(self._configurations) - 1} and, for each, an epoch from "
                f"1 to {self._max_epochs}."
            )
        if any(epoch > self._max_epochs for epoch in epochs):
            raise TunerError(
                f"The optimizer suggested the epochs {epochs}; expected at most "
                f"max_epochs={self._max_epochs}."
            )
        return ids, epochs

    def _train_all(self, suggestion: RecordedSuggestion) -> list[dict[str, Any]]:
        overhead = suggestion.overhead(len(suggestion.configuration_ids))
        pairs = list(zip(suggestion.configuration_ids, suggestion.epochs, strict=True))
        reached = {number: len(self._outcomes.setdefault(number, [])) for number, _ in pairs}
        recorded = deque(suggestion.outcomes)
        budgets = deque(suggestion.budgets)
        while True:
            done = len(suggestion.outcomes) - len(recorded)
            while budgets and budgets[0][0] == done:
                self._go_on_with(budgets.popleft()[1])
            step = self._next_step(pairs)
            if not step:
                break
            known = budgets[0][0] - done if budgets else len(recorded)
            recalled, due = step[:known], step[known:]
            for number in recalled:
                self._recall(number, recorded.popleft(), overhead)
            if not budgets:
                self._train(due, overhead)
        observations: list[dict[str, Any]] = []
        for number, target in pairs:
            known = self._outcomes[number]
            new = known[reached[number] : target]
            reached[number] += len(new)
            over = bool(known) and known[-1].status != "ok"
            if not new and (over or len(known) >= target):  # nothing new was asked for
                new = [known[-1 if over else target - 1]]
            observations += map(self._observation, new)
        return observations

    def _go_on_with(self, max_budget: int | None) -> None:
        """Take another budget, and tell an optimizer that plans with it."""
        self._earlier_budgets.append(self._budget)
        self._budget = math.inf if max_budget is None else max_budget
        if self.plans_with_budget:
            self._optimizer.extend(max_budget)  # type: ignore[attr-defined]

    def _next_step(self, pairs: list[tuple[int, int]]) -> list[int]:
        """The trials of a suggestion that are now trained for one more epoch.

        The budget goes to the trials in the order of the suggestion, to each as much as it needs to
        reach its target. So a budget that runs out leaves the same trials untrained as if they were
        trained one after the other.
        """
        left = self._budget - len(self._results.rows)
        step: list[int] = []
        for number, target in pairs:
            known = self._outcomes[number]
            missing = 0 if known and known[-1].status != "ok" else target - len(known)
            if missing <= 0 or number in step:
                continue
            if left <= 0 or len(step) == self._parallel:
                break
            step.append(number)
            left -= missing
        return step

    def _recall(self, number: int, outcome: Outcome, overhead: float) -> None:
        epoch = len(self._outcomes[number]) + 1
        if (outcome.configuration_id, outcome.epoch) != (number, epoch):
            raise DataError(
                f"The journal has epoch {outcome.epoch} of configuration "
                f"{outcome.configuration_id}; expected epoch {epoch} of configuration {number}. It "
                "was changed from outside. Start a new search with resume=False."
            )
        self._results.add(outcome, self._configuration(number), overhead)
        self._outcomes[number].append(outcome)

    def _train(self, numbers: list[int], overhead: float) -> None:
        trials = [Trial(n, self._configuration(n), tuple(self._outcomes[n])) for n in numbers]
        if trials:
            self._on_step(trials)
        outcomes = self._training.train(trials)
        for trial in trials:
            self._record(trial, next(outcomes), overhead)

    def _record(self, trial: Trial, outcome: Outcome, overhead: float) -> None:
        number, epoch = trial.number, trial.epoch
        if self._training.checkpoints_lag:  # there may be one, of an earlier epoch
            outcome = replace(outcome, checkpoint=False)
        elif self._keep_best and self._results.improved_by(outcome.metric):
            outcome = replace(outcome, digest=self._folders.checksum(number))
        self._journal.epoch(outcome)
        self._outcomes[number].append(outcome)
        row = self._results.add(outcome, trial.configuration, overhead)
        if self._keep_best and self._results.best is row:
            self._folders.keep_best(number, epoch)
        self._folders.commit(number, epoch)
        if outcome.status != "ok" or epoch == self._max_epochs:
            self._folders.remove(number)
        self._on_row(row, trial, outcome)

    def _observe(
        self,
        observations: list[dict[str, Any]],
        suggestion: RecordedSuggestion,
        rows: list[dict[str, Any]],
    ) -> None:
        start = self._clock()
        if observations:
            self._optimizer.observe(observations)
        if suggestion.observe_time is None:
            suggestion.observe_time = self._clock() - start
        self.observe_time = suggestion.observe_time
        overhead = suggestion.overhead(len(rows))
        for row in rows:
            row["overhead_time"] = overhead
            row["total_time"] = row["time"] + overhead

    def _observation(self, outcome: Outcome) -> dict[str, Any]:
        metric = math.nan if outcome.metric is None else self._sign * outcome.metric
        return {
            "configuration_id": outcome.configuration_id,
            "configuration": self._configuration(outcome.configuration_id),
            "epoch": outcome.epoch,
            "metric": metric,
            "time": outcome.time,
        }

    def _configuration(self, number: int) -> dict[str, Any]:
        recorded: Mapping[str, Any] | None = self._recorded_configurations.get(number)
        return (
            self._configurations.get_configuration(number) if recorded is None else dict(recorded)
        )
