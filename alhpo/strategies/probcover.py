"""ProbCover: images whose neighbourhoods cover the pool.

Yehuda, Dekel, Hacohen, Weinshall: Active Learning Through a Covering Lens (NeurIPS 2022),
Algorithm 1, and its choice of the radius by purity.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from alhpo.base.errors import ConfigurationError
from alhpo.base.types import PoolOutputs, Query
from alhpo.strategies.clustering import k_means
from alhpo.strategies.registry import register_strategy, register_strategy_family
from alhpo.strategies.rows import Rows, normalised, pair_distances, product_error, row_blocks

_PURITY = 0.95
_PURITY_SAMPLE = 2000
_TILE = 1024
_FIRST_BATCH = 16


class ProbCover:
    """Repeatedly chooses the candidate whose ball contains the most uncovered candidates.

    Balls of radius δ around the labelled and the chosen images cover the candidates in them.
    Features are scaled to length 1, so that two points are at most 2 apart. By default δ is the
    largest radius at which the balls of 95 % of the images, labelled or not, are pure: all images
    in the ball have the same pseudo-label, which is one of C k-means clusters for C classes. With
    more than 2,000 images, purity is estimated on 2,000 of them, drawn at random.


    Only k-means and that sample are random. Ties go to the candidate nearest to the mean of
    all candidates, then to the lowest pool index. Scores are the numbers of candidates that a
    choice newly covers; once all are covered, they are 0 and the order is that of ties. Like
    TypiClust, this is for few labels and good features.

    Float64 differences decide whether a candidate is in a ball if float32 products cannot. Neither
    the N×N distances nor the graph of neighbours is stored: neighbours are counted in tiles, and
    after each choice the newly covered ones are counted again and subtracted.
    Time
    O(N²·D), about 10¹² operations for 50,000 × 512; memory: a normalised copy of the features and
    tiles of some 50 MB.

    Args:
        radius: δ, in (0, 2], or None for the rule above.
    """

    def __init__(self, radius: float | None = None) -> None:
        self.radius = radius
        rule = () if radius is not None else ("logits",)
        self.needs = frozenset({"features", "labeled_features", *rule})

    def __call__(self, pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
        assert pool.features is not None
        assert pool.labeled_features is not None
        n_labeled = len(pool.labeled_features)
        values = normalised(pool.labeled_features.to(pool.features), pool.features)
        rows = Rows(values)
        radius = self.radius
        if radius is None:
            assert pool.logits is not None
            radius = pure_radius(rows, pool.logits.shape[1], generator)
        candidates = np.arange(n_labeled, len(values))
        from_middle = rows.distances(candidates, values[n_labeled:].mean(dim=0))
        cover = _Cover(
            values[n_labeled:], values[:n_labeled], radius, from_middle.argsort(kind="stable")
        )
        choices = [cover.choose() for _ in range(n)]
        positions = [position for position, _ in choices]
        return Query(
            tuple(pool.indices[positions].tolist()), tuple(float(gain) for _, gain in choices)
        )


class _Cover:
    """Candidates to choose by what they newly cover, and those that nothing covers yet.

    Gains only fall, so that an old one bounds the new one from above (lazy greedy; Minoux 1978).

    Args:
        values: (N, D) candidates.
        labeled: (L, D) labelled images.
        radius: of all balls.
        preference: (N,) candidates in the order of ties.
    """

    def __init__(
        self, values: torch.Tensor, labeled: torch.Tensor, radius: float, preference: np.ndarray
    ) -> None:
        self.values = values
        self.radius = radius
        self.ranks = np.empty(len(values), np.int64)
        self.ranks[preference] = np.arange(len(values))[::-1]
        # The covered candidates come first, in the order in which they were covered.
        self.order = np.arange(len(values))
        self.n_covered = 0
        for some in labeled.split(_TILE):
            self._cover(some)
        # What a candidate newly covers, were the first `seen` of the order covered.
        self.gains = self._all_gains()
        self.seen = np.full(len(values), self.n_covered)

    def choose(self) -> tuple[int, int]:
        """The candidate of the largest gain, which is covered with all in its ball; its gain."""
        position = self._best()
        gain = int(self.gains[position])
        self._cover(self.values[position : position + 1])
        self.gains[position] = -1
        return position, gain

    def _best(self) -> int:
        size = _FIRST_BATCH
        while True:
            keys = self.gains * len(self.gains) + self.ranks
            fresh = self.seen == self.n_covered
            stale = np.flatnonzero(~fresh & (keys > keys[fresh].max(initial=-1)))
            if not len(stale):
                return int(keys.argmax())
            if len(stale) > size:
                stale = stale[np.argpartition(-keys[stale], size - 1)[:size]]
            self._update(stale)
            size = min(2 * size, _TILE)

    def _update(self, positions: np.ndarray) -> None:
        """Compute gains, of at most a tile of candidates, anew."""
        for seen in np.unique(self.seen[positions]):
            some = positions[self.seen[positions] == seen]
            covered, uncovered = self.order[seen : self.n_covered], self.order[self.n_covered :]
            if len(covered) < len(uncovered):
                self.gains[some] -= self._numbers(some, covered)
            else:
                self.gains[some] = self._numbers(some, uncovered)
        self.seen[positions] = self.n_covered

    def _numbers(self, positions: np.ndarray, members: np.ndarray) -> np.ndarray:
        """(B,) numbers of the members in the ball of each of at most a tile of candidates."""
        centres, numbers = self._rows(positions), np.zeros(len(positions), np.int64)
        for tile in _tiles(members):
            numbers += balls_of(centres, self._rows(tile), self.radius)[0]
        return numbers

    def _all_gains(self) -> np.ndarray:
        """(N,) gains; each pair of candidates is looked at at most once."""
        gains = np.zeros(len(self.order), np.int64)
        left = self.order[self.n_covered :]
        for start in range(0, len(left), _TILE):
            some = left[start : start + _TILE]
            rows = self._rows(some)
            gains[some] += balls_of(rows, rows, self.radius)[0]
            for tile in _tiles(left[start + _TILE :]):
                ours, theirs = balls_of(rows, self._rows(tile), self.radius)
                gains[some] += ours
                gains[tile] += theirs
            for tile in _tiles(self.order[: self.n_covered]):
                gains[tile] += balls_of(rows, self._rows(tile), self.radius)[1]
        return gains

    def _cover(self, centres: torch.Tensor) -> None:
        """Cover what is in the balls of at most a tile of rows."""
        left = self.order[self.n_covered :]
        held = [balls_of(centres, self._rows(tile), self.radius)[1] > 0 for tile in _tiles(left)]
        if held:
            newly = np.concatenate(held)
            self.order[self.n_covered :] = np.concatenate([left[newly], left[~newly]])
            self.n_covered += int(newly.sum())

    def _rows(self, positions: np.ndarray) -> torch.Tensor:
        return self.values[torch.from_numpy(positions).to(self.values.device)]


def balls_of(
    rows: torch.Tensor, others: torch.Tensor, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """How many of the others each row has at most the radius away, (A,), and vice versa, (B,)."""
    error, absolute_error = product_error(rows)
    margin = 2 * error + absolute_error  # for rows of length 1
    # ‖x − y‖ ≤ δ where x·y − ‖y‖²/2 ≥ ‖x‖²/2 − δ²/2
    products = torch.addmm(-_half_squares(others), rows, others.T)
    limits = (_half_squares(rows) - radius**2 / 2)[:, None]
    # Zeros and ones as floats, which are compared and summed faster than Booleans.
    inside = torch.gt(products, limits + margin, out=torch.empty_like(products))
    maybe = torch.ge(products, limits - margin, out=products)
    ours, theirs = inside.sum(dim=1), inside.sum(dim=0)
    unclear = (maybe.sum(dim=1) > ours).nonzero()[:, 0]
    if len(unclear):
        i, j = (maybe[unclear] > inside[unclear]).nonzero().unbind(dim=1)
        i = unclear[i]
        near = (pair_distances(rows, i, others, j) <= radius).to(i.device)
        ours += torch.bincount(i[near], minlength=len(ours))
        theirs += torch.bincount(j[near], minlength=len(theirs))
    return ours.cpu().numpy().astype(np.int64), theirs.cpu().numpy().astype(np.int64)


def _tiles(positions: np.ndarray) -> Iterator[np.ndarray]:
    return (positions[start : start + _TILE] for start in range(0, len(positions), _TILE))


def pure_radius(rows: Rows, n_classes: int, generator: np.random.Generator) -> float:
    """The largest radius at which 95 % of the balls hold a single one of ``n_classes`` clusters.

    A ball is pure as long as its radius is below the distance to the nearest row of another
    cluster, so the radius is just below a quantile of those distances. It is 2 if there is only
    one cluster.

    Args:
        rows: rows of length 1.
        n_classes: number of k-means clusters, which are the pseudo-labels.
        generator: draws the seeds of k-means and, of more than 2,000 rows, the sampled balls.
    """
    labels = k_means(rows, min(n_classes, len(rows)), generator).labels
    sample = np.arange(len(rows))
    if len(rows) > _PURITY_SAMPLE:
        sample = np.sort(generator.choice(len(rows), _PURITY_SAMPLE, replace=False))
    device = rows.values.device
    positions, clusters = torch.from_numpy(sample).to(device), torch.from_numpy(labels).to(device)
    centres = rows.values[positions]
    best = torch.full((len(sample),), -torch.inf, device=device, dtype=centres.dtype)
    nearest = torch.zeros(len(sample), dtype=torch.int64, device=device)
    for start in range(0, len(rows), _TILE):
        some = rows.values[start : start + _TILE]
        closeness = torch.addmm(-_half_squares(some), centres, some.T)
        same = clusters[positions][:, None] == clusters[start : start + _TILE]
        values, where = closeness.masked_fill_(same, -torch.inf).max(dim=1)
        nearest = torch.where(values > best, where + start, nearest)
        best = torch.maximum(values, best)
    apart = pair_distances(rows.values, positions, rows.values, nearest).numpy()
    apart[np.isneginf(best.cpu().numpy())] = np.inf
    impure = int((1 - _PURITY) * len(sample) + 1e-9)
    return min(2.0, max(0.0, float(np.nextafter(np.sort(apart)[impure], -1))))


def _half_squares(rows: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(rows, dim=1).square_().mul_(0.5)


def _with_radius(text: str) -> ProbCover:
    try:
        radius = float(text)
    except ValueError:
        radius = np.nan
    if not 0 < radius <= 2:
        raise ConfigurationError(
            f"The radius of 'probcover:{text}' is not legal; expected a number in (0, 2], as "
            "features are scaled to length 1. Write 'probcover:0.3', or 'probcover' for a radius "
            "by purity."
        )
    return ProbCover(radius)


register_strategy("probcover", needs=ProbCover().needs)(ProbCover())
register_strategy_family("probcover", _with_radius, "RADIUS")
