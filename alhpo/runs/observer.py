"""Observers of runs and tunings."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from alhpo.base.types import CycleRecord
from alhpo.data.dataset import ImageDataset
from alhpo.runs.settings import RunConfig, TuneConfig


class Observer(Protocol):
    """Receives the progress of a run or a tuning, for displays."""

    def started(
        self, config: RunConfig | TuneConfig, path: Path, records: int, cycles: int
    ) -> None:
        """It begins or continues; ``records`` of its ``cycles`` are done. A tuning is one cycle."""

    def loaded(self, dataset: ImageDataset) -> None:
        """Its data set, before any epoch is trained."""

    def encoded(self, done: int, total: int) -> None:
        """``done`` of the ``total`` images that lacked features have some."""

    def progressed(self, cycle: int, part: str, done: int, total: int, note: str) -> None:
        """``done`` of ``total`` epochs of a part ("search" or "fit") are trained.

        ``note`` says more. In a search, it has several lines: the best configuration so far, the
        trials that are being trained, and how good the current configuration is, if that was
        measured; and there is a call before an epoch, too.
        """

    def recorded(self, record: CycleRecord) -> None:
        """A cycle is complete."""


class Observers(Observer):
    """Passes every call on to any number of observers."""

    def __init__(self, *observers: Observer | None) -> None:
        self._observers = [observer for observer in observers if observer is not None]

    def started(
        self, config: RunConfig | TuneConfig, path: Path, records: int, cycles: int
    ) -> None:
        for observer in self._observers:
            observer.started(config, path, records, cycles)

    def loaded(self, dataset: ImageDataset) -> None:
        for observer in self._observers:
            observer.loaded(dataset)

    def encoded(self, done: int, total: int) -> None:
        for observer in self._observers:
            observer.encoded(done, total)

    def progressed(self, cycle: int, part: str, done: int, total: int, note: str) -> None:
        for observer in self._observers:
            observer.progressed(cycle, part, done, total, note)

    def recorded(self, record: CycleRecord) -> None:
        for observer in self._observers:
            observer.recorded(record)
