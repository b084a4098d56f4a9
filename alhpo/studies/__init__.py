"""Studies: grids of runs and tunings in one file, run here or on a cluster."""

from alhpo.studies.config import (
    Cell,
    StudyConfig,
    TunePart,
    expand,
    load_study,
    shipped_studies,
)
from alhpo.studies.scheduler import StudyResult, run_study

__all__ = [
    "Cell",
    "StudyConfig",
    "StudyResult",
    "TunePart",
    "expand",
    "load_study",
    "run_study",
    "shipped_studies",
]
