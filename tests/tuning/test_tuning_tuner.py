"""The Tuner as its users see it: results, files, budgets, failures, arguments."""

from __future__ import annotations

import functools
import json
import logging
import math
from importlib.metadata import EntryPoint

import numpy as np
import pandas as pd
import pytest
import torch
from ConfigSpace import ConfigurationSpace
from tuning_toys import QUICK_DYHPO, ToyObjective, learning_curve, read_rows, toy_space

from alhpo.base.errors import ConfigurationError, EarlierResultWarning, RunLockedError, TunerError
from alhpo.base.files import exclusive
from alhpo.tuning import Tuner, get_optimizer_factory, optimizer_names, register_optimizer
from alhpo.tuning.optimizers import registry

KEYS = {
    *("configuration_id", "configuration", "epoch", "metric"),
    *("time", "overhead_time", "total_time", "best_metric"),
}


def tuner(objective, output, optimizer="random", max_epochs=3, max_budget=12, **settings):
    settings = {"seed": 0, "num_configurations": 10, "progress": False} | settings
    space = settings.pop("space", None) or toy_space()
    return Tuner(objective, space, max_epochs, max_budget, output, optimizer, **settings)


def test_result_and_files_have_upstreams_form(tmp_path):
    search = tuner(ToyObjective(), tmp_path)
    best = search.run()
    assert set(best) >= KEYS
    assert best["list"] == [best["epoch"], "a"]
    folder = search.experiment_path
    assert folder.parent == tmp_path
    assert folder.name.startswith("experiment_")
    assert {path.name for path in folder.iterdir()} == {
        *("hpo4dl_results.csv", "configuration_space.json", "best_trial", "journal.jsonl", ".lock"),
        "format.json",
    }
    rows = pd.read_csv(folder / "hpo4dl_results.csv", index_col=0, float_precision="round_trip")
    assert list(rows.columns) == [
        *("epoch", "metric", "total", "list", "configuration_id", "configuration"),
        *("time", "overhead_time", "total_time", "best_metric"),
    ]
    assert len(rows) == search.epochs_spent == 12
    assert rows["best_metric"].tolist() == rows["metric"].cummax().tolist()
    assert best["metric"] == rows["metric"].max() == best["best_metric"]
    assert np.allclose(rows["total_time"], rows["time"] + rows["overhead_time"])
    space = {
        one["name"]: one for one in json.loads((folder / "configuration_space.json").read_text())
    }
    assert space["x"]["bounds"] == [0.0, 1.0]
    assert space["kind"]["values"] == ["a", "b"]
    assert set(space["x"]) == {"name", "type", "default", "values", "bounds", "log"}
    assert [row["metric"] for row in search.results] == rows["metric"].tolist()


def test_random_search_trains_each_configuration_to_the_end(tmp_path):
    search = tuner(ToyObjective(), tmp_path, max_budget=None, num_configurations=4)
    search.run()
    rows = read_rows(search.experiment_path)
    assert rows["configuration_id"].tolist() == [n for n in range(4) for _ in range(3)]
    assert rows["epoch"].tolist() == [1, 2, 3] * 4


@pytest.mark.parametrize("optimizer", ["random", "hyperband", QUICK_DYHPO])
@pytest.mark.parametrize("max_budget", [1, 5])
def test_the_budget_counts_epochs(tmp_path, optimizer, max_budget):
    objective = ToyObjective()
    search = tuner(objective, tmp_path, optimizer, max_epochs=9, max_budget=max_budget)
    search.run()
    assert len(objective.calls) == search.epochs_spent == max_budget


def test_hyperbands_own_budget(tmp_path):
    settings = {"max_epochs": 27, "max_budget": 27, "num_configurations": 30}
    search = tuner(ToyObjective(), tmp_path, "hyperband", **settings)
    search.run()
    rows = read_rows(search.experiment_path)
    assert rows["configuration_id"].tolist() == list(range(27))
    assert set(rows["epoch"]) == {1}


