"""What a run was made with: its data, and the software and machine of every start."""

from __future__ import annotations

import json
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from alhpo.datasets import ImageDataset
from alhpo.digests import digest
from alhpo.files import write_json
from alhpo.training import Compute
from alhpo.types import DataError

PACKAGES = ("alhpo", "torch", "timm", "hpo4dl", "optuna", "ConfigSpace", "numpy", "scikit-learn")


def session(compute: Compute) -> dict[str, Any]:
    """Time, versions, device and number of threads of this process."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    cuda = compute.device.type == "cuda"
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "versions": versions,
        "device": torch.cuda.get_device_name(compute.device) if cuda else platform.machine(),
        "precision": compute.precision,
        "threads": torch.get_num_threads(),
    }


def check_dataset(path: Path, dataset: ImageDataset) -> None:
    """Record what data a run works on, or compare with what was recorded before.

    Raises:
        DataError: the run began with other data.
    """
    parts = (dataset.images, dataset.labels, dataset.eval_images, dataset.eval_labels)
    mine = {
        "images": list(dataset.images.shape),
        "eval_images": list(dataset.eval_images.shape),
        "classes": list(dataset.classes),
        "sha256": digest(*parts, length=64),
    }
    if not path.exists():
        write_json(path, mine)
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        other = {name: (before[name], value) for name, value in mine.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} does not say what data the run began with ({error!r}). Restore it from a "
            "copy; or remove it, where the data is surely the same."
        ) from error
    changed = [
        "pixels or labels" if name == "sha256" else f"{name} {then}, now {now}"
        for name, (then, now) in other.items()
        if then != now
    ]
    if changed:
        raise DataError(
            f"The run in {path.parent} began with other data: other {', '.join(changed)}. Restore "
            "the data, or choose another output_dir."
        )
