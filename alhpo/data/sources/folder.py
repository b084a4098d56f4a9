"""A folder with one sub-folder of images per class, or with such sub-folders per split."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets import ImageFolder

from alhpo.base.errors import DataError
from alhpo.data.decoding import LazyImages
from alhpo.data.sources.source import EVAL_SPLITS, TRAIN_SPLITS, SourceData, SourceOptions


def read_folder(options: SourceOptions) -> SourceData:
    """The images of the folder at ``options.path``.

    Raises:
        DataError: there are no class sub-folders, a class has no images, or the evaluation split
            is missing.
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
            f"Its folders: {', '.join(sorted(present))}. Set eval_split to one of them."
        )
    return SourceData(_images(train), _images(held_out))


class _ClassFolders(ImageFolder):
    """Images by class. Hidden folders, such as those of notebooks, are not classes."""

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        folders = (entry.name for entry in Path(directory).iterdir() if entry.is_dir())
        classes = sorted(name for name in folders if not name.startswith("."))
        if not classes:
            raise DataError(
                f"{directory} holds no class sub-folders with images; expected one for each class."
            )
        return classes, {name: number for number, name in enumerate(classes)}


def _images(folder: Path) -> LazyImages:
    try:
        source = _ClassFolders(str(folder))
    except FileNotFoundError as error:
        reason = str(error).splitlines()[0].replace("Found no valid file", "There is no image")
        raise DataError(
            f"{folder} must hold one sub-folder of images per class. {reason}. Add images there, "
            "or remove what is not a class."
        ) from error
    paths, labels = zip(*source.samples, strict=True)
    return LazyImages.of_files(str(folder), paths, labels, source.classes)