@pytest.mark.parametrize("optimizer", ["random", "hyperband", QUICK_DYHPO])
def test_minimize_minimizes(tmp_path, optimizer):
    def loss(configuration, epoch):
        return -learning_curve(configuration, epoch)

    settings = {"max_epochs": 4, "max_budget": 5}
    up = tuner(ToyObjective(), tmp_path / "up", optimizer, **settings)
    down = tuner(ToyObjective(loss), tmp_path / "down", optimizer, minimize=True, **settings)
    best_up, best_down = up.run(), down.run()
    assert best_down["metric"] == -best_up["metric"]
    assert best_down["configuration"] == best_up["configuration"]
    rows_up, rows_down = read_rows(up.experiment_path), read_rows(down.experiment_path)
    assert rows_up["configuration_id"].tolist() == rows_down["configuration_id"].tolist()
    assert rows_down["best_metric"].tolist() == rows_down["metric"].cummin().tolist()


@pytest.mark.parametrize("replaces_files", [False, True])
@pytest.mark.parametrize("storage", [None, "storage"])
def test_best_trial_is_the_best_epochs_checkpoint(tmp_path, replaces_files, storage):
    def peaks_at_two(configuration, epoch):
        return configuration["x"] - (epoch - 2) ** 2

    search = tuner(
        ToyObjective(peaks_at_two, replaces_files),
        tmp_path / "out",
        max_epochs=4,
        max_budget=None,
        num_configurations=5,
        storage_path=None if storage is None else tmp_path / storage,
    )
    best = search.run()
    assert best["epoch"] == 2
    state = json.loads((search.experiment_path / "best_trial" / "one.json").read_text())
    assert state == {"epoch": 2, "total": best["total"]}
    assert not list(tmp_path.rglob("trial_*"))


def test_without_keep_best_there_is_none_until_it_is_asked_for(tmp_path):
    copies = []

    class Watching(ToyObjective):
        def __call__(self, *request):
            copies.extend(tmp_path.rglob("best_*"))
            return super().__call__(*request)

    search = tuner(Watching(), tmp_path / "out", keep_best=False, resume="quiet")
    search.run()
    assert not copies and not (search.experiment_path / "best_trial").exists()
    kept = tuner(ToyObjective(), tmp_path / "kept")
    kept.run()
    timeless = [
        [{name: value for name, value in row.items() if "time" not in name} for row in one.results]
        for one in (search, kept)
    ]
    assert timeless[0] == timeless[1]
    more = tuner(Watching(), tmp_path / "out", max_budget=20, resume="quiet")
    best = more.run()
    state = json.loads((more.experiment_path / "best_trial" / "one.json").read_text())
    assert state == {"epoch": best["epoch"], "total": best["total"]}


def test_checkpoints_of_finished_trials_go_at_once(tmp_path):
    seen = []

    class Watching(ToyObjective):
        def __call__(self, configuration, epoch, previous_epoch, checkpoint_path):
            root = tmp_path / "store"
            seen.append(sorted(path.name for path in root.rglob("trial_?")))
            return super().__call__(configuration, epoch, previous_epoch, checkpoint_path)

    tuner(Watching(), tmp_path / "out", storage_path=tmp_path / "store").run()
    assert max(map(len, seen)) == 1


def test_a_checkpoint_that_is_a_file(tmp_path):
    def objective(configuration, epoch, previous_epoch, checkpoint_path):
        if previous_epoch:
            with open(checkpoint_path) as file:  # noqa: PTH123 - as users write it
                assert file.read() == str(previous_epoch)
        with open(checkpoint_path, "w") as file:  # noqa: PTH123
            file.write(str(epoch))
        return {"epoch": epoch, "metric": -abs(epoch - 2)}

    search = tuner(objective, tmp_path)
    assert search.run()["epoch"] == 2
    assert (search.experiment_path / "best_trial").read_text() == "2"


def test_an_objective_without_checkpoints(tmp_path):
    search = tuner(lambda c, e, p, path: {"epoch": e, "metric": c["x"]}, tmp_path)
    search.run()
    assert not (search.experiment_path / "best_trial").exists()


