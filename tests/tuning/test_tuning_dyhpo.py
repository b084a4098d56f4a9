"""Our own DyHPO: right where a closed form is known, resumable anywhere, better with history."""

from __future__ import annotations

import copy
import functools
import json
import math

import numpy as np
import pytest
from ConfigSpace import (
    CategoricalHyperparameter,
    ConfigurationSpace,
    EqualsCondition,
    UniformFloatHyperparameter,
)
from ConfigSpace.hyperparameters import (
    Constant,
    OrdinalHyperparameter,
    UniformIntegerHyperparameter,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from race import CurveTable, FakeClock, race
from scipy.optimize import approx_fprime
from scipy.stats import multivariate_normal, norm
from tabular import TabularObjective
from tuning_spaces import build, spaces

from alhpo import Tuner
from alhpo.base.errors import ConfigurationError
from alhpo.testing import check_optimizer
from alhpo.tuning import DyHPO, SampledConfigurations, dyhpo
from alhpo.tuning.history import EarlierSearch
from alhpo.tuning.optimizers.dyhpo.acquisition import expected_improvement, gain_at_the_end
from alhpo.tuning.optimizers.dyhpo.encoding import Encoder
from alhpo.tuning.optimizers.dyhpo.process import CurveProcess, Observations
from alhpo.tuning.optimizers.dyhpo.scale import Scale

SLOW = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def line_space():
    return ConfigurationSpace({"x": (-5.0, 10.0)})


def parabola(configuration, epoch, previous_epoch, checkpoint_path):
    """The example of HPO4DL's README."""
    x = configuration["x"]
    return [{"epoch": e, "metric": (x - 2) ** 2} for e in range(previous_epoch + 1, epoch + 1)]


def made(space, seed=0, n=30, initial=(), **options):
    configurations = SampledConfigurations(space, seed, initial)
    return optimizer_of(configurations, seed, n, **options), configurations


def optimizer_of(configurations, seed=0, n=30, **options):
    settings = {"max_epochs": 5, "max_budget": 60, "num_configurations": n, "seed": seed}
    return DyHPO(configurations, **{**settings, **options})


def feed(optimizer, configurations, metric, suggestion=None):
    """One step; returns what was suggested."""
    numbers, epochs = suggestion or optimizer.suggest()
    if numbers is None:
        return None
    results = []
    reached = {number: epoch for number, epoch, _ in optimizer.state_dict()["observed"]}
    for number, target in zip(numbers, epochs, strict=True):
        first = reached.get(number, 0) + 1
        for epoch in range(first, target + 1):
            value = metric(number, epoch)
            results.append(
                {
                    "configuration_id": number,
                    "configuration": configurations.get_configuration(number),
                    "epoch": epoch,
                    "metric": value,
                    "time": 1.0,
                }
            )
            if not math.isfinite(value):
                break
    optimizer.observe(results)
    return list(zip(numbers, epochs, strict=True))


# The encoding.


def test_every_type_is_scaled_by_its_bounds():
    space = build(
        [
            UniformFloatHyperparameter("lr", 1e-4, 1.0, log=True),
            UniformIntegerHyperparameter("layers", 1, 9),
            OrdinalHyperparameter("size", [8, 16, 64]),
            CategoricalHyperparameter("kind", ["a", "b"]),
            Constant("fixed", 3),
        ]
    )
    encoder = Encoder(space)
    values = {"lr": 1e-2, "layers": 5, "size": 64, "kind": "b", "fixed": 3}
    row = dict(zip(encoder.names, (encoder.encode(values)[g] for g in encoder.groups), strict=True))
    assert row["lr"] == pytest.approx([0.5])
    assert row["layers"] == pytest.approx([0.5])
    assert row["size"] == pytest.approx([1.0])
    assert row["kind"] == pytest.approx([0.0, math.sqrt(0.5)])
    assert "fixed" not in row


def test_inactive_is_not_the_lower_bound():
    momentum = UniformFloatHyperparameter("momentum", 0.1, 0.99)
    kind = CategoricalHyperparameter("opt", ["sgd", "adam"])
    encoder = Encoder(build([momentum, kind], [EqualsCondition(momentum, kind, "sgd")]))
    columns = encoder.groups[encoder.names.index("momentum")]
    inactive = encoder.encode({"opt": "adam"})[columns]
    lowest = encoder.encode({"opt": "sgd", "momentum": 0.1})[columns]
    assert inactive.tolist() == [0.5, 0.0]
    assert lowest.tolist() == [0.0, 1.0]


@given(spaces(), st.integers(0, 2**31))
@SLOW
def test_rows_of_different_configurations_differ_and_lie_in_the_cube(space, seed):
    configurations = SampledConfigurations(space, seed)
    numbers = configurations.add_configurations(12)
    encoder = Encoder(configurations.space)
    rows = [encoder.encode(configurations.get_configuration(number)) for number in numbers]
    assert all(((row >= 0) & (row <= 1)).all() for row in rows)
    assert len({row.tobytes() for row in rows}) == len(rows)
    generator = np.random.default_rng(seed)
    for number in numbers:
        values = configurations.get_configuration(number)
        neighbour = encoder.neighbour(values, generator)
        assert neighbour.keys() == values.keys()
        assert configurations.get_configuration(number) == values


# The surrogate.


def observations(generator, m=5, per=4):
    trial = np.repeat(np.arange(m), per)
    epoch = np.tile(np.arange(1, per + 1), m)
    return Observations(
        x=generator.random((m, 4)),
        search=np.array([0, 0, 1, 1, 2]),
        trial=trial,
        epoch=epoch,
        value=generator.normal(size=m * per),
    )


GROUPS = [slice(0, 1), slice(1, 3), slice(3, 4)]


def process(generator):
    made = CurveProcess(GROUPS, 20)
    made.parameters = made.parameters + 0.4 * generator.normal(size=len(made.parameters))
    return made


def covariance(parameters, one, other):
    """The formula of the module, for two observations (row, search, trial, epoch)."""
    scales = np.exp(parameters[: len(GROUPS)])
    a, b, c, d, e, _, time, own, level, tau = np.exp(parameters[len(GROUPS) :])

    def matern(r):
        return (1 + math.sqrt(5) * r + 5 * r * r / 3) * math.exp(-math.sqrt(5) * r)

    (x, i, s, p), (y, j, t, q) = one, other
    parts = [((x - y)[g] ** 2).sum() for g in GROUPS]
    k_x = matern(math.sqrt(sum(part / ell**2 for part, ell in zip(parts, scales, strict=True))))
    gap = abs(math.log(p) - math.log(q)) / math.log(20)
    k_t, k_u = matern(gap / time), matern(gap / own)
    value = math.exp(-abs(i - j) / tau) * (k_x * (a + b * k_t) + c * k_t) + level * (i == j)
    return value + (s == t) * (d + e * k_u)


def covariance_matrix(parameters, known):
    """Of the observations, noise included; and what was observed where."""
    seen = [
        (known.x[t], known.search[t], t, epoch)
        for t, epoch in zip(known.trial, known.epoch, strict=True)
    ]
    every = np.array([[covariance(parameters, one, other) for other in seen] for one in seen])
    noise = np.exp(parameters[len(GROUPS) + 5])
    return every + (noise + 1e-8) * np.eye(len(seen)), seen


def test_predictions_are_those_of_the_formula():
    generator = np.random.default_rng(0)
    made, known = process(generator), observations(generator)
    made.fit(known, 0)
    new = generator.random(4)
    targets = [(known.x[1], 0, 1, 9), (new, 0, -1, 1), (new, 0, -1, 20)]
    mean, deviation = made.predict(
        np.stack([x for x, *_ in targets]),
        np.array([trial for _, _, trial, _ in targets]),
        np.array([epoch for *_, epoch in targets]),
    )
    matrix, seen = covariance_matrix(made.parameters, known)
    inverse = np.linalg.inv(matrix)
    for place, target in enumerate(targets):
        cross = np.array([covariance(made.parameters, target, one) for one in seen])
        variance = covariance(made.parameters, target, target)
        assert mean[place] == pytest.approx(cross @ inverse @ known.value, abs=1e-8)
        expected = math.sqrt(variance - cross @ inverse @ cross)
        assert deviation[place] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(("trial", "seen", "end"), [(1, 5, 5), (1, 5, 20), (-1, 1, 20)])
def test_looking_ahead_is_what_the_observation_then_tells(trial, seen, end):
    """Before it, the mean is the same; after it, so much less is unknown, whatever it is."""
    generator = np.random.default_rng(0)
    made, known = process(generator), observations(generator)
    made.fit(known, 0)
    x = known.x[trial] if trial >= 0 else generator.random(4)
    one = [x[None], np.array([trial])]
    told, spread = made.look_ahead(*one, np.array([seen]), np.array([end]))
    mean, before = made.predict(*one, np.array([end]))
    assert told == pytest.approx(mean, abs=1e-12)
    rows = known.x if trial >= 0 else np.concatenate([known.x, x[None]])
    place = trial if trial >= 0 else len(known.x)
    more = Observations(
        x=rows,
        search=np.concatenate([known.search, np.zeros(len(rows) - len(known.x), int)]),
        trial=np.append(known.trial, place),
        epoch=np.append(known.epoch, seen),
        value=np.append(known.value, 0.7),
    )
    made.fit(more, 0)
    _, after = made.predict(x[None], np.array([place]), np.array([end]))
    assert spread**2 == pytest.approx(before**2 - after**2, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_fitted_parameters_are_the_most_probable_ones(seed):
    """The posterior of the formula is level there, and lower everywhere around."""
    generator = np.random.default_rng(seed)
    made, known = process(generator), observations(generator)

    def posterior(parameters):
        matrix, _ = covariance_matrix(parameters, known)
        likelihood = multivariate_normal(np.zeros(len(matrix)), matrix).logpdf(known.value)
        return likelihood + norm(made.prior_mean, made.prior_spread).logpdf(parameters).sum()

    start = posterior(made.parameters)
    made.fit(known, 500)
    found = made.parameters
    assert (abs(found - made.prior_mean) < 3 * made.prior_spread).all()  # inside the bounds
    assert posterior(found) > start
    assert approx_fprime(found, posterior, 1e-5) == pytest.approx(0, abs=1e-3)
    for _ in range(3):
        assert posterior(found + 0.1 * generator.normal(size=len(found))) < posterior(found)


def test_expected_improvement_is_the_integral():
    draws = np.random.default_rng(0).normal(0.3, 0.7, size=2_000_000)
    expected = np.maximum(draws - 0.5, 0).mean()
    found = expected_improvement(np.array([0.3]), np.array([0.7]), 0.5)
    assert found[0] == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_gain_at_the_end_is_the_mean_over_what_a_step_may_tell(count):
    generator = np.random.default_rng(count)
    mean, deviation = generator.normal(size=count), generator.random(count)
    delayed, best = mean - 0.2 * generator.random(count), 0.1
    found = gain_at_the_end(mean, deviation, delayed, best)
    draws = generator.normal(size=500_000)
    for one in range(count):
        others = [best, *np.delete(delayed, one)]
        end = np.maximum(mean[one] + deviation[one] * draws, max(others)).mean()
        assert found[one] == pytest.approx(end - max(best, mean.max()), abs=5e-3)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
@example([0.0, 1.0, 2.3e-309])  # a deviation by which others cannot be divided
def test_scaling_is_monotone_and_invertible(metrics):
    metrics = np.array(metrics)
    scale = Scale.of(metrics)
    scaled = scale.apply(metrics)
    assert np.isfinite(scaled).all()
    order = np.argsort(metrics)
    assert (np.diff(scaled[order]) >= 0).all()
    size = np.abs(metrics).max() + 1
    assert scale.undo(scaled) == pytest.approx(metrics, abs=1e-6 * size)


# The optimizer.


@pytest.mark.parametrize(("budget", "first"), [(20, 6), (100, 6), (10, 3)])
def test_it_begins_with_three_tenths_of_a_full_training(budget, first):
    optimizer, configurations = made(line_space(), max_epochs=20, max_budget=budget, n=40)
    suggested = [feed(optimizer, configurations, lambda n, e: n / 40) for _ in range(first + 1)]
    begun = [number for one in suggested[:first] for number, _ in one]
    assert len(set(begun)) == first
    assert {epoch for one in suggested[:first] for _, epoch in one} == {1}


def test_it_begins_little_when_the_budget_is_nearly_spent():
    """What is begun then could not catch up any more."""

    def rising(number, epoch):
        return (number % 7) / 14 + 0.5 * math.log(epoch) / math.log(60)

    begun = {"middle": 0, "end": 0}
    for seed in range(4):
        optimizer, configurations = made(line_space(), seed, max_epochs=60, max_budget=60, n=60)
        steps = [feed(optimizer, configurations, rising)[0] for _ in range(60)]
        begun["middle"] += sum(epoch == 1 for _, epoch in steps[20:30])
        begun["end"] += sum(epoch == 1 for _, epoch in steps[-10:])
    assert begun["end"] * 2 < begun["middle"]


def test_with_other_steps_it_conforms():
    check_optimizer(functools.partial(dyhpo, step=3, parallel=2))


@pytest.mark.parametrize("seed", range(3))
def test_readme_example_of_hpo4dl_finds_the_minimum(tmp_path, seed):
    tuner = Tuner(parabola, line_space(), 27, 60, tmp_path, "dyhpo", True, seed=seed)
    best = tuner.run()
    assert abs(best["configuration"]["x"] - 2) < 0.1
    assert tuner.stop_reason == "max_budget, 60 epochs, is spent"


def test_maximising_the_negated_metric_is_the_same_search(tmp_path):
    def negated(*args):
        return [{**row, "metric": -row["metric"]} for row in parabola(*args)]

    down = Tuner(parabola, line_space(), 9, 30, tmp_path / "a", "dyhpo", True, 50, seed=1)
    up = Tuner(negated, line_space(), 9, 30, tmp_path / "b", "dyhpo", False, 50, seed=1)
    down.run()
    up.run()
    one, other = ([(r["configuration"], r["epoch"]) for r in t.results] for t in (down, up))
    assert one == other


@pytest.mark.filterwarnings("error::RuntimeWarning")
@given(spaces(), st.data())
@settings(parent=SLOW, max_examples=8)
def test_restored_at_any_step_it_goes_on_the_same(space, data):
    """Whatever the space and whatever fails, and no finished pair comes twice."""
    seed = data.draw(st.integers(0, 1000), label="seed")
    failing = data.draw(st.sets(st.integers(0, 25), max_size=12), label="failing")
    stop = data.draw(st.integers(0, 24), label="restored at")
    options = data.draw(
        st.fixed_dictionaries({"step": st.integers(1, 3), "parallel": st.integers(1, 3)})
    )

    def metric(number, epoch):
        if number in failing and epoch > number % 3:
            return [math.nan, math.inf, -math.inf][number % 3]
        return math.sin(number) * (1 - math.exp(-epoch))

    optimizer, configurations = made(space, seed, n=20, **options)
    drawn = min(20, len(configurations))  # another optimizer of a small space may find one more
    finished, lost = set(), set()
    for step in range(25):
        if step == stop:
            state = json.loads(json.dumps(optimizer.state_dict()))
            held = copy.deepcopy(configurations)
            optimizer = optimizer_of(configurations, seed, n=20, **options)
            optimizer.load_state_dict(state)
            twin = optimizer_of(held, seed, n=20, **options)
            twin.load_state_dict(state)
            assert twin.suggest() == copy.deepcopy(optimizer).suggest()
        suggested = feed(optimizer, configurations, metric)
        if suggested is None:
            assert all(n in lost or (n, 5) in finished for n in range(drawn))
            break
        for number, target in suggested:
            assert number not in lost
            assert (number, target) not in finished
            reached = {e for n, e in finished if n == number}
            assert target > max(reached, default=0)
            for epoch in range(max(reached, default=0) + 1, target + 1):
                finished.add((number, epoch))
                if not math.isfinite(metric(number, epoch)):
                    lost.add(number)
                    break


def test_restored_state_gives_the_whole_rest_of_the_search():
    space = line_space()

    def metric(number, epoch):
        return math.cos(number) + 0.1 * epoch

    optimizer, configurations = made(space, n=60, max_budget=80)
    trace = [feed(optimizer, configurations, metric) for _ in range(60)]
    for stop in (0, 1, 19, 20, 41):
        optimizer, configurations = made(space, n=60, max_budget=80)
        for _ in range(stop):
            feed(optimizer, configurations, metric)
        state = json.loads(json.dumps(optimizer.state_dict()))
        again = optimizer_of(configurations, n=60, max_budget=80)
        again.load_state_dict(state)
        rest = [feed(again, configurations, metric) for _ in range(60 - stop)]
        assert rest == trace[stop:]


@pytest.mark.parametrize("stop", [2, 23, 38])
def test_killed_and_continued_by_the_tuner(tmp_path, stop):
    class Killed(BaseException):
        pass

    def until(n):
        def callback(row):
            nonlocal n
            n -= 1
            if n == 0:
                raise Killed

        return callback

    def tuner(folder, callback=None):
        return Tuner(
            parabola, line_space(), 5, 40, folder, "dyhpo", True, 40, seed=3, callback=callback
        )

    whole = tuner(tmp_path / "whole")
    whole.run()
    with pytest.raises(Killed):
        tuner(tmp_path / "killed", until(stop)).run()
    continued = tuner(tmp_path / "killed")
    continued.run()
    one, other = (
        [(r["configuration_id"], r["configuration"], r["epoch"], r["metric"]) for r in t.results]
        for t in (whole, continued)
    )
    assert one == other
    assert continued.stop_reason == whole.stop_reason


def test_initial_configurations_come_first_then_all_of_a_small_space():
    space = ConfigurationSpace({"kind": ["a", "b", "c"]})
    optimizer, configurations = made(space, initial=[{"kind": "c"}, {"kind": "a"}])
    pairs = []
    while suggested := feed(optimizer, configurations, lambda n, e: 0.5):
        pairs += suggested
    assert [configurations.get_configuration(n)["kind"] for n, _ in pairs[:2]] == ["c", "a"]
    assert sorted(pairs) == [(n, e) for n in range(3) for e in range(1, 6)]


def test_several_at_once_are_different_and_differ_from_the_second_best():
    """A fantasy at the first choice changes what is worth trying beside it."""
    optimizer, configurations = made(line_space(), n=200, explore=0.0, parallel=4)

    def metric(number, epoch):
        return -((configurations.get_configuration(number)["x"] - 2) ** 2)

    for _ in range(6):
        suggested = feed(optimizer, configurations, metric)
        assert len({number for number, _ in suggested}) == 4
    before = [configurations.get_configuration(n)["x"] for n, _ in suggested]
    assert np.ptp(before) > 1e-3


def test_steps_of_several_epochs_end_at_the_last():
    optimizer, configurations = made(line_space(), n=2, step=3)
    pairs = []
    while suggested := feed(optimizer, configurations, lambda n, e: n + e):
        pairs += suggested
    assert sorted(pairs) == [(0, 3), (0, 5), (1, 3), (1, 5)]


def test_candidates_are_refreshed_around_the_best():
    optimizer, configurations = made(line_space(), n=50, max_epochs=1, max_budget=200)

    def metric(number, epoch):
        return -abs(configurations.get_configuration(number)["x"] - 2.0)

    for _ in range(90):
        feed(optimizer, configurations, metric)
    assert len(configurations) > 60
    tried = [
        configurations.get_configuration(n)["x"] for n, _, _ in optimizer.state_dict()["observed"]
    ]
    assert min(abs(x - 2) for x in tried) < min(abs(x - 2) for x in tried[:20])
    assert min(abs(x - 2) for x in tried) < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 0}, "step is 0"),
        ({"parallel": 1.5}, "parallel is 1.5"),
        ({"explore": 2}, "explore is 2"),
        ({"refit_growth": 0.5}, "refit_growth is 0.5"),
    ],
)
def test_illegal_options(options, message):
    with pytest.raises(ConfigurationError, match=message):
        made(line_space(), **options)


