"""One search of another package over recorded curves, in an environment of its own.

``benchmarks/hpo.py race --rival NAME=PYTHON`` runs this file with that Python, which needs NumPy
and the package, but not alhpo. To make the environments (Python 3.11):

    python -m venv dehb && dehb/bin/pip install dehb
    python -m venv smac && smac/bin/pip install smac==2.4.1 "scikit-learn<1.8"
    python -m venv neps && neps/bin/pip install neural-pipeline-search
    python -m venv botorch && botorch/bin/pip install botorch
    python benchmarks/hpo.py race --taskset taskset-dev.npz --optimizers \\
        --rival dehb=dehb/bin/python smac=smac/bin/python neps=neps/bin/python \\
        neps-priorband=neps/bin/python lkgp=botorch/bin/python

The process runs one search after the other. A search sees the configurations as points of the unit
cube and asks, line by line in JSON, for epochs of them; whoever started it holds the curves, counts
the epochs and answers with their metrics. Rivals that propose points of their own get the nearest
configuration that no other point stands for.

ifBO runs in the environment of NePS, and only where ``--ifbo-weights`` names its network's weights:
a folder ``.model`` with the archive that ifbo downloads and the ``.pt`` file out of it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import numpy as np

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("rival", choices=["dehb", "smac", "neps", "neps-priorband", "lkgp", "ifbo"])
parser.add_argument("--about", action="store_true", help="tell its version")
parser.add_argument("--ifbo-weights", type=Path, help="folder with the weights of ifBO's network")

#: Proposals in a row that train nothing, after which a search is taken to have ended.
IDLE = 500


class Ended(Exception):
    """The budget is spent, or nothing is left to train."""


class Table:
    """What a search sees: points, and the metrics of the epochs that it had trained.

    Attributes:
        x: (n, d) configurations in the unit cube; categories as their numbers.
        choices: d numbers of categories; 0 where the hyperparameter is a number.
        epochs: of a whole training.
        budget: epochs to spend.
        seed: of the search.
        curves: metrics after each epoch, NaN once a training has diverged, by row.
    """

    def __init__(self, task: Mapping[str, Any], questions: TextIO, answers: TextIO) -> None:
        self.x = np.array(task["x"])
        self.choices: list[int] = task["choices"]
        self.epochs: int = task["epochs"]
        self.budget: int = task["budget"]
        self.seed: int = task["seed"]
        self.curves: dict[int, list[float]] = {}
        self._questions, self._answers = questions, answers
        self._rows: dict[tuple[float, ...], int] = {}
        self._idle = 0

    def train(self, row: int, epochs: int) -> None:
        """Train a configuration up to so many epochs, unless it was already, or has diverged.

        Raises:
            Ended: there is no budget left.
        """
        curve = self.curves.setdefault(row, [])
        if len(curve) >= epochs or any(np.isnan(curve)):
            self._idle += 1
            if self._idle > IDLE:
                raise Ended
            return
        self._idle = 0
        print(json.dumps({"row": row, "epochs": epochs}), file=self._questions, flush=True)
        answer = json.loads(self._answers.readline())
        curve += [float("nan") if metric is None else metric for metric in answer["metrics"]]
        if answer["ended"]:
            raise Ended

    def loss(self, point: list[float], epochs: int) -> float:
        """1 - metric of a proposed point after so many epochs, 1 if it has diverged before."""
        row = self.row(point)
        self.train(row, epochs)
        curve = self.curves[row][:epochs]
        return 1.0 if any(np.isnan(curve)) else 1.0 - curve[-1]

    def row(self, point: list[float]) -> int:
        """The configuration that stands for a point: the nearest that stands for no other."""
        key = tuple(map(float, point))
        if key not in self._rows:
            apart = self.x - np.array(key)
            category = np.array(self.choices) > 0
            apart[:, category] = apart[:, category] != 0
            distance = (apart**2).sum(axis=1)
            if len(self._rows) < len(self.x):
                distance[list(self._rows.values())] = np.inf
            self._rows[key] = int(distance.argmin())
        return self._rows[key]


def dehb(table: Table, folder: str) -> None:
    """DEHB with its defaults; categories are equal parts of an axis, as it does it itself."""
    from dehb import DEHB

    search = DEHB(
        f=None,
        dimensions=len(table.choices),
        min_fidelity=1,
        max_fidelity=table.epochs,
        n_workers=1,
        seed=table.seed,
        output_path=folder,
        save_freq="end",
    )
    while True:
        job = search.ask()
        point = [
            min(int(value * choices), choices - 1) if choices else float(value)
            for value, choices in zip(job["config"], table.choices, strict=True)
        ]
        epochs = round(job["fidelity"])
        search.tell(job, {"fitness": table.loss(point, epochs), "cost": float(epochs)})


def smac(table: Table, folder: str) -> None:
    """SMAC's multi-fidelity facade: a random forest proposes, Hyperband allots."""
    from ConfigSpace import Categorical, ConfigurationSpace, Float
    from smac import MultiFidelityFacade, Scenario
    from smac.runhistory import TrialValue

    space = ConfigurationSpace(seed=table.seed)
    names = [f"x{place}" for place in range(len(table.choices))]
    for name, choices in zip(names, table.choices, strict=True):
        categories = list(range(choices))
        space.add(Categorical(name, categories) if choices else Float(name, (0.0, 1.0)))
    scenario = Scenario(
        space,
        output_directory=Path(folder),
        deterministic=True,
        n_trials=table.budget,
        min_budget=1,
        max_budget=table.epochs,
        seed=table.seed,
    )
    search = MultiFidelityFacade(scenario, lambda config, seed, budget: 0.0, logging_level=40)
    while True:
        trial = search.ask()
        point = [float(trial.config[name]) for name in names]
        loss = table.loss(point, round(trial.budget))
        search.tell(trial, TrialValue(cost=loss), save=False)


