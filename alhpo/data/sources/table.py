"""A table of image files with their labels: CSV or Parquet, one image on each line.

    path,label,split
    2024/001.jpg,cat,train
    2024/002.jpg,dog,val

``split`` may be missing, and so may ``label``: then nobody labelled the images yet.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alhpo.base.errors import DataError
from alhpo.data.lazy import ImageFiles
from alhpo.data.sources.registry import register_data_source
from alhpo.data.sources.source import EVAL_SPLITS, TRAIN_SPLITS, SourceData, SourceOptions

#: Names of the columns, in any case; the first that is there counts.
PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "id")
LABEL_COLUMNS = ("label", "class", "target", "category", "labels", "y")
SPLIT_COLUMNS = ("split", "set", "subset", "partition")


@register_data_source(".csv")
@register_data_source(".parquet")
def read_table(options: SourceOptions) -> SourceData:
    """The images of the table at ``options.path``.

    Paths are relative to ``options.given_root``, else to the folder of the table, or to a folder
    ``images`` in it.

    Raises:
        DataError: the table cannot be read, lacks a column, or names files that are not there.
    """
    table = options.path
    columns, numbers = _columns(table)
    path_column = _column(columns, PATH_COLUMNS)
    if path_column is None:
        raise DataError(
            f"{table} has the columns {', '.join(columns)}; expected one with the image files, "
            f"called {' or '.join(PATH_COLUMNS[:3])}."
        )
    names = [_text(value) for value in columns[path_column]]
    if not names:
        raise DataError(f"{table} has no lines; expected one for each image.")
    paths = _existing(table, names, options.given_root)
    label_column = _column(columns, LABEL_COLUMNS)
    texts = None if label_column is None else _labels(columns[label_column])
    if texts is not None and not any(texts):
        texts = None
    if texts is not None and not all(texts):
        line = texts.index("")
        raise DataError(
            f"{table} has no label in line {numbers[line]} ({names[line]}), but "
            f"{sum(map(bool, texts))} lines have one. Give all labels, or leave the column out."
        )
    classes = None if texts is None else sorted(set(texts), key=_order)
    place = {} if classes is None else {name: number for number, name in enumerate(classes)}
    labels = None if texts is None else [place[text] for text in texts]

    def images(rows: Sequence[int], where: str) -> ImageFiles:
        chosen = None if labels is None else tuple(labels[row] for row in rows)
        return ImageFiles(where, tuple(paths[row] for row in rows), chosen, classes)

    split_column = _column(columns, SPLIT_COLUMNS)
    if split_column is None:
        asked = (options.train_split.lower(), options.eval_split.lower())
        if asked[0] not in TRAIN_SPLITS or asked[1] not in EVAL_SPLITS:
            raise DataError(
                f"{table} has no column with splits ({', '.join(SPLIT_COLUMNS)}), so none called "
                f"{options.train_split!r} or {options.eval_split!r}. Add the column, or leave "
                "train_split and eval_split out."
            )
        return SourceData(images(range(len(paths)), str(table)), name=table.stem)
    splits = [_text(value) for value in columns[split_column]]
    train = _rows(splits, options.train_split, TRAIN_SPLITS)
    held_out = _rows(splits, options.eval_split, EVAL_SPLITS)
    for rows, flag in (
        (train, "train_split (--train-split)"),
        (held_out, "eval_split (--val-split)"),
    ):
        if not rows:
            raise DataError(
                f"{table} has the splits {', '.join(sorted(set(splits)))}. Set {flag} to one of "
                "them."
            )
    return SourceData(
        images(train, f"{table} ({splits[train[0]]})"),
        images(held_out, f"{table} ({splits[held_out[0]]})"),
        name=table.stem,
    )


def _columns(table: Path) -> tuple[dict[str, list[Any]], list[int]]:
    """The columns by name, and the number of each line."""
    if table.suffix.lower() == ".parquet":
        columns = _parquet(table)
        return columns, list(range(1, 1 + max(map(len, columns.values()), default=0)))
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, dialect=_dialect(file))
            filled = [(reader.line_num, line) for line in reader if any(map(str.strip, line))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read as a CSV table: {error}.") from error
    if not filled:
        raise DataError(f"{table} is empty; expected a first line with the names of the columns.")
    head = [name.strip() for name in filled[0][1]]
    for number, line in filled[1:]:
        if len(line) != len(head):
            raise DataError(
                f"{table}, line {number} has {len(line)} fields; expected {len(head)}: "
                f"{', '.join(head)}."
            )
    names = [name.lower() for name in head if name]
    if len(names) > len(set(names)):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{table} has two columns called {twice}; expected different names.")
    columns = {name: [line[place] for _, line in filled[1:]] for place, name in enumerate(head)}
    return columns, [number for number, _ in filled[1:]]


def _dialect(file: Any) -> Any:
    """Fields are separated by the first of ``,;`` and tab that stands in the first line."""
    head = file.readline()
    file.seek(0)

    class Dialect(csv.excel):
        delimiter = next((mark for mark in ",;\t" if mark in head), ",")

    return Dialect


def _parquet(table: Path) -> dict[str, list[Any]]:
    try:
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError(
            f"{table}: Parquet tables need pyarrow: pip install 'alhpo[parquet]'. Or write the "
            "table as CSV."
        ) from error
    try:
        return parquet.read_table(table).to_pydict()
    except Exception as error:
        raise DataError(f"{table} cannot be read as a Parquet table: {error}.") from error


def _column(columns: dict[str, list[Any]], known: Sequence[str]) -> str | None:
    by_lower = {name.lower(): name for name in columns}
    return next((by_lower[name] for name in known if name in by_lower), None)


def _text(value: Any) -> str:
    """A field as text: "3" for 3 and 3.0, "" for nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _labels(column: Sequence[Any]) -> list[str]:
    """The labels as texts. "3.0" is 3, if all are whole numbers: so do tools write them."""
    texts = [_text(value) for value in column]
    if all(re.fullmatch(r"-?[0-9]+(\.0+)?", text) for text in texts):
        return [text.partition(".")[0] for text in texts]
    return texts


