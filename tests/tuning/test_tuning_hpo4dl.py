"""HPO4DL's optimizers: the same search as HPO4DL's own Tuner, and nothing left behind."""

from __future__ import annotations

import logging
import math
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from tuning_toys import TIMES, ToyObjective, learning_curve, quick_dyhpo, read_rows, toy_space

from alhpo.tuning import SampledConfigurations, Tuner, get_optimizer_factory
from alhpo.tuning.optimizers.containment import Containment

pytestmark = pytest.mark.hpo4dl


def _upstream_rows(folder: Path, objective, *, quick: bool = False, **settings) -> pd.DataFrame:
    """Run HPO4DL's unmodified Tuner."""
    from hpo4dl.tuner import Tuner as UpstreamTuner

    with Containment("dyhpo").active():
        search = UpstreamTuner(
            objective, toy_space(), output_path=folder, storage_path=folder / "storage", **settings
        )
        if quick:
            search.surrogate.surrogate_config["nr_epochs"] = 20
        search.run()
    (results,) = folder.glob("experiment_*/hpo4dl_results.csv")
    rows = pd.read_csv(results, index_col=0, float_precision="round_trip").drop(columns=TIMES)
    # ConfigSpace 1.x samples NumPy strings, and upstream writes their repr.
    rows["configuration"] = rows["configuration"].str.replace(
        r"np\.str_\(('.*?')\)", r"\1", regex=True
    )
    return rows


def _our_rows(folder: Path, objective, **settings) -> pd.DataFrame:
    search = Tuner(objective, toy_space(), output_path=folder, progress=False, **settings)
    search.run()
    return read_rows(search.experiment_path)


@pytest.mark.slow
def test_dyhpo_is_the_search_of_upstreams_tuner(tmp_path):
    settings = {"max_epochs": 4, "max_budget": 4, "num_configurations": 60, "seed": 3}
    settings |= {"device": "cpu"}
    theirs = _upstream_rows(tmp_path / "theirs", ToyObjective(), optimizer="dyhpo", **settings)
    ours = _our_rows(tmp_path / "ours", ToyObjective(), optimizer="hpo4dl-dyhpo", **settings)
    pd.testing.assert_frame_equal(ours, theirs)


@pytest.mark.parametrize("seed", [0, 1])
def test_dyhpo_with_a_quick_surrogate_is_too(tmp_path, seed):
    settings = {"max_epochs": 3, "max_budget": 20, "num_configurations": 30, "seed": seed}
    settings |= {"device": "cpu"}
    theirs = _upstream_rows(tmp_path / "theirs", ToyObjective(), quick=True, **settings)
    ours = _our_rows(tmp_path / "ours", ToyObjective(), optimizer=quick_dyhpo, **settings)
    pd.testing.assert_frame_equal(ours, theirs)


@pytest.mark.parametrize(("seed", "num_configurations"), [(0, 1000), (5, 60), (5, 7)])
def test_hyperband_is_the_search_of_upstreams_tuner(tmp_path, seed, num_configurations):
    settings = {"max_epochs": 27, "max_budget": None, "seed": seed}
    settings |= {"num_configurations": num_configurations}
    theirs = _upstream_rows(tmp_path / "theirs", ToyObjective(), optimizer="hyperband", **settings)
    ours = _our_rows(tmp_path / "ours", ToyObjective(), optimizer="hpo4dl-hyperband", **settings)
    pd.testing.assert_frame_equal(ours, theirs)
    assert len(ours) == 357  # upstream's README would have 27 be enough


