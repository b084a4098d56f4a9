"""Image files by their content: each once, in an order that renaming does not change.

Imports no torch, so that what only looks at files is quick.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import Self

import numpy as np

from alhpo.data.facts import facts_of_files
from alhpo.data.identity import drawn_by_identity, held_out_by_identity
from alhpo.data.lazy import ImageFiles
from alhpo.data.pixels import ImageFacts


@dataclass(frozen=True)
class IdentifiedFiles:
    """Image files in the order of their identities. See ``identified``.

    Attributes:
        images: the files, each with another content.
        facts: their facts.
        problems: files that are left out, each with the reason.
        copies: files that are left out because another has the same content, each with that file.
    """

    images: ImageFiles
    facts: tuple[ImageFacts, ...]
    problems: tuple[tuple[str, str], ...]
    copies: tuple[tuple[str, str], ...]

    @property
    def count(self) -> int:
        return len(self.facts)

    @property
    def identities(self) -> list[str]:
        return [fact.identity for fact in self.facts]

    def pick(self, chosen: np.ndarray) -> Self:
        facts = tuple(self.facts[row] for row in chosen.tolist())
        return replace(self, images=self.images.pick(chosen), facts=facts)

    def without(self, problems: tuple[tuple[str, str], ...]) -> Self:
        """The same without these files, which become problems."""
        bad = {path for path, _ in problems}
        good = [row for row, path in enumerate(self.images.paths) if path not in bad]
        return replace(self.pick(np.array(good, dtype=np.int64)), problems=problems)

    def split(self, fraction: float) -> tuple[Self, Self]:
        """A part to keep, and one to hold out."""
        kept, held = held_out_by_identity(self.identities, fraction)
        return self.pick(kept), replace(self.pick(held), problems=(), copies=())

    def subset(self, size: int | None, purpose: str) -> Self:
        """A random subset that is always the same for a ``purpose``; all if ``size`` is None."""
        if size is None or size >= self.count:
            return self
        return self.pick(drawn_by_identity(self.identities, size, purpose))

    def sizes(self) -> tuple[set[tuple[int, int]], bool]:
        """The sizes (height, width) that occur, and whether all images are grey."""
        sizes = {(fact.height, fact.width) for fact in self.facts}
        return sizes, all(fact.grey for fact in self.facts)


def identified(images: ImageFiles, *, verify: bool = False) -> IdentifiedFiles:
    """Read the facts of image files, and put the files into the order of their identities.

    So files may be renamed or moved, and every image keeps its place. Of files with the same
    content, the first by path stands for all. Left out as problems are files that are no images,
    and those whose copies have other labels.

    Args:
        images: the files.
        verify: read all files, even those that seem unchanged.
    """
    facts, paths = facts_of_files(images.paths, verify=verify), images.paths
    order = sorted(range(len(facts)), key=lambda row: (facts[row].identity, paths[row]))
    problems = [(paths[row], facts[row].problem) for row in order if facts[row].problem]
    chosen: list[int] = []
    copies: list[tuple[str, str]] = []
    good = (row for row in order if not facts[row].problem)
    for _, group in groupby(good, key=lambda row: facts[row].identity):
        first, *others = group
        same = [first, *others]
        if images.labels is not None and len({images.labels[row] for row in same}) > 1:
            names = images.classes or range(1 + max(images.labels))
            problems += [
                (
                    paths[row],
                    f"labelled {names[images.labels[row]]!r}, and a file with the same content "
                    "has another label",
                )
                for row in same
            ]
            continue
        chosen.append(first)
        copies += [(paths[row], paths[first]) for row in others]
    kept = images.pick(np.array(chosen, dtype=np.int64))
    return IdentifiedFiles(
        kept, tuple(facts[row] for row in chosen), tuple(sorted(problems)), tuple(copies)
    )
