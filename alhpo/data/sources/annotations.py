"""Labels and class names that a folder of splits has in text files, as TinyImageNet's.

val/val_annotations.txt        val_0.JPEG<tab>n03444034<tab>...    for val/images/val_0.JPEG
words.txt                      n03444034<tab>go-kart               for the class n03444034
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from alhpo.base.errors import DataError
from alhpo.data.lazy import ImageFiles

ANNOTATIONS, WORDS = "val_annotations.txt", "words.txt"


def annotated(split: Path) -> ImageFiles | None:
    """The images of a split that its annotations label; None if there are none.

    Raises:
        DataError: a line has no file and class.
    """
    table, images = split / ANNOTATIONS, split / "images"
    if not table.is_file() or not images.is_dir():
        return None
    pairs = _pairs(table)
    classes = sorted(set(pairs.values()))
    place = {name: number for number, name in enumerate(classes)}
    return ImageFiles(
        str(split),
        tuple(str(images / file) for file in pairs),
        tuple(place[name] for name in pairs.values()),
        classes,
    )


def with_words(parts: Sequence[ImageFiles], folder: Path) -> list[ImageFiles]:
    """The parts with the first word of each class in the folder's ``words.txt`` as its name, and
    its id in brackets where classes share a word. Unchanged if a class is not in there.

    Raises:
        DataError: a line has no id and words.
    """
    present = {name for images in parts for name in images.classes or ()}
    words = _pairs(folder / WORDS) if (folder / WORDS).is_file() else {}
    if not present <= words.keys():
        return list(parts)
    first = {name: words[name].split(",")[0].strip() or name for name in present}
    shared = Counter(first.values())
    names = {name: w if shared[w] == 1 else f"{w} ({name})" for name, w in first.items()}
    return [
        images
        if images.classes is None
        else replace(images, classes=[names[n] for n in images.classes])
        for images in parts
    ]


def _pairs(file: Path) -> dict[str, str]:
    """The first two fields of each line."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as text ({error}).") from error
    pairs = {}
    for number, line in enumerate(lines, start=1):
        fields = [field.strip() for field in line.split("\t")]
        if not line.strip():
            continue
        if len(fields) < 2 or not all(fields[:2]):
            raise DataError(
                f"{file}, line {number}: {line[:80]!r}; expected fields separated by tabs."
            )
        pairs[fields[0]] = fields[1]
    return pairs
