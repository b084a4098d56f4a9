"""What all optimizers of this package keep to, on any space and through any interruption."""

from __future__ import annotations

import math
import sys
import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tuning_spaces import spaces
from tuning_toys import (
    OWN_OPTIMIZERS,
    ToyObjective,
    learning_curve,
    needs_optuna,
    read_rows,
    toy_space,
)

from alhpo.base.errors import ConfigurationError
from alhpo.base.seeding import numpy_generator
from alhpo.runs.settings import RunConfig
from alhpo.testing import check_optimizer
from alhpo.tuning import SampledConfigurations, Tuner, get_optimizer_factory, optimizer_names

PROPERTIES = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.fixture(params=OWN_OPTIMIZERS, scope="module")
def name(request):
    needs_optuna(request.param)
    return request.param


def test_the_names_are_known():
    assert {*OWN_OPTIMIZERS, "hpo4dl-dyhpo", "hpo4dl-hyperband"} <= set(optimizer_names())


@pytest.mark.parametrize("name", ["hpo4dl-dyhpo", "hpo4dl-hyperband"])
def test_without_hpo4dl_its_optimizers_answer_with_the_command_that_installs_them(
    name, monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, "hpo4dl", None)
    with pytest.raises(ConfigurationError, match=r'pip install "alhpo\[hpo4dl\]"'):
        Tuner(Flaky(0, 0.0), toy_space(), 2, 2, tmp_path, name)
    with pytest.raises(ConfigurationError, match=r'pip install "alhpo\[hpo4dl\]"'):
        RunConfig.create({"optimizer": name, "hpo": "per-cycle"})


@pytest.mark.parametrize(
    "max_epochs", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 9))]
)
def test_the_rules_are_kept(name, max_epochs):
    check_optimizer(get_optimizer_factory(name), max_epochs=max_epochs, max_budget=40)


class Flaky:
    """Metrics from a hash of configuration and epoch; some NaN, infinite or an exception."""

    replaces_files = False
    identity = "flaky"

    def __init__(self, seed, rate, interrupt_at=None):
        self.seed, self.rate, self.interrupt_at = seed, rate, interrupt_at
        self.calls = 0

    def __call__(self, configuration, epoch, previous_epoch, checkpoint_path):
        if self.calls == self.interrupt_at:
            raise KeyboardInterrupt
        self.calls += 1
        key = repr(sorted(configuration.items()))
        fate, level, kind = numpy_generator(self.seed, key, epoch).random(3)
        if fate < self.rate:
            if kind < 0.3:
                raise ValueError("a flaky trial")
            return {"epoch": epoch, "metric": math.nan if kind < 0.6 else -math.inf}
        return {"epoch": epoch, "metric": float(round(level, 1))}


@PROPERTIES
@given(data=st.data())
def test_a_search_that_is_killed_and_continued_is_the_uninterrupted_one(name, data):
    space = data.draw(spaces())
    rate = data.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    minimize, seed = data.draw(st.booleans()), data.draw(st.integers(0, 2**40))
    sizes = {"max_epochs": data.draw(st.integers(1, 5)), "max_budget": 16}
    sizes["num_configurations"] = data.draw(st.integers(1, 20))
    sampled = SampledConfigurations(space, 99)
    n = len(sampled.add_configurations(data.draw(st.integers(0, 2))))
    initial = [sampled.get_configuration(number) for number in range(n)]

    def tuner(objective, folder):
        return Tuner(
            objective,
            space,
            **sizes,
            output_path=folder,
            optimizer=name,
            minimize=minimize,
            seed=seed,
            initial_configurations=initial,
            max_failures=16,
            progress=False,
        )

    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as broken:
        expected = tuner(Flaky(seed, rate), whole)
        _run(expected)
        rows = _told(expected)
        assert 1 <= len(rows) <= 16
        for _ in range(data.draw(st.integers(1, 2))):
            at = data.draw(st.integers(0, len(rows)))
            _run(tuner(Flaky(seed, rate, interrupt_at=at), broken))
        search = tuner(Flaky(seed, rate), broken)
        _run(search)
        assert repr(_told(search)) == repr(rows)

    pairs = [(number, epoch) for number, epoch, *_ in rows]
    assert len(set(pairs)) == len(pairs)
    over = set()
    for number, epoch, _, metric in rows:
        assert number not in over
        if math.isnan(metric) or epoch == sizes["max_epochs"]:
            over.add(number)
    first = list(dict.fromkeys(number for number, *_ in rows))
    k = min(len(initial), len(first), sizes["num_configurations"])
    assert first[:k] == list(range(k))
    assert [values for _, _, values, _ in rows[:1]] == (initial[:1] or [rows[0][2]])


def _run(search):
    try:
        search.run()
    except KeyboardInterrupt:
        pass
    except Exception as error:
        assert "No trial succeeded" in str(error)


def _told(search):
    return [
        (row["configuration_id"], row["epoch"], row["configuration"], row["metric"])
        for row in search.results
    ]


def test_minimizing_is_maximizing_the_negative(name, tmp_path):
    columns = ["configuration_id", "configuration", "epoch"]
    settings = {"max_epochs": 4, "max_budget": 30, "output_path": tmp_path, "optimizer": name}
    up = Tuner(ToyObjective(), toy_space(), **settings, seed=2, progress=False)
    negated = ToyObjective(lambda *of: -learning_curve(*of))
    down = Tuner(negated, toy_space(), **settings, seed=2, minimize=True, progress=False)
    assert up.run()["metric"] == -down.run()["metric"]
    one, other = (read_rows(search.experiment_path) for search in (up, down))
    assert one[columns].equals(other[columns])
    assert (one["metric"] == -other["metric"]).all()
