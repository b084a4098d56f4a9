"""What a user should know about the images that were found, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from alhpo.data.decoding import FilePart, Part
from alhpo.data.lazy import ImageFiles, LazyImages

#: Files that one message names.
NAMED = 20


def counted(number: int, thing: str) -> str:
    """A number and what is counted: "1 file", "1,200 files"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def listed(problems: Sequence[tuple[str, str]]) -> str:
    """Files with reasons, one on each line; "" if there are none."""
    lines = [f"\n  {path}: {reason}" for path, reason in problems[:NAMED]]
    if len(problems) > NAMED:
        lines.append(f"\n  and {len(problems) - NAMED:,} more")
    return "".join(lines)


def source_notes(*parts: ImageFiles | LazyImages | None) -> list[str]:
    """What the source noted when it found the images."""
    notes = [note for part in parts if isinstance(part, ImageFiles) for note in part.notes]
    return list(dict.fromkeys(notes))


def part_notes(pool: Part, evaluation: Part) -> list[str]:
    """Copies, contradictory copies and colour profiles among image files."""
    notes = []
    for part, where in ((pool, "the pool"), (evaluation, "the evaluation split")):
        if not isinstance(part, FilePart):
            continue
        notes += _copies(part, where)
        profiles = sum(fact.profile for fact in part.facts)
        if profiles:
            notes.append(
                f"{counted(profiles, 'image')} of {where} carry a colour profile, which is not "
                "applied."
            )
    if isinstance(pool, FilePart) and isinstance(evaluation, FilePart):
        trained = dict(zip(pool.identities, pool.images.paths, strict=True))
        leaked = _pairs(zip(evaluation.identities, evaluation.images.paths, strict=True), trained)
        if leaked:
            notes.append(
                f"{counted(len(leaked), 'image')} of the evaluation split are copies of pool "
                f"images, such as {leaked[0][0]} of {leaked[0][1]}: scores on them say little."
            )
    return notes


def _copies(part: FilePart, where: str) -> list[str]:
    first: dict[str, int] = {}
    copies, contradictions = [], []
    paths, labels = part.images.paths, part.images.labels
    for row, identity in enumerate(part.identities):
        other = first.setdefault(identity, row)
        if other != row:
            copies.append((paths[row], paths[other]))
            if labels is not None and labels[row] != labels[other]:
                contradictions.append(copies[-1])
    notes = []
    if copies:
        notes.append(
            f"{counted(len(copies), 'image')} of {where} are copies of others, such as "
            f"{copies[0][0]} of {copies[0][1]}. Each copy counts as an image of its own."
        )
    if contradictions:
        one, other = contradictions[0]
        notes.append(
            f"{counted(len(contradictions), 'copy of an image')} of {where} has another label than "
            f"the image, such as {one} and {other}."
        )
    return notes


def _pairs(images: Iterable[tuple[str, str]], known: dict[str, str]) -> list[tuple[str, str]]:
    return [(path, known[identity]) for identity, path in images if identity in known]
