"""A search over heads on frozen features beside the bare batched training of the same heads.

    python benchmarks/heads.py                         # 1,000 epochs, 2,000 x 1,280 features
    python benchmarks/heads.py --epochs 200 --labels 200

The search is ``alhpo.Tuner`` with dyhpo: five folds, a checkpoint and a journal entry for every
epoch. The bare contestant trains as many heads as many epochs: gather the batches of five heads,
one batched product forward, softmax, one batched product backward, SGD with Nesterov momentum. They
take turns in one process, every hundred epochs, so that a machine whose speed drifts treats them
alike. Seconds are wall time and CPU time of the process.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import torch

from alhpo import Tuner
from alhpo.data.feature_batches import FeatureFormat
from alhpo.models.timm_models import ModelSpec
from alhpo.training.compute import Compute
from alhpo.training.objective import Objective
from alhpo.training.recipes.frozen import FrozenRecipe
from alhpo.training.trainer import Task
from alhpo.validation import get_validation

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--labels", type=int, default=2000)
parser.add_argument("--features", type=int, default=1280)
parser.add_argument("--classes", type=int, default=10)
parser.add_argument("--epochs", type=int, default=1000, help="budget of the search")
parser.add_argument("--max-epochs", type=int, default=50, help="of a full training")
parser.add_argument("--parallel", type=int, default=1, help="trials at a time")
parser.add_argument("--threads", type=int, help="of torch; default: torch's own")
parser.add_argument("--output", type=Path, help="write the figures as JSON")
args = parser.parse_args()
if args.threads:
    torch.set_num_threads(args.threads)

FOLDS, BATCH, TURN = 5, 64, 100


class GivenFeatures(FrozenRecipe):
    """The recipe for features that are there already."""

    def __init__(self, spec: ModelSpec, width: int) -> None:
        self.spec = spec
        self.encoder = SimpleNamespace(width=width, weights="given", form=None)
        self._seed, self._fitted = 0, None


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Noise around one centre per class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(args.labels) % args.classes
    centres = torch.randn(args.classes, args.features, generator=generator) / 8
    noise = torch.randn(args.labels, args.features, generator=generator)
    return centres[labels] + noise, labels


class Bare:
    """Five heads, trained as a bare loop would."""

    def __init__(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        self.features, self.labels = features, labels
        self.weights = torch.zeros(FOLDS, args.features, args.classes)
        self.biases = torch.zeros(FOLDS, 1, args.classes)
        self.moments = [torch.zeros_like(self.weights), torch.zeros_like(self.biases)]
        self.train = len(labels) * (FOLDS - 1) // FOLDS
        self.batch = min(BATCH, self.train)

    def epoch(self) -> None:
        steps = self.train // self.batch
        order = torch.stack([torch.randperm(len(self.labels)) for _ in range(FOLDS)])
        for step in range(steps):
            rows = order[:, step * self.batch : (step + 1) * self.batch]
            inputs = self.features[rows]
            errors = torch.baddbmm(self.biases, inputs, self.weights).softmax(2)
            errors.scatter_add_(2, self.labels[rows][..., None], torch.full((*rows.shape, 1), -1.0))
            errors /= self.batch
            gradients = [inputs.transpose(1, 2) @ errors, errors.sum(1, keepdim=True)]
            for value, gradient, moment in zip(
                (self.weights, self.biases), gradients, self.moments, strict=True
            ):
                gradient.add_(value, alpha=5e-4)
                moment.mul_(0.9).add_(gradient)
                value.add_(gradient.add_(moment, alpha=0.9), alpha=-0.01)


def main() -> None:
    features, labels = data()
    spec = ModelSpec("given", args.classes, 3, (32, 32), pretrained=True)
    compute = Compute(torch.device("cpu"), "float32", False)
    task = Task(
        features,
        labels,
        GivenFeatures(spec, args.features),
        FeatureFormat(),
        compute,
        args.max_epochs,
        0,
        "none",
    )
    objective = Objective(
        task, space="head", validation=get_validation(f"kfold:{FOLDS}"), metric="likelihood"
    )
    bare = Bare(features, labels)
    bare.epoch()
    spent = {"search": [0.0, 0.0], "bare": [0.0, 0.0]}
    done, last = 0, (time.perf_counter(), time.process_time())

    def take(who: str) -> None:
        nonlocal last
        now = time.perf_counter(), time.process_time()
        for kind in range(2):
            spent[who][kind] += now[kind] - last[kind]
        last = now

    def turn(_: dict) -> None:
        nonlocal done
        done += 1
        if done % TURN == 0 or done == args.epochs:
            take("search")
            for _ in range(TURN if done % TURN == 0 else done % TURN):
                bare.epoch()
            take("bare")

    with tempfile.TemporaryDirectory() as folder:
        tuner = Tuner(
            objective_function=objective,
            configuration_space=objective.configuration_space,
            max_epochs=args.max_epochs,
            max_budget=args.epochs,
            output_path=folder,
            optimizer="dyhpo",
            parallel=args.parallel,
            seed=0,
            progress=False,
            callback=turn,
        )
        last = time.perf_counter(), time.process_time()
        best = tuner.run()
        take("search")
    wall, cpu = (spent["search"][kind] / spent["bare"][kind] for kind in range(2))
    figures = {
        "labels": args.labels,
        "features": args.features,
        "classes": args.classes,
        "epochs": done,
        "parallel": args.parallel,
        "threads": torch.get_num_threads(),
        "search_seconds": spent["search"],
        "bare_seconds": spent["bare"],
        "ratio_wall": wall,
        "ratio_cpu": cpu,
        "best_accuracy": best["accuracy"],
        "machine": f"{platform.processor() or platform.machine()}, torch {version('torch')}",
    }
    print(
        f"search {spent['search'][0]:.1f} s (CPU {spent['search'][1]:.1f}), bare "
        f"{spent['bare'][0]:.1f} s (CPU {spent['bare'][1]:.1f}): ratio {wall:.2f} (CPU {cpu:.2f})"
    )
    if args.output:
        args.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
