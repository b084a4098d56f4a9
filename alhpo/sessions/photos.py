"""The photos of a session: the image files that are there now, each known by its content."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from alhpo.base.errors import DataError
from alhpo.data.identified import IdentifiedFiles, identified
from alhpo.data.identity import held_out_share
from alhpo.data.lazy import ImageFiles
from alhpo.data.sources import SourceOptions, find_source
from alhpo.data.sources.folder import images_below
from alhpo.data.sources.source import user_path
from alhpo.data.sources.table import files_of_table
from alhpo.data.tables import TABLES, read_table


@dataclass(frozen=True)
class Photos:
    """Image files with different content, in the order of their identities.

    Attributes:
        root: the folder that names of photos are relative to.
        part: the files.
    """

    root: Path
    part: IdentifiedFiles

    def __len__(self) -> int:
        return self.part.count

    @cached_property
    def paths(self) -> dict[str, str]:
        """The file of each photo, by identity."""
        return dict(zip(self.part.identities, self.part.images.paths, strict=True))

    @cached_property
    def names(self) -> dict[str, str]:
        """The file of each photo relative to the root, with slashes, by identity."""
        return {image: self.name(path) for image, path in self.paths.items()}

    def find(self, text: str) -> list[str]:
        """Identities of the photos that somebody calls by a path: from the root, absolute, or the
        name of the file alone."""
        text = text.strip().replace("\\", "/")
        whole = posixpath.normpath(text)
        image = self.all_names.get(whole) or self.all_names.get(self.name(whole))
        return [image] if image else self._by_file_name.get(whole, [])

    @cached_property
    def all_names(self) -> dict[str, str]:
        """The identity of every file by its name, also of copies of others."""
        found = {name: image for image, name in self.names.items()}
        first = {path: image for image, path in self.paths.items()}
        return found | {self.name(copy): first[path] for copy, path in self.part.copies}

    @cached_property
    def _by_file_name(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, image in self.all_names.items():
            images = found.setdefault(posixpath.basename(name), [])
            if image not in images:
                images.append(image)
        return found

    def name(self, path: str) -> str:
        """A file relative to the root, with slashes."""
        try:
            relative = os.path.relpath(path, self.root) if os.path.isabs(path) else path  # noqa: PTH117
        except ValueError:  # another drive
            return path
        return relative.replace(os.sep, "/")


def find_photos(images: str) -> Photos:
    """The photos in a folder and its sub-folders, or of a table.

    Args:
        images: the folder, or a CSV or Parquet table with a column of files.

    Raises:
        DataError: nothing there, or a file of the table is missing.
    """
    place = user_path(images).absolute()
    if place.suffix.lower() in TABLES and not place.is_dir():
        _, paths = files_of_table(read_table(place), None)
        files = ImageFiles(str(place), tuple(paths), None)
        root = place.parent
    elif place.is_dir():
        files, root = images_below(place), place
    else:
        raise DataError(
            f"There are no images at {place}: expected a folder, or a table (.csv, .parquet)."
        )
    photos = Photos(root, identified(files))
    if not len(photos):
        problems = "".join(f"\n  {path}: {why}" for path, why in photos.part.problems)
        raise DataError(f"No image at {place} can be read:{problems}")
    return photos


def evaluation_share(given: str | None) -> float | None:
    """The share of photos kept for evaluation, if the setting ``eval`` is a number.

    Raises:
        DataError: a number that is no share.
    """
    try:
        share = float(given) if given is not None else None
    except ValueError:
        return None
    if share is not None and not 0 < share < 1:
        raise DataError(f"Setting eval is {given}; expected a share in (0, 1), such as 0.1.")
    return share


def kept_for_evaluation(images: Sequence[str], given: str | None) -> set[str]:
    """Identities of the photos that the setting ``eval`` keeps for evaluation, by the content of
    each alone."""
    share = evaluation_share(given)
    return set() if share is None else {i for i in images if held_out_share(i) < share}


def given_evaluation(given: str | None, classes: Sequence[str]) -> IdentifiedFiles | None:
    """The labelled images of the setting ``eval``, if it is a folder or a table.

    Raises:
        DataError: one cannot be read, they have no labels, or a class that the session lacks.
    """
    if given is None or evaluation_share(given) is not None:
        return None
    # in a folder, a class may be called train; a table may have splits
    split = "." if user_path(given).is_dir() else "train"
    data = find_source(given)(SourceOptions(given, Path(), train_split=split))
    images = data.evaluation or data.pool
    if not isinstance(images, ImageFiles) or images.labels is None:
        raise DataError(
            f"The evaluation images {given} have no labels; expected one folder for each class, or "
            "a table with the columns path and label."
        )
    found = identified(images.with_classes(classes))
    if found.problems:
        problems = "".join(f"\n  {path}: {why}" for path, why in found.problems)
        raise DataError(
            f"Evaluation images of {given} cannot be used:{problems}\nRepair or remove them."
        )
    return found
