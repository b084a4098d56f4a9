"""The folder of what was read once: facts of image files, and decoded images.

    files/KEY.json             facts of the image files below one folder
    images/KEY/pixels.npy      decoded images, (N, H, W, C) uint8, mapped into memory
    images/KEY/entry.json      what they are

Everything in it can be made again from the data. It is ``ALHPO_CACHE``, else
``~/.cache/alhpo/cache``; decoded images take at most ``ALHPO_CACHE_GIB`` (50 by default), those
used longest ago go first.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from alhpo.base.errors import ConfigurationError
from alhpo.base.files import content_hash, write_text
from alhpo.data.pixels import RULES, ImageFacts
from alhpo.data.workers import inspect_files

DEFAULT_GIB = 50.0
#: A file that changed within this time of its reading may change again without another time stamp.
UNSAFE_NS = 2_000_000_000
#: What reading a damaged file of the cache leads to.
DAMAGED = (ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError)


@dataclass(frozen=True)
class CachedImages:
    """Decoded images in the cache.

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
    """The bytes that decoded images may take.

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


def facts_of_files(paths: Sequence[str], *, verify: bool = False) -> list[ImageFacts]:
    """The facts of image files, in order. Files that are as they were are not read again.

    Args:
        paths: the files.
        verify: read all files.
    """
    if not paths:
        return []
    names = [str(Path(path).absolute()) for path in paths]
    folder = os.path.commonpath([str(Path(name).parent) for name in names])
    file = cache_folder() / "files" / f"{content_hash([folder])}.json"
    started = time.time_ns()
    marks = [_mark(path) for path in paths]
    known = _known_facts(file)
    facts: list[ImageFacts | None] = []
    for name, mark in zip(names, marks, strict=True):
        then, fact = known.get(name, (None, None))
        facts.append(fact if mark is not None and then == mark and not verify else None)
    missing = [row for row, fact in enumerate(facts) if fact is None]
    for row, fact in zip(missing, inspect_files([paths[row] for row in missing]), strict=True):
        facts[row] = fact
    found = [fact for fact in facts if fact is not None]
    if missing:
        others = {name: known[name] for name in known.keys() - set(names) if Path(name).exists()}
        # what is wrong with a file may be wrong with this process or this version of Pillow
        kept = others | {
            name: (mark, fact)
            for name, mark, fact in zip(names, marks, found, strict=True)
            if mark is not None and not fact.problem and mark[1] < started - UNSAFE_NS
        }
        content = {name: (mark, asdict(fact)) for name, (mark, fact) in kept.items()}
        _try(lambda: write_text(file, json.dumps({"rules": RULES, "files": content})))
    return found


def _mark(path: str) -> list[int] | None:
    """What tells that a file changed: size, time of the change, inode."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _known_facts(file: Path) -> dict[str, tuple[list[int], ImageFacts]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["rules"] != RULES:
            return {}
        return {name: (mark, ImageFacts(**fact)) for name, (mark, fact) in content["files"].items()}
    except (OSError, *DAMAGED):  # not there, or damaged
        return {}


#: Decodes the images at some positions into the rows of an array, and returns for each image why
#: it cannot be decoded ("" if it can).
Fill = Callable[[Sequence[int], np.ndarray], list[str]]


def stored_images(
    identities: Sequence[str],
    shape: tuple[int, int, int],
    what: str,
    fill: Fill,
    *,
    renew: bool = False,
) -> tuple[np.ndarray, list[str]] | None:
    """The pixels of these images from the cache; decoded into it if they are not there.

    Of several processes that want the same images, one decodes them and the others wait. Images
    that cannot be decoded are tried again each time, as the cause may be gone.

    Args:
        identities: the N images.
        shape: (height, width, channels) of each.
        what: what the images are, for people.
        fill: decodes them.
        renew: decode them even if they are there.

    Returns:
        (M, *shape) uint8, mapped into memory (changes are private): the images that can be
        decoded, in order; and for each of the N images why it cannot. None if the cache cannot be
        written or is too small.
    """
    import PIL

    key = content_hash([RULES, PIL.__version__, list(shape), *identities], length=32)
    folder = cache_folder() / "images"
    entry = folder / key
    need = len(identities) * int(np.prod(shape))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{key}.lock"):
            found = None if renew else _read(entry, len(identities), shape)
            if found is None or _decodes_now(found[1], shape, fill):
                if not _make_room(folder, need, key):
                    return None
                found = _write(entry, identities, shape, what, fill)
    except (OSError, NotImplementedError):  # read-only, full, no locks
        return None
    _try(lambda: os.utime(entry / "entry.json"))
    return found


