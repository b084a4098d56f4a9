"""Training on one GPU: our captured steps beside eager ones, checks of equality, and Table 1.

    python benchmarks/gpu.py --data cifar10            # all parts, some eight minutes on an H100
    python benchmarks/gpu.py --parts checks speed      # without images

``--data`` is CIFAR-10 as a folder with train/<class> and test/<class>; only the part ``table1`` and
the part ``cycle`` need it. On a machine without a network, install alhpo and its dependencies from
wheels (``pip download``, for its Python and platform). Without a GPU everything runs on the CPU,
the same code up to the capture itself; ``--tiny`` makes that a matter of seconds.

The parts:

checks      same bits: repeated, resumed, alone and beside others; SGD and AdamW, with dropout
speed       images per second at batch 32 and 128, with 1, 4 and 8 trainings at once, beside the
            bare eager step on a resident batch and the loop of airbench's kind (bfloat16 weights,
            crops and flips of whole batches on the device, fused optimizer, no data loader). All
            take turns in one process; ratios are medians over the rounds.
finetune    images per second of fine-tuning the last two stages of EfficientNet-Lite0 at 128
            pixels, batch 32, from cached activations: captured, with 1 and 4 trainings at once,
            beside our eager steps from the same activations and whole eager passes, without
            gradients for what is not trained. Needs its weights (alhpo[lite0])
objective   an epoch through the objective beside its training and validation alone: with a
            checkpoint after every epoch, and as in runs, where checkpoints may lag (see
            ``Objective.let_checkpoints_lag``; what they then add is at most a twentieth)
cycle       the parts of a cycle of active learning: search, fit, evaluation, query
table1      row Random of Table 1 of Huseljic et al. (2023) at 2,000 labels: 12 trainings
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import interleaved, seconds_of
from torch.nn import functional as F

from alhpo import ActiveLearner, ImageDataset, Tuner, load_dataset
from alhpo.base.epoch_size import epoch_shape
from alhpo.training.epochs import EpochOf, make_optimizer
from alhpo.training.evaluation import evaluate, score_images
from alhpo.training.objective import Objective
from alhpo.training.trainer import Task, Trainer, advance_together

PARTS = ("checks", "speed", "finetune", "objective", "cycle", "table1")
#: The paper's hyperparameters, and its Table 1 for random sampling, 2,000 labels, without
#: optimisation (mean and deviation of test accuracy in percent).
PAPER = {
    "HP 1": ({"lr": 0.001, "weight_decay": 0.05}, (74.07, 0.66)),
    "HP 2": ({"lr": 0.01, "weight_decay": 0.0005}, (69.69, 0.24)),
    "HP 3": ({"lr": 0.01, "weight_decay": 0.05}, (69.35, 0.78)),
    "HP 4": ({"lr": 0.1, "weight_decay": 0.005}, (71.61, 0.61)),
}
#: What the paper's trainings have in common.
PROTOCOL = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "nesterov": False,
    "batch_size": 32,
    "schedule": "cosine",
    "lr_steps": "epoch",
    "warmup_epochs": 10,
    "augmentation": "crop-flip",
}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--data", help="folder of CIFAR-10, for table1 and cycle")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", help="of table1; the others: the device's")
    parser.add_argument("--epochs", type=int, default=200, help="of a training in table1")
    parser.add_argument("--seeds", type=int, default=3, help="of table1")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a small network and few images")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    return parser.parse_args()


def machine(device: torch.device) -> dict[str, Any]:
    cuda = device.type == "cuda"
    packages = {name: version(name) for name in ("torch", "timm", "numpy")}
    return {
        "device": torch.cuda.get_device_name(device) if cuda else platform.machine(),
        "cuda": torch.version.cuda if cuda else None,
        "driver": driver() if cuda else None,
        "python": platform.python_version(),
        **packages,
    }


def driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()


def noise(count: int, size: int = 32) -> ImageDataset:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count + 200, size, size, 3), dtype=np.uint8)
    labels = np.arange(count + 200) % 10
    return ImageDataset.from_arrays(
        images[:count], labels[:count], eval_images=images[count:], eval_labels=labels[count:]
    )


class Bench:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.labels = 64 if args.tiny else 2000
        self.model = "test_resnet" if args.tiny else "resnet18"
        self.task = self._learner(noise(self.labels)).task
        self.device = self.task.compute.device

    def _learner(self, data: ImageDataset, labels: int | None = None, **settings: Any) -> _Labeled:
        settings = {"model": self.model, "device": self.args.device, **settings}
        learner = ActiveLearner(data, **settings)
        learner.compute = replace(learner.compute, captured=True)  # on the CPU, too
        learner.label_initial(labels or self.labels)
        return _Labeled(learner)

    def trainings(
        self,
        count: int,
        *,
        hp: dict[str, Any] | None = None,
        task: Task | None = None,
        seed: int = 0,
    ) -> list[EpochOf]:
        """Trainings of one task with streams of their own, before their first epoch."""
        task = task or self.task
        values = task.recipe.hyperparameters.create({"batch_size": 32, "lr": 0.01} | (hp or {}))
        images = task.device_images(np.arange(len(task.labels)))
        resolved = values.resolved(task.augmentation)
        return [
            EpochOf(task.recipe.start(resolved, 200, task.compute), images, 0, (seed, number))
            for number in range(count)
        ]

    # --- parts -----------------------------------------------------------------------------------

    def checks(self) -> dict[str, bool]:
        results = {}
        for name, hp, dropout in (
            ("sgd", {}, 0.0),
            ("nesterov with smoothed labels", {"nesterov": True, "label_smoothing": 0.1}, 0.0),
            ("adamw", {"optimizer": "adamw", "lr": 0.001}, 0.0),
            ("dropout", {}, 0.5),
        ):
            task = self._learner(noise(self.labels), dropout=dropout).task
            for check, same in self._equal(task, hp).items():
                results[f"{name}: {check}"] = same
                print(f"  {name}: {check}: {'equal' if same else 'DIFFERENT'}", flush=True)
        return results

    def _equal(self, task: Task, hp: dict[str, Any]) -> dict[str, bool]:
        def trained(count: int) -> list[EpochOf]:
            trainings = self.trainings(count, hp=hp, task=task)
            train(trainings, task, range(3))
            return trainings

        first, again = trained(4), trained(4)
        alone = trained(1)
        half = self.trainings(4, hp=hp, task=task)
        train(half, task, range(1))
        resumed = self.trainings(4, hp=hp, task=task)
        for old, new in zip(half, resumed, strict=True):
            tensors = {n: t.detach().cpu().clone() for n, t in old.training.tensors().items()}
            new.training.restore(tensors)
        train(resumed, task, range(1, 3))
        eager = replace(task, compute=replace(task.compute, captured=False))
        one = self.trainings(1, hp=hp, task=eager)
        losses = [train(one, eager, range(epoch, epoch + 1))[0] for epoch in range(3)]
        mine = self.trainings(1, hp=hp, task=task)
        captured = [train(mine, task, range(epoch, epoch + 1))[0] for epoch in range(3)]
        print(f"  losses of three epochs: captured {captured}, eager {losses}")
        return {
            "repeated": same(first, again),
            "alone and beside others": same(first[:1], alone),
            "resumed": same(first, resumed),
            "the streams differ": not same(first[:1], first[1:2]),
        }

    def speed(self) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for batch, counts in ((32, (1, 4, 8)), (128, (1, 4))):
            hp = {"batch_size": batch}
            steps = epoch_shape(self.labels, batch)[0]
            work: dict[str, Callable[[], object]] = {
                "bare eager step": self._bare(batch, steps),
                "loop of airbench's kind": self._airbench(batch, steps),
            }
            if batch == 32:
                eager = replace(self.task, compute=replace(self.task.compute, captured=False))
                ours = self.trainings(1, hp=hp, task=eager)
                work["alhpo, eager"] = lambda ours=ours, eager=eager: train(ours, eager, range(1))
            for count in counts:
                ours = self.trainings(count, hp=hp)
                work[f"alhpo, {count} at once"] = lambda ours=ours: train(ours, self.task, range(1))
            seconds = interleaved(work, self.device, self.args.rounds)
            rates = _rates(seconds, steps * batch, "bare eager step", f"batch {batch:>3}")
            results |= {f"batch {batch}, {name}": rate for name, rate in rates.items()}
        if self.device.type == "cuda":
            results["gigabytes"] = torch.cuda.max_memory_allocated() / 2**30
        return results

    def finetune(self) -> dict[str, Any]:
        labels, side = (40, 32) if self.args.tiny else (800, 128)
        task = self._learner(
            noise(labels, side),
            labels,
            recipe="finetune",
            model="tf_efficientnet_lite0",
            weights="efficientnet-lite0",
            input_size=side,
        ).task
        hp = {"train_from": -3, "backbone_lr": 0.1, "augmentation": "crop-flip", "views": 2}
        eager = replace(task, compute=replace(task.compute, captured=False))
        whole = copy.copy(eager.recipe)
        whole._cut = lambda first: None
        work: dict[str, Callable[[], object]] = {}
        for name, count, of in (
            ("whole eager passes", 1, replace(eager, recipe=whole)),
            ("eager, from activations", 1, eager),
            ("captured, 1 at once", 1, task),
            ("captured, 4 at once", 4, task),
        ):
            ours = self.trainings(count, hp=hp, task=of)
            work[name] = lambda ours=ours, of=of: train(ours, of, range(1))
        seconds = interleaved(work, self.device, self.args.rounds)
        images = 32 * epoch_shape(labels, 32)[0]
        return _rates(seconds, images, "whole eager passes", "last two stages")

    def _network(self) -> tuple[torch.nn.Module, torch.Tensor]:
        model = self.task.compute.place(copy.deepcopy(self.task.recipe.template)).train()
        return model, torch.arange(4096, device=self.device) % 10

    def _bare(self, batch: int, steps: int) -> Callable[[], None]:
        compute, (model, labels) = self.task.compute, self._network()
        hp = self.task.recipe.hyperparameters.create({"batch_size": batch, "lr": 0.01})
        optimizer = make_optimizer(model.parameters(), hp)
        inputs = torch.randn(batch, 3, 32, 32, device=compute.device)
        inputs = inputs.contiguous(memory_format=torch.channels_last)

        def work() -> None:
            for _ in range(steps):
                with compute.autocast():
                    logits = model(inputs)
                loss = F.cross_entropy(logits.float(), labels[:batch])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()

        return work

    def _airbench(self, batch: int, steps: int) -> Callable[[], None]:
        """An epoch as one would write it for speed, without graphs."""
        device, (model, labels) = self.device, self._network()
        half = torch.bfloat16 if self.task.compute.precision == "bfloat16" else torch.float32
        for module in model.modules():
            if not isinstance(module, torch.nn.BatchNorm2d):
                for name, parameter in module.named_parameters(recurse=False):
                    setattr(module, name, torch.nn.Parameter(parameter.detach().to(half)))
        fused = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "fused": True}
        optimizer = torch.optim.SGD(model.parameters(), **fused)
        n = steps * batch
        images = torch.randn(n, 3, 32, 32, device=device, dtype=half)
        padded = F.pad(images, (4, 4, 4, 4), mode="reflect")

        def work() -> None:
            crops = torch.empty_like(images)
            shifts = torch.randint(0, 9, (n, 2), device=device)
            for down in range(9):
                for right in range(9):
                    chosen = ((shifts[:, 0] == down) & (shifts[:, 1] == right))[:, None, None, None]
                    part = padded[:, :, down : down + 32, right : right + 32]
                    crops = torch.where(chosen, part, crops)
            flips = (torch.rand(n, device=device) < 0.5)[:, None, None, None]
            crops = torch.where(flips, crops.flip(-1), crops)
            crops = crops.contiguous(memory_format=torch.channels_last)
            order = torch.randperm(n, device=device)
            for step in range(steps):
                chosen = order[step * batch : (step + 1) * batch]
                loss = F.cross_entropy(model(crops[chosen]).float(), labels[chosen % 4096])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()

        return work

    def objective(self) -> dict[str, Any]:
        results = {}
        for validation in ("holdout:0.2", "kfold:5"):
            learner = self._learner(noise(self.labels), validation=validation).learner
            objectives = {name: learner.objective(200) for name in ("every epoch", "as in runs")}
            objectives["as in runs"].let_checkpoints_lag()
            with tempfile.TemporaryDirectory() as folder:
                work = {
                    name: Steps(objective, Path(folder) / name.replace(" ", "-")).next
                    for name, objective in objectives.items()
                }
                work["epoch itself"] = Itself(objectives["every epoch"]).next
                seconds = interleaved(work, self.device, 2 * self.args.rounds)
            results[validation] = {}
            for name, values in seconds.items():
                pairs = zip(values, seconds["epoch itself"], strict=True)
                ratio = statistics.median(mine / alone for mine, alone in pairs)
                milliseconds = 1000 * statistics.median(values)
                results[validation][name] = {"milliseconds": milliseconds, "ratio": ratio}
                print(f"  {validation}, {self.labels} labels, {name:<13}{milliseconds:>8.0f} ms"
                      f"{ratio:>8.2f}", flush=True)  # fmt: skip
        return results

    def cycle(self) -> dict[str, Any]:
        data = self._images() if self.args.data else noise(4 * self.labels)
        learner = self._learner(data, self.labels // 2, strategy="badge", max_epochs=20).learner
        seconds: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as folder:
            objective = learner.objective()
            objective.let_checkpoints_lag()
            tuner = Tuner(
                objective_function=objective,
                configuration_space=objective.configuration_space,
                max_epochs=20,
                max_budget=60,
                output_path=folder,
                optimizer="dyhpo",
                seed=0,
            )
            seconds["search of 60 epochs"] = seconds_of(tuner.run, self.device)
        seconds["fit of 20 epochs"] = seconds_of(learner.fit, self.device)
        seconds["evaluation"] = seconds_of(learner.evaluate, self.device)
        seconds["badge query"] = seconds_of(lambda: learner.ask(10), self.device)
        for name, value in seconds.items():
            print(f"  {name:<22}{value:>8.2f} s", flush=True)
        return {
            "pool": len(learner.dataset),
            "labels": learner.n_labeled,
            "evaluation images": len(learner.dataset.eval_images),
            "seconds": seconds,
        }

    def table1(self) -> dict[str, Any]:
        data = self._images() if self.args.data else noise(2 * self.labels)
        settings = {"init": "torch"} if not self.args.tiny else {}
        epochs = self.args.epochs
        trainings: dict[tuple[str, int], EpochOf] = {}
        learners = []
        for seed in range(self.args.seeds):
            labeled = self._learner(data, seed=seed, precision=self.args.precision, **settings)
            learners.append(labeled)
            task = labeled.task
            images = task.device_images(np.arange(len(task.labels)))
            for name, (hp, _) in PAPER.items():
                values = task.recipe.hyperparameters.create(PROTOCOL | hp)
                values = values.resolved(task.augmentation)
                start = task.recipe.start(values, epochs, task.compute)
                trainings[name, seed] = EpochOf(start, images, 0, (task.seed, 0))
        task = learners[0].task
        everything = list(trainings.values())
        seconds = seconds_of(lambda: train(everything, task, range(epochs)), self.device)
        steps = len(everything) * epoch_shape(self.labels, 32)[0] * 32 * epochs
        print(f"  {len(everything)} trainings of {epochs} epochs in {seconds:.0f} s, "
              f"{steps / seconds:,.0f} images/s, {task.compute.precision}", flush=True)  # fmt: skip
        results: dict[str, Any] = {"seconds": seconds, "images_per_second": steps / seconds}
        for name, (_, (mean, deviation)) in PAPER.items():
            scores = []
            for seed, labeled in enumerate(learners):
                held_out = labeled.learner._evaluation_images()
                model = trainings[name, seed].training.model
                task = labeled.task
                scores.append(100 * evaluate(task.recipe, model, held_out, task.compute).accuracy)
            spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
            results[name] = {"accuracies": scores, "published": (mean, deviation)}
            print(f"  {name}: {statistics.mean(scores):.2f} ± {spread:.2f}, published "
                  f"{mean:.2f} ± {deviation:.2f}", flush=True)  # fmt: skip
        return results

    def _images(self) -> ImageDataset:
        start = time.perf_counter()
        data = load_dataset(self.args.data, train_split="train", eval_split="test")
        print(f"  {len(data)} images decoded in {time.perf_counter() - start:.1f} s", flush=True)
        return data


class Steps:
    """A trial, trained through the objective epoch by epoch."""

    def __init__(self, objective: Objective, folder: Path) -> None:
        self._objective, self._folder, self._reached = objective, folder, 0

    def next(self) -> None:
        configuration = {"lr": 0.01, "weight_decay": 5e-4}
        self._objective(configuration, self._reached + 1, self._reached, self._folder)
        self._reached += 1


class Itself:
    """The same epochs and validations without the objective."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        hp = objective.hyperparameters({"lr": 0.01, "weight_decay": 5e-4})
        self._trainer = Trainer(objective._task, hp, objective._training, "plain")

    def next(self) -> None:
        advance_together([self._trainer])
        task = self._objective._task
        for model, held_out in zip(self._trainer.models, self._objective._validation, strict=True):
            score_images(task.recipe, model, held_out, task.compute).mean()


