"""When a run searches: the modes that come with alhpo, and those of other packages."""

from __future__ import annotations

import math

import pytest
from click.testing import CliRunner
from quick_figures import undrawn  # noqa: F401 - a fixture
from toy_models import TOY

from alhpo.base.errors import ConfigurationError
from alhpo.cli import main
from alhpo.data.sources import DatasetSize
from alhpo.reports import write_report
from alhpo.runs.experiment import run_experiment
from alhpo.runs.modes import MODES, Fixed, Schedule
from alhpo.runs.settings import RunConfig
from alhpo.sessions.settings import SessionSettings
from alhpo.studies.config import Cell
from alhpo.studies.cost import cell_cost
from alhpo.testing import check_hpo_mode


def run(data, folder, **changes):
    config = RunConfig.create(TOY, {"output_dir": str(folder)}, changes)
    return run_experiment(config, dataset=data)


class WhenWorse(Schedule):
    """Another package's: in the first cycle, and when the validation accuracy fell."""

    when = "when the validation accuracy falls"

    def cycles(self, sizes):
        return range(len(sizes))

    def searches(self, cycle, sizes, records):
        if len(records) < 2:
            return cycle == 0
        before, last = (record.validation["accuracy"] for record in records[-2:])
        return last < before


@pytest.mark.parametrize(
    "mode",
    [
        *("fixed", "initial", "per-cycle", "every:2", "at:12,16", "final"),
        *("initial+final", "at:8,12+final"),
        WhenWorse(),
    ],
)
def test_modes_conform(mode):
    check_hpo_mode(mode, model=TOY["model"])


class Broken(Schedule):
    """Every second cycle, by what it keeps in itself."""

    def __init__(self):
        self.asked = 0

    def cycles(self, sizes):
        return range(len(sizes))

    def searches(self, cycle, sizes, records):
        self.asked += 1
        return self.asked % 2 == 1


class Hidden(Schedule):
    """It searches in a cycle that it does not foresee."""

    def cycles(self, sizes):
        return [0]

    def searches(self, cycle, sizes, records):
        return cycle < 2


class Silent(Schedule):
    searches_ever = False

    def cycles(self, sizes):
        return [0]


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (Broken(), "a function of the records"),
        (Hidden(), r"cycles \[1\] searched, which cycles\(\) does not foresee"),
        (Silent, "searches_ever is False, but it searched"),
        (type("Wordless", (Fixed,), {"when": ""}), "not words"),
        (type("Beyond", (Schedule,), {"cycles": lambda self, sizes: [9]}), "the cycles 0 to 2"),
    ],
)
def test_the_suite_finds_what_is_broken(mode, message):
    with pytest.raises(AssertionError, match=message):
        check_hpo_mode(mode, model=TOY["model"])
    assert "under-test" not in MODES.names()


@pytest.mark.parametrize(
    ("hpo", "tuned"),
    [
        ("initial", [True, False, False]),
        ("at:20,28", [False, True, True]),
        ("at:12", [True, False, False]),
    ],
)
def test_a_run_keeps_what_its_latest_search_found(few_digits, tmp_path, hpo, tuned):
    outside = {"batch_size": 8, "lr": 0.5}  # of the space: no search finds it
    changes = {"hpo": hpo, "hyperparameters": outside, "measure_current": False}
    records = run(few_digits, tmp_path, **changes).records
    assert [record.tuned for record in records] == tuned
    current = 0.5
    for record in records:
        if not record.tuned:
            assert record.configuration["lr"] == current
        current = record.configuration["lr"]
    assert current <= 0.1


def test_a_mode_of_another_package(few_digits, tmp_path):
    """Its name is a setting; cost and report know it, and reports read its runs without it."""
    with MODES.temporary():
        MODES.register("when-worse", WhenWorse)
        MODES.register("when-worse", WhenWorse)  # a notebook cell that is run again
        result = run(few_digits, tmp_path, hpo="when-worse", seed=1)
        config = RunConfig.create(TOY, {"hpo": "when-worse"})
        cost = cell_cost(Cell(0, config, {}), DatasetSize(120, 60, (8, 8, 1), 10))
        assert cost.epochs == 3 * 4 + 3 * 2  # at most a search in every cycle
        assert sum(record.epochs["hpo"] for record in result.records) <= 3 * 4
    assert result.path.name.startswith("digits-entropy-when-worse-seed1-")
    report = write_report(tmp_path)
    assert "hpo: when-worse" in report.markdown.read_text()
    with pytest.raises(ConfigurationError, match="Unknown HPO mode 'when-worse'"):
        RunConfig.create(TOY, {"hpo": "when-worse"})


def test_a_search_in_the_last_cycle_and_after_it_is_refused():
    with MODES.temporary():
        MODES.register("both", type("Both", (WhenWorse,), {"final_search": True}))
        with pytest.raises(ConfigurationError, match="'both': The mode searches in the last cycle"):
            RunConfig.create(TOY, {"hpo": "both"})


@pytest.mark.parametrize("mode", ["per-cycle+final", "every:2+final", "at:12,28+final"])
def test_a_last_cycle_that_searches_has_no_search_after_it(mode):
    with pytest.raises(ConfigurationError, match=r"on the same labels\. Leave out one"):
        RunConfig.create(TOY, {"hpo": mode})


@pytest.mark.parametrize("mode", ["fixed+final", "final+final", "initial+final+final"])
def test_a_final_search_is_added_once_to_searches_in_cycles(mode):
    with pytest.raises(ConfigurationError, match=r"before \+final, expected a mode that searches"):
        RunConfig.create(TOY, {"hpo": mode})
    with pytest.raises(ConfigurationError, match=r"Unknown HPO mode .intial.\. Did you mean .init"):
        RunConfig.create(TOY, {"hpo": "intial+final"})


