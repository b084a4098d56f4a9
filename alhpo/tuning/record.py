"""The journal of a search: everything that was suggested and trained, one entry at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
    """

    configuration_ids: list[int]
    epochs: list[int]
    configurations: list[dict[str, Any]]
    suggest_time: float
    observe_time: float | None = None
    outcomes: list[Outcome] = field(default_factory=list)

    def overhead(self, n: int) -> float:
        """The optimizer's seconds, shared among ``n`` rows."""
        return (self.suggest_time + (self.observe_time or 0.0)) / max(1, n)


@dataclass
class Record:
    """The content of a journal.

    Attributes:
        start: the settings of the search, or None for an empty journal.
        suggestions: all of them, oldest first.
        ended: whether the search has ended.
        stop_reason: why it ended.
        stopped: whether the last entry is a failure of the objective that stopped the search.
        unusable: the trials that were being trained again from epoch 0 when the search stopped.
    """

    start: dict[str, Any] | None = None
    suggestions: list[RecordedSuggestion] = field(default_factory=list)
    ended: bool = False
    stop_reason: str | None = None
    stopped: bool = False
    unusable: set[int] = field(default_factory=set)

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
    suggestions before it.
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
        elif kind == "restart":
            record.suggestions, record.unusable = [], set()
            record.ended, record.stop_reason = False, None
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
