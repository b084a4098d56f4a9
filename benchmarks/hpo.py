# ruff: noqa: E402
"""Race the optimizers on recorded learning curves, and time what they cost themselves.

    python benchmarks/hpo.py race                          # the curves shipped in benchmarks/data
    python benchmarks/hpo.py race --taskset taskset.npz    # and recorded curves of TaskSet
    python benchmarks/hpo.py race --taskset taskset.npz --optimizers --rival dehb=PYTHON
    python benchmarks/hpo.py transfer                      # over a growing labelled pool
    python benchmarks/hpo.py seconds --taskset taskset.npz # beside hpo4dl's own DyHPO
    python benchmarks/hpo.py report --figure docs/images/hpo-race.png

Every race is a cell of (task, optimizer, seed); finished cells are kept in ``--cells`` and are not
run again, so that a long benchmark can be stopped and continued. ``report`` prints tables from the
cells: means, and differences from dyhpo's regret, paired by task and seed. The regret is (best of
the table - best found) / (best of the table - worst of it); in the figures it is the mean over
tasks and seeds with its 95 % confidence interval.

``--rival`` adds other packages' searches, each run by the Python of an environment of its own
(``benchmarks/rival_search.py`` tells how to make it); their cells, with the packages' versions, are
kept in ``--rival-cells``.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before NumPy and torch are loaded: one thread a race

import numpy as np
import torch
from ConfigSpace import (
    CategoricalHyperparameter,
    ConfigurationSpace,
    EqualsCondition,
    UniformFloatHyperparameter,
)
from hpo_report import MARKS, OPTIMIZERS, draw, is_digits, read_cells, report
from race import CurveTable, race
from rivals import Rival, rivals_of
from rivals import race as rival_race

from alhpo.tuning import dyhpo, get_optimizer_factory

HERE = Path(__file__).parent
#: TaskSet's first columns are of networks that are hardly trained.
FIRST_COLUMN = 2
LINEAR = {"exponential_decay", "linear_decay"}
#: Those whose choices depend on the budget, which are told each mark; others run once, to the last.
TOLD = ("one-epoch", "dyhpo")


def taskset(path: str) -> dict[str, CurveTable]:
    """Tables of the file: ``hp_names``, ``tasks``, ``hp`` and ``valid_loss``."""
    data = np.load(path, allow_pickle=False)
    names = [str(name) for name in data["hp_names"]]
    tables = {}
    for task, values, loss in zip(data["tasks"], data["hp"], data["valid_loss"], strict=True):
        numbers = [
            UniformFloatHyperparameter(
                name,
                float(values[:, column].min()),
                float(values[:, column].max()),
                log=name not in LINEAR,
            )
            for column, name in enumerate(names)
        ]
        rows = [dict(zip(names, map(float, row), strict=True)) for row in values]
        metrics = np.exp(-loss.astype(float))[:, FIRST_COLUMN:]
        tables[str(task)] = CurveTable(_space(numbers), rows, metrics)
    return tables


def digits(path: Path) -> dict[str, CurveTable]:
    """Curves that ``record_curves.py`` recorded, one table per size of the labelled pool."""
    data = np.load(path, allow_pickle=False)
    optimizer = CategoricalHyperparameter("optimizer", ["sgd", "adam"])
    momentum = UniformFloatHyperparameter("momentum", 0.1, 0.99)
    numbers = [
        UniformFloatHyperparameter("lr", 1e-5, 1.0, log=True),
        UniformFloatHyperparameter("weight_decay", 1e-5, 1e-1, log=True),
    ]
    space = _space([*numbers, optimizer, momentum], EqualsCondition(momentum, optimizer, "sgd"))
    rows: list[dict[str, Any]] = []
    for values, adam in zip(data["values"], data["adam"], strict=True):
        row = dict(zip(map(str, data["names"]), map(float, values), strict=True))
        row["optimizer"] = "adam" if adam else "sgd"
        rows.append({name: value for name, value in row.items() if value == value})
    return {
        f"digits, {size} labels": CurveTable(space, rows, curves.astype(float))
        for size, curves in zip(data["sizes"], data["accuracy"], strict=True)
    }


def _space(hyperparameters: list, *conditions: Any) -> ConfigurationSpace:
    space = ConfigurationSpace()
    if hasattr(space, "add"):
        space.add([*hyperparameters, *conditions])
    else:  # ConfigSpace 0.7
        space.add_hyperparameters(hyperparameters)
        space.add_conditions(list(conditions))
    return space


@functools.cache
def tables(taskset_path: str | None, digits_path: str) -> dict[str, CurveTable]:
    found = taskset(taskset_path) if taskset_path else {}
    if Path(digits_path).exists():
        found |= digits(Path(digits_path))
    return found


def cell(
    paths: tuple[str | None, str], task: str, optimizer: str | Rival, seed: int, budget: int
) -> dict:
    """One race: the regret at each mark."""
    torch.set_num_threads(1)
    known = tables(*paths)
    family = [name for name in known if is_digits(name) == is_digits(task)]
    table = known[task].shuffled(seed, family.index(task))
    half = table.metrics.size // 2  # who sees more than that finds the best anyhow
    marks = [mark for mark in MARKS if mark <= min(budget, half)]
    if optimizer in TOLD:
        factory = get_optimizer_factory(optimizer)
        runs = [race(factory, table, budget=mark, seed=seed) for mark in marks]
        regret = [float(table.regret(one.best(m))[-1]) for one, m in zip(runs, marks, strict=True)]
        done = runs[-1]
    else:
        if isinstance(optimizer, Rival):
            done = rival_race(optimizer, table, budget=marks[-1], seed=seed)
        else:
            factory = get_optimizer_factory(optimizer)
            done = race(factory, table, budget=marks[-1], seed=seed)
        curve = table.regret(done.best(marks[-1]))
        regret = [float(curve[mark - 1]) for mark in marks]
    versions = {"versions": optimizer.versions} if isinstance(optimizer, Rival) else {}
    return {
        "task": task,
        "optimizer": title(optimizer),
        "seed": seed,
        "budget": budget,
        "regret": dict(zip(map(str, marks), regret, strict=True)),
        "seconds": done.seconds,
        "suggestions": done.suggestions,
    } | versions


def title(optimizer: str | Rival) -> str:
    return optimizer.title if isinstance(optimizer, Rival) else optimizer


def run_races(args: argparse.Namespace) -> None:
    paths = (args.taskset, str(args.curves))
    kept = {args.cells: args.optimizers, args.rival_cells: rivals_of(args.rival, args.ifbo_weights)}
    done = {
        (one["task"], one["optimizer"], one["seed"])
        for file in kept
        for one in read_cells(file)
        if one["budget"] >= args.budget
    }
    wanted = {
        (task, optimizer, seed): file
        for seed in range(args.seeds)
        for file, optimizers in kept.items()
        for optimizer in optimizers
        for task in tables(*paths)
        if (task, title(optimizer), seed) not in done
    }
    print(f"{len(wanted)} races to run, {len(done)} done before", flush=True)
    failed = 0
    with ProcessPoolExecutor(args.jobs) as pool:
        futures = {pool.submit(cell, paths, *one, args.budget): one for one in wanted}
        for future in as_completed(futures):
            task, optimizer, seed = one = futures[future]
            if error := future.exception():
                failed += 1
                print(f"{title(optimizer)}, {task}, seed {seed}: {error}", flush=True)
                continue
            wanted[one].parent.mkdir(parents=True, exist_ok=True)
            with wanted[one].open("a") as file:
                file.write(json.dumps(future.result()) + "\n")
    if failed:
        raise SystemExit(f"{failed} races failed")


def run_transfer(args: argparse.Namespace) -> None:
    """Epochs until searches with transfer are as good, in the mean, as those without at the end."""
    known = digits(args.curves)
    curves: dict[str, dict[str, list]] = {size: {"alone": [], "transfer": []} for size in known}
    for seed in range(args.seeds):
        history: list = []
        for place, (size, table) in enumerate(known.items()):
            order = table.shuffled(seed, place)
            ages = [one.as_history(age) for age, one in enumerate(reversed(history), 1)]
            alone = race(dyhpo, order, budget=args.budget, seed=seed)
            helped = race(dyhpo, order, budget=args.budget, seed=seed, history=ages)
            for name, done in (("alone", alone), ("transfer", helped)):
                curves[size][name].append(table.regret(done.best(args.budget)))
            history.append(helped)
    summary: dict[str, Any] = {"budget": args.budget, "seeds": args.seeds}
    sizes = list(known)[1:]
    means = {
        name: {size: np.mean(curves[size][name], axis=0) for size in sizes}
        for name in ("alone", "transfer")
    }
    for name, by_size in means.items():
        means[name] = by_size | {"all": np.mean(list(by_size.values()), axis=0)}
    for size in (*sizes, "all"):
        alone, helped = means["alone"][size], means["transfer"][size]
        as_good = np.flatnonzero(helped <= alone[-1])
        epochs = int(as_good[0]) + 1 if len(as_good) else None
        summary[size] = {
            "regret alone": alone.tolist(),
            "regret with transfer": helped.tolist(),
            "epochs to the regret alone ends with": epochs,
        }
        half = args.budget // 2 - 1
        print(
            f"{size}: regret after {args.budget} epochs {alone[-1]:.4f} alone, {helped[-1]:.4f} "
            f"with transfer, which needs {epochs} epochs for {alone[-1]:.4f}; after half the "
            f"epochs {alone[half]:.4f} alone, {helped[half]:.4f} with transfer"
        )
    write(args.output, summary)


def run_seconds(args: argparse.Namespace) -> None:
    """The optimizers' own seconds over a search, taking turns."""
    name, table = next(iter(tables(args.taskset, str(args.curves)).items()))
    contestants = {
        "dyhpo": dyhpo,
        "dyhpo, fitted at every step": functools.partial(dyhpo, refit_growth=1.0, fit_steps=50),
        "hpo4dl-dyhpo": get_optimizer_factory("hpo4dl-dyhpo"),
    }
    found: dict[str, dict[int, list[float]]] = {one: {} for one in contestants}
    for budget in args.suggestions:
        for seed in range(args.seeds):
            for contestant, factory in contestants.items():
                before = time.process_time()
                done = race(factory, table.shuffled(seed, 0), budget=budget, seed=seed)
                cpu = time.process_time() - before
                found[contestant].setdefault(budget, []).append(cpu)
                print(
                    f"{budget} suggestions, seed {seed}, {contestant}: {cpu:.2f} s of CPU, "
                    f"{done.seconds / done.suggestions * 1000:.0f} ms a suggestion",
                    flush=True,
                )
    summary: dict[str, Any] = {"task": name}
    for contestant, by_budget in found.items():
        for budget, seconds in by_budget.items():
            peer = statistics.median(found["hpo4dl-dyhpo"][budget])
            own = statistics.median(seconds)
            summary[f"{contestant}, {budget}"] = {"seconds": own, "of hpo4dl": own / peer}
            print(f"{contestant}, {budget} suggestions: {own:.2f} s, 1/{peer / own:.1f} of hpo4dl")
    write(args.output, summary)