def _first_trial(outcome):
    """A curve that ends in ``outcome`` for whatever configuration is tried first."""
    first = []

    def curve(configuration, epoch):
        first[:] = first or [configuration["x"]]
        return outcome() if configuration["x"] == first[0] else learning_curve(configuration, epoch)

    return curve


def _fail():
    raise ZeroDivisionError("no gradient")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("optimizer", ["random", "hyperband", QUICK_DYHPO])
def test_diverged_configurations_are_left_out_for_good(tmp_path, optimizer, bad):
    objective = ToyObjective(_first_trial(lambda: bad))
    search = tuner(objective, tmp_path, optimizer, max_epochs=4, max_budget=8)
    best = search.run()
    assert best["configuration"]["x"] != search.results[0]["configuration"]["x"]
    rows = read_rows(search.experiment_path)
    diverged = rows[rows["metric"].isna()]
    assert len(diverged) == 1
    assert diverged.index.tolist() == [0]
    assert rows["best_metric"].dropna().is_monotonic_increasing
    statuses = [
        (entry["metric"] is None, entry["status"])
        for entry in map(json.loads, (search.experiment_path / "journal.jsonl").open())
        if entry["kind"] == "epoch"
    ]
    assert set(statuses) == {(True, "diverged"), (False, "ok")}


def test_hyperband_promotes_no_diverged_configuration(tmp_path):
    def late(configuration, epoch):
        return math.nan if configuration["x"] > 0.5 and epoch > 1 else configuration["x"]

    search = tuner(ToyObjective(late), tmp_path, "hyperband", max_epochs=9, max_budget=None)
    search.run()
    rows = read_rows(search.experiment_path)
    for _, trial in rows.groupby("configuration_id"):
        assert not trial["metric"].isna().iloc[:-1].any()


@pytest.mark.parametrize("optimizer", ["random", "hyperband", QUICK_DYHPO])
def test_a_failed_trial_that_is_allowed_is_left_out(tmp_path, optimizer, caplog):
    objective = ToyObjective(_first_trial(_fail))
    settings = {"max_epochs": 3, "max_budget": 8, "max_failures": 1}
    search = tuner(objective, tmp_path, optimizer, **settings)
    with caplog.at_level(logging.WARNING, "alhpo.tuning"):
        assert search.run()["configuration_id"] != search.results[0]["configuration_id"]
    assert "no gradient" in caplog.text
    entries = [*map(json.loads, (search.experiment_path / "journal.jsonl").open())]
    failed = [entry for entry in entries if entry.get("status") == "failed"]
    assert "Traceback" in failed[0]["traceback"]
    assert len(failed) == 1
    assert [row["configuration_id"] for row in search.results].count(
        failed[0]["configuration_id"]
    ) == 1
    assert search.epochs_spent == 8


def test_a_search_in_which_nothing_converges(tmp_path):
    for _ in range(2):  # the record says so again
        with pytest.raises(TunerError, match="not finite"):
            tuner(ToyObjective(lambda *_: math.nan), tmp_path, max_budget=6).run()


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({"metric": 0.5}, "'epoch'"),
        ({"epoch": 1}, "'metric'"),
        ({"epoch": 2, "metric": 0.5}, "epoch 2"),
        ({"epoch": 1, "metric": "0.5"}, "a number"),
        ({"epoch": 1, "metric": None}, "a number"),
        ({"epoch": 1, "metric": True}, "a number"),
        (0.5, "a dict"),
        (None, "a dict"),
        ([], "0 results"),
        ([{"epoch": 1, "metric": 0.1}, {"epoch": 2, "metric": 0.1}], "2 results"),
    ],
)
def test_a_broken_contract_ends_the_search_at_once(tmp_path, returned, message):
    with pytest.raises(TunerError, match=message):
        tuner(lambda *_: returned, tmp_path).run()


