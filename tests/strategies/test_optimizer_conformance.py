"""The suite for optimizers passes a correct one and catches those that break a rule."""

import logging
import math

import numpy as np
import pytest
import torch
from tabular import TabularObjective

from alhpo.testing import check_optimizer


class Listed:
    """A finite list of numbered configurations."""

    def __init__(self, size=6):
        self.size, self.n = size, 0

    def __len__(self):
        return self.n

    def get_configuration(self, configuration_id):
        assert 0 <= configuration_id < self.n
        return {"index": configuration_id}

    def add_configurations(self, num_configurations):
        first, self.n = self.n, min(self.size, self.n + num_configurations)
        return list(range(first, self.n))


class OneEpochThenBest:
    """Correct: every configuration for an epoch, then the best of those that are unfinished, and
    now and then a random one. The subclasses break one rule each."""

    def __init__(self, configurations, *, max_epochs, max_budget, num_configurations, seed, device):
        configurations.add_configurations(num_configurations - len(configurations))
        self.generator = np.random.default_rng(seed)
        self.max_epochs = max_epochs
        self.reached = dict.fromkeys(range(len(configurations)), 0)
        self.metric = {}

    def suggest(self):
        left = [i for i, epoch in self.reached.items() if epoch < self.max_epochs]
        if not left:
            return None, None
        new = [i for i in left if self.reached[i] == 0]
        i = new[0] if new else self.choose(left)
        return [i], [self.reached[i] + 1]

    def choose(self, left):
        if self.generator.random() < 0.3:
            return left[int(self.generator.integers(len(left)))]
        return max(left, key=self.metric.__getitem__)

    def observe(self, configuration_results):
        for result in configuration_results:
            i = result["configuration_id"]
            self.reached[i] = result["epoch"]
            self.metric[i] = result["metric"]
            if math.isnan(result["metric"]):
                self.reached[i] = self.max_epochs


class Rungs(OneEpochThenBest):
    """Correct as well: several at once, several epochs at a time, then no more."""

    def suggest(self):
        left = [i for i, epoch in self.reached.items() if epoch < self.max_epochs]
        if not left:
            return None, None
        return left, [min(2 * self.reached[i] + 1, self.max_epochs) for i in left]


class Repeats(OneEpochThenBest):
    def suggest(self):
        return [0], [1]


class GoesBeyond(OneEpochThenBest):
    def __init__(self, configurations, *, max_epochs, **settings):
        super().__init__(configurations, max_epochs=max_epochs + 1, **settings)


class ForgetsDivergence(OneEpochThenBest):
    def observe(self, configuration_results):
        for result in configuration_results:
            self.reached[result["configuration_id"]] = result["epoch"]
            self.metric[result["configuration_id"]] = result["metric"]


class RaisesOnDivergence(OneEpochThenBest):
    def observe(self, configuration_results):
        if any(math.isnan(result["metric"]) for result in configuration_results):
            raise FloatingPointError("NaN")
        super().observe(configuration_results)


class UnknownConfiguration(OneEpochThenBest):
    def suggest(self):
        return [len(self.reached)], [1]


class Nothing(OneEpochThenBest):
    def suggest(self):
        return None, None


class EmptyLists(OneEpochThenBest):
    def suggest(self):
        return [], []


class HalfDone(OneEpochThenBest):
    def suggest(self):
        return [0], None


class Unequal(OneEpochThenBest):
    def suggest(self):
        return [0, 1], [1]


class Floats(OneEpochThenBest):
    def suggest(self):
        return [0], [1.0]


class TwiceAtOnce(OneEpochThenBest):
    def suggest(self):
        return [0, 0], [1, 2]


class ComesBack(OneEpochThenBest):
    """Says it is done, and then goes on."""

    paused = False

    def suggest(self):
        self.paused = not self.paused and len(self.metric) > 3
        return (None, None) if self.paused else super().suggest()


class StopsExploring(OneEpochThenBest):
    """Chooses by the budget, and does not say so."""

    def __init__(self, configurations, *, max_budget, **settings):
        super().__init__(configurations, max_budget=max_budget, **settings)
        self.most = 1 + (max_budget or 20) // 4

    def suggest(self):
        if len(self.metric) >= self.most:
            for i in set(self.reached) - set(self.metric):
                del self.reached[i]
        return super().suggest()


