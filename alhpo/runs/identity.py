"""Which settings tell one run from another."""

from __future__ import annotations

#: Settings that say where or how fast, not what: runs that differ in them only are the same.
INCIDENTAL_KEYS = frozenset({"output_dir", "storage_dir", "download", "device"})
#: Runs that differ only in these are repetitions of each other.
REPETITION_KEYS = INCIDENTAL_KEYS | {"seed"}
#: Settings without effect where nothing is searched.
SEARCH_KEYS = frozenset(
    {
        "optimizer",
        "max_budget",
        "measure_current",
        "min_gain",
        "transfer",
        "num_configurations",
        "parallel",
        "space",
    }
)