def test_upstreams_dyhpo_maximizes_when_told_to_minimize(tmp_path):
    """What the Tuner's negated metrics are there for."""
    settings = {"max_epochs": 3, "max_budget": 12, "num_configurations": 30, "seed": 0}
    settings |= {"quick": True, "device": "cpu"}
    up = _upstream_rows(tmp_path / "up", ToyObjective(), **settings)
    down = _upstream_rows(tmp_path / "down", ToyObjective(), minimize=True, **settings)
    pd.testing.assert_frame_equal(up.drop(columns="best_metric"), down.drop(columns="best_metric"))
    settings.pop("quick")
    ours = _our_rows(
        tmp_path / "ours", ToyObjective(), minimize=True, optimizer=quick_dyhpo, **settings
    )
    assert ours["configuration_id"].tolist() != up["configuration_id"].tolist()


def _process_state() -> dict:
    logger = logging.getLogger("dyhpo")
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": [np.asarray(part).tolist() for part in np.random.get_state()],  # noqa: NPY002
        "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        "sklearn": sklearn.get_config(),
        "logger": (list(logger.handlers), logger.propagate, logger.level, logger.disabled),
        "root": list(logging.getLogger().handlers),
        "folder": sorted(path.name for path in Path.cwd().iterdir()),
        "temporary": {path.name for path in Path(tempfile.gettempdir()).glob("alhpo-*")},
    }


@pytest.mark.parametrize("name", ["hpo4dl-dyhpo", "hpo4dl-hyperband"])
def test_no_call_leaves_a_trace_in_the_process(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    factory = quick_dyhpo if name == "hpo4dl-dyhpo" else get_optimizer_factory(name)
    get_optimizer_factory(name)
    before = _process_state()
    configurations = SampledConfigurations(toy_space(), 0)
    optimizer = factory(
        configurations, max_epochs=3, max_budget=9, num_configurations=20, seed=4, device="cpu"
    )
    during = {key: value for key, value in before.items() if key != "temporary"}
    assert {key: _process_state()[key] for key in during} == during
    for _ in range(3):
        ids, epochs = optimizer.suggest()
        optimizer.observe(
            [
                {
                    "configuration_id": number,
                    "configuration": configurations.get_configuration(number),
                    "epoch": epoch,
                    "metric": 0.5,
                    "time": 1.0,
                }
                for number, epoch in zip(ids, epochs, strict=True)
            ]
        )
        assert {key: _process_state()[key] for key in during} == during
    del optimizer
    assert _process_state() == before


def test_what_the_user_draws_does_not_matter(tmp_path):
    class Drawing(ToyObjective):
        def __call__(self, *arguments):
            torch.randn(3)
            np.random.rand(5)  # noqa: NPY002
            return super().__call__(*arguments)

    settings = {"max_epochs": 3, "max_budget": 8, "num_configurations": 30, "seed": 1}
    settings |= {"optimizer": quick_dyhpo, "device": "cpu"}
    quiet = _our_rows(tmp_path / "quiet", ToyObjective(), **settings)
    drawing = _our_rows(tmp_path / "drawing", Drawing(), **settings)
    pd.testing.assert_frame_equal(quiet, drawing)


def test_a_large_seed_is_accepted(tmp_path):
    settings = {"max_epochs": 2, "max_budget": 2, "num_configurations": 5, "seed": 2**62 + 1}
    for optimizer in (quick_dyhpo, "hpo4dl-hyperband", "random"):
        rows = _our_rows(tmp_path, ToyObjective(), optimizer=optimizer, **settings)
        assert 1 <= len(rows) <= 2


def test_dyhpo_with_every_candidate_lost_or_done_ends(tmp_path):
    def mostly_nan(configuration, epoch):
        return learning_curve(configuration, epoch) if configuration["x"] < 0.3 else math.nan

    search = Tuner(
        ToyObjective(mostly_nan),
        toy_space(),
        2,
        500,
        tmp_path,
        quick_dyhpo,
        num_configurations=12,
        seed=0,
        progress=False,
    )
    search.run()
    rows = read_rows(search.experiment_path)
    lost = rows[rows["metric"].isna()]
    assert len(lost) == lost["configuration_id"].nunique()
    assert rows["configuration_id"].nunique() == 12
    assert len(rows) == len(lost) + 2 * (12 - len(lost))
