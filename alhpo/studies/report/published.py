"""The published tables of Huseljic et al. (2023), and a study beside them."""

from __future__ import annotations

from dataclasses import dataclass

from alhpo.studies.report.rendering import StudyTable
from alhpo.studies.report.results import StudyResults


@dataclass(frozen=True)
class Comparison:
    """A study beside published tables.

    Attributes:
        source: where they were published, with a link.
        tables: one per data set, model and source.
        differences: settings of the study that differ from the published protocol, a sentence
            each.
    """

    source: str
    tables: tuple[StudyTable, ...]
    differences: tuple[str, ...]


def published_names() -> list[str]:
    """What ``compare_published`` can compare with: cifar10, cifar100."""
    raise NotImplementedError


def compare_published(results: StudyResults, which: str) -> Comparison:
    """A study's accuracies beside the published ones.

    Args:
        which: one of ``published_names``.

    Raises:
        ConfigurationError: no such tables.
    """
    raise NotImplementedError