def packed(pixels: np.ndarray, reasons: Sequence[str]) -> np.ndarray:
    """The rows that have no reason, moved to the front of the same array."""
    good = [row for row, reason in enumerate(reasons) if not reason]
    for place, row in enumerate(good):
        if place != row:
            pixels[place] = pixels[row]
    return pixels[: len(good)]


def _decodes_now(reasons: list[str], shape: tuple[int, int, int], fill: Fill) -> bool:
    """Whether an image that could not be decoded now can. ``reasons`` become those of today."""
    bad = [row for row, reason in enumerate(reasons) if reason]
    if not bad:
        return False
    for row, reason in zip(bad, fill(bad, np.empty((len(bad), *shape), np.uint8)), strict=True):
        reasons[row] = reason
    return any(not reasons[row] for row in bad)


def _read(
    entry: Path, count: int, shape: tuple[int, int, int]
) -> tuple[np.ndarray, list[str]] | None:
    try:
        content = json.loads((entry / "entry.json").read_text(encoding="utf-8"))
        problems = [""] * count
        for row, reason in content["problems"].items():
            problems[int(row)] = str(reason)
        pixels = np.load(entry / "pixels.npy", mmap_mode="c", allow_pickle=False)
        if pixels.shape != (count, *shape) or pixels.dtype != np.uint8:
            return None
    except (OSError, *DAMAGED):
        return None
    return pixels[: problems.count("")], problems


def _write(
    entry: Path,
    identities: Sequence[str],
    shape: tuple[int, int, int],
    what: str,
    fill: Fill,
) -> tuple[np.ndarray, list[str]] | None:
    temporary = Path(tempfile.mkdtemp(prefix=f".{entry.name}.", suffix=".tmp", dir=entry.parent))
    try:
        whole = (len(identities), *shape)
        file = temporary / "pixels.npy"
        with file.open("wb") as space:  # a full disk is an error here, and a crash in mapped memory
            np.lib.format.write_array_header_1_0(
                space, {"descr": "|u1", "fortran_order": False, "shape": whole}
            )
            size = space.tell() + int(np.prod(whole))
            space.truncate(size)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(space.fileno(), 0, size)
        pixels = np.load(file, mmap_mode="r+", allow_pickle=False)
        problems = fill(range(whole[0]), pixels)
        packed(pixels, problems)
        pixels.flush()
        del pixels
        with file.open("rb") as written:
            os.fsync(written.fileno())
        content = {
            "images": what,
            "shape": list(whole),
            "problems": {str(row): text for row, text in enumerate(problems) if text},
        }
        write_text(temporary / "entry.json", json.dumps(content))
        shutil.rmtree(entry, ignore_errors=True)
        temporary.rename(entry)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return _read(entry, whole[0], shape)


def cached_images() -> list[CachedImages]:
    """The decoded images in the cache, those used longest ago first."""
    return _entries(cache_folder() / "images")


def clean_cache(older_than_days: float = 0.0) -> int:
    """Remove decoded images that were not used for some days, and all facts of files.

    Those that a process works with stay readable for it.

    Returns:
        Bytes that were freed.
    """
    folder, limit = cache_folder() / "images", time.time() - older_than_days * 86_400
    freed = 0
    for found in _entries(folder):
        if not older_than_days or found.used <= limit:
            shutil.rmtree(found.path, ignore_errors=True)
            freed += found.size
    _try(lambda: _remove_left_over(folder))
    for file in (cache_folder() / "files").glob("*.json"):
        freed += file.stat().st_size
        file.unlink(missing_ok=True)
    return freed


def _make_room(folder: Path, need: int, key: str) -> bool:
    """Remove what was used longest ago until ``need`` bytes fit; False if they cannot."""
    _remove_left_over(folder, key)
    limit = cache_limit()
    entries = [entry for entry in _entries(folder) if entry.path.name != key]
    taken = sum(entry.size for entry in entries)
    if need > limit or need >= shutil.disk_usage(folder).free + taken:
        return False
    for entry in entries:
        if taken + need <= limit and shutil.disk_usage(folder).free > need:
            break
        shutil.rmtree(entry.path, ignore_errors=True)
        taken -= entry.size
    return shutil.disk_usage(folder).free > need


def _entries(folder: Path) -> list[CachedImages]:
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


def _remove_left_over(folder: Path, held: str | None = None) -> None:
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


def _try(action: Callable[[], object]) -> None:
    """Do something that may fail: without the cache everything works, only slower."""
    try:
        action()
    except OSError:
        return