# Stopping.


def test_stops_when_little_is_left_to_gain_and_says_so(tmp_path):
    tuner = Tuner(
        parabola, line_space(), 5, 400, tmp_path, "dyhpo", True, 300, seed=0, min_gain=0.05
    )
    best = tuner.run()
    assert tuner.epochs_spent < 200
    assert "below min_gain, 0.05" in tuner.stop_reason
    assert best["metric"] < 0.5
    again = Tuner(
        parabola, line_space(), 5, 400, tmp_path, "dyhpo", True, 300, seed=0, min_gain=0.05
    )
    assert again.run() == best
    assert again.stop_reason == tuner.stop_reason


def test_expected_gain_is_that_of_a_perfectly_known_curve():
    optimizer, configurations = made(line_space(), n=1)
    assert optimizer.expected_gain() is None
    for _ in range(4):
        feed(optimizer, configurations, lambda n, e: 0.5)
    assert optimizer.expected_gain() < 0.2
    feed(optimizer, configurations, lambda n, e: 0.5)
    assert optimizer.expected_gain() is None  # nothing is left to train


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(size=66, n=40, max_epochs=1, seed=0, explore=1.0, asks=[1, 0])
@given(
    size=st.integers(1, 80),
    n=st.integers(1, 40),
    max_epochs=st.integers(1, 3),
    seed=st.integers(0, 99),
    explore=st.sampled_from([0.1, 1.0]),
    asks=st.lists(st.integers(0, 2), min_size=1, max_size=7),
)
def test_asking_for_the_expected_gain_changes_nothing(size, n, max_epochs, seed, explore, asks):
    """Asked any number of times before and after any suggestion, also where all candidates are
    tried and others were set aside."""

    def suggestions(asks):
        options = {"max_epochs": max_epochs, "explore": explore}
        options |= {"fit_steps": 1, "refit_growth": 20.0}  # to take less time
        space = ConfigurationSpace({"x": (0, size)})
        optimizer, configurations = made(space, seed, n, **options)

        def metric(number, epoch):
            return configurations.get_configuration(number)["x"] % 17 * epoch

        found = []
        for step in range(45):
            for _ in range(asks[2 * step % len(asks)]):
                optimizer.expected_gain()
            suggestion = optimizer.suggest()
            for _ in range(asks[(2 * step + 1) % len(asks)]):
                optimizer.expected_gain()
            found.append(feed(optimizer, configurations, metric, suggestion))
        return found

    assert suggestions(asks) == suggestions([0])


