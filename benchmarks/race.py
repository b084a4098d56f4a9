"""Races of optimizers on recorded learning curves: no training, only choices."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ConfigSpace import ConfigurationSpace

from alhpo.base.errors import ConfigurationError
from alhpo.base.protocols import Optimizer
from alhpo.tuning.configurations import SampledConfigurations
from alhpo.tuning.history import EarlierSearch, best_first


class FakeClock:
    """A clock that goes on only when it is told to: ``Tuner(clock=...)``,
    ``TabularObjective(clock=...)``."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        """Seconds since it was made."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass."""
        if not seconds >= 0:
            raise ConfigurationError(f"seconds is {seconds!r}; a clock cannot go back")
        self._now += seconds


@dataclass(frozen=True)
class CurveTable:
    """Recorded learning curves of many configurations.

    Attributes:
        space: the space that the configurations are of.
        configurations: n of them.
        metrics: (n, epochs) metric after each epoch, to be maximised; NaN after divergence.
    """

    space: ConfigurationSpace
    configurations: Sequence[Mapping[str, Any]]
    metrics: np.ndarray

    def shuffled(self, *key: int) -> CurveTable:
        """The same curves in another order, that of ``numpy.random.default_rng(key)``."""
        order = np.random.default_rng(key).permutation(len(self.configurations))
        chosen = [self.configurations[row] for row in order]
        return CurveTable(self.space, chosen, self.metrics[order])

    def regret(self, best: np.ndarray) -> np.ndarray:
        """How far values are from the table's best, as a share of its range."""
        top, bottom = float(np.nanmax(self.metrics)), float(np.nanmin(self.metrics))
        return (top - best) / (top - bottom)


class TableConfigurations(SampledConfigurations):
    """The configurations of a table, in its order, and no others.

    Args:
        table: the table.
        initial: configurations of the table that come first.
    """

    def __init__(self, table: CurveTable, initial: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(table.space, 0, initial)
        self._left = list(table.configurations)

    def add_configurations(self, num_configurations: int) -> list[int]:
        """Number further configurations of the table."""
        numbers: list[int] = []
        while self._left and len(numbers) < num_configurations:
            before, number = len(self), super().add(self._left.pop(0))
            numbers += [number] if number == before else []
        return numbers

    def add(self, values: Mapping[str, Any]) -> int:
        """The number of a configuration that has one.

        Raises:
            ConfigurationError: it has none; a table takes no further ones.
        """
        for number in range(len(self)):
            if self.get_configuration(number) == dict(values):
                return number
        raise ConfigurationError(f"{dict(values)} is not in the table")


@dataclass
class Race:
    """What an optimizer did on a table.

    Attributes:
        rows: (configuration, epoch, metric) of every epoch trained, in order.
        seconds: the optimizer's own time.
        suggestions: how often it was asked.
    """

    rows: list[tuple[Mapping[str, Any], int, float]] = field(default_factory=list)
    seconds: float = 0.0
    suggestions: int = 0

    def best(self, epochs: int) -> np.ndarray:
        """(epochs,) the best metric after each epoch; what was reached last where it ended."""
        metrics = np.array([metric for _, _, metric in self.rows])
        best = np.fmax.accumulate(metrics)
        return np.pad(best, (0, max(0, epochs - len(best))), mode="edge")[:epochs]

    def as_history(self, age: int = 1) -> EarlierSearch:
        """For a search that learns from this one."""
        rows = [row for row in self.rows if np.isfinite(row[2])]
        return EarlierSearch(tuple(rows), age)


def race(
    factory: Callable[..., Optimizer],
    table: CurveTable,
    *,
    budget: int,
    seed: int,
    history: Sequence[EarlierSearch] = (),
    until: float | None = None,
) -> Race:
    """Let an optimizer search a table, as ``alhpo.Tuner`` would.

    Args:
        factory: of the optimizer; it gets ``history`` if it says that it uses it.
        table: the recorded curves; its order is that in which configurations are sampled.
        budget: epochs to spend.
        seed: of the optimizer.
        history: earlier searches, latest first; their best configurations come first.
        until: stop once this metric is reached.
    """
    rows = {_key(one): place for place, one in enumerate(table.configurations)}
    configurations = TableConfigurations(table, best_first(history))
    done, start = Race(), time.perf_counter()
    extra = {"history": history} if getattr(factory, "uses_history", False) else {}
    optimizer = factory(
        configurations,
        max_epochs=table.metrics.shape[1],
        max_budget=budget,
        num_configurations=len(table.configurations),
        seed=seed,
        device="cpu",
        **extra,
    )
    done.seconds = time.perf_counter() - start
    reached: dict[int, int] = {}
    while len(done.rows) < budget:
        start = time.perf_counter()
        numbers, epochs = optimizer.suggest()
        done.seconds += time.perf_counter() - start
        if numbers is None or epochs is None:
            break
        done.suggestions += 1
        results = []
        for number, target in zip(map(int, numbers), map(int, epochs), strict=True):
            configuration = configurations.get_configuration(number)
            curve = table.metrics[rows[_key(configuration)]]
            while reached.get(number, 0) < target and len(done.rows) < budget:
                epoch = reached[number] = reached.get(number, 0) + 1
                metric = float(curve[epoch - 1])
                done.rows.append((configuration, epoch, metric))
                result = {"configuration_id": number, "configuration": configuration}
                results.append(result | {"epoch": epoch, "metric": metric, "time": 1.0})
                if until is not None and metric >= until:
                    return done
                if not np.isfinite(metric):
                    break
        start = time.perf_counter()
        optimizer.observe(results)
        done.seconds += time.perf_counter() - start
    return done


def _key(configuration: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(configuration.items()))