def test_numbers_of_numpy_and_torch_and_further_metrics_travel(tmp_path):
    def objective(configuration, epoch, previous_epoch, checkpoint_path):
        return {
            "loss": np.float32(0.5),
            "epoch": np.int64(epoch),
            "metric": torch.tensor(0.25),
            "per_split": np.array([1.0, 2.0]),
            "worst": math.nan,
            "note": "fine",
        }

    search = tuner(objective, tmp_path)
    best = search.run()
    assert (best["loss"], best["metric"], best["per_split"]) == (0.5, 0.25, [1.0, 2.0])
    assert type(best["metric"]) is float
    rows = pd.read_csv(search.experiment_path / "hpo4dl_results.csv", index_col=0)
    assert list(rows.columns)[:6] == ["loss", "epoch", "metric", "per_split", "worst", "note"]
    again = tuner(objective, tmp_path).run()
    assert math.isnan(again.pop("worst"))
    best.pop("worst")
    assert again == best


def test_a_finished_search_returns_its_result_and_says_so(tmp_path):
    objective = ToyObjective()
    first = tuner(objective, tmp_path)
    best = first.run()
    with pytest.warns(EarlierResultWarning, match=f"of 12 epochs in {first.experiment_path}"):
        assert first.run() == best
    second = tuner(objective, tmp_path)
    assert second.epochs_spent == 12
    with pytest.warns(EarlierResultWarning, match="resume=False"):
        assert second.run() == best
    assert len(objective.calls) == 12
    assert len(list(tmp_path.iterdir())) == 1
    assert not logging.getLogger("alhpo.tuning").handlers


def test_resume_false_starts_anew_beside_it(tmp_path):
    paths = [tuner(ToyObjective(), tmp_path).experiment_path]
    tuner(ToyObjective(), tmp_path).run()
    for _ in range(2):
        fresh = tuner(ToyObjective(), tmp_path, resume=False)
        fresh.run()
        paths.append(fresh.experiment_path)
    base = paths[0].name
    assert [path.name for path in paths] == [base, f"{base}-2", f"{base}-3"]
    pd.testing.assert_frame_equal(read_rows(paths[0]), read_rows(paths[2]))
    assert tuner(ToyObjective(), tmp_path).experiment_path == paths[2]


def test_without_a_seed_every_search_is_its_own(tmp_path):
    paths = {tuner(ToyObjective(), tmp_path, seed=None).experiment_path for _ in range(3)}
    assert len(paths) == 3


def test_whatever_defines_the_search_names_its_folder(tmp_path):
    other = ToyObjective()
    other.identity = "another"
    changes = [
        {},
        {"seed": 1},
        {"max_epochs": 4},
        {"num_configurations": 11},
        {"minimize": True},
        {"optimizer": "hyperband"},
        {"initial_configurations": [{"x": 0.5, "kind": "a"}]},
        {"space": ConfigurationSpace({"x": (0.0, 2.0), "kind": ["a", "b"]})},
    ]
    paths = [tuner(ToyObjective(), tmp_path, **change).experiment_path for change in changes]
    paths.append(tuner(other, tmp_path).experiment_path)
    paths += [tuner(_offset(shift), tmp_path).experiment_path for shift in (0.1, 0.2)]
    assert len(set(paths)) == len(paths)
    for incidental in (
        {"device": "cpu"},
        {"max_budget": 13},
        {"keep_mib": 0},
        {"keep_best": False},
    ):
        assert tuner(_offset(0.1), tmp_path, **incidental).experiment_path == paths[-2]


def _offset(shift):
    def objective(configuration, epoch, previous_epoch, checkpoint_path):
        return {"epoch": epoch, "metric": configuration["x"] + shift}

    return objective


def test_two_tuners_cannot_share_a_folder(tmp_path):
    search = tuner(ToyObjective(), tmp_path)
    with exclusive(search.experiment_path), pytest.raises(RunLockedError):
        search.run()


@pytest.mark.parametrize("optimizer", ["random", "hyperband", QUICK_DYHPO])
def test_initial_configurations_are_tried_first(tmp_path, optimizer):
    initial = [{"x": 0.3, "kind": "b"}, {"x": 0.9, "kind": "a"}]
    objective = ToyObjective()
    search = tuner(objective, tmp_path, optimizer, 3, initial_configurations=initial)
    search.run()
    tried = [row["configuration"] for row in search.results if row["epoch"] == 1]
    assert tried[:2] == initial