def test_a_search_that_never_stops_for_want_of_gain_is_the_search_without_min_gain(tmp_path):
    settings = {"optimizer": "dyhpo", "num_configurations": 25, "seed": 1}
    plain, asking = (
        Tuner(parabola, line_space(), 5, 20, tmp_path, **settings, min_gain=gain)
        for gain in (None, 1e-300)
    )
    plain.run()
    asking.run()
    rows, asked = (
        [(row["configuration_id"], row["configuration"], row["epoch"]) for row in tuner.results]
        for tuner in (plain, asking)
    )
    assert asked == rows


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_gain": 0}, "min_gain is 0"),
        ({"min_gain": "much"}, "min_gain is 'much'"),
        ({"min_gain": 0.1, "optimizer": "random"}, "does not tell"),
        ({"warm_start": "runs/x"}, "warm_start is 'runs/x'; expected a list"),
        ({"warm_start": [[{"x": 1}]]}, "warm_start has the row"),
        ({"warm_start": ["nowhere"]}, "'nowhere' holds no experiment"),
    ],
)
def test_illegal_settings_of_the_tuner(tmp_path, settings, message):
    with pytest.raises(ConfigurationError, match=message):
        Tuner(parabola, line_space(), 5, 10, tmp_path, **{"optimizer": "dyhpo", **settings})


