"""A table of image files with their labels: CSV or Parquet, one image on each line.

    path,label,split
    2024/001.jpg,cat,train
    2024/002.jpg,dog,val

``split`` may be missing, and so may ``label``: then nobody labelled the images yet.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from alhpo.base.errors import DataError
from alhpo.data.lazy import ImageFiles
from alhpo.data.sources.registry import register_data_source
from alhpo.data.sources.source import EVAL_SPLITS, TRAIN_SPLITS, SourceData, SourceOptions
from alhpo.data.tables import (
    LABEL_COLUMNS,
    PATH_COLUMNS,
    Table,
    as_labels,
    as_text,
    by_name,
    read_table,
)

#: Names of the column with splits, in any case; the first that is there counts.
SPLIT_COLUMNS = ("split", "set", "subset", "partition")


@register_data_source(".csv")
@register_data_source(".parquet")
def images_of_table(options: SourceOptions) -> SourceData:
    """The images of the table at ``options.path``.

    Paths are relative to ``options.given_root``, else to the folder of the table, or to a folder
    ``images`` in it.

    Raises:
        DataError: the table cannot be read, lacks a column, or names files that are not there.
    """
    table = options.path
    content = read_table(table)
    names, paths = files_of_table(content, options.given_root)
    label_column = content.column(LABEL_COLUMNS)
    texts = None if label_column is None else as_labels(label_column)
    if texts is not None and not any(texts):
        texts = None
    if texts is not None and not all(texts):
        line = texts.index("")
        raise DataError(
            f"{table} has no label in line {content.lines[line]} ({names[line]}), but "
            f"{sum(map(bool, texts))} lines have one. Give all labels, or leave the column out."
        )
    classes = None if texts is None else sorted(set(texts), key=by_name)
    place = {} if classes is None else {name: number for number, name in enumerate(classes)}
    labels = None if texts is None else [place[text] for text in texts]

    def images(rows: Sequence[int], where: str) -> ImageFiles:
        chosen = None if labels is None else tuple(labels[row] for row in rows)
        return ImageFiles(where, tuple(paths[row] for row in rows), chosen, classes)

    split_column = content.column(SPLIT_COLUMNS)
    if split_column is None:
        asked = (options.train_split.lower(), options.eval_split.lower())
        if asked[0] not in TRAIN_SPLITS or asked[1] not in EVAL_SPLITS:
            raise DataError(
                f"{table} has no column with splits ({', '.join(SPLIT_COLUMNS)}), so none called "
                f"{options.train_split!r} or {options.eval_split!r}. Add the column, or leave "
                "train_split and eval_split out."
            )
        return SourceData(images(range(len(paths)), str(table)), name=table.stem)
    splits = [as_text(value) for value in split_column]
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


def files_of_table(table: Table, root: Path | None) -> tuple[list[str], list[str]]:
    """The image files that a table names, as written and as paths.

    Args:
        table: the table.
        root: folder that the names are relative to; None for the folder of the table, or a folder
            ``images`` in it.

    Raises:
        DataError: no column with files, no lines, or files that are not there.
    """
    column = table.column(PATH_COLUMNS)
    if column is None:
        raise DataError(
            f"{table.path} has the columns {', '.join(table.columns)}; expected one with the image "
            f"files, called {' or '.join(PATH_COLUMNS[:3])}."
        )
    names = [as_text(value) for value in column]
    if not names:
        raise DataError(f"{table.path} has no lines; expected one for each image.")
    return names, _existing(table.path, names, root)


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
