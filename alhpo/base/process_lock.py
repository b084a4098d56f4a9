"""The lock of code that draws from a global generator or changes another global of the process.

Cells of a study may run as threads of one process. What belongs to the process (the global
generators of torch and NumPy, warning filters, settings of libraries) is used by one of them at a
time, and is put back before the lock is free again.
"""

from __future__ import annotations

import threading

#: A thread may take it again while it holds it.
PROCESS_LOCK = threading.RLock()