def write(path: Path | None, content: dict) -> None:
    if path is None:
        return
    packages = ["numpy", "scipy", "torch", "ConfigSpace", "hpo4dl", "optuna"]
    content["machine"] = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    } | {name: _version(name) for name in packages}
    path.write_text(json.dumps(content, indent=1) + "\n")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except ImportError:
        return None


def run_report(args: argparse.Namespace) -> None:
    summary = report(read_cells(args.cells) + read_cells(args.rival_cells))
    if args.figure:
        draw(summary, args.figure)
    write(args.output, {"summary": summary})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--curves", type=Path, default=HERE / "data" / "digits-resnet18.npz")
    shared.add_argument("--taskset", help="recorded curves of TaskSet (.npz)")
    shared.add_argument("--cells", type=Path, default=HERE / "results" / "hpo-cells.jsonl")
    shared.add_argument(
        "--rival-cells", type=Path, default=HERE / "results" / "hpo-rival-cells.jsonl"
    )
    shared.add_argument("--seeds", type=int, help="10 by default; 1 for seconds")
    shared.add_argument("--output", type=Path, help="write the figures as JSON")
    kinds = parser.add_subparsers(required=True)
    one = kinds.add_parser("race", parents=[shared])
    one.add_argument("--optimizers", nargs="*", default=list(OPTIMIZERS), choices=OPTIMIZERS)
    one.add_argument(
        "--rival",
        nargs="+",
        default=[],
        metavar="NAME=PYTHON",
        help="dehb, smac, neps, neps-priorband, lkgp or ifbo, and the Python that has it",
    )
    one.add_argument("--ifbo-weights", type=Path, help="folder with the weights of ifBO's network")
    one.add_argument("--budget", type=int, default=max(MARKS))
    one.add_argument("--jobs", type=int, default=os.cpu_count())
    one.set_defaults(run=run_races)
    one = kinds.add_parser("transfer", parents=[shared])
    one.add_argument("--budget", type=int, default=60)
    one.set_defaults(run=run_transfer)
    one = kinds.add_parser("seconds", parents=[shared])
    one.add_argument("--suggestions", type=int, nargs="+", default=[60, 200])
    one.set_defaults(run=run_seconds)
    one = kinds.add_parser("report", parents=[shared])
    one.add_argument("--figure", type=Path)
    one.set_defaults(run=run_report)
    args = parser.parse_args()
    if args.seeds is None:
        args.seeds = 1 if args.run is run_seconds else 10
    args.run(args)


if __name__ == "__main__":
    main()
