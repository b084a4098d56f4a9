"""The checkpoint folders of a search. Whenever the search is killed, the checkpoint of each trial
can be brought back to the last epoch in the journal."""

from __future__ import annotations

import os
import shutil
import uuid
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path


class TrialFolders:
    """The checkpoints in one folder that only this search uses.

    ``trial_7`` is the path given to the objective. ``trial_7.before_4`` is a copy made before epoch
    4 begins and deleted once epoch 4 is in the journal. ``best_7_3`` is a copy after epoch 3, the
    best epoch of the search. A copy is a folder with the checkpoint under the name ``checkpoint``,
    or empty if the objective had written nothing. Copies appear and vanish by renaming, so that
    there is never half a copy under such a name.

    Args:
        root: the folder.
        replaces_files: True if the objective replaces files by renaming new ones over them and
            never writes into an existing file; then copies are hard links.
    """

    def __init__(self, root: Path, *, replaces_files: bool) -> None:
        self.root = root
        self._replaces_files = replaces_files

    def path(self, configuration_id: int) -> Path:
        """Where the objective keeps the checkpoint of this trial; it may not exist."""
        return self.root / f"trial_{configuration_id}"

    def begin(self, configuration_id: int, epoch: int) -> Path:
        """Copy the checkpoint before the objective trains ``epoch``; return its path."""
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.path(configuration_id)
        if epoch == 1:
            self._discard(path)
        else:
            self._snapshot(path, self._before(configuration_id, epoch))
        return path

    def commit(self, configuration_id: int, epoch: int) -> None:
        """Delete the copy from before ``epoch``, which is now in the journal."""
        self._discard(self._before(configuration_id, epoch))

    def keep_best(self, configuration_id: int, epoch: int, *, anew: bool = False) -> None:
        """Replace the copy of the best checkpoint by one of this trial, now at ``epoch``.

        An existing copy of the same epoch is replaced only with ``anew``.
        """
        best = self._best(configuration_id, epoch)
        if anew or not best.exists():
            self._snapshot(self.path(configuration_id), best)
        for other in self.root.glob("best_*"):
            if other != best:
                self._discard(other)

    def restore(self, configuration_id: int, epoch: int) -> None:
        """Bring the checkpoint back to its state before ``epoch``, whose training failed."""
        before = self._before(configuration_id, epoch)
        if before.exists():
            self._restore(before, self.path(configuration_id))

    def forget(self, configuration_id: int) -> None:
        """Delete the unusable checkpoint of a trial and the copies of it from before an epoch."""
        for copy in self.root.glob(f"trial_{configuration_id}.before_*"):
            self._discard(copy)
        self._discard(self.path(configuration_id))

    def remove(self, configuration_id: int) -> None:
        """Delete the checkpoint of a trial that has ended."""
        self._discard(self.path(configuration_id))

    def recover(self, epochs: Mapping[int, int], unusable: Collection[int]) -> None:
        """Bring the folders back to the last epochs in the journal; may be repeated.

        Args:
            epochs: of each trial that may continue, its last epoch in the journal.
            unusable: those of these trials whose checkpoint cannot be used.
        """
        names = [path.name for path in self.root.iterdir()] if self.root.exists() else []
        for name in names:
            stem, _, before = name.partition(".before_")
            if name.startswith("."):
                self._discard(self.root / name)
            elif stem.startswith("trial_"):
                number = int(stem.removeprefix("trial_"))
                if number not in epochs or number in unusable:
                    self._discard(self.root / name)
                elif before and int(before) == epochs[number] + 1:
                    self._restore(self.root / name, self.path(number))
                elif before:
                    self._discard(self.root / name)

    def checksum(self, configuration_id: int) -> str | None:
        """Checksum of a trial's checkpoint, or None if there is no checkpoint."""
        return checksum(self.path(configuration_id))

    def has_best(self, configuration_id: int, epoch: int, digest: str | None) -> bool:
        """Whether there is a copy of this epoch with this checksum."""
        return checksum(self._best(configuration_id, epoch) / "checkpoint") == digest

    def export_best(self, configuration_id: int, epoch: int, destination: Path) -> None:
        """Copy the best checkpoint to ``destination``, and replace what is there."""
        for half_made in destination.parent.glob(f".{destination.name}.*"):
            _delete(half_made)  # left by a process that was killed
        temporary = destination.parent / f".{destination.name}.{uuid.uuid4().hex}"
        self._clone(self._best(configuration_id, epoch) / "checkpoint", temporary)
        _delete(destination)
        temporary.rename(destination)

    def close(self, keep: Sequence[int] = (), most_bytes: int = 0) -> None:
        """Delete the folder and everything in it but some checkpoints; may be repeated.

        Args:
            keep: trials whose checkpoints are kept as far as there is room, those that matter most
                first.
            most_bytes: the room for them.
        """
        kept: set[str] = set()
        for number in keep:
            path = self.path(number)
            size = _size(path)
            if path.exists() and 0 < size <= most_bytes:
                kept.add(path.name)
                most_bytes -= size
        for name in [path.name for path in self.root.iterdir()] if self.root.exists() else []:
            if name.startswith("."):
                _delete(self.root / name)
            elif name not in kept:
                self._discard(self.root / name)
        if not kept:
            shutil.rmtree(self.root, ignore_errors=True)

    def _before(self, configuration_id: int, epoch: int) -> Path:
        return self.root / f"trial_{configuration_id}.before_{epoch}"

    def _best(self, configuration_id: int, epoch: int) -> Path:
        return self.root / f"best_{configuration_id}_{epoch}"

    def _snapshot(self, path: Path, copy: Path) -> None:
        self._discard(copy)
        temporary = self._temporary()
        temporary.mkdir()
        if path.exists():
            self._clone(path, temporary / "checkpoint")
        temporary.rename(copy)

    def _restore(self, copy: Path, path: Path) -> None:
        self._discard(path)
        if (copy / "checkpoint").exists():
            temporary = self._temporary()
            self._clone(copy / "checkpoint", temporary)
            temporary.rename(path)
        self._discard(copy)

    def _discard(self, path: Path) -> None:
        if path.exists():
            temporary = self._temporary()
            path.rename(temporary)
            _delete(temporary)

    def _temporary(self) -> Path:
        return self.root / f".{uuid.uuid4().hex}"

    def _clone(self, source: Path, destination: Path) -> None:
        copy = _link if self._replaces_files else shutil.copy2
        if source.is_dir():
            shutil.copytree(source, destination, copy_function=copy)
        else:
            copy(str(source), str(destination))


def checksum(path: Path) -> str | None:
    """CRC-32 of a file, or of all files in a folder with their names."""
    if not path.exists():
        return None
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    value = 0
    for file in files:
        value = zlib.crc32(f"{file.relative_to(path).as_posix()}\0".encode(), value)
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                value = zlib.crc32(block, value)
    return f"{value:08x}"


def _size(path: Path) -> int:
    """Bytes in a file, or in all files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _link(source: str, destination: str) -> None:
    try:
        os.link(source, destination)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, destination)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
