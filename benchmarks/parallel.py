"""Searches with two trials at a time beside the same search with one at a time, on the CPU.

    python benchmarks/parallel.py                             # ResNet-18 on digits, 3 rounds
    python benchmarks/parallel.py --model test_resnet         # a small network: an epoch takes ms
    python benchmarks/parallel.py --epochs 8 --rounds 1       # quickly

All train the same epochs of the same configurations (``random``, which does not choose by what it
saw), with the threads that torch takes on this machine. Two at a time run with processes of their
own, which start and end with the search, and with processes that an earlier search has started
(``TrialProcesses``), as the second and later searches of a run do. The limit is a search with one
at a time and the threads of one process, divided by the trials at a time: what cores shared without
any loss would reach. They take turns, forwards and backwards, so that a machine whose speed drifts
treats them alike. Seconds are wall time of ``Tuner.run``. Memory is what all processes together
hold (PSS, in which shared pages count once) after the last epoch.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from alhpo import ActiveLearner, Tuner, load_dataset
from alhpo.tuning import TrialProcesses

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="resnet18")
parser.add_argument("--labels", type=int, default=400, help="of digits, 8 x 8 pixels")
parser.add_argument("--batch-size", type=int, default=32)
parser.add_argument("--input-size", type=int, help="pixels a side; default: as the images are")
parser.add_argument("--epochs", type=int, default=24, help="budget of a search")
parser.add_argument("--max-epochs", type=int, default=12, help="of a full training")
parser.add_argument("--parallel", type=int, default=2, help="trials at a time")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--output", type=Path, help="write the figures as JSON")
args = parser.parse_args()


def held() -> float:
    """MB that this process and its children hold."""
    here = psutil.Process()
    every = [here, *here.children(recursive=True)]
    return sum(one.memory_full_info().pss for one in every) / 2**20


def search(
    learner: ActiveLearner, parallel: int, processes: TrialProcesses | None = None
) -> dict[str, Any]:
    """Run a search; its seconds, its memory, and what it trained."""
    objective = learner.objective()
    first = memory = 0.0
    epochs = 0

    def trained(_: dict[str, Any]) -> None:
        nonlocal first, memory, epochs
        first = first or time.perf_counter()
        epochs += 1
        if epochs == args.epochs:
            memory = held()

    with tempfile.TemporaryDirectory() as folder:
        tuner = Tuner(
            objective,
            objective.configuration_space,
            args.max_epochs,
            args.epochs,
            folder,
            optimizer="random",
            num_configurations=args.epochs,
            parallel=parallel,
            processes=processes,
            seed=0,
            progress=False,
            callback=trained,
        )
        start = time.perf_counter()
        tuner.run()
        seconds = time.perf_counter() - start
        rows = tuner.results
    return {
        "seconds": seconds,
        "seconds_to_first_epochs": first - start,
        "memory_mb": memory,
        "trained": sorted((row["configuration_id"], row["epoch"]) for row in rows),
        "metrics": {f"{row['configuration_id']}:{row['epoch']}": row["metric"] for row in rows},
    }


def main() -> None:
    learner = ActiveLearner(
        load_dataset("digits"),
        model=args.model,
        strategy="random",
        hyperparameters={"batch_size": args.batch_size},
        max_epochs=args.max_epochs,
        input_size=args.input_size,
        metric="likelihood",
        device="cpu",
    )
    learner.label_initial(args.labels)
    learner.objective()({"lr": 0.01, "weight_decay": 1e-4}, 1, 0, tempfile.mkdtemp())  # warms up
    threads = torch.get_num_threads()
    few = max(1, threads // args.parallel)
    found: dict[str, list[dict[str, Any]]] = {}
    with TrialProcesses() as kept:
        contestants = {
            "one at a time": lambda: search(learner, 1),
            f"{args.parallel} at a time": lambda: search(learner, args.parallel),
            f"{args.parallel} at a time, kept": lambda: search(learner, args.parallel, kept),
            f"one at a time, threads={few}": lambda: with_threads(few, lambda: search(learner, 1)),
        }
        one, several, later, fewer = contestants
        contestants[later]()  # starts them
        for turn in range(args.rounds):
            for name in list(contestants)[:: 1 if turn % 2 == 0 else -1]:
                found.setdefault(name, []).append(contestants[name]())
                latest = found[name][-1]
                print(
                    f"{name}: {latest['seconds']:.1f} s, {latest['memory_mb']:.0f} MB", flush=True
                )
    every = [each for name in found for each in found[name]]
    assert all(each["trained"] == every[0]["trained"] for each in every), "other epochs"
    for alike in ([one], [several, later, fewer]):  # as many threads for each trial
        metrics = [each["metrics"] for name in alike for each in found[name]]
        assert all(each == metrics[0] for each in metrics), "other metrics"
    ratios = {
        name: [
            each["seconds"] / (args.parallel if name == fewer else 1) / alone["seconds"]
            for each, alone in zip(found[name], found[one], strict=True)
        ]
        for name in (several, later, fewer)
    }
    medians = {name: statistics.median(values) for name, values in ratios.items()}
    figures = {
        **{name: value for name, value in vars(args).items() if name != "output"},
        "threads": threads,
        "ratios_of_wall_time": ratios,
        "searches": {
            name: [
                {key: each[key] for key in ("seconds", "seconds_to_first_epochs", "memory_mb")}
                for each in found[name]
            ]
            for name in found
        },
        "machine": f"{platform.processor() or platform.machine()}, torch {version('torch')}",
    }
    print(
        f"{threads} threads; {args.parallel} at a time take {medians[several]:.2f} of the time "
        f"of one, with kept processes {medians[later]:.2f}; limit {medians[fewer]:.2f}"
    )
    if args.output:
        args.output.write_text(json.dumps(figures, indent=2) + "\n")


def with_threads(threads: int, call: Callable[[], Any]) -> Any:
    """What a call returns when torch has this number of threads in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return call()
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    main()