@pytest.mark.parametrize("optimizer", ["random", "hyperband", QUICK_DYHPO])
def test_a_small_space_ends_the_search(tmp_path, optimizer):
    space = ConfigurationSpace({"x": (1, 2), "kind": ["a", "b"]})
    search = tuner(ToyObjective(), tmp_path, optimizer, 4, 100, space=space)
    search.run()
    assert len({row["configuration_id"] for row in search.results}) == 4
    assert search.epochs_spent <= 16


def test_callback_sees_every_row(tmp_path):
    rows = []
    search = tuner(ToyObjective(), tmp_path, callback=rows.append)
    search.run()
    assert [row["metric"] for row in rows] == [row["metric"] for row in search.results]
    assert all(set(row) >= KEYS for row in rows)


def test_an_optimizer_of_ones_own(tmp_path, own_registry):
    class Halver:
        """Trains all for one epoch, then the best to the end."""

        def __init__(self, configurations, max_epochs, n):
            self.ids = configurations.add_configurations(n)
            self.max_epochs, self.results = max_epochs, None

        def suggest(self):
            if self.results is None:
                return np.array(self.ids), np.ones(len(self.ids), dtype=int)
            if len(self.results) == len(self.ids):
                best = max(self.results, key=lambda result: result["metric"])
                return [best["configuration_id"]], [self.max_epochs]
            return None, None

        def observe(self, configuration_results):
            self.results = [*(self.results or []), *configuration_results]

    def factory(configurations, *, max_epochs, max_budget, num_configurations, seed, device):
        return Halver(configurations, max_epochs, num_configurations)

    direct = tuner(ToyObjective(), tmp_path / "direct", factory, max_budget=None)
    direct.run()
    register_optimizer("halver", factory)
    assert "halver" in optimizer_names()
    named = tuner(ToyObjective(), tmp_path / "named", "halver", max_budget=None)
    named.run()
    pd.testing.assert_frame_equal(
        read_rows(direct.experiment_path), read_rows(named.experiment_path)
    )
    assert named.epochs_spent == 10 + 2


class Stubborn:
    """Asks for the same forever."""

    def __init__(self, configurations, suggestion):
        configurations.add_configurations(3)
        self.suggestion = suggestion

    def suggest(self):
        return self.suggestion

    def observe(self, configuration_results):
        pass


def test_an_optimizer_that_suggests_nothing_new_ends(tmp_path, caplog):
    objective = ToyObjective()
    factory = lambda configurations, **_: Stubborn(configurations, ([1], [2]))  # noqa: E731
    assert tuner(objective, tmp_path, factory, max_budget=None).run()["configuration_id"] == 1
    assert len(objective.calls) == 2
    assert "nothing new" in caplog.text


@pytest.mark.parametrize("suggestion", [([3], [1]), ([0], [4]), ([0], [0]), ([0, 1], [1])])
def test_an_impossible_suggestion_is_an_error(tmp_path, suggestion):
    factory = lambda configurations, **_: Stubborn(configurations, suggestion)  # noqa: E731
    with pytest.raises(TunerError, match="suggested"):
        tuner(ToyObjective(), tmp_path, factory).run()


def one_at_a_time(configurations, **_):
    """A factory that does not say that it takes ``parallel``."""