class _Labeled:
    def __init__(self, learner: ActiveLearner) -> None:
        self.learner = learner
        self.task = learner._task("benchmark", max_epochs=200)


def _rates(
    seconds: dict[str, list[float]], images: int, beside: str, what: str
) -> dict[str, dict[str, float]]:
    """Images per second of each contestant, and beside one of them."""
    results = {}
    for name, values in seconds.items():
        many = int(name.split(", ")[1].split()[0]) if "at once" in name else 1
        rate = many * images / statistics.median(values)
        pairs = zip(seconds[beside], values, strict=True)
        ratio = statistics.median(many * other / mine for other, mine in pairs)
        results[name] = {"images_per_second": rate, "to_bare": ratio}
        print(f"  {what}  {name:<24}{rate:>10,.0f} images/s{ratio:>8.2f} x {beside}", flush=True)
    return results


def train(trainings: Sequence[EpochOf], task: Task, epochs: Sequence[int]) -> list[float]:
    """Train some epochs of every training, as the objective does. Returns the last losses."""
    losses: list[float] = []
    for epoch in epochs:
        now = [replace(one, epoch=epoch) for one in trainings]
        if task.together is not None:
            losses = task.together.train_together(now)
        else:
            losses = [one.training.epoch(one.images, one.epoch, *one.key) for one in now]
    return losses


def same(some: Sequence[EpochOf], others: Sequence[EpochOf]) -> bool:
    pairs = zip(some, others, strict=True)
    return all(
        torch.equal(mine, theirs)
        for a, b in pairs
        for mine, theirs in zip(
            a.training.tensors().values(), b.training.tensors().values(), strict=True
        )
    )


def main() -> None:
    args = parsed()
    bench = Bench(args)
    results: dict[str, Any] = {"machine": machine(bench.device)}
    print(json.dumps(results["machine"]), flush=True)
    for part in PARTS:
        if part not in args.parts:
            continue
        print(f"{part}:", flush=True)
        start = time.perf_counter()
        results[part] = getattr(bench, part)()
        print(f"  ({time.perf_counter() - start:.0f} s)", flush=True)
        if part == "checks" and not all(results[part].values()):
            raise SystemExit("A check failed.")
        if args.output:
            args.output.parent.mkdir(parents=True, exist_ok=True)
            args.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