# Transfer.


def test_earlier_results_and_folders_are_the_same_start(tmp_path):
    first = Tuner(parabola, line_space(), 5, 30, tmp_path / "first", "dyhpo", True, 50, seed=0)
    best = first.run()
    searches = []
    for start in (first.results, first.experiment_path):
        tuner = Tuner(
            parabola,
            line_space(),
            5,
            12,
            tmp_path / f"then{len(searches)}",
            "dyhpo",
            True,
            50,
            seed=1,
            warm_start=[start],
        )
        tuner.run()
        searches.append([(r["configuration"], r["epoch"]) for r in tuner.results])
    assert searches[0] == searches[1]
    assert searches[0][0] == (best["configuration"], 1)


def test_newest_first_for_any_optimizer(tmp_path):
    def rows(*xs):
        return [{"configuration": {"x": x}, "epoch": 1, "metric": -n} for n, x in enumerate(xs)]

    older, newer = rows(0.0, 0.5), rows(1.0, 2.0, 3.0, 4.0)
    tuner = Tuner(
        parabola, line_space(), 1, 6, tmp_path, "random", seed=0, warm_start=[older, newer]
    )
    tuner.run()
    assert [row["configuration"]["x"] for row in tuner.results][:4] == [1.0, 2.0, 3.0, 0.0]