def _order(text: str) -> tuple[bool, int, str]:
    """Whole numbers by value, before other texts by letter."""
    number = text.removeprefix("-")
    whole = number.isascii() and number.isdigit()
    return (not whole, int(text) if whole else 0, text)


def _rows(splits: Sequence[str], asked: str, known: Sequence[str]) -> list[int]:
    """The lines of a split: of the name that was asked for, else of another usual name."""
    names = (asked, *known) if asked.lower() in known else (asked,)
    for name in names:
        rows = [row for row, split in enumerate(splits) if split.lower() == name.lower()]
        if rows:
            return rows
    return []


def _existing(table: Path, names: Sequence[str], root: Path | None) -> list[str]:
    """The paths of the files.

    Raises:
        DataError: one or more are not there.
    """
    folders = [root] if root is not None else [table.parent, table.parent / "images"]
    missing: dict[Path, list[str]] = {}
    for folder in folders:
        paths = [folder / name for name in names]
        missing[folder] = [
            name
            for name, path in zip(names, paths, strict=True)
            if not os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises for impossible names
        ]
        if not missing[folder]:
            return [str(path) for path in paths]
    folder = min(missing, key=lambda key: len(missing[key]))
    lost = missing[folder]
    files = "1 file that is" if len(lost) == 1 else f"{len(lost):,} files that are"
    shown = ", ".join(name[:200] or "(no name)" for name in lost[:5]) + (
        ", ..." if len(lost) > 5 else ""
    )
    raise DataError(
        f"{table} names {files} not in {folder}: {shown}. Paths are relative to "
        "the table, or to root (--data-dir)."
    )
