"""A folder of images: one sub-folder per class, such sub-folders per split, or images alone.

pets/cat/1.jpg                         classes
pets/train/cat/1.jpg, pets/val/...     splits of classes, under any usual name in any case
pets/1.jpg                             images without labels
pets/images/1.jpg, pets/labels.csv     a table of labels, see ``table.py``

A split may have its labels in a file, as TinyImageNet's, see ``annotations.py``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from alhpo.base.errors import DataError
from alhpo.data.lazy import ImageFiles
from alhpo.data.sources.annotations import annotated, with_words
from alhpo.data.sources.source import (
    EVAL_SPLITS,
    OTHER_SPLITS,
    TRAIN_SPLITS,
    SourceData,
    SourceOptions,
)
from alhpo.data.sources.table import images_of_table

#: Endings of the image files that are read.
READ = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
    )
)
#: Endings of image files that are not read, and are named.
NOT_READ = frozenset(
    (
        *(".apng", ".avif", ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".ico", ".psd", ".svg"),
        *(".tga", ".eps", ".exr", ".hdr", ".pcx", ".qoi", ".dcm", ".nii", ".dng", ".cr2", ".cr3"),
        *(".nef", ".arw", ".orf", ".rw2", ".raf"),
    )
)
#: Folders of tools, which hold no images of the data set. Hidden ones are left out anyway.
TOOL_FOLDERS = frozenset(
    {"__MACOSX", "__pycache__", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found"}
)
TABLES = ("labels.csv", "labels.parquet", "metadata.csv")


def read_folder(options: SourceOptions) -> SourceData:
    """The images of the folder at ``options.path``.

    Raises:
        DataError: there are no images, the evaluation split is missing, or it is not clear whether
            a sub-folder is a split or a class.
    """
    folder = options.path
    present = _sub_folders(folder)
    if options.train_split == ".":
        return SourceData(_classes_or_images(folder, present))
    table = next((folder / name for name in TABLES if (folder / name).is_file()), None)
    train = _split(folder, present, options.train_split, TRAIN_SPLITS)
    if table is not None and train is None:
        return _labelled_by(table, present, options)
    if train is None:
        if options.train_split.lower() not in TRAIN_SPLITS:
            raise DataError(
                f"{folder} has no folder called {options.train_split!r}. Its folders: "
                f"{', '.join(present)}. Set train_split (--train-split) to one of them, or to '.' "
                "if all of them are classes."
            )
        if options.eval_split.lower() not in EVAL_SPLITS:
            raise DataError(
                f"{folder} has no splits, so none called {options.eval_split!r}. Its folders: "
                f"{', '.join(present)}. Leave eval_split (--val-split) out: a share of the images "
                "is held out then."
            )
        return SourceData(_classes_or_images(folder, present))
    held_out = _split(folder, present, options.eval_split, EVAL_SPLITS)
    if held_out is None:
        raise DataError(
            f"{folder} has a folder {train.name!r} but none called {options.eval_split!r}. "
            f"Its folders: {', '.join(present)}. Set eval_split (--val-split) to the one with the "
            "evaluation images; or set train_split (--train-split) to '.', if all of them are "
            "classes."
        )
    known = {*TRAIN_SPLITS, *EVAL_SPLITS, *OTHER_SPLITS}
    chosen = {train.name, held_out.name}
    others = [name for name in present if name not in chosen and name.lower() not in known]
    usual = options.train_split.lower() in known and options.eval_split.lower() in known
    if usual and any(_has_images(folder / name) for name in others):
        raise DataError(
            f"{folder} has the folders {train.name!r} and {held_out.name!r}, which look like "
            f"splits, beside {', '.join(others)}, which look like classes. Set train_split "
            "(--train-split) to '.' if all are classes; else move the others away."
        )
    parts = [_images_of_split(_inner(split)) for split in (train, held_out)]
    pool, evaluation = with_words(parts, folder)
    unused = [name for name in present if name not in chosen]
    if unused:
        note = f"{folder}: {train.name} and {held_out.name} are used, {', '.join(unused)} not."
        pool = replace(pool, notes=(*pool.notes, note))
    return SourceData(pool, evaluation)


def images_below(folder: Path) -> ImageFiles:
    """All images in a folder and its sub-folders, whatever these mean, without labels.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    skipped: Counter[str] = Counter()
    paths = sorted(path for path in _below(folder) if _is_read(path, skipped))
    if not paths:
        raise DataError(f"{folder} holds no images.{_not_read(skipped)}")
    return ImageFiles(str(folder), tuple(paths), None, None, _notes(folder, skipped, (), 0))


def _labelled_by(table: Path, present: Sequence[str], options: SourceOptions) -> SourceData:
    """The images of a table in the folder. Its sub-folders may be classes that are passed over."""
    way_out = "Set train_split (--train-split) to '.' to take the sub-folders as classes instead."
    try:
        data = images_of_table(replace(options, name=str(table)))
    except DataError as error:
        raise DataError(f"{error} {way_out}" if present else str(error)) from error
    images = data.pool
    if isinstance(images, ImageFiles) and any(name.lower() != "images" for name in present):
        images = replace(images, notes=(f"Images and labels are those of {table}. {way_out}",))
    return replace(data, pool=images, name=None)


