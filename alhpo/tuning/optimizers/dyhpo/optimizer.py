"""DyHPO: one more epoch for the configuration with the highest expected improvement.

After Wistuba, Kadra, Grabocka: Supervising the Multi-Fidelity Race of Hyperparameter
Configurations (NeurIPS 2022), with another surrogate (see ``process``).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from alhpo.base.errors import ConfigurationError
from alhpo.base.seeding import numpy_generator
from alhpo.tuning.configurations import fill_up
from alhpo.tuning.history import EarlierSearch, best_first
from alhpo.tuning.optimizers.dyhpo.acquisition import expected_improvement, gain_at_the_end
from alhpo.tuning.optimizers.dyhpo.earlier import EarlierObservations
from alhpo.tuning.optimizers.dyhpo.encoding import Encoder
from alhpo.tuning.optimizers.dyhpo.process import CurveProcess, Observations
from alhpo.tuning.optimizers.dyhpo.scale import Scale

#: A search uses its own scale from this many observations on; before, that of an earlier search.
_OWN_SCALE = 20
#: Epochs for first random configurations, as a share of a full training or of the budget.
_FIRST_SHARE = 0.3
#: The best configurations of the latest search that are trained to the end first, at most.
_TRANSFERRED = 3
#: Suggestions between two refreshes of the candidates, the share of them that is replaced by random
#: ones, the number of neighbours that are added, and of how many configurations.
_REFRESH_EVERY = 20
_REFRESH_SHARE = 0.1
_NEIGHBOURS = 20
_PARENTS = 3
_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(21)


class DyHPO:
    """Choose after every step the configuration to train further.

    A search without earlier ones begins with one epoch each of random configurations, as many as
    three tenths of a full training (or of the budget, if that is less) have epochs. Then, with a
    probability that grows as the square of the share of the budget that is spent, the next
    configuration is that with the highest expected gain at the end of the budget
    (``gain_at_the_end``): an epoch is worth what it tells, less what it takes from the
    configuration that would get the rest. The other suggestions explore. One in ten is a new random
    configuration. The rest have the highest expected improvement, in turns

    - a random number of epochs ahead, uniform on a log scale and within the budget (compare ifBO,
      Rakotoarison et al. 2024), over the best metric of all, which trains configurations that rise
      late;
    - one step ahead, as in DyHPO, over the best metric of any configuration at that epoch (over
      the best of all, if none has reached it).

    Ties go to the lowest number.

    A configuration whose metric was not finite, or whose training failed, is never suggested again.
    It counts as the worst metric so far, so that its neighbourhood is avoided.

    With ``parallel`` above 1 a suggestion holds that many configurations. They are chosen one after
    the other, each as if the earlier ones had been observed at their predicted means ("kriging
    believer": Ginsbourger, Le Riche, Carraro 2010).

    Args:
        configurations: those to choose from, filled up to ``num_configurations``. The user's come
            first; then, without history, the default of the space. From time to time new random
            configurations and neighbours of the best replace the least promising untried ones.
        max_epochs: the epoch at which a configuration is fully trained.
        max_budget: epochs the search may spend; None for no limit.
        num_configurations: number of candidates.
        seed: of every random choice.
        history: earlier searches. The surrogate learns from their observations, less from older
            searches; each search has its own level and scale. The three best configurations of the
            latest search (fewer if half the budget does not suffice), as far as the user's
            configurations include them, are trained to the end first.
        step: epochs of training per suggestion, 1 by default.
        parallel: configurations in a suggestion, 1 by default.
        explore: share of the suggestions that explore that are new random configurations, in
            [0, 1].
        refit_growth: at least 1. The surrogate's parameters are fitted again when the number of
            observations has grown by this factor; 1 fits at every step.
        fit_steps: the largest number of L-BFGS steps of a fit.

    Raises:
        ConfigurationError: a ``step``, ``parallel``, ``explore`` or ``refit_growth`` out of range.
    """

    def __init__(
        self,
        configurations: Any,
        *,
        max_epochs: int,
        max_budget: int | None,
        num_configurations: int,
        seed: int,
        history: Sequence[EarlierSearch] = (),
        step: int = 1,
        parallel: int = 1,
        explore: float = 0.1,
        refit_growth: float = 1.15,
        fit_steps: int = 30,
    ) -> None:
        for name, value in (("step", step), ("parallel", parallel), ("fit_steps", fit_steps)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(
                    f"Argument {name} is {value!r}; expected an integer of at least 1."
                )
        if not 0 <= explore <= 1:
            raise ConfigurationError(
                f"Argument explore is {explore!r}; expected a share from 0 to 1."
            )
        if not refit_growth >= 1:
            raise ConfigurationError(
                f"Argument refit_growth is {refit_growth!r}; expected a number of at least 1."
            )
        self._configurations = configurations
        self._max_epochs = max_epochs
        self._budget = math.inf if max_budget is None else max_budget
        self._n = num_configurations
        self._step, self._parallel, self._explore = step, parallel, explore
        self._growth, self._fit_steps = refit_growth, fit_steps
        self._generator = numpy_generator(seed, "dyhpo")
        self._initial = list(range(getattr(configurations, "num_initial", 0)))
        #: The configurations that are trained to the end first.
        self._through = _transferred(configurations, history, max_epochs, max_budget)
        #: The number of configurations that the search begins with.
        self._first = 0.0
        if not any(search.age for search in history):
            self._first = _FIRST_SHARE * min(max_epochs, self._budget)
        if not history:
            self._initial += _default(configurations)
        fill_up(configurations, num_configurations)
        self._encoder = Encoder(configurations.space)
        self._process = CurveProcess(self._encoder.groups, max_epochs)
        self._pool = list(range(len(configurations)))
        self._set_aside: list[int] = []
        self._rows: list[np.ndarray] = []
        self._observed: list[tuple[int, int, float]] = []
        self._reached: dict[int, int] = {}
        self._lost: set[int] = set()
        self._suggestions = 0
        self._next_fit = 0
        self._score: dict[int, float] = {}  # of the candidates of the last comparison
        self._earlier = EarlierObservations(history, self._encoder, max_epochs)

    def suggest(self) -> tuple[list[int] | None, list[int] | None]:
        """Numbers of configurations and the epoch each is to reach; ``(None, None)`` at the end."""
        chosen: list[tuple[int, int]] = []
        fantasies: list[tuple[int, int, float]] = []
        self._refresh()
        while len(chosen) < self._parallel:
            busy = {number for number, _ in chosen}
            number = self._choose(busy, fantasies)
            if number is None:
                break
            step = self._max_epochs if number in self._through else self._step
            target = min(self._reached.get(number, 0) + step, self._max_epochs)
            chosen.append((number, target))
            self._suggestions += 1
            if len(chosen) < self._parallel and self._best() is not None:
                known = self._condition(self._process, fantasies)
                mean, _ = self._predicted(self._process, known, [number], np.array([target]))
                fantasies.append((number, target, float(mean[0])))
        if not chosen:
            return None, None
        return [number for number, _ in chosen], [target for _, target in chosen]

    def observe(self, configuration_results: list[dict[str, Any]]) -> None:
        """Learn results; see ``alhpo.base.protocols.Optimizer``."""
        for result in configuration_results:
            number, epoch = int(result["configuration_id"]), int(result["epoch"])
            if number in self._lost or epoch <= self._reached.get(number, 0):
                continue
            self._reached[number] = epoch
            metric = float(result["metric"])
            if not math.isfinite(metric):
                self._lost.add(number)
                metric = math.nan
            self._observed.append((number, epoch, metric))

    def extend(self, max_budget: int | None) -> None:
        """Go on with another budget."""
        self._budget = math.inf if max_budget is None else max_budget

    def expected_gain(self) -> float | None:
        """The expected gain of the most promising configuration over the best metric so far.

        It is the largest expected improvement of any candidate at any epoch, in units of the
        metric; None before the first observation. Asking does not change the suggestions.
        """
        scale, best = self._scale(), self._best()
        candidates = self._free(self._pool) or self._free(sorted(self._set_aside))
        if best is None or not candidates:
            return None
        process = copy.copy(self._process)  # the same parameters; conditioning does not change ours
        known = self._condition(process, [], refit=False)
        reached = np.array([self._reached.get(number, 0) for number in candidates])
        ahead = [2**k for k in range(self._max_epochs.bit_length()) if 2**k < self._max_epochs]
        gain = 0.0
        for epochs in (*ahead, self._max_epochs):
            target = np.minimum(reached + epochs, self._max_epochs)
            mean, deviation = self._predicted(process, known, candidates, target)
            likely = np.argsort(-expected_improvement(mean, deviation, best), kind="stable")[:50]
            values = mean[likely, None] + deviation[likely, None] * _NODES
            above = np.maximum(scale.undo(values) - scale.undo(np.array(best)), 0.0)
            expected = above @ (_NODE_WEIGHTS / _NODE_WEIGHTS.sum())
            gain = max(gain, float(expected.max()))
        return gain

    def state_dict(self) -> dict[str, Any]:
        """The state of the optimizer, as JSON-able values.

        An optimizer with the same arguments and the same content of ``configurations`` continues
        exactly like this one after ``load_state_dict``.
        """
        return {
            "generator": self._generator.bit_generator.state,
            "parameters": self._process.parameters.tolist(),
            "pool": list(self._pool),
            "set_aside": list(self._set_aside),
            "observed": [
                [number, epoch, metric if math.isfinite(metric) else None]
                for number, epoch, metric in self._observed
            ],
            "suggestions": self._suggestions,
            "next_fit": self._next_fit,
            "score": [[number, score] for number, score in self._score.items()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._generator.bit_generator.state = state["generator"]
        self._process.parameters = np.array(state["parameters"])
        self._pool = list(state["pool"])
        self._set_aside = list(state["set_aside"])
        self._observed = [
            (number, epoch, math.nan if metric is None else metric)
            for number, epoch, metric in state["observed"]
        ]
        self._reached = {number: epoch for number, epoch, _ in self._observed}
        self._lost = {number for number, _, metric in self._observed if math.isnan(metric)}
        self._suggestions = state["suggestions"]
        self._next_fit = state["next_fit"]
        self._score = dict(state["score"])

    # Which configuration.

    def _choose(self, busy: set[int], fantasies: list[tuple[int, int, float]]) -> int | None:
        waiting = [
            n for n in self._initial if n not in self._reached and n not in busy | self._lost
        ]
        if waiting:
            return waiting[0]
        candidates = self._candidates(busy)
        if not candidates:
            return None
        untried = [number for number in candidates if number not in self._reached]
        best = self._best()
        finishes = self._generator.random() < (len(self._observed) / self._budget) ** 2
        explores = not finishes and self._generator.random() < self._explore
        if best is None or (untried and (explores or len(self._reached) < self._first)):
            return (untried or candidates)[0]
        known = self._condition(self._process, fantasies)
        reached = np.array([self._reached.get(number, 0) for number in candidates])
        step = np.minimum(reached + self._step, self._max_epochs)
        if finishes:
            score = self._gains(known, candidates, reached, step, len(fantasies))
        else:
            far = self._suggestions % 2
            target = np.minimum(reached + self._ahead(), self._max_epochs) if far else step
            mean, deviation = self._predicted(self._process, known, candidates, target)
            score = expected_improvement(mean, deviation, best if far else self._bar(step, best))
        self._score = dict(zip(candidates, score.tolist(), strict=True))
        return candidates[int(score.argmax())]

    def _gains(
        self,
        known: dict[int, int],
        candidates: list[int],
        reached: np.ndarray,
        step: np.ndarray,
        pending: int,
    ) -> np.ndarray:
        """(k,) expected gains at the end of the budget of one step of each candidate."""
        left = min(self._budget - len(self._observed) - pending, self._max_epochs)
        end = np.minimum(reached + max(int(left), self._step), self._max_epochs)
        x, trial = self._encoded(candidates), self._trials(known, candidates)
        mean, deviation = self._process.look_ahead(x, trial, step, end)
        later = np.minimum(reached + max(int(left) - self._step, 0), self._max_epochs)
        delayed = mean.copy()
        if (less := np.flatnonzero((later < end) & (later > 0))).size:
            delayed[less] = self._process.predict(x[less], trial[less], later[less])[0]
        delayed[later == 0] = -math.inf  # nothing is left for them
        best = self._best()
        assert best is not None
        return gain_at_the_end(mean, deviation, delayed, best)

    def _ahead(self) -> int:
        """A random number of epochs, uniform on a log scale, within the budget."""
        spent = len(self._observed)
        most = max(1.0, min(self._max_epochs, self._budget - spent))
        return round(most ** float(self._generator.random()))

    def _candidates(self, busy: set[int]) -> list[int]:
        """Numbers that can be trained further, ascending. Those set aside count only if there is
        no other."""
        found = self._free(self._pool, busy)
        if not found and self._set_aside:
            self._pool = sorted({*self._pool, *self._set_aside})
            self._set_aside = []
            found = self._free(self._pool, busy)
        return found

    def _free(self, numbers: Sequence[int], busy: Collection[int] = ()) -> list[int]:
        """Those of the numbers that can be trained further and are not busy."""
        return [
            number
            for number in numbers
            if self._reached.get(number, 0) < self._max_epochs
            and number not in self._lost
            and number not in busy
        ]

    def _refresh(self) -> None:
        """Replace the least promising untried candidates, if it is time."""
        if not self._observed or self._suggestions % _REFRESH_EVERY:
            return
        first = len(self._configurations)
        self._configurations.add_configurations(max(1, round(_REFRESH_SHARE * self._n)))
        for parent in self._parents():
            for _ in range(_NEIGHBOURS // _PARENTS):
                values = self._configurations.get_configuration(parent)
                try:
                    self._configurations.add(self._encoder.neighbour(values, self._generator))
                except ConfigurationError:
                    continue  # outside the space
        fresh = list(range(first, len(self._configurations)))
        untried = [n for n in self._pool if n not in self._reached and n not in self._initial]
        untried.sort(key=lambda number: (self._score.get(number, 0.0), -number))
        leaving = set(untried[: min(len(fresh), len(untried))])
        self._set_aside += sorted(leaving)
        self._pool = [number for number in self._pool if number not in leaving] + fresh

    def _parents(self) -> list[int]:
        best: dict[int, float] = {}
        for number, _, metric in self._observed:
            if math.isfinite(metric):
                best[number] = max(metric, best.get(number, -math.inf))
        return sorted(best, key=lambda number: (-best[number], number))[:_PARENTS]

    # What is known.

    def _scale(self) -> Scale:
        metrics = [metric for _, _, metric in self._observed if math.isfinite(metric)]
        metrics += self._earlier.current
        if self._earlier.scale is not None and len(metrics) < _OWN_SCALE:
            return self._earlier.scale
        return Scale.of(np.array(metrics)) if metrics else Scale(0.0, 1.0, 1.0)

    def _best(self) -> float | None:
        """The best metric of the current task so far, scaled."""
        metrics = [metric for _, _, metric in self._observed if math.isfinite(metric)]
        if not metrics:
            return None
        return float(self._scale().apply(np.array(max([*metrics, *self._earlier.current]))))

    def _bar(self, target: np.ndarray, best: float) -> np.ndarray:
        """The metric that a configuration has to beat at each epoch."""
        scale = self._scale()
        top: dict[int, float] = {}
        for _, epoch, metric in self._observed:
            if math.isfinite(metric):
                top[epoch] = max(metric, top.get(epoch, -math.inf))
        return np.array(
            [
                float(scale.apply(np.array(top[epoch]))) if epoch in top else best
                for epoch in target.tolist()
            ]
        )

    def _condition(
        self,
        process: CurveProcess,
        fantasies: list[tuple[int, int, float]],
        *,
        refit: bool = True,
    ) -> dict[int, int]:
        """Condition a process on all observations; return the trial of each tried number."""
        scale = self._scale()
        metrics = np.array([metric for _, _, metric in self._observed])
        values = scale.apply(metrics)
        values = np.where(np.isfinite(values), values, np.nanmin(values))
        numbers = [n for n, _, _ in self._observed] + [n for n, _, _ in fantasies]
        epochs = [e for _, e, _ in self._observed] + [e for _, e, _ in fantasies]
        known = {number: trial for trial, number in enumerate(dict.fromkeys(numbers))}
        x = self._encoded([*known])
        earlier = self._earlier.observations(scale, len(known))
        observations = Observations(
            x=np.concatenate([x, earlier.x]),
            search=np.concatenate([np.zeros(len(known), int), earlier.search]),
            trial=np.concatenate([np.array([known[n] for n in numbers]), earlier.trial]),
            epoch=np.concatenate([np.array(epochs), earlier.epoch]),
            value=np.concatenate([values, [value for _, _, value in fantasies], earlier.value]),
        )
        due = refit and not fantasies and len(self._observed) >= self._next_fit
        process.fit(observations, self._fit_steps if due else 0)
        if due:
            n = len(self._observed)
            self._next_fit = max(n + 1, math.floor(n * self._growth))
        return known

    def _predicted(
        self,
        process: CurveProcess,
        known: dict[int, int],
        numbers: list[int],
        target: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        return process.predict(self._encoded(numbers), self._trials(known, numbers), target)

    @staticmethod
    def _trials(known: dict[int, int], numbers: list[int]) -> np.ndarray:
        return np.array([known.get(number, -1) for number in numbers])

    def _encoded(self, numbers: list[int]) -> np.ndarray:
        for number in range(len(self._rows), len(self._configurations)):
            values = self._configurations.get_configuration(number)
            self._rows.append(self._encoder.encode(values))
        return np.stack([self._rows[number] for number in numbers])


def _transferred(
    configurations: Any, history: Sequence[EarlierSearch], max_epochs: int, max_budget: int | None
) -> set[int]:
    """Numbers of the best of the latest search, as many as half the budget suffices for."""
    room = _TRANSFERRED if max_budget is None else max_budget // (2 * max_epochs)
    measured = any(search.age == 0 for search in history)  # a run measures its configuration
    count = min(max(room, 1), _TRANSFERRED) - measured
    best = best_first(history)[:count]
    initial = range(getattr(configurations, "num_initial", 0))
    return {n for n in initial if configurations.get_configuration(n) in best}


def _default(configurations: Any) -> list[int]:
    """The number of the space's default configuration, if it can be trained."""
    try:
        return [configurations.add(dict(configurations.space.get_default_configuration()))]
    except ConfigurationError:
        return []


def dyhpo(
    configurations: Any,
    *,
    max_epochs: int,
    max_budget: int | None,
    num_configurations: int,
    seed: int,
    device: str | None,
    history: Sequence[EarlierSearch] = (),
    **options: Any,
) -> DyHPO:
    """The factory registered as ``"dyhpo"``; it computes on the CPU whatever the device.

    Give options through ``functools.partial(dyhpo, step=3)``.
    """
    return DyHPO(
        configurations,
        max_epochs=max_epochs,
        max_budget=max_budget,
        num_configurations=num_configurations,
        seed=seed,
        history=history,
        **options,
    )


#: The Tuner refuses ``max_budget=None`` for a factory with this trait.
dyhpo.requires_budget = True  # type: ignore[attr-defined]
#: The Tuner passes earlier searches to a factory with this trait.
dyhpo.uses_history = True  # type: ignore[attr-defined]
#: The Tuner passes ``parallel`` to a factory with this trait.
dyhpo.takes_parallel = True  # type: ignore[attr-defined]
#: The optimizers of this factory have ``expected_gain``.
dyhpo.tells_gain = True  # type: ignore[attr-defined]
