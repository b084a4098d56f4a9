"""The journal of a search: everything that was suggested and trained, one entry at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from alhpo.base.errors import DataError
from alhpo.base.files import Journal
from alhpo.tuning.evaluation import Outcome


@dataclass
class RecordedSuggestion:
    """One suggestion and the epochs that were trained for it, in order.

    Attributes:
        configuration_ids: numbers of the configurations.
        epochs: the epoch each is to reach.
        configurations: the configurations themselves.
        suggest_time: seconds the optimizer took to suggest.
        observe_time: seconds the optimizer took to learn the results, or None if it did not.
        outcomes: one per epoch trained.
        budgets: changes of ``max_budget`` while this was the latest suggestion: the number of
            outcomes before each, and the new budget.
    """

    configuration_ids: list[int]
    epochs: list[int]
    configurations: list[dict[str, Any]]
    suggest_time: float
    observe_time: float | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    budgets: list[tuple[int, int | None]] = field(default_factory=list)

    def overhead(self, n: int) -> float:
        """The optimizer's seconds, shared among ``n`` rows."""
        return (self.suggest_time + (self.observe_time or 0.0)) / max(1, n)


@dataclass(frozen=True)
class SegmentEnd:
    """Where a search ended with one budget, perhaps to go on with another.

    Attributes:
        max_budget: the budget.
        suggestions: the number of suggestions so far.
        outcomes: the number of outcomes of the latest suggestion so far.
        changes: the number of changes of the budget during the latest suggestion so far.
        reason: why it ended.
    """

    max_budget: int | None
    suggestions: int
    outcomes: int
    changes: int
    reason: str | None


@dataclass
class Record:
    """The content of a journal.

    Attributes:
        start: the settings of the search with its first ``max_budget``, or None for an empty
            journal.
        suggestions: all of them, oldest first.
        ended: whether the search has ended.
        stop_reason: why it ended.
        stopped: whether the last entry is a failure of the objective that stopped the search.
        unusable: the trials that were being trained again from epoch 0 when the search stopped.
        segments: the ends of the search, oldest first: with another budget it went on.
    """

    start: dict[str, Any] | None = None
    suggestions: list[RecordedSuggestion] = field(default_factory=list)
    ended: bool = False
    stop_reason: str | None = None
    stopped: bool = False
    unusable: set[int] = field(default_factory=set)
    segments: list[SegmentEnd] = field(default_factory=list)

    @property
    def budgets(self) -> list[int | None]:
        """The values of ``max_budget``, oldest first; none for an empty journal."""
        if self.start is None:
            return []
        return [
            self.start["max_budget"],
            *(budget for one in self.suggestions for _, budget in one.budgets),
        ]

    def end(self) -> SegmentEnd:
        """The place that the search has come to, with its latest budget."""
        latest = self.suggestions[-1] if self.suggestions else None
        return SegmentEnd(
            max_budget=self.budgets[-1] if self.budgets else None,
            suggestions=len(self.suggestions),
            outcomes=len(latest.outcomes) if latest else 0,
            changes=len(latest.budgets) if latest else 0,
            reason=self.stop_reason,
        )

    def ended_with(self, max_budget: int | None) -> Record | None:
        """The record as it was when the search ended with this budget; None if it never did."""
        end = next((one for one in self.segments[::-1] if one.max_budget == max_budget), None)
        if end is None:
            return None
        suggestions = self.suggestions[: end.suggestions]
        if suggestions:
            last = suggestions[-1]
            suggestions[-1] = replace(
                last, outcomes=last.outcomes[: end.outcomes], budgets=last.budgets[: end.changes]
            )
        return replace(self, suggestions=suggestions, ended=True, stop_reason=end.reason)

    @property
    def outcomes(self) -> list[Outcome]:
        """One per epoch trained, oldest first."""
        return [outcome for one in self.suggestions for outcome in one.outcomes]

    @property
    def all_failed(self) -> bool:
        """Whether the search has ended or stopped, and every trial failed."""
        statuses = {outcome.status for outcome in self.outcomes}
        return (self.ended or self.stopped) and "failed" in statuses and "ok" not in statuses


