"""How many images are queried in each cycle, and how many labels each cycle has."""

from __future__ import annotations

import itertools
import re


def parse_acquisition(value: int | str) -> tuple[tuple[int, int], ...]:
    """The steps of an acquisition schedule.

    Args:
        value: a number of images per query, such as 100; or a schedule such as
            ``"2000,5000@10000"``: 2,000 images per query, and 5,000 from 10,000 labels on. Further
            steps follow after commas, with ascending numbers of labels.

    Returns:
        Pairs of a number of labels and of the images per query from there on; the first from 0.

    Raises:
        ValueError: another form.
    """
    first, *others = str(value).replace(" ", "").split(",")
    parts = [f"{first}@0", *others]
    matches = [re.fullmatch(r"([1-9]\d*)@(\d+)", part) for part in parts]
    steps = tuple((int(m[2]), int(m[1])) for m in matches if m)
    ascending = all(one[0] < other[0] for one, other in itertools.pairwise(steps))
    if len(steps) < len(parts) or not ascending:
        raise ValueError(
            "expected a number of images of at least 1, or a schedule such as 2000,5000@10000 "
            "(2000, and 5000 from 10000 labels on), with ascending numbers of labels"
        )
    return steps


def canonical_acquisition(value: int | str) -> int | str:
    """The same as a number, or as text without spaces.

    Raises:
        ValueError: see ``parse_acquisition``.
    """
    (_, first), *others = parse_acquisition(value)
    if not others:
        return first
    return ",".join([str(first), *(f"{size}@{labels}" for labels, size in others)])


def sizes_of_cycles(initial: int, acquisition: int | str, budget: int) -> list[int]:
    """The number of labels in each cycle; the last query is cut to the budget.

    Args:
        initial: number of initial labels.
        acquisition: images per query, or a schedule; see ``parse_acquisition``.
        budget: number of labels at the end, at least ``initial``.
    """
    steps = parse_acquisition(acquisition)
    sizes = [initial]
    while sizes[-1] < budget:
        step = next(size for labels, size in reversed(steps) if labels <= sizes[-1])
        sizes.append(min(sizes[-1] + step, budget))
    return sizes