def test_configurations_of_another_space_are_left_out(tmp_path):
    rows = [{"configuration": {"y": 1.0}, "epoch": 1, "metric": 0.5}]
    rows += [{"configuration": {"x": 99.0}, "epoch": 1, "metric": 0.6}]
    rows += [{"configuration": {"x": 1.0}, "epoch": 1, "metric": 0.1}]
    tuner = Tuner(parabola, line_space(), 1, 2, tmp_path, "random", seed=0, warm_start=[rows])
    tuner.run()
    assert tuner.results[0]["configuration"] == {"x": 1.0}


@pytest.mark.parametrize("shift", [0.0, -3.0, 40.0])
def test_levels_of_earlier_searches_do_not_matter(shift):
    """A search after one whose metrics were higher or lower by a constant learns as much."""
    space = line_space()
    configurations = SampledConfigurations(space, 0)
    rows = [
        (values, epoch, -((values["x"] - 2) ** 2) + shift)
        for values in map(configurations.get_configuration, configurations.add_configurations(15))
        for epoch in (1, 2)
    ]
    optimizer, known = made(space, n=60, history=[EarlierSearch(tuple(rows), 1)], explore=0.0)
    trace = []
    for _ in range(8):
        trace += feed(optimizer, known, lambda n, e: -((known.get_configuration(n)["x"] - 2) ** 2))
    near = [abs(known.get_configuration(n)["x"] - 2) for n, _ in trace[1:]]
    assert np.median(near) < 1.0  # 15 wide: it knows where to look from the first choices on


