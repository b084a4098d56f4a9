"""ProbCover: images whose neighbourhoods cover the pool.

Yehuda, Dekel, Hacohen, Weinshall: Active Learning Through a Covering Lens (NeurIPS 2022),
Algorithm 1, and its choice of the radius by purity.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch

from alhpo.base.errors import ConfigurationError
from alhpo.base.types import PoolOutputs, Query
from alhpo.strategies.clustering import k_means
from alhpo.strategies.registry import register_strategy, register_strategy_family
from alhpo.strategies.rows import Rows, normalised, pair_distances, product_error

_PURITY = 0.95
#: Largest number of images whose balls decide the radius.
PURITY_SAMPLE = 2000
#: Rows of which products are made at once; results do not depend on it.
TILE = 1024
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
    the N×N distances nor the graph of neighbours is stored: one pass over all pairs of which one is
    uncovered counts neighbours, and old gains are bounds that spare most later counts. Time
    O(N²·D), at most 6·10¹¹ multiplications for that pass over 50,000 × 512, and at most three times
    that with all later counts; memory: a normalised copy of the features and tiles of some 50 MB.

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
        ranks = np.empty(len(pool), np.int64)
        ranks[from_middle.argsort(kind="stable")] = np.arange(len(pool))[::-1]
        cover = _Cover(values[n_labeled:], values[:n_labeled], radius, ranks)
        choices = [cover.choose() for _ in range(n)]
        positions = [position for position, _ in choices]
        return Query(
            tuple(pool.indices[positions].tolist()), tuple(float(gain) for _, gain in choices)
        )


class _Cover:
    """Candidates to choose by what they newly cover, and those that nothing covers yet.

    Covered candidates come first, in the order in which they were covered. Rows are moved
    accordingly, so that all that must be counted is contiguous.

    Args:
        values: (N, D) candidates; their rows are moved.
        labeled: (L, D) labelled images.
        radius: of all balls.
        ranks: (N,) int64 distinct numbers; the largest wins a tie.
    """

    def __init__(
        self, values: torch.Tensor, labeled: torch.Tensor, radius: float, ranks: np.ndarray
    ) -> None:
        self.values = values
        self.balls = Balls(radius, values)
        self.ranks = ranks.copy()
        self.positions = np.arange(len(values))
        # Gains when the first `seen` rows were covered; -1 for what is chosen.
        self.gains = np.zeros(len(values), np.int64)
        self.seen = np.zeros(len(values), np.int64)
        self.n_covered = 0
        for some in labeled.split(TILE):
            self._cover(some)
        self._count_all()

    def choose(self) -> tuple[int, int]:
        """The position and the gain of the best candidate, which is covered with its ball."""
        best = self._best()
        position, gain = int(self.positions[best]), int(self.gains[best])
        self.gains[best] = -1
        self._cover(self.values[best : best + 1].clone())
        return position, gain

    def _best(self) -> int:
        """The row of the largest gain.

        Gains only fall, so an old one bounds the new one from above, and few need to be computed
        again (lazy greedy; Minoux 1978).
        """
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
            size = min(2 * size, TILE)

    def _update(self, some: np.ndarray) -> None:
        """Compute the gains of at most a tile of rows anew, by what takes fewer products:

        count what is uncovered, or subtract what was covered since the last time, for all at once.
        """
        some = some[self.seen[some].argsort()]
        seen, covered, n = self.seen[some], self.n_covered, len(self.values)
        centres = self.values[torch.from_numpy(some).to(self.values.device)]
        n_anew = int(np.searchsorted(seen, 2 * covered - n))  # those who missed more than is left
        if n_anew:
            self.gains[some[:n_anew]] = self._numbers(centres[:n_anew], covered, n)
        starts = np.unique(seen[n_anew:])
        for start, stop in pairwise([*starts.tolist(), covered]):
            behind = slice(n_anew, int(np.searchsorted(seen, start, side="right")))
            self.gains[some[behind]] -= self._numbers(centres[behind], start, stop)
        self.seen[some] = covered

    def _numbers(self, centres: torch.Tensor, start: int, stop: int) -> np.ndarray:
        """(B,) numbers of the rows from ``start`` to ``stop`` in the balls around B centres."""
        numbers = np.zeros(len(centres), np.int64)
        for part in _tiles(start, stop, len(centres)):
            numbers += self.balls.counts(centres, self.values[part])[0]
        return numbers

    def _count_all(self) -> None:
        """Compute all gains; each pair of rows is looked at at most once."""
        n = len(self.values)
        self.gains[:] = 0
        for part in _tiles(self.n_covered, n):
            rows = self.values[part]
            self.gains[part] += self.balls.counts(rows, rows)[0]
            for other in _tiles(part.stop, n):
                ours, theirs = self.balls.counts(rows, self.values[other])
                self.gains[part] += ours
                self.gains[other] += theirs
            for other in _tiles(0, self.n_covered):
                self.gains[other] += self.balls.counts(rows, self.values[other])[1]
        self.seen[:] = self.n_covered

    def _cover(self, centres: torch.Tensor) -> None:
        """Cover what is in the balls around at most a tile of centres."""
        newly = np.zeros(len(self.values), dtype=bool)
        for part in _tiles(self.n_covered, len(newly), len(centres)):
            newly[part] = self.balls.counts(centres, self.values[part])[1] > 0
        stop = self.n_covered + int(newly.sum())
        front = self.n_covered + np.flatnonzero(~newly[self.n_covered : stop])
        back = stop + np.flatnonzero(newly[stop:])
        for vector in (self.positions, self.ranks, self.gains, self.seen):
            vector[front], vector[back] = vector[back], vector[front]
        for part in _tiles(0, len(front)):
            one, two = (torch.from_numpy(v[part]).to(self.values.device) for v in (front, back))
            self.values[one], self.values[two] = self.values[two], self.values[one]
        self.n_covered = stop


class Balls:
    """Counts which rows of length 1 or 0 are at most a radius apart, in tiles.

    Args:
        radius: in (0, 2].
        like: rows, of whose dtype and device the others are.
    """

    def __init__(self, radius: float, like: torch.Tensor) -> None:
        self.radius = radius
        error, absolute_error = product_error(like)
        self.margin = 2 * error + absolute_error
        # Memory that is new for each tile would take a third as long as the products.
        self.memory = like.new_empty(2, TILE * TILE)

    def counts(self, rows: torch.Tensor, others: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """How many of B others each of A rows has near, (A,), and vice versa, (B,).

        Args:
            rows: (A, D), at most a tile.
            others: (B, D), at most as many as make A·B the square of a tile.
        """
        shape = len(rows), len(others)
        products, inside = (part[: shape[0] * shape[1]].view(shape) for part in self.memory)
        # ‖x − y‖ ≤ δ where x·y − ‖y‖²/2 ≥ ‖x‖²/2 − δ²/2
        torch.addmm(-_half_squares(others), rows, others.T, out=products)
        limits = (_half_squares(rows) - self.radius**2 / 2)[:, None]
        # Zeros and ones as floats, which are compared and summed faster than Booleans.
        torch.gt(products, limits + self.margin, out=inside)
        maybe = torch.ge(products, limits - self.margin, out=products)
        ours, theirs = inside.sum(dim=1), inside.sum(dim=0)
        unclear = (maybe.sum(dim=1) > ours).nonzero()[:, 0]
        if len(unclear):
            i, j = (maybe[unclear] > inside[unclear]).nonzero().unbind(dim=1)
            i = unclear[i]
            near = (pair_distances(rows, i, others, j) <= self.radius).to(i.device)
            ours += torch.bincount(i[near], minlength=len(ours))
            theirs += torch.bincount(j[near], minlength=len(theirs))
        return ours.cpu().numpy().astype(np.int64), theirs.cpu().numpy().astype(np.int64)


def _tiles(start: int, stop: int, n_rows: int | None = None) -> Iterator[slice]:
    """Slices of a tile each, or of as many rows as make a square tile's area with some others."""
    step = TILE * TILE // (n_rows or TILE)
    return (slice(one, min(one + step, stop)) for one in range(start, stop, step))


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
    if len(rows) > PURITY_SAMPLE:
        sample = np.sort(generator.choice(len(rows), PURITY_SAMPLE, replace=False))
    device = rows.values.device
    positions, clusters = torch.from_numpy(sample).to(device), torch.from_numpy(labels).to(device)
    centres = rows.values[positions]
    best = torch.full((len(sample),), -torch.inf, device=device, dtype=centres.dtype)
    nearest = torch.zeros(len(sample), dtype=torch.int64, device=device)
    for start in range(0, len(rows), TILE):
        some = rows.values[start : start + TILE]
        closeness = torch.addmm(-_half_squares(some), centres, some.T)
        same = clusters[positions][:, None] == clusters[start : start + TILE]
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
