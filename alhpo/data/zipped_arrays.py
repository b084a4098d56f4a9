"""Arrays in an .npz file, read a block of rows at a time."""

from __future__ import annotations

import math
import threading
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from alhpo.base.errors import DataError

#: Bytes that are read at a time, and blocks that are kept for threads that are behind others.
BLOCK_BYTES, KEPT_BLOCKS = 2**22, 8


def array_names(file: Path) -> list[str]:
    """The names of the arrays in an .npz file.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise _damaged(file, error) from error
    return [name.removesuffix(".npy") for name in names]


class ZippedRows:
    """The rows of an array in an .npz file, of which a few blocks are in memory at a time.

    Only the header is read at first. Rows are quick in ascending order: to go back is to read from
    the front, as the array is compressed. Several threads may ask.

    Attributes:
        shape: shape of the array.
        dtype: type of its values.
    """

    def __init__(self, file: Path, name: str) -> None:
        """
        Raises:
            DataError: the file has no such array, is damaged, or holds an array of objects or one
                in Fortran's order.
        """
        self._file, self._name = file, name
        self._stream: IO[bytes] | None = None
        try:
            with self._opened() as stream:
                self.shape, fortran, self.dtype = _header(stream)
        except KeyError as error:
            names = ", ".join(array_names(file))
            raise DataError(f"{file} has no array {name!r}. Its arrays: {names}.") from error
        except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise _damaged(file, error) from error
        if not self.shape or self.dtype.hasobject or (fortran and len(self.shape) > 1):
            raise DataError(
                f"{file}: {name} has shape {self.shape}, type {self.dtype} and "
                f"{'Fortran' if fortran else 'C'} order; expected rows of numbers in C order. Save "
                "np.ascontiguousarray of it."
            )
        self._row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        self._per_block = max(BLOCK_BYTES // max(self._row_bytes, 1), 1)
        self._next = 0
        self._blocks: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, row: int) -> np.ndarray:
        """
        Raises:
            DataError: the file is damaged, or gone.
        """
        if not 0 <= row < len(self):
            raise IndexError(row)
        number, place = divmod(row, self._per_block)
        with self._lock:
            if number not in self._blocks:
                try:
                    block = self._read(number)
                except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                    self._stream = None
                    raise _damaged(self._file, error) from error
                if len(self._blocks) == KEPT_BLOCKS:
                    del self._blocks[next(iter(self._blocks))]
                self._blocks[number] = block
            return self._blocks[number][place]

    def whole(self) -> np.ndarray:
        """The whole array.

        Raises:
            DataError: the file is damaged, or gone.
        """
        try:
            with self._opened() as stream:
                return np.lib.format.read_array(stream, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise _damaged(self._file, error) from error

    def _read(self, number: int) -> np.ndarray:
        if self._stream is None or number < self._next:
            self._stream, self._next = self._opened(), 0
            _header(self._stream)
        self._stream.seek((number - self._next) * self._per_block * self._row_bytes, 1)
        rows = min(self._per_block, len(self) - number * self._per_block)
        content = self._stream.read(rows * self._row_bytes)
        self._next = number + 1
        return np.frombuffer(content, self.dtype).reshape(rows, *self.shape[1:])

    def _opened(self) -> IO[bytes]:
        with zipfile.ZipFile(self._file) as archive:  # what is open in it stays open
            return archive.open(f"{self._name}.npy")


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether it is in Fortran's order, and type of the array that follows."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)


def _damaged(file: Path, error: Exception) -> DataError:
    return DataError(
        f"{file} cannot be read as an .npz file ({error!r}). Restore it, or remove it and get it "
        "again."
    )
