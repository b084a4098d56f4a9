"""Features of images in the cache: each image once per network, mapped into memory.

    features/KEY/entry.json     what they are
    features/KEY/rows.jsonl     the images of each block of rows, and the block's checksum
    features/KEY/values.bin     (N, D) float16 or float32, block after block

A block is in ``rows.jsonl`` once it is on disk, so that an interrupted pass goes on after its last
block.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from alhpo.base.errors import DataError
from alhpo.base.files import PATIENCE, Journal, content_hash, write_text
from alhpo.data.cache import DAMAGED, attempt, cache_folder, make_room

#: From positions of images to their (B, D) features.
Encode = Callable[[Sequence[int]], np.ndarray]
#: Called with the number of images that have features, and of all that get some now.
EncodeProgress = Callable[[int, int], None]


class FeatureRows:
    """(N, D) features on disk; rows come as float32 tensors in memory.

    Args:
        values: (M, D), mapped into memory.
        rows: (N,) the row of each image.
    """

    def __init__(self, values: np.ndarray, rows: np.ndarray) -> None:
        self._values = values
        self._rows = rows

    @property
    def shape(self) -> tuple[int, int]:
        return len(self._rows), self._values.shape[1]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: slice | torch.Tensor, /) -> torch.Tensor:
        chosen = index.cpu().numpy() if isinstance(index, torch.Tensor) else index
        return torch.from_numpy(self._values[self._rows[chosen]].astype(np.float32))


def stored_features(
    key: Mapping[str, Any],
    what: str,
    identities: Sequence[str],
    width: int,
    dtype: type[np.floating[Any]],
    encode: Encode,
    *,
    block: int,
    progress: EncodeProgress | None = None,
) -> FeatureRows | None:
    """The features of these images from the cache; those that are not there are computed into it.

    Of several processes that want features of one network, one computes and the others wait.

    Args:
        key: everything that features depend on, apart from the image; JSON can hold it.
        what: what the features are, for people.
        identities: of the N images; images of one identity have the same features.
        width: D, the number of features.
        dtype: type in which they are kept.
        encode: computes features of ``block`` images or fewer.
        block: images that are computed, and then saved, at a time.
        progress: called after each block.

    Returns:
        The N rows; None where the cache cannot be written, or has no room.

    Raises:
        DataError: features that are not finite in ``dtype``.
    """
    name = content_hash([dict(key), width, np.dtype(dtype).name], length=32)
    folder = cache_folder() / "features"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _held(folder / f".{name}.lock"):
            stored = _Stored(folder / name, what, width, dtype)
            rows_of = {one: row for row, one in enumerate(identities)}  # of copies, the last
            missing = [row for one, row in rows_of.items() if one not in stored.rows]
            size = (len(stored.rows) + len(missing)) * stored.row_bytes
            if missing and not make_room(folder, size, name):
                return None
            for start in range(0, len(missing), block):
                rows = missing[start : start + block]
                stored.append([identities[row] for row in rows], finite_as(encode(rows), dtype))
                if progress:
                    progress(min(start + block, len(missing)), len(missing))
            attempt(lambda: os.utime(stored.path / "entry.json"))
            rows = np.array([stored.rows[one] for one in identities], dtype=np.int64)
            return FeatureRows(stored.values(), rows)
    except (OSError, NotImplementedError):  # read-only, full, no locks
        return None


def computed_features(
    count: int,
    width: int,
    dtype: type[np.floating[Any]],
    encode: Encode,
    *,
    block: int,
    progress: EncodeProgress | None = None,
) -> FeatureRows:
    """The same features of ``count`` images, in memory; see ``stored_features``."""
    values = np.empty((count, width), dtype=dtype)
    for start in range(0, count, block):
        rows = range(start, min(start + block, count))
        values[start : start + block] = finite_as(encode(rows), dtype)
        if progress:
            progress(rows.stop, count)
    return FeatureRows(values, np.arange(count))


@contextmanager
def _held(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        warnings.warn("Another process computes these features; waiting for it.", stacklevel=3)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class _Stored:
    """One entry of the cache; made if it is missing, and made anew if it is damaged."""

    def __init__(self, path: Path, what: str, width: int, dtype: type[np.floating[Any]]) -> None:
        self.path = path
        self.rows: dict[str, int] = {}
        self.row_bytes = width * np.dtype(dtype).itemsize
        self._width, self._dtype = width, dtype
        self._journal = Journal(path / "rows.jsonl")
        self._file = path / "values.bin"
        if not self._read():
            shutil.rmtree(path, ignore_errors=True)
            self.rows = {}
            path.mkdir()
            self._file.touch()
            write_text(path / "entry.json", json.dumps({"images": what}))

    def append(self, identities: Sequence[str], values: np.ndarray) -> None:
        """Add a block of rows and wait until it is on disk."""
        content = values.tobytes()
        with self._file.open("r+b") as file:
            file.truncate(len(self.rows) * self.row_bytes)  # what a crash left behind
            file.seek(0, os.SEEK_END)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        self._journal.append({"images": list(identities), "crc": zlib.crc32(content)})
        self._add(identities)

    def values(self) -> np.ndarray:
        """(N, D), mapped into memory."""
        if not self.rows:
            return np.empty((0, self._width), dtype=self._dtype)
        return np.memmap(self._file, self._dtype, "r", shape=(len(self.rows), self._width))

    def _add(self, identities: Sequence[str]) -> None:
        self.rows |= {one: row for row, one in enumerate(identities, start=len(self.rows))}

    def _read(self) -> bool:
        try:
            with self._file.open("rb") as file:
                for entry in self._journal.read():
                    size = len(entry["images"]) * self.row_bytes
                    if zlib.crc32(file.read(size)) != entry["crc"]:
                        return False
                    self._add(entry["images"])
        except (OSError, DataError, *DAMAGED):
            return False
        return (self.path / "entry.json").exists()


def finite_as(values: np.ndarray, dtype: type[np.floating[Any]]) -> np.ndarray:
    """The values in this type.

    Raises:
        DataError: they are not finite there.
    """
    with np.errstate(over="ignore"):
        kept = values.astype(dtype)
    if not np.isfinite(kept).all():
        largest = np.abs(values[np.isfinite(values)]).max(initial=0)
        raise DataError(
            f"Features are not finite as {np.dtype(dtype).name} (the largest finite one is "
            f"{largest:.3g}). Use --precision float32, or other weights."
        )
    return kept