def _split(folder: Path, present: Sequence[str], asked: str, known: Sequence[str]) -> Path | None:
    """The folder of a split: of the name that was asked for, else of another usual name."""
    if asked in present:
        return folder / asked
    names = (asked, *known) if asked.lower() in known else (asked,)
    for name in names:
        found = [other for other in present if other.lower() == name.lower()]
        if len(found) > 1:
            raise DataError(
                f"{folder} has the folders {', '.join(found)}, which differ in case alone. Name "
                "the split exactly (--train-split, --val-split)."
            )
        if found:
            return folder / found[0]
    return None


def _inner(split: Path) -> Path:
    """The folder with the classes: archives often hold ``seg_train/seg_train``."""
    inside = _sub_folders(split)
    same = [name.lower() for name in inside] == [split.name.lower()]
    return split / inside[0] if same else split


def _images_of_split(split: Path) -> ImageFiles:
    """Images by annotations or class; without labels if the only sub-folder is ``images``."""
    inside = _sub_folders(split)
    if inside == ["images"]:
        return annotated(split) or images_below(split / "images")
    return _classes_or_images(split, inside)


def _classes_or_images(folder: Path, classes: Sequence[str]) -> ImageFiles:
    """Images by class; without labels if there are no sub-folders."""
    skipped: Counter[str] = Counter()
    loose = [path for path in _files(folder) if _is_read(path, skipped)]
    if not classes:
        if not loose:
            raise DataError(
                f"{folder} holds no images; expected one sub-folder of images per class, or "
                f"images.{_not_read(skipped)}"
            )
        return ImageFiles(str(folder), tuple(loose), None, None, _notes(folder, skipped, (), 0))
    paths: list[str] = []
    labels: list[int] = []
    for number, name in enumerate(classes):
        found = sorted(path for path in _below(folder / name) if _is_read(path, skipped))
        paths += found
        labels += [number] * len(found)
    if not paths:
        raise DataError(
            f"{folder} holds no images in its sub-folders {', '.join(classes)}; expected one "
            f"sub-folder of images per class.{_not_read(skipped)}"
        )
    empty = [name for number, name in enumerate(classes) if number not in set(labels)]
    notes = _notes(folder, skipped, empty, len(loose))
    return ImageFiles(str(folder), tuple(paths), tuple(labels), list(classes), notes)


def _notes(
    folder: Path, skipped: Counter[str], empty: Sequence[str], loose: int
) -> tuple[str, ...]:
    notes = []
    if skipped:
        notes.append(f"{folder}:{_not_read(skipped)}")
    if empty:
        notes.append(f"{folder}: classes without images: {', '.join(empty)}.")
    if loose:
        notes.append(
            f"{folder}: {loose} image{'s' if loose > 1 else ''} beside the class folders "
            "belong to no class and are not used."
        )
    return tuple(notes)


def _not_read(skipped: Counter[str]) -> str:
    if not skipped:
        return ""
    counts = ", ".join(f"{count:,} {ending}" for ending, count in sorted(skipped.items()))
    return f" Image files that are not read: {counts}. Convert them to JPEG or PNG to use them."


def _is_read(path: str, skipped: Counter[str]) -> bool:
    ending = os.path.splitext(path)[1].lower()  # noqa: PTH122 - a Path of each file takes seconds
    if ending in NOT_READ:
        skipped[ending] += 1
    return ending in READ


def _has_images(folder: Path) -> bool:
    return any(Path(path).suffix.lower() in READ for path in _below(folder))


def _sub_folders(folder: Path) -> list[str]:
    return [entry.name for entry in _inside(folder) if _is_folder(entry)]


def _files(folder: Path) -> list[str]:
    return [entry.path for entry in _inside(folder) if _is_file(entry)]


def _below(folder: Path, above: frozenset[tuple[int, int]] | None = None) -> Iterator[str]:
    """All files below a folder, through links; not those of hidden folders and of tools.

    Links that lead nowhere are files, too, which cannot be read.

    Args:
        folder: the folder.
        above: device and inode of the folders on the way here, at which a loop of links ends; by
            default the folders that hold this one.
    """
    if above is None:
        parent = folder.parent.resolve()  # of a link, not of what it leads to
        holding = (parent, *parent.parents, *folder.resolve().parents)
        above = frozenset(_place(parent) for parent in holding)
    inside, here = _inside(folder), _place(folder)
    if here in above:
        return
    for entry in inside:
        if _is_folder(entry):
            yield from _below(Path(entry.path), above | {here})
        elif _is_file(entry):
            yield entry.path


def _inside(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder and not hidden, by name."""
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not _is_hidden(entry.name)]
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}).") from error
    return sorted(shown, key=lambda entry: entry.name)


def _place(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file, or a link that leads nowhere."""
    try:
        return entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())
    except OSError:
        return True


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in TOOL_FOLDERS
