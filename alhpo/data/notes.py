"""What a user should know about the images that were found, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from alhpo.base.plain import counted
from alhpo.data.decoding import FilePart, Part
from alhpo.data.lazy import ImageFiles, LazyImages

#: Files that one message names.
NAMED = 1000


def listed(problems: Sequence[tuple[str, str]]) -> str:
    """Files with reasons, one on each line; "" if there are none."""
    lines = [f"\n  {path}: {reason}" for path, reason in problems[:NAMED]]
    if len(problems) > NAMED:
        lines.append(f"\n  and {len(problems) - NAMED:,} more")
    return "".join(lines)


def source_notes(*parts: ImageFiles | LazyImages | None) -> list[str]:
    """What the source noted when it found the images."""
    notes = [note for part in parts if part is not None for note in part.notes]
    return list(dict.fromkeys(notes))


def part_notes(pool: Part, evaluation: Part) -> list[str]:
    """Copies and colour profiles among image files."""
    notes = []
    for part, where in ((pool, "the pool"), (evaluation, "the evaluation split")):
        if not isinstance(part, FilePart):
            continue
        if part.copies:
            copy, first = part.copies[0]
            notes.append(
                f"{counted(len(part.copies), 'file')} left out, as their content is there already: "
                f"such as {copy}, the same as {first}."
            )
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


def _pairs(images: Iterable[tuple[str, str]], known: dict[str, str]) -> list[tuple[str, str]]:
    return [(path, known[identity]) for identity, path in images if identity in known]