class SearchJournal:
    """Write and read the journal of a search.

    Kinds of entries: ``start``, ``suggestion``, ``epoch`` and ``end`` are the course of the search.
    ``retrain`` and ``retrained`` begin and end the training from epoch 0 of a trial whose
    checkpoint is lost. ``stop`` is a failure at which the search stopped. ``restart`` voids all
    suggestions before it. After ``extend`` the search goes on with another ``max_budget``.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def start(self, settings: Mapping[str, Any]) -> None:
        self._append("start", dict(settings))

    def suggestion(
        self,
        configuration_ids: Sequence[int],
        epochs: Sequence[int],
        configurations: Sequence[Mapping[str, Any]],
        suggest_time: float,
        previous_observe_time: float | None,
    ) -> None:
        self._append(
            "suggestion",
            {
                "configuration_ids": list(configuration_ids),
                "epochs": list(epochs),
                "configurations": [dict(one) for one in configurations],
                "suggest_time": suggest_time,
                "previous_observe_time": previous_observe_time,
            },
        )

    def epoch(self, outcome: Outcome) -> None:
        # the journal sorts keys: keep the order in which the objective gave them
        entry = asdict(outcome)
        entry["keys"] = list(outcome.result)
        for key in ("error", "traceback", "digest"):
            if entry[key] is None:
                del entry[key]
        self._append("epoch", entry)

    def end(self, reason: str, previous_observe_time: float | None) -> None:
        entry = {"reason": reason, "previous_observe_time": previous_observe_time}
        self._append("end", entry)

    def retrain(self, configuration_id: int, reason: str) -> None:
        self._append("retrain", {"configuration_id": configuration_id, "reason": reason})

    def retrained(self, configuration_id: int) -> None:
        self._append("retrained", {"configuration_id": configuration_id})

    def stop(self, configuration_id: int, epoch: int, error: str, traceback: str) -> None:
        entry = {"configuration_id": configuration_id, "epoch": epoch}
        self._append("stop", entry | {"error": error, "traceback": traceback})

    def restart(self) -> None:
        self._append("restart", {})

    def extend(self, max_budget: int | None) -> None:
        self._append("extend", {"max_budget": max_budget})

    def read(self) -> Record:
        """Everything in the journal.

        Raises:
            DataError: the file is damaged.
        """
        record = Record()
        for line, entry in enumerate(self._journal.read(), start=1):
            try:
                self._apply(_decode(entry), record)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{self._journal.path}, line {line} is not an entry of a search: {error!r}. "
                    "Restore the file from a copy, or remove its folder to start a new search."
                ) from error
        return record

    @staticmethod
    def _apply(entry: Any, record: Record) -> None:
        kind = entry.pop("kind", None)
        if record.suggestions and "previous_observe_time" in entry:
            record.suggestions[-1].observe_time = entry["previous_observe_time"]
        entry.pop("previous_observe_time", None)
        record.stopped = kind == "stop"
        if kind == "start":
            record.start = entry
        elif kind == "restart" and record.start is not None:
            record.start["max_budget"] = record.budgets[-1]
            record.suggestions, record.segments, record.unusable = [], [], set()
            record.ended, record.stop_reason = False, None
        elif kind == "extend" and record.start is not None:
            record.ended, record.stop_reason = False, None
            if record.suggestions:
                latest = record.suggestions[-1]
                latest.budgets.append((len(latest.outcomes), entry["max_budget"]))
            else:
                record.start["max_budget"] = entry["max_budget"]
        elif kind == "retrain":
            record.unusable.add(entry["configuration_id"])
        elif kind == "retrained":
            record.unusable.discard(entry["configuration_id"])
        elif kind == "stop":
            pass
        elif kind == "suggestion":
            record.suggestions.append(RecordedSuggestion(**entry))
        elif kind == "epoch" and record.suggestions:
            keys = entry.pop("keys")
            result = {key: entry["result"][key] for key in keys}
            record.suggestions[-1].outcomes.append(Outcome(**entry | {"result": result}))
        elif kind == "end":
            record.ended = True
            record.stop_reason = entry.get("reason")
            record.segments.append(record.end())
        else:
            raise ValueError(f"unexpected entry of kind {kind!r}")

    def _append(self, kind: str, entry: dict[str, Any]) -> None:
        self._journal.append(_encode({"kind": kind, **entry}))


def _encode(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by ``{"$float": "nan"}``."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"$float"}:
            return float(value["$float"])
        return {key: _decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return value
