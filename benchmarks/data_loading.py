"""Processor time of loading an image folder: the first start, later ones, and torchvision's.

    python benchmarks/data_loading.py FOLDER [--rounds 3] [--output data-loading.json]

FOLDER has splits of class folders, such as CIFAR-10 as JPEG files. Every start is a process of its
own that loads the pool and the evaluation split as uint8 arrays. The peer is torchvision's
ImageFolder read by a DataLoader with as many workers as processors, which decodes at every start.
Times are user and system seconds of the process and its children, without imports.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

OURS = """
import os, sys, time
import alhpo.data.loading
from alhpo import load_dataset
def used(): return sum(os.times()[:4])
before, clock = used(), time.perf_counter()
dataset = load_dataset(sys.argv[1])
print(used() - before, time.perf_counter() - clock, len(dataset) + len(dataset.eval_images))
"""
PEER = """
import os, sys, time
from pathlib import Path
import numpy as np, torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
def used(): return sum(os.times()[:4])
def load(folder):
    images = ImageFolder(folder, transform=lambda image: torch.from_numpy(np.array(image)))
    loader = DataLoader(images, batch_size=512, num_workers=len(os.sched_getaffinity(0)))
    return torch.cat([batch for batch, _ in loader])
if __name__ == "__main__":
    before, clock = used(), time.perf_counter()
    folders = [child for child in Path(sys.argv[1]).iterdir() if child.is_dir()]
    count = sum(len(load(folder)) for folder in folders)
    print(used() - before, time.perf_counter() - clock, count)
"""


def measure(code: str, folder: Path, cache: str) -> tuple[float, float, int]:
    """(CPU seconds, wall seconds, images) of one start."""
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env=os.environ | {"ALHPO_CACHE": cache},
        capture_output=True,
        text=True,
        check=True,
    )
    cpu, wall, count = done.stdout.split()
    return float(cpu), float(wall), int(count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    rows: dict[str, list[tuple[float, float, int]]] = {"first": [], "later": [], "torchvision": []}
    for _ in range(arguments.rounds):  # interleaved: the machine's speed changes
        with tempfile.TemporaryDirectory() as cache:
            rows["first"].append(measure(OURS, arguments.folder, cache))
            rows["later"].append(measure(OURS, arguments.folder, cache))
        rows["torchvision"].append(measure(PEER, arguments.folder, cache))
    best = {name: min(row[0] for row in values) for name, values in rows.items()}
    for name, values in rows.items():
        cpu = ", ".join(f"{row[0]:.1f}" for row in values)
        wall = ", ".join(f"{row[1]:.1f}" for row in values)
        print(f"{name:12s} CPU s {cpu:24s} wall s {wall:24s} {values[0][2]:,} images")
    print(
        f"later / first {best['later'] / best['first']:.3f}   "
        f"first / torchvision {best['first'] / best['torchvision']:.2f}   "
        f"later / torchvision {best['later'] / best['torchvision']:.3f}   (least CPU s of each)"
    )
    if arguments.output:
        result = {
            "machine": platform.processor() or platform.machine(),
            "processors": len(os.sched_getaffinity(0)),
            "versions": {name: version(name) for name in ("alhpo", "pillow", "torch", "numpy")},
            "python": platform.python_version(),
            "cpu_seconds, wall_seconds, images": rows,
        }
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
