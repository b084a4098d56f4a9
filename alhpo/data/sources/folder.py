"""A folder with one sub-folder of images for each class, or with splits that hold them."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets import ImageFolder

from alhpo.base.errors import DataError
from alhpo.data.decoding import LazyImages
from alhpo.data.sources.source import EVAL_SPLITS, TRAIN_SPLITS, SourceData, SourceOptions


def read_folder(options: SourceOptions) -> SourceData:
    """The images of the folder at ``options.path``.

    Raises:
        DataError: no class sub-folders, a class without images, or no such evaluation split.
    """
    folder = options.path
    present = [child.name for child in folder.iterdir() if child.is_dir()]

    def find(asked: str, known: tuple[str, ...]) -> Path | None:
        names = (asked, *known) if asked in known else (asked,)
        return next((folder / split for split in names if split in present), None)

    train = find(options.train_split, TRAIN_SPLITS)
    if train is None:
        return SourceData(_images(folder))
    held_out = find(options.eval_split, EVAL_SPLITS)
    if held_out is None:
        raise DataError(
            f"{folder} has a split {train.name!r} but none called {options.eval_split!r}. "
            f"Its folders: {', '.join(sorted(present))}."
        )
    return SourceData(_images(train), _images(held_out))


class _ClassFolders(ImageFolder):
    """Images by class; hidden folders, as notebooks and file managers leave them, are none."""

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        folders = (entry.name for entry in Path(directory).iterdir() if entry.is_dir())
        classes = sorted(name for name in folders if not name.startswith("."))
        if not classes:
            raise DataError(
                f"{directory} holds no class sub-folders with images; one for each class is "
                "expected."
            )
        return classes, {name: number for number, name in enumerate(classes)}


def _images(folder: Path) -> LazyImages:
    try:
        source = _ClassFolders(str(folder))
    except FileNotFoundError as error:
        reason = str(error).splitlines()[0].replace("Found no valid file", "There is no image")
        raise DataError(
            f"{folder} must hold one sub-folder of images per class. {reason}. Add images there, "
            "or remove what is no class."
        ) from error
    paths, labels = zip(*source.samples, strict=True)
    return LazyImages.of_files(str(folder), paths, labels, source.classes)
