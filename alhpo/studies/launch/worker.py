"""A process that runs cells: ``python -m alhpo.studies.launch.worker``.

It reads a cell a line on stdin and answers with an outcome a line on stdout. It ends with the
process that started it: the end of stdin, which the system closes however that one ends, ends it
at once, also in the middle of a cell. A cell is safe against this as against any other kill.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from queue import SimpleQueue

from alhpo.studies.launch.remote import run_packed


def main() -> None:
    """Serve until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever prints to stdout must not mix with the answers
    cells: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            cells.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        answer = run_packed(cells.get())
        with suppress(BrokenPipeError):  # the driver is gone; the end of stdin ends us
            print(answer, file=answers, flush=True)


if __name__ == "__main__":
    main()