# --- budgets ------------------------------------------------------------------------------------

#: Their searches in the three cycles of TOY.
MODES_OF_TOY = {
    "fixed": 0,
    "initial": 1,
    "every:2": 2,
    "per-cycle": 3,
    "at:20": 1,
    "final": 1,
    "initial+final": 2,
    "at:12,20+final": 3,
}


@pytest.mark.parametrize("optimizer", ["dyhpo", "random"])
@pytest.mark.parametrize("mode", MODES_OF_TOY)
def test_all_searches_share_a_total_budget(few_digits, tmp_path, mode, optimizer):
    config = RunConfig.create(
        {name: value for name, value in TOY.items() if name != "max_budget"},
        {"hpo": mode, "optimizer": optimizer, "total_budget": 14, "validate_fixed": False},
        {"output_dir": str(tmp_path), "num_configurations": 30},
    )
    assert sum(config.search_budgets) == (14 if MODES_OF_TOY[mode] else 0)
    records = run_experiment(config, dataset=few_digits).records
    spent = [record.epochs["hpo"] for record in records if record.tuned]
    assert spent == config.search_budgets and len(spent) == MODES_OF_TOY[mode]
    assert max(spent, default=0) - min(spent, default=0) <= 1  # evenly
    cost = cell_cost(Cell(0, config, {}), DatasetSize(120, 60, (8, 8, 1), 10))
    assert cost.epochs == sum(sum(record.epochs.values()) for record in records)


def test_budgets_that_cannot_be_divided():
    toy = {name: value for name, value in TOY.items() if name != "max_budget"}
    with pytest.raises(ConfigurationError, match="2 epochs for 3 searches"):
        RunConfig.create(toy, {"hpo": "per-cycle", "total_budget": 2})
    with pytest.raises(ConfigurationError, match="total_budget is 90 epochs and max_budget 30"):
        RunConfig.create(toy, {"hpo": "initial", "total_budget": 90, "max_budget": 30})
    fixed = {"hpo": "fixed", "total_budget": 2}  # it searches nothing: the same run
    assert RunConfig.create(toy, fixed).name == RunConfig.create(toy, {"hpo": "fixed"}).name


# --- which configuration stays -------------------------------------------------------------------


@pytest.mark.parametrize("adopt", ["better", "sure"])
@pytest.mark.parametrize("validation", ["kfold:3", "random:0.4x3"])
@pytest.mark.parametrize("metric", ["likelihood", "accuracy"])
def test_a_search_replaces_what_it_is_sure_to_improve(
    few_digits, tmp_path, adopt, validation, metric
):
    changes = {"adopt": adopt, "validation": validation, "metric": metric, "hpo": "per-cycle"}
    run_of = RunConfig.create(
        TOY, changes, {"output_dir": str(tmp_path), "max_budget": 12, "optimizer": "random"}
    )
    current = TOY["hyperparameters"].get("lr", 0.05)
    for record in run_experiment(run_of, dataset=few_digits).records:
        search = record.search
        if metric == "accuracy" and validation == "kfold:3":  # folds of one size
            assert search["paired_gain"] == pytest.approx(search["found"] - search["current"])
        if metric == "likelihood":
            nats = math.log(search["found"]) - math.log(search["current"])
            assert search["paired_gain"] == pytest.approx(nats, abs=1e-6)
        better = search["found"] > search["current"]
        if adopt == "sure":
            better = better and search["paired_gain"] > search["paired_error"]
        assert search["replaced"] == better == (record.configuration["lr"] != current)
        assert search["adopted"] == search["found" if better else "current"]
        current = record.configuration["lr"]


def test_nothing_is_sure_without_a_comparison():
    with pytest.raises(ConfigurationError, match="adopt is 'sure', but with measure_current"):
        RunConfig.create(TOY, {"adopt": "sure", "measure_current": False})
    searching = {"adopt": "sure", "hpo": "per-cycle", "max_epochs": 10}
    with pytest.raises(ConfigurationError, match=r"a search of 10 epochs cannot.*\(10 epochs\)"):
        RunConfig.create(TOY, searching, {"max_budget": 10})
    three = {"initial_size": 12, "acquisition_size": 8, "budget": 28, **searching}
    with pytest.raises(ConfigurationError, match="a search of 10 epochs cannot"):
        RunConfig.create(three, {"total_budget": 32})
    RunConfig.create(three, {"total_budget": 33})
    RunConfig.create(TOY, searching, {"max_budget": 10, "hpo": "fixed"})
    with pytest.raises(ConfigurationError, match="a search of 10 epochs cannot"):
        SessionSettings.create({"images": "photos", **searching, "max_budget": 10})


def test_what_is_no_mode():
    with MODES.temporary(), pytest.raises(ConfigurationError, match="lacks searches_ever"):
        MODES.register("sometimes", lambda cycle: cycle == 3)


@pytest.mark.usefixtures("undrawn")
def test_several_modes_in_one_command(few_digits, tmp_path, monkeypatch):
    """Commas belong to the numbers of labels after ``at:``."""
    monkeypatch.setattr("alhpo.runs.experiment.load_data", lambda _: few_digits)
    changes = {"hpo": "fixed, at:12,20; initial", "output_dir": str(tmp_path)}
    settings = {k: v for k, v in (TOY | changes).items() if k != "hyperparameters"}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    result = CliRunner().invoke(main, ["run", *flags], catch_exceptions=False)
    assert result.exit_code == 0
    for mode in ("fixed", "at-12-20", "initial"):
        assert f"digits-entropy-{mode}-seed0-" in result.output
