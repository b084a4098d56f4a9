"""Provenance of a run: the software and machine of every start."""

from __future__ import annotations

import functools
import platform
import time
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from alhpo.base.errors import ConfigurationError, DataError
from alhpo.base.files import Journal
from alhpo.training.compute import Compute, Precision

PACKAGES = (
    *("alhpo", "torch", "timm", "hpo4dl", "ConfigSpace", "numpy", "pillow", "scikit-learn"),
    "optuna",
)
#: What must stay the same until a run ends, and the setting that decides it ("" for none).
KEPT = {"device_type": "device", "precision": "precision", "channels_last": ""}


class Sessions:
    """The sessions (starts) of a run or a tuning, in ``sessions.jsonl``.

    All sessions must have the same type of device, precision, memory order of images and weights,
    and versions of the packages that decide what a search suggests. Versions of other packages, the
    model of the device and the number of threads change only the last bits of results: a change is
    recorded, with a warning.

    Args:
        path: the file.
        packages: packages whose versions must stay the same.

    Raises:
        DataError: the file does not tell how the first session computed.
    """

    def __init__(self, path: Path, packages: Sequence[str] = ()) -> None:
        self._journal = Journal(path)
        self._packages = packages
        entries = self._journal.read()
        self._first: dict[str, Any] | None = entries[0] if entries else None
        if entries and not (isinstance(self._first, dict) and KEPT.keys() <= self._first.keys()):
            raise DataError(
                f"{path}, line 1 does not tell how the first session computed: "
                f"{', '.join(KEPT)} are missing. Restore the file from a copy, or remove it if the "
                "machine and the precision are surely the same."
            )

    def precision(self, asked: Precision) -> Precision:
        """The precision to compute in; "auto" takes that of the first session."""
        return asked if asked != "auto" or self._first is None else self._first["precision"]

    def check(self, compute: Compute, *, image_size_known: bool = True) -> None:
        """Refuse to continue with another device, precision, memory order or package version.

        Args:
            compute: device and precision of this session.
            image_size_known: whether ``compute`` was resolved for the size of the images. If not,
                the memory order, which depends on it, is not compared.

        Raises:
            ConfigurationError: something differs; the message tells how to restore it.
        """
        versions = (self._first or {}).get("versions") or {}
        for package in self._packages:
            then, now = versions.get(package), _version(package)
            if self._first is not None and then != now:
                raise ConfigurationError(
                    f"The search in {self._journal.path.parent} began with {package} {then}. The "
                    f"installed {package} {now} would suggest other configurations. Install "
                    f"{package}=={then} to continue, or choose another output_dir."
                )
        for name, value in _kept(compute).items():
            if name == "channels_last" and not image_size_known:
                continue
            if self._first is not None and self._first[name] != value:
                raise ConfigurationError(
                    f"{self._journal.path.parent} began with {name}={self._first[name]} and would "
                    f"continue here with {name}={value}, which changes its results. "
                    f"{self._advice(name)}"
                )

    def begin(self, compute: Compute) -> None:
        """Check and record this session; warn of other differences from the first one.

        Raises:
            ConfigurationError: see ``check``.
        """
        self.check(compute)
        mine = session(compute)
        if self._first is not None and (changed := _changes(self._first, mine)):
            warnings.warn(
                f"{self._journal.path.parent} continues with other {', '.join(changed)} than it "
                "began with. Results may differ in the last bits from those of one session.",
                stacklevel=2,
            )
        self._journal.append(mine)

    def _advice(self, name: str) -> str:
        assert self._first is not None
        if name == "channels_last":
            return "Continue with the version of alhpo that began it, or choose another output_dir."
        return (
            f"Set {KEPT[name]} to {self._first[name]} (--{KEPT[name]} {self._first[name]}) to "
            "continue, or choose another output_dir."
        )


def _kept(compute: Compute) -> dict[str, Any]:
    """Values that must stay the same until a run ends."""
    return {
        "device_type": compute.device.type,
        "precision": compute.precision,
        "channels_last": compute.channels_last,
    }


def _changes(first: Mapping[str, Any], mine: Mapping[str, Any]) -> list[str]:
    """Differences of two sessions, each as "name (then, now ...)"."""
    pairs = {name: (first.get(name), mine[name]) for name in ("device", "threads")}
    then = first.get("versions") or {}
    pairs |= {name: (then.get(name), now) for name, now in mine["versions"].items()}
    return [f"{name} ({a}, now {b})" for name, (a, b) in pairs.items() if a != b]


@functools.cache  # reading it takes milliseconds, and each of many runs begins with all of them
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def session(compute: Compute) -> dict[str, Any]:
    """Time, versions, device and number of threads of this process."""
    versions = {package: _version(package) for package in PACKAGES}
    cuda = compute.device.type == "cuda"
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "versions": versions,
        "device": torch.cuda.get_device_name(compute.device) if cuda else platform.machine(),
        "threads": torch.get_num_threads(),
        **_kept(compute),
    }