def test_what_was_observed_on_the_same_task_counts_as_the_best():
    """There is less to gain over it than over what was observed on another task."""
    rows = (({"x": 2.0}, 5, 0.9), ({"x": 2.0}, 4, 0.8))
    gains = []
    for age in (0, 1):
        optimizer, configurations = made(line_space(), history=[EarlierSearch(rows, age)])
        feed(optimizer, configurations, lambda n, e: 0.1)
        gains.append(optimizer.expected_gain())
    assert gains[0] < 0.2 < 0.4 < gains[1]


def growing_tables(seed):
    """Curves on growing pools: the best learning rate falls slowly, the level rises."""
    generator = np.random.default_rng(seed)
    space = ConfigurationSpace({"x": (0.0, 1.0), "y": (0.0, 1.0), "z": (0.0, 1.0)})
    drawn = generator.random((150, 3)).round(10)  # ConfigSpace 1 keeps no more digits than 13
    values = [dict(zip("xyz", map(float, row), strict=True)) for row in drawn]
    tables = []
    for cycle in range(4):
        best = np.array([0.7 - 0.03 * cycle, 0.3, 0.5])
        distance = np.array([((np.array([*one.values()]) - best) ** 2).sum() for one in values])
        level = (0.5 + 0.08 * cycle) * np.exp(-6 * distance)
        speed = 0.1 + generator.random(len(values))
        curves = level[:, None] * (1 - np.exp(-speed[:, None] * np.arange(1, 13)))
        noise = 0.005 * generator.normal(size=curves.shape)
        tables.append(CurveTable(space, values, curves + noise))
    return tables


