"""The conformance suite for HPO modes: a small run with the mode, uninterrupted and killed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from alhpo.base.protocols import HPOMode
from alhpo.base.types import CycleRecord
from alhpo.data.dataset import ImageDataset
from alhpo.runs.experiment import run_experiment
from alhpo.runs.modes import MODES
from alhpo.runs.observer import Observer
from alhpo.runs.settings import RunConfig

#: The name under which an unregistered mode is tried.
UNDER_TEST = "under-test"


def check_hpo_mode(
    mode: str | HPOMode | type[HPOMode],
    *,
    initial_size: int = 8,
    acquisition_size: int = 4,
    budget: int = 16,
    model: str = "resnet10t",
) -> None:
    """Check that a mode does what the engine relies on. This takes some seconds.

    It runs active learning on 60 random images under the mode and checks that

    - only the cycles of ``cycles`` search, and only if ``searches`` is true for them;
    - a run that is killed in every search and after every record ends with the same records;
    - decisions are functions of the records: asked again, the mode decides the same, and asking
      changes nothing;
    - there is a search after the last cycle if and only if ``final_search`` is true;
    - a mode with a false ``searches_ever`` never searches.

    Args:
        mode: the name of a mode, or a mode that is not registered.
        initial_size, acquisition_size, budget: settings of the run, at most 60 labels.
        model: name of a timm model; choose a small one.

    Raises:
        AssertionError: the message is the broken rule.
        ConfigurationError: the mode refuses such a run.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="alhpo-mode-")))
        if not isinstance(mode, str):
            stack.enter_context(MODES.temporary())
            MODES.register(UNDER_TEST, mode)
            mode = UNDER_TEST
        sizes = {"initial_size": initial_size, "acquisition_size": acquisition_size}
        sizes["budget"] = budget
        config = RunConfig.create(
            _SMALL,
            {"hpo": mode, "model": model, "output_dir": str(folder / "whole"), **sizes},
        )
        _check_words(config.mode)
        records = run_experiment(config, dataset=_images()).records
        _check_decisions(config, records)
        killed = _killed_often(
            RunConfig.create(config.model_dump(), {"output_dir": str(folder / "killed")})
        )
        assert _essence(killed) == _essence(records), (
            f"a run under {mode!r} that was killed and continued has other records: it decides by "
            "something else than its arguments"
        )


_SMALL = {
    "dataset": "random",
    "strategy": "random",
    "max_epochs": 1,
    "max_budget": 2,
    "optimizer": "random",
    "num_configurations": 4,
    "hyperparameters": {"batch_size": 8},
    "validation": "random:0.3",
    "device": "cpu",
    "precision": "float32",
}


def _images() -> ImageDataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (80, 8, 8, 1), dtype=torch.uint8, generator=generator)
    labels = torch.arange(80) % 2
    return ImageDataset("random", images[:60], labels[:60], images[60:], labels[60:], ("a", "b"))


def _check_words(mode: HPOMode) -> None:
    assert isinstance(mode.when, str) and mode.when, f"when is {mode.when!r}, not words"
    for name in ("searches_ever", "final_search"):
        value = getattr(mode, name)
        assert isinstance(value, bool), f"{name} is {value!r}, not True or False"


def _check_decisions(config: RunConfig, records: Sequence[CycleRecord]) -> None:
    mode, sizes = config.mode, config.sizes
    cycles = [record for record in records if record.kind == "cycle"]
    foreseen = set(mode.cycles(sizes))
    assert foreseen <= set(range(len(sizes))), (
        f"cycles() foresees {sorted(foreseen)}; the run has the cycles 0 to {len(sizes) - 1}"
    )
    searched = {record.cycle for record in cycles if record.tuned}
    assert searched <= foreseen, (
        f"cycles {sorted(searched - foreseen)} searched, which cycles() does not foresee"
    )
    for _ in range(2):
        for cycle in reversed(range(len(sizes))):  # in another order than in the run
            before = tuple(cycles[:cycle])
            told = config.mode.searches(cycle, list(sizes), before)
            assert bool(told) == (cycle in searched), (
                f"asked anew about cycle {cycle}, the mode decides {told!r}; in the run it decided "
                f"{cycle in searched}: a decision is a function of the records"
            )
    assert set(mode.cycles(sizes)) == foreseen, "asked anew, cycles() foresees others"
    finals = len(records) - len(cycles)
    assert finals == int(mode.final_search), f"{finals} final searches, not as final_search says"
    if not mode.searches_ever:
        assert not searched and not finals, "searches_ever is False, but it searched"


class _Killed(BaseException):
    """Ends a run as SIGKILL would: nothing catches it."""


class _KillsAtNews(Observer):
    """Kills the run at every new event."""

    def __init__(self) -> None:
        self._told: set[object] = set()

    def progressed(self, cycle: int, part: str, done: int, total: int, note: str) -> None:
        if part == "search":
            self._kill_at((part, cycle))

    def recorded(self, record: CycleRecord) -> None:
        self._kill_at((record.kind, record.cycle))

    def _kill_at(self, news: object) -> None:
        if news not in self._told:
            self._told.add(news)
            raise _Killed


def _killed_often(config: RunConfig) -> Sequence[CycleRecord]:
    observer = _KillsAtNews()
    while True:
        try:
            return run_experiment(config, dataset=_images(), observer=observer).records
        except _Killed:
            continue


def _essence(records: Sequence[CycleRecord]) -> list[CycleRecord]:
    """The records without times."""
    return [replace(record, seconds={}) for record in records]
