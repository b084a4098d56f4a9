"""Reads many image files side by side: in threads, or in processes if they are many.

Python code around each file holds the global lock, so threads hold each other up on many small
files. Processes start as ``python -m alhpo.data.workers``: that imports neither torch nor the
user's script, and forks nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from alhpo.base.child_processes import import_settings
from alhpo.base.errors import DataError
from alhpo.data.pixels import ImageFacts, UnreadableImage, decode_file, inspect_file

#: Number of files from which on processes pay.
MANY = 1000


def inspect_files(paths: Sequence[str]) -> list[ImageFacts]:
    """The facts of image files, in order."""
    if len(paths) < MANY:
        return _in_threads(inspect_file, paths)
    answers = _in_processes({"task": "inspect"}, [(path,) for path in paths])
    return [ImageFacts(**answer) for answer in answers]


def decode_files(paths: Sequence[str], identities: Sequence[str], pixels: np.ndarray) -> list[str]:
    """Decode image files into the rows of an array.

    Args:
        paths: N files.
        identities: SHA-256 of each.
        pixels: (N, H, W, C) uint8 that is written to; processes need a ``numpy.memmap``.

    Returns:
        For each file why it cannot be decoded; "" if it was.
    """
    if len(paths) < MANY or not isinstance(pixels, np.memmap):
        return _in_threads(partial(_decode_row, pixels), range(len(paths)), paths, identities)
    order = {"task": "decode", "file": str(pixels.filename)}
    return _in_processes(order, list(zip(paths, identities, strict=True)))


def processors() -> int:
    """The number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _decode_row(pixels: np.ndarray, row: int, path: str, identity: str) -> str:
    shape = (pixels.shape[1], pixels.shape[2], pixels.shape[3])
    try:
        pixels[row] = decode_file(path, identity, shape)
    except UnreadableImage as error:
        return str(error)
    return ""


def _in_threads(task: Callable, *items: Sequence) -> list:
    with ThreadPoolExecutor(processors()) as pool:
        return list(pool.map(task, *items))


def _in_processes(order: dict, files: Sequence[tuple[str, ...]]) -> list:
    """Answers for each file, from processes that share them evenly."""
    shares = [list(range(first, len(files), processors())) for first in range(processors())]
    order = order | {"most_pixels": Image.MAX_IMAGE_PIXELS}
    environment = os.environ | import_settings()
    command = [sys.executable, "-m", "alhpo.data.workers"]
    workers: list[subprocess.Popen[str]] = []
    answers: list = [None] * len(files)
    try:
        for _ in shares:
            workers.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=environment,
                )
            )

        def ask(worker: subprocess.Popen[str], rows: list[int]) -> None:
            text = json.dumps(order | {"rows": rows, "files": [files[row] for row in rows]})
            output, errors = worker.communicate(text)
            if worker.returncode:
                reason = errors.strip().rpartition("\n")[2]
                raise DataError(
                    f"A process that reads images ended with status {worker.returncode} "
                    f"({reason or 'it was killed'}). If memory ran out, free some; then try again."
                )
            for row, answer in zip(rows, json.loads(output), strict=True):
                answers[row] = answer

        _in_threads(ask, workers, shares)
    finally:
        for worker in workers:
            worker.kill()  # nothing, unless this process is being stopped
            worker.wait()
    return answers


def _work() -> None:
    """Answer the order on standard input."""
    order = json.load(sys.stdin)
    Image.MAX_IMAGE_PIXELS = order["most_pixels"]
    if order["task"] == "inspect":
        answers: list = [asdict(inspect_file(path)) for (path,) in order["files"]]
    else:
        pixels = np.load(Path(order["file"]), mmap_mode="r+", allow_pickle=False)
        answers = [
            _decode_row(pixels, row, path, identity)
            for row, (path, identity) in zip(order["rows"], order["files"], strict=True)
        ]
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    _work()