class CannotExtend(StopsExploring):
    def extend(self, max_budget):
        raise NotImplementedError("extend")


class SeedsGlobally(OneEpochThenBest):
    def __init__(self, configurations, *, seed, **settings):
        torch.manual_seed(seed)
        super().__init__(configurations, seed=seed, **settings)


class DrawsGlobally(OneEpochThenBest):
    def choose(self, left):
        return left[np.random.randint(len(left))]  # noqa: NPY002


class IgnoresSeed(OneEpochThenBest):
    def __init__(self, configurations, *, seed, **settings):
        super().__init__(configurations, seed=None, **settings)


class SharesState(OneEpochThenBest):
    shared = np.random.default_rng(0)

    def choose(self, left):
        return left[int(self.shared.integers(len(left)))]


class SetsCudnn(OneEpochThenBest):
    def observe(self, configuration_results):
        torch.backends.cudnn.deterministic = not torch.backends.cudnn.deterministic
        super().observe(configuration_results)


class AddsHandler(OneEpochThenBest):
    def suggest(self):
        logging.getLogger().addHandler(logging.NullHandler())
        return super().suggest()


class NeedsBudget(OneEpochThenBest):
    def __init__(self, configurations, *, max_budget, **settings):
        self.budget = max_budget + 1
        super().__init__(configurations, max_budget=max_budget, **settings)


class NeedsSpread(OneEpochThenBest):
    """Fails where all metrics are the same."""

    def choose(self, left):
        metrics = np.array([self.metric[i] for i in left])
        if len(left) > 2 and metrics.std() == 0:
            raise ZeroDivisionError
        return super().choose(left)


class Backwards(OneEpochThenBest):
    """The latest configuration first, whatever the user wants tried."""

    def suggest(self):
        left = [i for i, epoch in self.reached.items() if epoch < self.max_epochs]
        return ([left[-1]], [self.reached[left[-1]] + 1]) if left else (None, None)


class NeedsWholeSuggestions(Rungs):
    """Fails where the budget ended in the midst of a suggestion."""

    def suggest(self):
        self.asked = super().suggest()
        return self.asked

    def observe(self, configuration_results):
        if not any(math.isnan(result["metric"]) for result in configuration_results):
            last = {result["configuration_id"]: result["epoch"] for result in configuration_results}
            if list(last.items()) != list(zip(*self.asked, strict=True)):
                raise LookupError
        super().observe(configuration_results)


class NeedsLaterEpochs(OneEpochThenBest):
    """Fails where a curve is longer than some."""

    def observe(self, configuration_results):
        if any(result["epoch"] > 10 for result in configuration_results):
            raise BufferError
        super().observe(configuration_results)


class DrawsToTellTheGain(OneEpochThenBest):
    """Asking for its gain moves its stream."""

    def expected_gain(self):
        return float(self.generator.random())


class ExpectsToLose(OneEpochThenBest):
    def expected_gain(self):
        return -0.1


class TellsTheGain(OneEpochThenBest):
    """Correct: None while it cannot tell."""

    def expected_gain(self):
        return max(self.metric.values(), default=None)


class Several(OneEpochThenBest):
    """Correct: as many as it may, each for one epoch further."""

    takes_parallel = True

    def __init__(self, configurations, *, parallel=1, **settings):
        super().__init__(configurations, **settings)
        self.parallel = parallel

    def suggest(self):
        left = [i for i, epoch in self.reached.items() if epoch < self.max_epochs]
        chosen = left[: self.parallel]
        return (chosen, [self.reached[i] + 1 for i in chosen]) if chosen else (None, None)


class TakesParallelInVain(Several):
    """Says that it takes it, and suggests one at a time."""

    def suggest(self):
        numbers, epochs = super().suggest()
        return (None, None) if numbers is None else (numbers[:1], epochs[:1])


