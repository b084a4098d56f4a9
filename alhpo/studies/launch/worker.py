"""A process that runs cells: ``python -m alhpo.studies.launch.worker SHARE``.

SHARE is the part of its GPU's memory that it may use, above 0 and at most 1.

It reads one cell per line from stdin and writes one outcome per line to stdout. It ends at once
when stdin ends, even within a cell: the system closes stdin when the main process ends. The cell
can be continued as after any other kill.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from queue import SimpleQueue

import torch

from alhpo.studies.launch.remote import run_packed


def main() -> None:
    """Serve until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # other output must not mix with the answers
    cells: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            cells.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    if (share := float(sys.argv[1])) < 1:  # what others keep, this one cannot free
        torch.cuda.set_per_process_memory_fraction(share)
    while True:
        answer = run_packed(cells.get())
        with suppress(BrokenPipeError):  # the main process is gone; the end of stdin ends this one
            print(answer, file=answers, flush=True)


if __name__ == "__main__":
    main()
