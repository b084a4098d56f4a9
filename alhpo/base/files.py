"""Files that survive a crash: atomic writes, append-only journals, locks; hashes of JSON values."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from alhpo.base.errors import ConfigurationError, DataError, RunLockedError

#: Seconds after which waiting for a lock is said.
PATIENCE = 10


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; the same value always gives the same text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256(content: bytes) -> str:
    """The SHA-256 of some bytes, in hex digits."""
    return hashlib.sha256(content).hexdigest()


def content_hash(value: Any, length: int = 12) -> str:
    """The first ``length`` hex digits of the SHA-256 of a JSON-able value."""
    return sha256(canonical_json(value).encode())[:length]


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and rename it over ``path`` on success.

    Args:
        path: the file to write. Its folder is made.
        durable: flush to disk before the rename: a power cut leaves the old or the new content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        if durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


class Journal:
    """An append-only file with one JSON value per line.

    A last line that a crash cut short is ignored when reading, and overwritten by the next entry. A
    damaged line before the last is an error.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def read(self) -> list[Any]:
        """All complete entries, oldest first.

        Raises:
            DataError: a line other than the last is not JSON.
        """
        return self.read_from(0)[0]

    def read_from(self, start: int) -> tuple[list[Any], int]:
        """The complete entries from a byte on, and the byte after them.

        Args:
            start: 0, or the byte after earlier entries.

        Raises:
            DataError: a line other than the last is not JSON, or the file has fewer bytes.
        """
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(start)
                content = file.read()
        except FileNotFoundError:
            size, content = 0, b""
        if size < start:
            raise DataError(
                f"{self.path} was cut short from outside while it was in use: it had {start} bytes "
                f"and has {size}. Restore it from a copy."
            )
        entries = []
        for line in content.split(b"\n")[:-1]:
            entries.append(self._parse(start, line))
            start += len(line) + 1
        return entries, start

    def append(self, entry: Any) -> int:
        """Add one entry and wait until it is on disk.

        Returns:
            The byte after it.
        """
        line = canonical_json(entry).encode() + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            self._drop_partial_line(file)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def _parse(self, start: int, line: bytes) -> Any:
        """The entry of a line that begins at a byte."""
        try:
            return json.loads(line)
        except ValueError as error:
            number = self.path.read_bytes()[:start].count(b"\n") + 1
            raise DataError(
                f"{self.path}, line {number} is not JSON ({error}): the file was changed from "
                "outside. Restore it from a copy, or remove its folder to start anew."
            ) from error

    @staticmethod
    def _drop_partial_line(file: Any) -> None:
        end = file.seek(0, os.SEEK_END)
        if end == 0:
            return
        file.seek(end - 1)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)


class Lock:
    """A lock between processes, and between parts of one, that waits for its turn.

    It ends with the process, however that ends. A thread may take it again while it holds it.

    Args:
        path: the file of the lock. Its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(path)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock.

        Raises:
            ConfigurationError: the file cannot be made or written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=PATIENCE)
            except Timeout:
                warnings.warn(
                    f"Another process holds {self._path}; waiting for it to end its work.",
                    stacklevel=3,
                )
                self._lock.acquire()
        except OSError as error:
            raise ConfigurationError(
                f"{self._path} cannot be made or written ({error.strerror}). Choose another "
                "folder, or make it writable."
            ) from error
        try:
            yield
        finally:
            self._lock.release()


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock a folder for this process. The lock ends with the process, however that ends.

    Raises:
        RunLockedError: another process, or another part of this one, has locked the folder.
        ConfigurationError: the folder cannot be made or written to.
    """
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise RunLockedError(
            f"{folder} is in use by another process. Wait for it to end, or choose another folder."
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"The folder {folder} cannot be made or written ({error.strerror}). Choose "
            "another, or make it writable."
        ) from error
    try:
        yield
    finally:
        lock.release()