class SuggestsOneTwice(Several):
    """What it has just chosen is chosen again."""

    def suggest(self):
        numbers, epochs = super().suggest()
        twice = numbers is not None and self.parallel > 1
        return (2 * numbers[:1], 2 * epochs[:1]) if twice else (numbers, epochs)


class ListedWithInitial(Listed):
    """A list whose first two were given by the user."""

    num_initial = 2

    def __init__(self, size=6):
        super().__init__(size)
        self.n = 2


@pytest.mark.parametrize("factory", [OneEpochThenBest, Rungs, TellsTheGain, Several])
@pytest.mark.parametrize("size", [1, 6, 100])
def test_correct_optimizers_pass(factory, size):
    check_optimizer(factory, configurations=lambda: Listed(size))


@pytest.mark.parametrize("factory", [OneEpochThenBest, Rungs])
def test_correct_optimizers_pass_on_the_default_space(factory):
    check_optimizer(factory)


@pytest.mark.parametrize(
    "factory, complaint",
    [
        (Repeats, "has reached 1 of 4"),
        (GoesBeyond, "suggested epoch 5 for configuration"),
        (ForgetsDivergence, "after it had diverged"),
        (RaisesOnDivergence, "raised FloatingPointError.* in observe"),
        (UnknownConfiguration, "suggested configuration 6; there are 6"),
        (Nothing, "without a first suggestion"),
        (EmptyLists, "suggested nothing"),
        (HalfDone, "None and something"),
        (Unequal, "not configuration numbers and as many epochs"),
        (Floats, "not configuration numbers and as many epochs"),
        (TwiceAtOnce, "a repetition"),
        (ComesBack, "after it had said there was nothing left"),
        (SeedsGlobally, "torch's global generator"),
        (DrawsGlobally, "NumPy's global generator"),
        (IgnoresSeed, "gave other suggestions"),
        (SharesState, "gave other suggestions"),
        (SetsCudnn, "torch.backends.cudnn"),
        (AddsHandler, "handlers of the root logger"),
        (DrawsToTellTheGain, "Asking for expected_gain changed the suggestions"),
        (ExpectsToLose, r"expects to gain -0\.1"),
        (TakesParallelInVain, "never suggested several of its 5"),
        (SuggestsOneTwice, "2 trials at a time, ordinary curves, suggested .* a repetition"),
        (StopsExploring, "has no extend, but on a budget of 1, then of 20, it gave other"),
        (CannotExtend, "a budget of 1, then of 20, raised NotImplementedError.* in extend"),
        (NeedsBudget, "no limit of the budget, raised TypeError"),
        (NeedsSpread, "constant curves, raised ZeroDivisionError"),
    ],
)
def test_broken_optimizers_are_caught(factory, complaint, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    numpy_state, torch_state = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        with pytest.raises(AssertionError, match=complaint):
            check_optimizer(factory, configurations=Listed)
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


@pytest.mark.parametrize(
    "factory, complaint",
    [
        (Backwards, "suggested configuration 5 before the initial ones \\[0, 1\\]"),
        (NeedsWholeSuggestions, "ordinary curves, raised LookupError"),
        (NeedsLaterEpochs, "longer trainings, raised BufferError"),
    ],
)
def test_initial_configurations_partial_and_long_trainings_are_looked_at(factory, complaint):
    check_optimizer(OneEpochThenBest, configurations=ListedWithInitial)
    with pytest.raises(AssertionError, match=complaint):
        check_optimizer(factory, configurations=ListedWithInitial)


def test_a_tabular_objective_can_stand_behind_an_optimizer():
    curves = np.random.default_rng(0).random((6, 4))
    configurations, objective = Listed(), TabularObjective(curves)
    optimizer = OneEpochThenBest(
        configurations, max_epochs=4, max_budget=None, num_configurations=6, seed=0, device=None
    )
    reached = dict.fromkeys(range(6), 0)
    while (suggestion := optimizer.suggest())[0] is not None:
        for i, epoch in zip(*suggestion, strict=True):
            rows = objective(configurations.get_configuration(i), epoch, reached[i])
            optimizer.observe([{"configuration_id": i, **row} for row in rows])
            reached[i] = epoch
    assert objective.epochs_run == 24
