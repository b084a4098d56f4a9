"""The conformance suite for optimizers of hyperparameters."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Any

import numpy as np

from alhpo.base.protocols import Configurations, Optimizer
from alhpo.base.seeding import numpy_generator
from alhpo.testing.process_state import global_seed, process_left_alone, require
from alhpo.tuning.arguments import has_trait

#: A learning curve: the metric of a configuration (by number) after an epoch.
Curve = Callable[[int, int], float]
Trace = list[tuple[tuple[int, int], ...]]


def check_optimizer(
    factory: Callable[..., Optimizer],
    *,
    configurations: Callable[[], Configurations] | None = None,
    max_epochs: int = 4,
    max_budget: int = 20,
    num_configurations: int = 8,
    seed: int = 0,
) -> None:
    """Check an optimizer on artificial learning curves, driven as by ``alhpo.Tuner``.

    On ordinary, constant, partly and wholly diverging curves, for a single epoch, for a single
    configuration, for longer trainings, and for budgets that end within a suggestion:

    - a suggestion has numbers of existing configurations, each once, and for each an epoch above
      the last one trained and at most ``max_epochs``;
    - a configuration whose metric was NaN is never suggested again;
    - initial configurations, if ``configurations`` makes some (``num_initial``, by default two),
      are suggested before any other;
    - there is at least one suggestion, and none after the optimizer has said that it is done;
    - the same seed and observations give the same suggestions, with any global seed and beside
      another search: without this, a killed search could not be continued;
    - if the factory has ``takes_parallel``, all of this also with ``parallel`` 2, 3 and 4, and
      suggestions hold several configurations whenever there are several to choose from;
    - ``expected_gain``, if there is one, is a number from 0 or None, and asking for it changes no
      suggestion;
    - a search that goes on with a larger budget keeps these rules; if the optimizer has no
      ``extend``, its suggestions are those of one search of the whole budget;
    - the state of the process does not change.

    A search ends when the optimizer says so or ``max_budget`` epochs are spent, even within a
    suggestion. A suggestion may hold several configurations and several epochs of each. A
    configuration that diverges is not trained any further.

    Args:
        factory: called as ``factory(configurations, max_epochs=, max_budget=,
            num_configurations=, seed=, device=None)``.
        configurations: makes a fresh, equal set of configurations at each call; by default
            ``SampledConfigurations`` of a small space with logarithmic, integer, categorical and
            conditional hyperparameters, with two initial configurations.
        max_epochs: epochs of a full training, at least 2.
        max_budget: epochs of each of the about twenty searches.
        num_configurations: number of candidates.
        seed: seed of the optimizer.

    Raises:
        AssertionError: the message is the broken rule and the curves on which it was broken.
    """
    make = configurations or _sampled_configurations
    settings: dict[str, Any] = {
        "max_epochs": max_epochs,
        "max_budget": max_budget,
        "num_configurations": num_configurations,
        "seed": seed,
        "device": None,
    }

    def search(case: str, curve: Curve, **changed: Any) -> Iterator[tuple[tuple[int, int], ...]]:
        used = settings | changed
        budget = max_budget if used["max_budget"] is None else used["max_budget"]
        return _search(factory, make(), curve, used, case, budget)

    first = list(search("ordinary curves", _curve))
    with global_seed(1):
        case = "ordinary curves, two searches at once"
        steps = list(zip_longest(search(case, _curve), search(case, _curve)))
    for k in (0, 1):
        again = [pair[k] for pair in steps if pair[k] is not None]
        require(
            again == first,
            f"The same seed and observations gave other suggestions: {_difference(first, again)}. "
            "Everything random must come from the seed; nothing may be shared between optimizers.",
        )
    case = "ordinary curves, asked for the expected gain"
    asked = list(_search(factory, make(), _curve, settings, case, max_budget, ask=True))
    require(
        asked == first,
        f"Asking for expected_gain changed the suggestions: {_difference(first, asked)}. It must "
        "have no effect: a search that is continued asks for it less often.",
    )
    if has_trait(factory, "takes_parallel"):
        for parallel in (2, 3, 4):
            _check_parallel(search, parallel)
    list(search("constant curves", lambda i, epoch: 0.5))
    list(search("every third configuration diverging", _diverging(lambda i: i % 3 == 0)))
    list(search("the first configurations diverging", _diverging(lambda i: i < 4)))
    list(search("every configuration diverging", _diverging(lambda i: True)))
    list(search("a single epoch", _curve, max_epochs=1))
    list(search("a single configuration", _curve, num_configurations=1))
    list(search("no limit of the budget", _curve, max_budget=None))
    for budget in (1, max_epochs - 1, max_epochs + 1):
        list(search(f"a budget of {budget}", _curve, max_budget=budget))
        _check_extension(make, factory, settings | {"max_budget": budget}, first, max_budget)
    longer = {"max_epochs": 3 * max_epochs + 1, "max_budget": 6 * max_epochs}
    list(search("longer trainings", _curve, **longer))
    list(search("longer trainings, diverging late", _diverging_late(max_epochs), **longer))


def _check_extension(
    make: Callable[[], Configurations],
    factory: Callable[..., Optimizer],
    settings: dict[str, Any],
    whole: Trace,
    budget: int,
) -> None:
    """Check a search that goes on with a larger budget.

    Args:
        settings: those of the search with its first budget.
        whole: the suggestions of one search of the whole budget.
        budget: the whole budget.
    """
    case = f"a budget of {settings['max_budget']}, then of {budget}"
    extended = list(_search(factory, make(), _curve, settings, case, budget))
    depends = hasattr(factory(make(), **settings), "extend")
    require(
        depends or extended == whole,
        f"The optimizer has no extend, but on {case}, it gave other suggestions than on a budget "
        f"of {budget}: {_difference(whole, extended)}. If its choices depend on max_budget, give "
        "it extend(max_budget).",
    )


def _check_parallel(search: Callable[..., Iterator[Any]], parallel: int) -> None:
    at_once = f"{parallel} trials at a time, "
    first, again = (
        list(search(f"{at_once}ordinary curves", _curve, parallel=parallel)) for _ in range(2)
    )
    require(
        again == first,
        f"With {at_once}the same seed and observations gave other suggestions: "
        f"{_difference(first, again)}.",
    )
    trained = {number for suggestion in first for number, _ in suggestion}
    require(
        len(trained) == 1 or any(len(suggestion) > 1 for suggestion in first),
        f"The optimizer says takes_parallel, and never suggested several of its {len(trained)} "
        f"configurations with parallel={parallel}.",
    )
    third = _diverging(lambda i: i % 3 == 0)
    list(search(f"{at_once}every third configuration diverging", third, parallel=parallel))
    every = _diverging(lambda i: True)
    list(search(f"{at_once}every configuration diverging", every, parallel=parallel))
    one = {"num_configurations": 1, "parallel": parallel}
    list(search(f"{at_once}a single configuration", _curve, **one))
    small = {"max_budget": parallel + 1, "parallel": parallel}
    list(search(f"{at_once}a budget of {parallel + 1}", _curve, **small))


def _search(
    factory: Callable[..., Optimizer],
    configurations: Configurations,
    curve: Curve,
    settings: dict[str, Any],
    case: str,
    budget: int,
    *,
    ask: bool = False,
) -> Iterator[tuple[tuple[int, int], ...]]:
    """Run one search; yields the (number, epoch) pairs of each suggestion.

    With ``ask``, the optimizer is asked for its expected gain before and after each of them. If
    ``budget`` exceeds that of the settings, the optimizer is told once the latter is spent.
    """
    who = f"The optimizer, on {case},"
    reached: dict[int, int] = {}
    failed: set[int] = set()
    num_initial = min(getattr(configurations, "num_initial", 0), settings["num_configurations"])
    initial = set(range(num_initial))
    spent = 0
    with process_left_alone(who):
        optimizer = _call(who, factory, configurations, **settings)
    while spent < budget:
        with process_left_alone(who):
            if ask:
                _ask(who, optimizer)
            suggestion = _suggestion(_call(who, optimizer.suggest), who)
            if ask:
                _ask(who, optimizer)
        if not suggestion:
            require(spent > 0, f"{who} ended without a first suggestion.")
            again = _suggestion(_call(who, optimizer.suggest), who)
            require(not again, f"{who} suggested {again} after it had said there was nothing left.")
            return
        results = []
        numbers = [i for i, _ in suggestion]
        require(len(set(numbers)) == len(numbers), f"{who} suggested {suggestion}: a repetition.")
        for i, epoch in suggestion:
            n, last = len(configurations), reached.get(i, 0)
            require(0 <= i < n, f"{who} suggested configuration {i}; there are {n}.")
            require(i not in failed, f"{who} suggested configuration {i} after it had diverged.")
            require(
                last < epoch <= settings["max_epochs"],
                f"{who} suggested epoch {epoch} for configuration {i}, which has reached {last} of "
                f"{settings['max_epochs']}.",
            )
            require(
                i in initial or initial <= reached.keys(),
                f"{who} suggested configuration {i} before the initial ones "
                f"{sorted(initial - reached.keys())}.",
            )
            reached.setdefault(i, 0)
        for i, epoch in suggestion:
            while reached[i] < epoch and i not in failed and spent < budget:
                reached[i] += 1
                spent += 1
                if spent == settings["max_budget"] < budget and hasattr(optimizer, "extend"):
                    _call(who, optimizer.extend, budget)  # type: ignore[attr-defined]
                metric = curve(i, reached[i])
                results.append(
                    {
                        "configuration_id": i,
                        "configuration": configurations.get_configuration(i),
                        "epoch": reached[i],
                        "metric": metric,
                        "time": 1.0,
                    }
                )
                if np.isnan(metric):
                    failed.add(i)
        with process_left_alone(who):
            _call(who, optimizer.observe, results)
        yield suggestion


def _call(who: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except Exception as error:
        name = getattr(function, "__name__", type(function).__name__)
        raise AssertionError(f"{who} raised {error!r} in {name}.") from error


def _ask(who: str, optimizer: Any) -> None:
    """Ask for the expected gain, where there is one to ask for."""
    if not hasattr(optimizer, "expected_gain"):
        return
    gain = _call(who, optimizer.expected_gain)
    require(
        gain is None or gain >= 0,
        f"{who} expects to gain {gain!r}; expected_gain is a number from 0, or None where it "
        "cannot tell.",
    )


def _suggestion(suggested: Any, who: str) -> tuple[tuple[int, int], ...]:
    """(number, epoch) pairs; none where there is nothing left to do."""
    try:
        numbers, epochs = suggested
        if numbers is None or epochs is None:
            require(numbers is epochs, f"{who} suggested {suggested!r}: None and something.")
            return ()
        pairs = zip(map(operator.index, numbers), map(operator.index, epochs), strict=True)
        suggestion = tuple(pairs)
    except (TypeError, ValueError) as error:
        raise AssertionError(
            f"{who} suggested {suggested!r}, not configuration numbers and as many epochs, nor "
            "(None, None)."
        ) from error
    require(bool(suggestion), f"{who} suggested nothing, where it should say (None, None).")
    return suggestion


def _curve(i: int, epoch: int) -> float:
    """A saturating curve with its own level, speed and noise, between 0 and 1."""
    level, speed, *noise = numpy_generator("curve", i).random(2 + epoch)
    return float(level * (1 - np.exp(-(0.2 + speed) * epoch)) * 0.95 + 0.05 * noise[-1])


def _diverging(which: Callable[[int], bool]) -> Curve:
    """The ordinary curves, those of some configurations NaN from the first or second epoch on."""
    return lambda i, epoch: float("nan") if which(i) and epoch > i % 2 else _curve(i, epoch)


def _diverging_late(epochs: int) -> Curve:
    """The ordinary curves, every second one NaN after so many epochs."""
    return lambda i, epoch: float("nan") if i % 2 and epoch > epochs else _curve(i, epoch)


def _difference(one: Trace, other: Trace) -> str:
    for step, (a, b) in enumerate(zip_longest(one, other)):
        if a != b:
            return f"step {step} suggested {a}, then {b}"
    return "none"


def _sampled_configurations() -> Configurations:
    from ConfigSpace import (
        Categorical,
        ConfigurationSpace,
        EqualsCondition,
        Float,
        Integer,
    )

    from alhpo.tuning.configurations import SampledConfigurations

    momentum = Float("momentum", (0.1, 0.99))
    optimizer = Categorical("opt", ["sgd", "adam"])
    space = ConfigurationSpace(
        space={
            "lr": Float("lr", (1e-5, 1.0), log=True),
            "batch_size": Integer("batch_size", (8, 64)),
            "opt": optimizer,
            "momentum": momentum,
        },
        seed=0,
    )
    add = getattr(space, "add", None) or space.add_condition
    add(EqualsCondition(momentum, optimizer, "sgd"))
    initial = [
        {"lr": 0.1, "batch_size": 16, "opt": "adam"},
        {"lr": 0.01, "batch_size": 32, "opt": "sgd", "momentum": 0.9},
    ]
    return SampledConfigurations(space, 0, initial)