@pytest.mark.slow
def test_with_half_the_epochs_transfer_is_as_good_on_growing_pools():
    alone, helped = [], []
    for seed in range(4):
        history = []
        for table in growing_tables(seed):
            ages = [one.as_history(age) for age, one in enumerate(reversed(history), 1)]
            search = race(dyhpo, table, budget=50, seed=seed, history=ages)
            if history:
                without = race(dyhpo, table, budget=50, seed=seed)
                alone.append(table.regret(without.best(50))[49])
                half = race(dyhpo, table, budget=25, seed=seed, history=ages)
                helped.append(table.regret(half.best(25))[24])
            history.append(search)
    assert np.mean(helped) <= np.mean(alone)


def test_the_best_of_the_latest_search_is_trained_through_at_once():
    rows = [({"x": x}, epoch, -abs(x - 2)) for x in (0.0, 2.0, 1.0, 7.0) for epoch in (1, 2)]
    history = [EarlierSearch(tuple(rows), 1)]
    initial = [{"x": 2.0}, {"x": 1.0}, {"x": 0.0}]
    for budget, through in ((10, 1), (20, 2), (1000, 3)):
        optimizer, configurations = made(
            line_space(), initial=initial, history=history, max_budget=budget
        )
        firsts = [feed(optimizer, configurations, lambda n, e: 0.5) for _ in range(3)]
        assert firsts == [[(n, 5 if n < through else 1)] for n in range(3)]


