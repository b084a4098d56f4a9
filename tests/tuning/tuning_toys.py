"""Objectives and spaces for the tests of the tuner; the objectives really checkpoint to disk."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pandas as pd
import pytest
from ConfigSpace import ConfigurationSpace

from alhpo.tuning.optimizers import hpo4dl

#: The optimizers of this package by their names.
OWN_OPTIMIZERS = ["asha", "dyhpo", "hyperband", "one-epoch", "random", "tpe"]
TIMES = ["time", "overhead_time", "total_time"]


def needs_optuna(name: str) -> None:
    """Skip a test of an optimizer whose package is not installed."""
    if name == "tpe":
        pytest.importorskip("optuna")


def toy_space() -> ConfigurationSpace:
    return ConfigurationSpace({"x": (0.0, 1.0), "kind": ["a", "b"]})


def learning_curve(configuration, epoch: int) -> float:
    """Rises with the epoch, best near x = 0.3 with kind "b", and not always rising."""
    quality = 1 - (configuration["x"] - 0.3) ** 2 - 0.1 * (configuration["kind"] == "a")
    return quality * (1 - math.exp(-epoch / 3)) - 0.2 * (epoch % 4 == 0)


class ToyObjective:
    """Counts its epochs in two files that it writes one after the other, as a checkpoint.

    Returns one dict per epoch; an epoch's metric depends on the state found on disk.
    """

    def __init__(self, curve=learning_curve, replaces_files: bool = False) -> None:
        self.curve = curve
        self.replaces_files = replaces_files
        self.identity = "toy"
        self.calls: list[tuple[str, int]] = []

    def __call__(self, configuration, epoch, previous_epoch, checkpoint_path):
        folder = Path(checkpoint_path)
        self.calls.append((folder.name, epoch))
        total = 0.0
        if previous_epoch:
            parts = [json.loads((folder / name).read_text()) for name in ("one.json", "two.json")]
            assert parts[0] == parts[1], "a torn checkpoint"
            assert parts[0]["epoch"] == previous_epoch, "the checkpoint of another epoch"
            total = parts[0]["total"]
        else:
            assert not folder.exists(), "leftovers of another search"
        folder.mkdir(exist_ok=True)
        rows = []
        for one in range(previous_epoch + 1, epoch + 1):
            metric = self.curve(configuration, one)
            total += metric if math.isfinite(metric) else 0.0
            rows.append({"epoch": one, "metric": metric, "total": total, "list": [one, "a"]})
        for name in ("one.json", "two.json"):
            self._write(folder / name, json.dumps({"epoch": epoch, "total": total}))
        return rows

    def _write(self, path: Path, text: str) -> None:
        if self.replaces_files:
            path.with_suffix(".tmp").write_text(text)
            path.with_suffix(".tmp").replace(path)
        else:
            with path.open("w") as file:
                file.write(text[:5])
                file.flush()
                file.write(text[5:])


def quick_dyhpo(configurations, **settings):
    """HPO4DL's DyHPO with a surrogate that is fitted in 20 steps instead of 1000."""
    optimizer = hpo4dl.dyhpo(configurations, **settings)
    optimizer.upstream.surrogate_config["nr_epochs"] = 20
    return optimizer


quick_dyhpo.requires_budget = True
quick_dyhpo.identity = "quick dyhpo"
QUICK_DYHPO = pytest.param(quick_dyhpo, marks=pytest.mark.hpo4dl)


def read_rows(experiment: Path) -> pd.DataFrame:
    """The result file without the columns that differ between repetitions."""
    rows = pd.read_csv(experiment / "hpo4dl_results.csv", index_col=0, float_precision="round_trip")
    return rows.drop(columns=TIMES)


def run_in_fork(function) -> int:
    """Run a function in a fork of this process; returns its exit status (9: killed itself)."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
