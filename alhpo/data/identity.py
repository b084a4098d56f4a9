"""Draws and orders by identity: they stay as they are when other images come or go."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from alhpo.base.errors import DataError


def numbered(identities: Sequence[str]) -> tuple[str, ...]:
    """The identities, with ":1", ":2", ... after those of the second, third, ... copy."""
    seen: Counter[str] = Counter()
    result = []
    for identity in identities:
        result.append(f"{identity}:{seen[identity]}" if seen[identity] else identity)
        seen[identity] += 1
    return tuple(result)


def held_out_by_identity(
    identities: Sequence[str], fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    """Ascending positions of images kept in the pool and held out for evaluation.

    An image is held out by its identity alone, with probability ``fraction``: no other image
    matters, and copies go together. If that holds out none or all, one image is moved.

    Raises:
        DataError: the fraction is not in (0, 1), or there are fewer than two different images.
    """
    check_split(len(set(identities)), fraction)
    places = np.array([held_out_share(identity) for identity in identities])
    held = places < fraction
    if not held.any() or held.all():
        extreme = places.min() if not held.any() else places.max()
        held = (places == extreme) if not held.any() else (places != extreme)
    return np.flatnonzero(~held), np.flatnonzero(held)


def held_out_share(identity: str) -> float:
    """The share to hold out, in [0, 1), above which an image is held out."""
    return _place("evaluation split", identity)


def drawn_by_identity(identities: Sequence[str], size: int, purpose: str) -> np.ndarray:
    """Ascending positions of a random subset; always the same images for a ``purpose``."""
    places = [_place(f"subset {purpose}", identity) for identity in identities]
    return np.sort(np.argsort(places, kind="stable")[:size])


def check_split(n: int, fraction: float) -> None:
    """Refuse a share to hold out that cannot be held out of ``n`` images."""
    if not 0 < fraction < 1:
        raise DataError(f"Argument eval_fraction is {fraction!r}; expected a number in (0, 1).")
    if n < 2:
        raise DataError(
            f"{n} images are too few to hold some out for evaluation; expected at least 2."
        )


def _place(purpose: str, identity: str) -> float:
    """A number in [0, 1), uniform over identities."""
    hashed = hashlib.sha256(f"{purpose} {identity.partition(':')[0]}".encode()).digest()
    return int.from_bytes(hashed[:8], "big") / 2**64