def neps(table: Table, algorithm: Callable[[Any, bool], Any], prior: bool) -> None:
    """An algorithm of NePS; its prior, where it takes one, is the middle of every range."""
    from neps import AskAndTell, Categorical, Float, IntegerFidelity, PipelineSpace

    names = [f"x{place}" for place in range(len(table.choices))]
    parts: dict[str, Any] = {"epochs": IntegerFidelity(1, table.epochs)}
    for name, choices in zip(names, table.choices, strict=True):
        middle: dict[str, Any] = {"prior_confidence": "low"} if prior else {}
        if choices:
            middle |= {"prior": 0} if prior else {}
            parts[name] = Categorical(tuple(range(choices)), **middle)
        else:
            middle |= {"prior": 0.5} if prior else {}
            parts[name] = Float(0.0, 1.0, **middle)
    search = AskAndTell(algorithm(type("Space", (PipelineSpace,), parts)(), prior))
    while True:
        trial = search.ask()
        config = trial.config
        loss = table.loss([config[name] for name in names], int(config["epochs"]))
        search.tell(trial, loss)


def bracket(space: Any, prior: bool) -> Any:
    """PriorBand with a prior, Hyperband without, as NePS chooses by itself."""
    from neps.optimizers import algorithms

    return algorithms.priorband(space) if prior else algorithms.hyperband(space)


def lkgp(table: Table) -> None:
    from rival_kronecker import freeze_thaw

    freeze_thaw(table)


def ifbo(table: Table, weights: Path) -> None:
    """ifBO as in NePS: one epoch at a time, by a network that has learnt to foresee curves.

    NePS loads the weights with pickle, in this process.
    """
    from neps.optimizers import algorithms

    neps(table, lambda space, _: algorithms.ifbo(space, surrogate_path=weights), False)


#: The module of a rival, and the packages whose versions are recorded, its own first.
PACKAGES = {
    "dehb": ("dehb", "dehb", "numpy"),
    "smac": ("smac", "smac", "ConfigSpace", "scikit-learn", "numpy"),
    "neps": ("neps", "neural-pipeline-search", "torch", "numpy"),
    "neps-priorband": ("neps", "neural-pipeline-search", "torch", "numpy"),
    "lkgp": ("rival_kronecker", "botorch", "gpytorch", "linear-operator", "torch"),
    "ifbo": ("neps", "ifbo", "neural-pipeline-search", "torch"),
}


def seed_everything(seed: int) -> None:
    """NePS draws from the global generators; this process is its own."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(seed)


def main(args: argparse.Namespace) -> None:
    module, *packages = PACKAGES[args.rival]
    if args.about:
        versions = {name: version(name) for name in packages}
        print(json.dumps(versions | {"python": platform.python_version()}))
        return
    questions = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what packages print is no question
    import_module(module)
    searches: Mapping[str, Callable[[Table, str], None]] = {
        "dehb": dehb,
        "smac": smac,
        "neps": lambda table, _: neps(table, bracket, prior=False),
        "neps-priorband": lambda table, _: neps(table, bracket, prior=True),
        "lkgp": lambda table, _: lkgp(table),
        "ifbo": lambda table, _: ifbo(table, args.ifbo_weights),
    }
    print(json.dumps(None), file=questions, flush=True)
    while line := sys.stdin.readline():
        table = Table(json.loads(line), questions, sys.stdin)
        seed_everything(table.seed)
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Ended):
            searches[args.rival](table, folder)
        print(json.dumps(None), file=questions, flush=True)


if __name__ == "__main__":
    main(parser.parse_args())
