"""A search with two trials at a time beside the same search with one at a time, on the CPU.

    python benchmarks/parallel.py                             # ResNet-18 on digits, 3 rounds
    python benchmarks/parallel.py --model test_resnet         # a small network: an epoch takes ms
    python benchmarks/parallel.py --epochs 8 --rounds 1       # quickly

Both train the same epochs of the same configurations (``random``, which does not choose by what it
saw), with the threads that torch takes on this machine. They take turns, in the order 1, 2, 2, 1,
..., so that a machine whose speed drifts treats them alike. Seconds are wall time of ``Tuner.run``,
the start and the end of processes included. Memory is what all processes together hold (PSS, in
which shared pages count once) after the last epoch; beside it stands what they held before.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from alhpo import ActiveLearner, Tuner, load_dataset

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


def search(learner: ActiveLearner, parallel: int) -> dict[str, Any]:
    """Run a search; its seconds, its memory, and what it trained."""
    objective = learner.objective()
    memory = [held()]
    first = 0.0

    def trained(_: dict[str, Any]) -> None:
        nonlocal first
        first = first or time.perf_counter()
        if len(tuner_rows) == args.epochs - 1:
            memory.append(held())
        tuner_rows.append(1)

    tuner_rows: list[int] = []
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
    numbers = [1, args.parallel]
    found: dict[int, list[dict[str, Any]]] = {number: [] for number in numbers}
    for turn in range(args.rounds):
        for number in numbers if turn % 2 == 0 else numbers[::-1]:
            found[number].append(search(learner, number))
            seconds, before = (found[number][-1][name] for name in ("seconds", "memory_mb"))
            print(f"parallel={number}: {seconds:.1f} s, {before[-1]:.0f} MB", flush=True)
    every = [one for number in numbers for one in found[number]]
    assert all(one["trained"] == every[0]["trained"] for one in every), "other epochs"
    for number in numbers:
        metrics = [one["metrics"] for one in found[number]]
        assert all(one == metrics[0] for one in metrics), "other metrics when repeated"
    pairs = zip(found[args.parallel], found[1], strict=True)
    ratios = [ours["seconds"] / alone["seconds"] for ours, alone in pairs]
    figures = {
        **{name: value for name, value in vars(args).items() if name != "output"},
        "threads": torch.get_num_threads(),
        "ratio_wall": statistics.median(ratios),
        "ratios": ratios,
        "searches": {
            number: [
                {name: one[name] for name in ("seconds", "seconds_to_first_epochs", "memory_mb")}
                for one in found[number]
            ]
            for number in numbers
        },
        "machine": f"{platform.processor() or platform.machine()}, torch {version('torch')}",
    }
    print(
        f"{torch.get_num_threads()} threads; parallel={args.parallel} takes "
        f"{figures['ratio_wall']:.2f} of the wall time of parallel=1 "
        f"({', '.join(f'{ratio:.2f}' for ratio in ratios)})"
    )
    if args.output:
        args.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
