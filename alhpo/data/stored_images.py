"""Decoded images in the cache, mapped into memory."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock

from alhpo.base.files import content_hash, write_text
from alhpo.data.cache import DAMAGED, attempt, cache_folder, entries_in, make_room
from alhpo.data.pixels import decoding_rules

#: Images that are decoded at a time to be added to earlier ones.
BLOCK = 512
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
    that were decoded with others before are copied from there, if they are most of them. Images
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
    key = content_hash([*decoding_rules(), list(shape), *identities], length=32)
    folder = cache_folder() / "images"
    entry = folder / key
    need = len(identities) * int(np.prod(shape))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{key}.lock"):
            found = None if renew else _read(entry, len(identities), shape)
            if found is None or _decodes_now(found[1], shape, fill):
                if not make_room(folder, need, key):
                    return None
                found = _write(entry, identities, shape, what, fill, reuse=not renew)
    except (OSError, NotImplementedError):  # read-only, full, no locks
        return None
    attempt(lambda: os.utime(entry / "entry.json"))
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
    *,
    reuse: bool,
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
        earlier = _most_of(entry.parent, identities, shape) if reuse else None
        if earlier is None:
            problems = fill(range(whole[0]), pixels)
        else:
            problems = _copy_and_fill(identities, pixels, fill, *earlier)
        packed(pixels, problems)
        pixels.flush()
        del pixels
        with file.open("rb") as written:
            os.fsync(written.fileno())
        good = [
            identity for identity, problem in zip(identities, problems, strict=True) if not problem
        ]
        write_text(temporary / "identities.json", json.dumps([*decoding_rules(), good]))
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


def _most_of(
    folder: Path, identities: Sequence[str], shape: tuple[int, int, int]
) -> tuple[np.ndarray, dict[str, int]] | None:
    """The entry that has the most of these images, at least half of them: its pixels, and the row
    of each of its images."""
    best: tuple[np.ndarray, dict[str, int]] | None = None
    most = (len(identities) + 1) // 2
    for entry in entries_in(folder):
        try:
            text = (entry.path / "identities.json").read_text(encoding="utf-8")
            *rules, known = json.loads(text)
            size = json.loads((entry.path / "entry.json").read_text(encoding="utf-8"))["shape"][0]
        except (OSError, *DAMAGED):
            continue
        found = _read(entry.path, size, shape)
        rows = {identity: row for row, identity in enumerate(known)}
        shared = sum(identity in rows for identity in identities)
        whole = found is not None and len(known) == len(found[0])
        if found is not None and whole and rules == [*decoding_rules()] and shared >= most:
            best, most = (found[0], rows), shared + 1
    return best


def _copy_and_fill(
    identities: Sequence[str],
    pixels: np.ndarray,
    fill: Fill,
    earlier: np.ndarray,
    rows: dict[str, int],
) -> list[str]:
    """Fill ``pixels`` with the rows of an earlier entry, and decode the rest in blocks."""
    problems = [""] * len(identities)
    missing = []
    for place, identity in enumerate(identities):
        if identity in rows:
            pixels[place] = earlier[rows[identity]]
        else:
            missing.append(place)
    for start in range(0, len(missing), BLOCK):
        places = missing[start : start + BLOCK]
        block = np.empty((len(places), *pixels.shape[1:]), dtype=np.uint8)
        for place, problem in zip(places, fill(places, block), strict=True):
            problems[place] = problem
        pixels[places] = block
    return problems