class Untrainable(ToyObjective):
    train_together = 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective_function": 3}, "objective_function"),
        ({"configuration_space": {"x": (0, 1)}}, "ConfigurationSpace"),
        ({"configuration_space": ConfigurationSpace()}, "has no hyperparameter"),
        ({"max_epochs": 0}, "max_epochs is 0"),
        ({"max_epochs": 2.0}, "max_epochs is 2.0"),
        ({"max_epochs": True}, "max_epochs is True"),
        ({"max_budget": 0}, "max_budget is 0"),
        ({"max_budget": None}, "max_budget is None"),
        ({"output_path": 3}, "output_path"),
        ({"optimizer": "smac"}, "Legal: asha, dyhpo, h"),
        ({"optimizer": 3}, "optimizer is 3"),
        ({"minimize": "yes"}, "minimize"),
        ({"num_configurations": 0}, "num_configurations is 0"),
        ({"parallel": 0}, "parallel is 0"),
        ({"parallel": 2, "optimizer": one_at_a_time}, "suggests one trial at a time"),
        ({"objective_function": Untrainable()}, "train_together is 3"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"device": "gpu"}, "device is 'gpu'"),
        ({"storage_path": 3}, "storage_path"),
        ({"initial_configurations": [{"x": 7.0, "kind": "a"}]}, "Initial configuration 0"),
        ({"initial_configurations": {"x": 0.5}}, "initial_configurations"),
        ({"resume": 1}, "resume is 1"),
        ({"resume": "no"}, "resume is 'no'"),
        ({"max_failures": -1}, "max_failures is -1"),
        ({"identity": math.nan}, "identity is nan"),
        ({"identity": {"a": object()}}, "identity is {'a': <object"),
        ({"output_path": "/dev/null/out"}, "'/dev/null' cannot be written"),
        ({"storage_path": "/dev/null/out"}, "'/dev/null' cannot be written"),
        ({"optimizer": lambda configurations: None}, "cannot be called as an optimizer factory"),
        ({"warm_start": [3]}, "warm_start has 3 for a search"),
        ({"observed": 3}, "observed has 3 for a search"),
        ({"observed": [{"x": 1}]}, "observed has the row"),
        ({"progress": None}, "progress"),
        ({"callback": 3}, "callback"),
    ],
)
def test_arguments_are_checked_before_any_work(tmp_path, change, message):
    arguments = {
        "objective_function": ToyObjective(),
        "configuration_space": toy_space(),
        "max_epochs": 3,
        "max_budget": 3,
        "output_path": tmp_path / "out",
    }
    with pytest.raises(ConfigurationError, match=message):
        Tuner(**(arguments | change))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def own_registry():
    with registry.OPTIMIZERS.temporary():
        yield


def test_registering_nonsense_is_refused():
    with pytest.raises(ConfigurationError):
        register_optimizer("", get_optimizer_factory("random"))
    with pytest.raises(ConfigurationError):
        register_optimizer("mine", 3)


def test_a_taken_name_is_refused_unless_the_same_factory_is_defined_again(own_registry):
    def define():
        def factory(configurations, **_): ...

        return factory

    first, again = define(), define()
    register_optimizer("mine", first)
    register_optimizer("mine", first)
    register_optimizer("mine", again)
    assert get_optimizer_factory("mine") is again
    for name in optimizer_names():
        if name not in ("mine", "tpe") and not name.startswith("hpo4dl") and ":" not in name:
            register_optimizer(name, get_optimizer_factory(name))
    for taken in ("mine", "dyhpo", "random"):
        with pytest.raises(ConfigurationError, match=f"'{taken}' belongs to the optimizer"):
            register_optimizer(taken, lambda configurations, **_: None)
    quick = functools.partial(get_optimizer_factory("dyhpo"), step=3)
    register_optimizer("quick", quick)
    register_optimizer("quick", functools.partial(get_optimizer_factory("dyhpo"), step=3))
    with pytest.raises(ConfigurationError, match=r"belongs to the optimizer a functools\.partial"):
        register_optimizer("quick", functools.partial(get_optimizer_factory("dyhpo"), step=4))


@pytest.mark.parametrize("value", ["nowhere:nothing", "math:pi"])
def test_a_broken_plug_in_is_named(tmp_path, monkeypatch, own_registry, value):
    point = EntryPoint("plugged", value, "alhpo.optimizers")
    monkeypatch.setattr("alhpo.base.registry.installed_plugins", lambda group: {point.name: point})
    assert "plugged" in optimizer_names()
    with pytest.raises(ConfigurationError, match=rf"'plugged' \({value}\)"):
        tuner(ToyObjective(), tmp_path, "plugged")
