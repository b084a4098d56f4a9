"""Studies: grids of runs and tunings from one file, launched anywhere, and their reports."""

from alhpo.studies.config import (
    Cell,
    StudyConfig,
    TunePart,
    expand,
    load_study,
    run_sizes,
    shipped_studies,
)

__all__ = [
    "Cell",
    "StudyConfig",
    "TunePart",
    "expand",
    "load_study",
    "run_sizes",
    "shipped_studies",
]
