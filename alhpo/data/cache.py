"""The folder of what was read once: facts of image files, decoded images, and features.

    files/KEY.json             facts of the image files below one folder
    images/KEY/pixels.npy      decoded images, (N, H, W, C) uint8, mapped into memory
    images/KEY/entry.json      what they are
    features/KEY/              features of images, see ``stored_features``

Everything in it can be made again from the data. It is ``ALHPO_CACHE``, else
``~/.cache/alhpo/cache``; decoded images and features take at most ``ALHPO_CACHE_GIB`` (50 by
default), those used longest ago go first.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from alhpo.base.errors import ConfigurationError

DEFAULT_GIB = 50.0
#: Folders of decoded images and of features.
KINDS = ("images", "features")
#: What reading a damaged file of the cache leads to.
DAMAGED = (ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError)


@dataclass(frozen=True)
class CachedImages:
    """Decoded images, or features of images, in the cache.

    Attributes:
        path: their folder.
        images: what they are, for people.
        size: bytes on disk.
        used: time of the last use, in seconds since 1970.
    """

    path: Path
    images: str
    size: int
    used: float


def cache_folder() -> Path:
    """The folder of the cache."""
    given = os.environ.get("ALHPO_CACHE")
    return Path(given or Path.home() / ".cache" / "alhpo" / "cache").expanduser()


def cache_limit() -> int:
    """The bytes that decoded images and features may take.

    Raises:
        ConfigurationError: ``ALHPO_CACHE_GIB`` is not a number from 0.
    """
    text = os.environ.get("ALHPO_CACHE_GIB", str(DEFAULT_GIB))
    try:
        gib = float(text)
        if not 0 <= gib < float("inf"):
            raise ValueError
    except ValueError:
        raise ConfigurationError(
            f"ALHPO_CACHE_GIB is {text!r}; expected a number from 0, such as 50."
        ) from None
    return int(gib * 2**30)


def cached_images() -> list[CachedImages]:
    """Decoded images and features in the cache, those used longest ago first."""
    found = [entry for kind in KINDS for entry in entries_in(cache_folder() / kind)]
    return sorted(found, key=lambda entry: entry.used)


def clean_cache(older_than_days: float = 0.0) -> int:
    """Remove images and features that were not used for some days, and all facts of files.

    Those that a process works with stay readable for it.

    Returns:
        Bytes that were freed.
    """
    limit = time.time() - older_than_days * 86_400
    freed = 0
    for found in cached_images():
        if not older_than_days or found.used <= limit:
            shutil.rmtree(found.path, ignore_errors=True)
            freed += found.size
    attempt(lambda: remove_left_over(cache_folder() / "images"))
    for file in (cache_folder() / "files").glob("*.json"):
        freed += file.stat().st_size
        file.unlink(missing_ok=True)
    return freed


def make_room(folder: Path, need: int, key: str) -> bool:
    """Remove what was used longest ago until ``need`` bytes fit; False if they cannot."""
    remove_left_over(folder, key)
    limit = cache_limit()
    entries = [entry for entry in cached_images() if entry.path.name != key]
    taken = sum(entry.size for entry in entries)
    if need > limit or need >= shutil.disk_usage(folder).free + taken:
        return False
    for entry in entries:
        if taken + need <= limit and shutil.disk_usage(folder).free > need:
            break
        shutil.rmtree(entry.path, ignore_errors=True)
        taken -= entry.size
    return shutil.disk_usage(folder).free > need


def entries_in(folder: Path) -> list[CachedImages]:
    """Also damaged ones: they take room until they are removed."""
    found = []
    for path in folder.glob("*"):
        if path.name.startswith("."):
            continue
        try:
            size = sum(file.stat().st_size for file in path.iterdir())
            described = path / "entry.json"
            used = (described if described.exists() else path).stat().st_mtime
        except OSError:
            continue  # another process removes it
        try:
            what = str(json.loads(described.read_text(encoding="utf-8"))["images"])
        except (OSError, *DAMAGED):
            what = "damaged"
        found.append(CachedImages(path, what, size, used))
    return sorted(found, key=lambda entry: entry.used)


def remove_left_over(folder: Path, held: str | None = None) -> None:
    """Remove folders that a killed process left behind: nobody holds their lock.

    Args:
        folder: the folder of decoded images.
        held: the key whose lock this process holds.
    """
    for path in folder.glob(".*.tmp"):
        key = path.name.split(".")[1]
        if key == held:
            shutil.rmtree(path, ignore_errors=True)
            continue
        try:
            with FileLock(folder / f".{key}.lock").acquire(timeout=0):
                shutil.rmtree(path, ignore_errors=True)
        except Timeout:
            continue


def attempt(action: Callable[[], object]) -> None:
    """Do something that may fail: without the cache everything works, only slower."""
    try:
        action()
    except OSError:
        return
