"""Hyperband, ASHA and one-epoch: the budgets and promotions of their papers."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from ConfigSpace import ConfigurationSpace
from hypothesis import given, settings
from hypothesis import strategies as st
from tabular import TabularObjective

from alhpo.tuning import SampledConfigurations, Tuner, get_optimizer_factory
from alhpo.tuning.optimizers.asha import rungs
from alhpo.tuning.optimizers.hyperband import Bracket, brackets
from alhpo.tuning.optimizers.one_epoch import plan


def drive(name, metric, *, max_epochs, num_configurations, max_budget=None, seed=0, limit=10_000):
    """Every suggestion of a search, as lists of (configuration, epoch)."""
    configurations = SampledConfigurations(ConfigurationSpace({"x": (0.0, 1.0)}), seed)
    optimizer = get_optimizer_factory(name)(
        configurations,
        max_epochs=max_epochs,
        max_budget=max_budget,
        num_configurations=num_configurations,
        seed=seed,
        device=None,
    )
    reached, steps = Counter(), []
    while (suggestion := optimizer.suggest())[0] is not None:
        pairs = list(zip(*suggestion, strict=True))
        steps.append(pairs)
        results = []
        for number, target in pairs:
            while reached[number] < target:
                reached[number] += 1
                value = metric(number, reached[number])
                results.append(
                    {
                        "configuration_id": number,
                        "configuration": configurations.get_configuration(number),
                        "epoch": reached[number],
                        "metric": value,
                        "time": 1.0,
                    }
                )
                if math.isnan(value):
                    break
        optimizer.observe(results)
        if len(steps) == limit:
            break
    return steps


def by_number(number, epoch):
    return float(number)


def test_brackets_of_the_papers_example():
    """Li et al. 2018, table 1: R = 81, eta = 3."""
    table = {
        4: [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        3: [(34, 3), (11, 9), (3, 27), (1, 81)],
        2: [(15, 9), (5, 27), (1, 81)],
        1: [(8, 27), (2, 81)],
        0: [(5, 81)],
    }
    steps = iter(drive("hyperband", by_number, max_epochs=81, num_configurations=143))
    for s in (4, 3, 2, 1, 0):
        for n, epoch in table[s]:
            pairs = next(steps)
            assert (len(pairs), {target for _, target in pairs}) == (n, {epoch})
    assert next(steps, None) is None


@pytest.mark.parametrize(
    ("max_epochs", "expected"),
    [
        (1, [(1, (1,))]),
        (2, [(1, (2,))]),
        (3, [(3, (1, 3)), (2, (3,))]),
        (50, [(27, (2, 6, 17, 50)), (12, (6, 17, 50)), (6, (17, 50)), (4, (50,))]),
    ],
)
def test_brackets_of_other_lengths(max_epochs, expected):
    assert brackets(max_epochs) == [Bracket(*one) for one in expected]


def test_no_bracket_is_lost_where_a_logarithm_is_inexact():
    assert [one.num_configurations for one in brackets(243)] == [243, 98, 41, 18, 9, 6]
    assert brackets(243)[0].rungs == (1, 3, 9, 27, 81, 243)
    assert math.floor(math.log(243) / math.log(3)) == 4  # what loses it


@settings(derandomize=True)
@given(max_epochs=st.integers(1, 2000))
def test_brackets_are_the_closed_form(max_epochs):
    found = brackets(max_epochs)
    s_max = len(found) - 1
    assert 3**s_max <= max_epochs < 3 ** (s_max + 1)
    for s, bracket in zip(range(s_max, -1, -1), found, strict=True):
        n = Fraction(s_max + 1, s + 1) * 3**s
        assert bracket.num_configurations == math.ceil(n)
        assert len(bracket.rungs) == s + 1
        assert bracket.rungs[-1] == max_epochs
        assert list(bracket.rungs) == sorted(set(bracket.rungs))
        for i, epoch in enumerate(bracket.rungs):
            assert abs(epoch - Fraction(max_epochs, 3 ** (s - i))) <= Fraction(1, 2)


@pytest.mark.hpo4dl
def test_upstreams_brackets_end_early_or_are_lost():
    """hpo4dl 0.1 truncates the epochs of R = 50, and loses the first bracket of R = 243."""

    def rungs_of(name, max_epochs):
        steps = drive(name, by_number, max_epochs=max_epochs, num_configurations=500, limit=10)
        return [(len(pairs), pairs[0][1]) for pairs in steps]

    assert rungs_of("hpo4dl-hyperband", 50) == [
        *[(27, 1), (9, 3), (3, 9), (1, 27)],
        *[(12, 5), (4, 15), (1, 45)],
        *[(6, 16), (2, 48)],
        (4, 50),
    ]
    assert rungs_of("hyperband", 50) == [
        *[(27, 2), (9, 6), (3, 17), (1, 50)],
        *[(12, 6), (4, 17), (1, 50)],
        *[(6, 17), (2, 50)],
        (4, 50),
    ]
    assert rungs_of("hpo4dl-hyperband", 243)[0] == (81, 3)
    assert rungs_of("hyperband", 243)[0] == (243, 1)


@settings(derandomize=True, deadline=None)
@given(
    table=st.lists(
        st.lists(st.sampled_from([0.0, 0.5, 1.0, math.nan]), min_size=9, max_size=9),
        min_size=1,
        max_size=25,
    )
)
def test_hyperband_promotes_by_the_value_at_the_rung(table):
    steps = drive(
        "hyperband",
        lambda number, epoch: table[number][epoch - 1],
        max_epochs=9,
        num_configurations=len(table),
    )

    def value(number, rung):
        """At the rung, unless something before it diverged."""
        values = table[number][:rung]
        return -math.inf if any(map(math.isnan, values)) else values[-1]

    expected, first = [], 0
    while first < len(table):
        for n, levels in [(9, (1, 3, 9)), (5, (3, 9)), (3, (9,))]:
            alive = list(range(first, min(first + n, len(table))))
            started, first = len(alive), first + len(alive)
            for i, rung in enumerate(levels):
                if alive:
                    expected.append([(number, rung) for number in alive])
                ranked = sorted(alive, key=lambda number: -value(number, rung))
                quota = max(1, started // 3 ** (i + 1))
                alive = [one for one in ranked if value(one, rung) > -math.inf][:quota]
    assert steps == expected


def test_hyperband_forgets_a_better_value_of_before(tmp_path):
    """Upstream promotes by the best so far; here the rung decides."""
    curves = [[0.9, 0.1, 0.1]] + [[0.1 * k, 0.2, 0.3 + k / 10] for k in range(1, 9)]

    def metric(number, epoch):
        return curves[number][min(epoch, 3) - 1]

    steps = drive("hyperband", metric, max_epochs=9, num_configurations=9)
    assert [number for number, _ in steps[1]] == [0, 8, 7]
    assert steps[2] == [(8, 9)]


def test_hyperband_spends_what_its_brackets_say(tmp_path):
    objective_calls = []

    def objective(configuration, epoch, previous_epoch, checkpoint_path):
        objective_calls.append(epoch)
        return {"epoch": epoch, "metric": configuration["x"]}

    search = Tuner(
        objective,
        ConfigurationSpace({"x": (0.0, 1.0)}),
        *(27, None, tmp_path, "hyperband"),
        num_configurations=49,
        seed=0,
        progress=False,
    )
    best = search.run()
    rungs_of = [
        [(27, 1), (9, 3), (3, 9), (1, 27)],
        [(12, 3), (4, 9), (1, 27)],
        [(6, 9), (2, 27)],
        [(4, 27)],
    ]
    spent = 0
    for bracket in rungs_of:
        before = 0
        for n, epoch in bracket:
            spent, before = spent + n * (epoch - before), epoch
    assert len(objective_calls) == spent
    assert best["metric"] == max(row["metric"] for row in search.results)


@pytest.mark.parametrize(
    ("max_epochs", "expected"),
    [(1, [1]), (2, [1, 2]), (3, [1, 3]), (9, [1, 3, 9]), (50, [1, 3, 9, 27, 50])],
)
def test_rungs_of_asha(max_epochs, expected):
    assert rungs(max_epochs) == expected


def test_asha_by_hand():
    """Each configuration is better than all before it."""
    steps = [pair for (pair,) in drive("asha", by_number, max_epochs=9, num_configurations=6)]
    assert steps == [
        *[(0, 1), (1, 1), (2, 1), (2, 3)],
        *[(3, 1), (3, 3)],  # best of four
        *[(4, 1), (4, 3), (4, 9)],  # best of five, then best of the three at rung 3
        *[(5, 1), (5, 3), (5, 9)],
    ]


def _asha_by_definition(metric, max_epochs, n):
    """Algorithm 2 of the paper, one worker; every get_job looks at all rungs from the start."""
    levels, steps, started = rungs(max_epochs), [], 0
    while True:
        job = None
        for k in range(len(levels) - 2, -1, -1):
            there = [number for number, epoch in steps if epoch == levels[k]]
            ranked = sorted(there, key=lambda number: (-metric(number, levels[k]), number))
            candidates = ranked[: len(there) // 3]
            promotable = [one for one in candidates if (one, levels[k + 1]) not in steps]
            if promotable:
                job = (promotable[0], levels[k + 1])
                break
        if job is None and started < n:
            job, started = (started, levels[0]), started + 1
        if job is None:
            return steps
        steps.append(job)


@settings(derandomize=True, deadline=None)
@given(
    values=st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=3), min_size=9, max_size=60)
)
def test_asha_is_the_papers_algorithm(values):
    def metric(number, epoch):
        return float(values[number][{1: 0, 2: 1, 3: 1}.get(epoch, 2)])

    steps = [
        pair for (pair,) in drive("asha", metric, max_epochs=9, num_configurations=len(values))
    ]
    expected = _asha_by_definition(metric, 9, len(values))
    assert steps[: len(expected)] == expected
    # beyond the paper: one that is led to the end if none got there
    assert any(epoch == 9 for _, epoch in steps)
    assert len(steps) == len(expected) or not any(epoch == 9 for _, epoch in expected)


def test_asha_never_promotes_what_failed():
    def metric(number, epoch):
        return math.nan if number % 2 and epoch >= 2 else float(number)

    steps = [pair for (pair,) in drive("asha", metric, max_epochs=9, num_configurations=30)]
    assert any(number % 2 and epoch == 3 for number, epoch in steps)
    assert not any(number % 2 and epoch > 3 for number, epoch in steps)
    assert any(epoch == 9 for _, epoch in steps)


@settings(derandomize=True)
@given(
    max_epochs=st.integers(1, 200),
    budget=st.integers(1, 5000) | st.none(),
    available=st.integers(1, 2000),
)
def test_one_epoch_plans_within_the_budget(max_epochs, budget, available):
    n, k = plan(max_epochs, budget, available)
    assert 1 <= k <= n <= available
    if budget is None:
        assert n == available
        assert k == 1 or k * (max_epochs - 1) <= n
        return
    assert n <= budget
    rest = budget - n
    if max_epochs == 1:
        assert n == min(budget, available)
    elif n < available and budget >= 2 * (max_epochs - 1):
        assert n + k * (max_epochs - 1) == budget  # all of it is spent
        assert 0 <= n - k * (max_epochs - 1) < 2 * (max_epochs - 1)
    elif n == available and k < n:
        assert k * (max_epochs - 1) >= rest  # nothing is left over
    elif n < available:
        assert k == 1


@pytest.mark.parametrize(
    ("max_epochs", "budget", "expected"),
    [(50, 400, (204, 4)), (50, 10, (5, 1)), (50, 60, (30, 1)), (9, 100, (52, 6)), (50, 1, (1, 1))],
)
def test_one_epoch_plans(max_epochs, budget, expected):
    assert plan(max_epochs, budget, 1000) == expected


def test_one_epoch_continues_the_best_and_replaces_the_failed():
    def metric(number, epoch):
        return math.nan if number in (9, 3) and epoch > (number == 9) else float(number)

    steps = drive("one-epoch", metric, max_epochs=5, max_budget=18, num_configurations=10)
    assert steps == [
        [(number, 1) for number in range(10)],
        [(9, 5), (8, 5)],
        [(7, 5)],
    ]


def test_one_epoch_spends_the_whole_budget_on_recorded_curves(tmp_path):
    objective = TabularObjective(np.random.default_rng(0).random((60, 8)))
    search = Tuner(
        objective,
        ConfigurationSpace({"index": (0, 59)}),
        *(8, 80, tmp_path, "one-epoch"),
        seed=1,
        progress=False,
    )
    search.run()
    epochs = Counter(row["epoch"] for row in search.results)
    assert epochs[1] == 45 and epochs[8] == 5
    first = {row["configuration_id"]: row for row in search.results if row["epoch"] == 1}
    best = sorted(first, key=lambda number: -first[number]["metric"])[:5]
    assert {row["configuration_id"] for row in search.results if row["epoch"] == 8} == set(best)
