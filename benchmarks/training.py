"""Images per second of our training epoch beside the bare step and the usual DataLoader loop.

    python benchmarks/training.py                      # ResNet-18 on 32 x 32 images
    python benchmarks/training.py --data PATH          # an image folder (CIFAR-10) instead of noise

One process, one model, the same batches of the same size; the contestants take turns, so that a
machine whose speed drifts treats them alike. Ratios are medians over the rounds.

(a) bare: forward + backward + step on one resident random batch.
(b) loader: ``DataLoader`` over the images with torchvision's transforms (crop, flip, normalise),
    workers as given.
The cost of a one-epoch step through the objective (checkpoint written, models in memory) is
measured on 200 labels beside the same training and validation without the objective.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from timing import interleaved
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from alhpo import ActiveLearner, Hyperparameters, ImageDataset, load_dataset
from alhpo.training.epochs import make_optimizer
from alhpo.training.evaluation import score_images
from alhpo.training.trainer import Trainer

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", help="image folder with train/ and test/ of 32 x 32 images")
parser.add_argument("--labels", type=int, nargs="+", default=[200, 4000])
parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 128])
parser.add_argument("--precisions", nargs="+", default=["auto"])
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--images", type=int, default=1500, help="images a contestant trains a round")
parser.add_argument("--workers", type=int, default=2, help="of the DataLoader")
parser.add_argument("--threads", type=int, help="of torch; default: torch's own")
parser.add_argument("--device", default="auto")
parser.add_argument("--output", type=Path, help="write the figures as JSON")
args = parser.parse_args()
if args.threads:
    torch.set_num_threads(args.threads)


class Images(Dataset):
    """What one would write without alhpo: PIL-free, but one image at a time."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, mean, std) -> None:
        self.images, self.labels = images.permute(0, 3, 1, 2).contiguous(), labels
        self.transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        return self.transform(self.images[index]), self.labels[index]


def dataset() -> ImageDataset:
    if args.data:
        return load_dataset(args.data, pool_size=max(args.labels) + 1000, eval_size=200)
    noise = np.random.default_rng(0)
    count = max(args.labels) + 1000
    images = noise.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return ImageDataset.from_arrays(images, noise.integers(0, 10, count))


def of_rounds(
    contestants: dict[str, Callable[[], object]], device: torch.device, images: int = 1
) -> dict[str, list[float]]:
    """Seconds of each contestant per round. Where a round trains more than ``--images`` images,
    there are fewer rounds and no warm-up."""
    long = images > args.images
    rounds = max(1, round(args.rounds * args.images / images)) if long else args.rounds
    return interleaved(contestants, device, rounds, warm_up=not long)