# The harness.


def test_a_fake_clock_times_the_epochs(tmp_path):
    clock = FakeClock()
    space = ConfigurationSpace({"index": (0, 2)})
    curves = [[0.1, 0.2], [0.3, 0.4], [0.2, 0.1]]
    objective = TabularObjective(curves, clock=clock, seconds=3.0)
    tuner = Tuner(objective, space, 2, 6, tmp_path, "random", seed=0, clock=clock)
    best = tuner.run()
    assert best["metric"] == 0.4
    assert [row["time"] for row in tuner.results] == [3.0] * 6
    assert [row["overhead_time"] for row in tuner.results] == [0.0] * 6
    assert clock() == 18.0
    with pytest.raises(ConfigurationError, match="cannot go back"):
        clock.advance(-1)


def test_a_race_counts_epochs_and_regret():
    space = ConfigurationSpace({"index": (0, 2)})
    rows = [{"index": n} for n in range(3)]
    table = CurveTable(space, rows, np.array([[0.0, 0.5], [0.2, 1.0], [0.1, math.nan]]))
    from alhpo.tuning import get_optimizer_factory

    done = race(get_optimizer_factory("random"), table, budget=6, seed=0)
    assert [(c["index"], e) for c, e, _ in done.rows] == [(n, e) for n in range(3) for e in (1, 2)]
    assert table.regret(done.best(8)).tolist() == [1.0, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0]
    ended = race(get_optimizer_factory("random"), table, budget=6, seed=0, until=0.5)
    assert len(ended.rows) == 2
