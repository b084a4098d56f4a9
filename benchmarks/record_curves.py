"""Record learning curves of ResNet-18 on the growing pool of a real active-learning run.

The pool grows by BADGE on scikit-learn's digits; at each of its sizes every configuration of a
random sample is trained from the same initial weights, and its accuracy on images that are no
part of the pool is recorded after every epoch. ``benchmarks/hpo.py`` races optimizers on these
curves without training anything.

    python benchmarks/record_curves.py benchmarks/data/digits-resnet18.npz
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from ConfigSpace import (
    CategoricalHyperparameter,
    ConfigurationSpace,
    EqualsCondition,
    UniformFloatHyperparameter,
)

from alhpo import ActiveLearner, load_dataset
from alhpo.base.files import atomic_path
from alhpo.data.batches import DeviceImages
from alhpo.hyperparameters import Hyperparameters
from alhpo.training.evaluation import evaluate
from alhpo.training.trainer import Trainer
from alhpo.tuning import SampledConfigurations


def space() -> ConfigurationSpace:
    """Learning rate, weight decay, optimizer, and momentum where that is SGD."""
    optimizer = CategoricalHyperparameter("optimizer", ["sgd", "adam"])
    momentum = UniformFloatHyperparameter("momentum", 0.1, 0.99)
    numbers = [
        UniformFloatHyperparameter("lr", 1e-5, 1.0, log=True),
        UniformFloatHyperparameter("weight_decay", 1e-5, 1e-1, log=True),
    ]
    made = ConfigurationSpace()
    condition = EqualsCondition(momentum, optimizer, "sgd")
    if hasattr(made, "add"):
        made.add([*numbers, optimizer, momentum, condition])
    else:  # ConfigSpace 0.7
        made.add_hyperparameters([*numbers, optimizer, momentum])
        made.add_condition(condition)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[80, 120, 160])
    parser.add_argument("--configurations", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--images", type=int, default=120, help="held-out images")
    args = parser.parse_args()

    dataset = load_dataset("digits")
    learner = ActiveLearner(
        dataset,
        "resnet18",
        "badge",
        hyperparameters={"batch_size": 16, "lr": 0.01},
        max_epochs=args.epochs,
    )
    configurations = SampledConfigurations(space(), 0)
    numbers = configurations.add_configurations(args.configurations)
    chosen = [configurations.get_configuration(number) for number in numbers]
    curves = np.full((len(args.sizes), len(chosen), args.epochs), np.nan, dtype=np.float32)
    learner.label_initial(args.sizes[0])
    held_out = learner._images(
        dataset.eval_images[: args.images], dataset.eval_labels[: args.images]
    )
    for place, size in enumerate(args.sizes):
        if size > learner.n_labeled:
            learner.fit()
            learner.query(size - learner.n_labeled)
        start = time.perf_counter()
        for number, configuration in enumerate(chosen):
            curves[place, number] = curve(learner, configuration, held_out, args.epochs)
        seconds = time.perf_counter() - start
        best = np.nanmax(curves[place])
        print(f"{size} labels: {seconds:.0f} s, best accuracy {best:.3f}", flush=True)
    names = ["lr", "weight_decay", "momentum"]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(args.output) as beside, beside.open("wb") as file:
        np.savez_compressed(
            file,
            sizes=np.array(args.sizes),
            names=np.array(names),
            values=np.array([[one.get(n, np.nan) for n in names] for one in chosen]),
            adam=np.array([one["optimizer"] == "adam" for one in chosen]),
            accuracy=curves,
        )


def curve(
    learner: ActiveLearner, configuration: dict, held_out: DeviceImages, epochs: int
) -> list[float]:
    """Accuracy after each epoch; NaN from where training diverged."""
    task = learner._task("curves")
    parts = [task.device_images(np.arange(learner.n_labeled))]
    trainer = Trainer(task, Hyperparameters.create(learner.fixed, configuration), parts, "none")
    accuracies = []
    for _ in range(epochs):
        trainer.advance()
        if trainer.diverged:
            break
        accuracies.append(evaluate(task.recipe, trainer.models[0], held_out, task.compute).accuracy)
    return accuracies + [float("nan")] * (epochs - len(accuracies))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