def ratio(numerator: list[float], denominator: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def learner_with(data: ImageDataset, labels: int, batch_size: int, precision: str):
    learner = ActiveLearner(
        data,
        hyperparameters={"batch_size": batch_size, "lr": 0.01},
        device=args.device,
        precision=precision,
        max_epochs=10_000,
    )
    learner.label_initial(labels)
    return learner


def epochs(data: ImageDataset, labels: int, batch_size: int, precision: str) -> dict:
    learner = learner_with(data, labels, batch_size, precision)
    task, compute = learner._task("benchmark"), learner.compute
    device = compute.device
    hp = Hyperparameters.create(learner.fixed)
    trainer = Trainer(task, hp, [task.device_images(np.arange(labels))], "none")
    n_batches = labels // batch_size
    repeats = max(1, round(args.images / (n_batches * batch_size)))

    model = trainer.models[0]
    optimizer = make_optimizer(model.parameters(), hp)
    batch = torch.randn(batch_size, 3, 32, 32, device=device)
    if compute.channels_last:
        batch = batch.contiguous(memory_format=torch.channels_last)
    target = torch.randint(0, 10, (batch_size,), device=device)

    def step(inputs: torch.Tensor, wanted: torch.Tensor) -> None:
        with compute.autocast():
            logits = model(inputs)
        loss = F.cross_entropy(logits.float(), wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    loader = DataLoader(
        Images(task.inputs, task.labels, task.form.mean, task.form.std),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
        pin_memory=device.type == "cuda",
    )

    def ours() -> None:
        for _ in range(repeats):
            trainer.advance()

    def bare() -> None:
        model.train()
        for _ in range(repeats * n_batches):
            step(batch, target)

    def usual() -> None:
        model.train()
        for _ in range(repeats):
            for inputs, wanted in loader:
                inputs = inputs.to(device, non_blocking=True)
                if compute.channels_last:
                    inputs = inputs.contiguous(memory_format=torch.channels_last)
                step(inputs, wanted.to(device, non_blocking=True))

    images = repeats * n_batches * batch_size
    seconds = of_rounds({"ours": ours, "bare": bare, "loader": usual}, device, images)
    return {
        "labels": labels,
        "batch_size": batch_size,
        "precision": compute.precision,
        **{
            f"{name}_images_per_second": images / statistics.median(s)
            for name, s in seconds.items()
        },
        "ours_to_bare": ratio(seconds["bare"], seconds["ours"]),
        "ours_to_loader": ratio(seconds["loader"], seconds["ours"]),
    }


def objective_step(data: ImageDataset, batch_size: int, precision: str) -> dict:
    """One epoch through the objective beside the training and validation it consists of."""
    learner = learner_with(data, 200, batch_size, precision)
    objective = learner.objective()
    configuration = {"lr": 0.01, "weight_decay": 5e-4}
    hp = objective.hyperparameters(configuration)
    plain = Trainer(objective._task, hp, objective._training, "plain")
    epoch = 0
    with tempfile.TemporaryDirectory() as folder:

        def through_objective() -> None:
            nonlocal epoch
            objective(configuration, epoch + 1, epoch, folder)
            epoch += 1

        def epoch_itself() -> None:
            plain.advance()
            task, held_out = objective._task, objective._validation[0]
            score_images(task.recipe, plain.models[0], held_out, learner.compute).mean()

        seconds = of_rounds(
            {"objective": through_objective, "epoch": epoch_itself}, learner.compute.device
        )
    return {
        "batch_size": batch_size,
        "precision": learner.compute.precision,
        "objective_seconds": statistics.median(seconds["objective"]),
        "epoch_seconds": statistics.median(seconds["epoch"]),
        "objective_to_epoch": ratio(seconds["objective"], seconds["epoch"]),
    }


def processor() -> str:
    if torch.cuda.is_available() and args.device != "cpu":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    data = dataset()
    machine = {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "timm", "numpy")},
        "data": "image folder" if args.data else "random 32 x 32 x 3 images",
        "rounds": args.rounds,
        "loader_workers": args.workers,
    }
    print(json.dumps(machine))
    print("ResNet-18, 3x3 stem, 32 x 32; images per second (median) and ratios (median of rounds)")
    print(f"{'labels':>7}{'batch':>6} {'precision':<9}{'ours':>8}{'bare':>8}{'loader':>8}"
          f"{'ours/bare':>11}{'ours/loader':>13}")  # fmt: skip
    training, steps = [], []
    for precision in args.precisions:
        for labels in args.labels:
            for batch_size in args.batch_sizes:
                row = epochs(data, labels, batch_size, precision)
                training.append(row)
                print(
                    f"{labels:>7}{batch_size:>6} {row['precision']:<9}"
                    f"{row['ours_images_per_second']:>8.0f}{row['bare_images_per_second']:>8.0f}"
                    f"{row['loader_images_per_second']:>8.0f}{row['ours_to_bare']:>11.3f}"
                    f"{row['ours_to_loader']:>13.3f}",
                    flush=True,
                )
    print("one-epoch step through the objective on 200 labels (160 trained, 40 validated)")
    for precision in args.precisions:
        for batch_size in args.batch_sizes:
            row = objective_step(data, batch_size, precision)
            steps.append(row)
            print(
                f"  batch {batch_size:>3} {row['precision']:<9} step "
                f"{row['objective_seconds'] * 1000:.0f} ms, epoch itself "
                f"{row['epoch_seconds'] * 1000:.0f} ms, ratio {row['objective_to_epoch']:.3f}",
                flush=True,
            )
    if args.output:
        content = {"machine": machine, "training": training, "objective_step": steps}
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
