"""Images per second of predictions with folded batch norm beside the model as it is.

    OMP_NUM_THREADS=1 python benchmarks/inference.py

Features and logits of random images, by random weights: ResNet-18 with the CIFAR stem at 32 x 32,
and EfficientNet-Lite0 at 128 x 128. Both models take turns on a block of images, so that a machine
whose speed drifts treats them alike. With one thread on the CPU, times are those of the processor,
so that other processes count less; elsewhere those of the clock. A pass over N images takes N / B
times the median of a block of B, and folding (median) once; "blocks" is the median of the rounds'
ratios, without folding.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from alhpo.models.timm_models import ModelSpec
from alhpo.training.compute import Compute
from alhpo.training.recipes.network import NetworkRecipe

NETWORKS = {"resnet18": 32, "tf_efficientnet_lite0": 128}

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--images", type=int, nargs="+", default=[500, 5000])
parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
parser.add_argument("--block", type=int, help="images in a block; default: as in a prediction")
parser.add_argument("--rounds", type=int, default=7)
parser.add_argument("--device", default="auto")
parser.add_argument("--output", type=Path, help="write the figures as JSON")
args = parser.parse_args()


def timed(function: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    cuda = device.type == "cuda"
    clock = time.perf_counter if cuda or torch.get_num_threads() > 1 else time.process_time
    if cuda:
        torch.cuda.synchronize(device)
    start = clock()
    result = function()
    if cuda:
        torch.cuda.synchronize(device)
    return clock() - start, result


def measure(name: str, size: int, precision: str) -> list[dict[str, Any]]:
    compute = Compute.resolve(args.device, precision, size)
    device = compute.device
    recipe = NetworkRecipe(ModelSpec(name, 10, 3, (size, size)), 0)
    model = compute.place(recipe.template).eval()
    block = args.block or min(max(2**19 // size**2, 32), 1024)
    inputs = torch.randn(block, 3, size, size, device=device)
    if compute.channels_last:
        inputs = inputs.contiguous(memory_format=torch.channels_last)

    models = {"plain": model, "folded": recipe.for_inference(model)}
    folding = [timed(lambda: recipe.for_inference(model), device)[0] for _ in range(args.rounds)]
    seconds: dict[str, list[float]] = {which: [] for which in models}
    said = {}
    for turn in range(-1, args.rounds):
        for which in list(models)[:: 1 if turn % 2 else -1]:
            taken, said[which] = timed(
                lambda which=which: recipe.predict(models[which], inputs, compute, features=True),
                device,
            )
            if turn >= 0:  # the first round warms up
                seconds[which].append(taken)
    ratio = statistics.median(
        p / f for p, f in zip(seconds["plain"], seconds["folded"], strict=True)
    )
    plain, fast = (statistics.median(seconds[which]) / block for which in ("plain", "folded"))
    agree = (said["plain"].logits.argmax(1) == said["folded"].logits.argmax(1)).float().mean()
    cost = statistics.median(folding)
    return [
        {
            "network": name,
            "precision": precision,
            "images": n,
            "plain_images_per_second": 1 / plain,
            "folded_images_per_second": n / (cost + n * fast),
            "ratio": n * plain / (cost + n * fast),
            "ratio_of_blocks": ratio,
            "folding_seconds": cost,
            "argmax_agrees": agree.item(),
        }
        for n in args.images
    ]


def main() -> None:
    device = Compute.resolve(args.device).device
    machine = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "rounds": args.rounds,
        **{name: version(name) for name in ("torch", "timm")},
    }
    print(json.dumps(machine))
    print(f"{'network':<22} {'precision':<9}{'images':>7}{'plain/s':>9}{'folded/s':>10}{'ratio':>7}"
          f"{'blocks':>8}{'fold ms':>9}{'argmax':>8}")  # fmt: skip
    rows = []
    for name, size in NETWORKS.items():
        for precision in args.precisions:
            for row in measure(name, size, precision):
                rows.append(row)
                print(
                    f"{name:<22} {precision:<9}{row['images']:>7}"
                    f"{row['plain_images_per_second']:>9.0f}{row['folded_images_per_second']:>10.0f}"
                    f"{row['ratio']:>7.3f}{row['ratio_of_blocks']:>8.3f}"
                    f"{row['folding_seconds'] * 1000:>9.0f}{row['argmax_agrees']:>8.3f}",
                    flush=True,
                )
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
