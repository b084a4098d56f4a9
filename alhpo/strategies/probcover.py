"""ProbCover: images whose neighbourhoods cover the pool.

Yehuda, Dekel, Hacohen, Weinshall: Active Learning Through a Covering Lens (NeurIPS 2022),
Algorithm 1, and its choice of the radius by purity.
"""

from __future__ import annotations

import numpy as np
import torch

from alhpo.base.errors import ConfigurationError
from alhpo.base.types import PoolOutputs, Query
from alhpo.strategies.clustering import k_means
from alhpo.strategies.registry import register_strategy, register_strategy_family
from alhpo.strategies.rows import Rows, normalised, pair_distances, product_error, row_blocks

_PURITY = 0.95
_PURITY_SAMPLE = 2000
_TILE = 2048


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
        cover = _Cover(values[n_labeled:], values[:n_labeled], radius)
        free = np.ones(len(pool), dtype=bool)
        positions, scores = [], []
        while len(positions) < n:
            gains = np.where(free, cover.gains, -1)
            most = np.flatnonzero(gains == gains.max())
            position = int(most[from_middle[most].argmin()])
            positions.append(position)
            scores.append(float(cover.gains[position]))
            free[position] = False
            if len(positions) < n and scores[-1] > 0:
                cover.choose(position)
        return Query(tuple(pool.indices[positions].tolist()), tuple(scores))


class _Cover:
    """The candidates that no ball around a labelled or chosen image covers.

    Attributes:
        gains: (N,) int64 numbers of uncovered candidates in the ball of each candidate.
    """

    def __init__(self, values: torch.Tensor, labeled: torch.Tensor, radius: float) -> None:
        self.balls = _Balls(values, radius)
        everything = np.arange(len(values))
        covered = np.zeros(len(values), dtype=bool)
        for some in labeled.split(_TILE):
            for part in row_blocks(len(values), max(values.shape[1], len(some))):
                covered[part] |= self.balls.inside(values[part], some).any(dim=1).cpu().numpy()
        self.uncovered = np.flatnonzero(~covered)
        self.gains = self.balls.counts(self.uncovered, np.setdiff1d(everything, self.uncovered))

    def choose(self, position: int) -> None:
        """Cover the ball of a candidate."""
        values = self.balls.values
        uncovered = values[self.balls.on_device(self.uncovered)]
        inside = self.balls.inside(uncovered, values[position : position + 1])
        newly = inside[:, 0].cpu().numpy()
        gone, self.uncovered = self.uncovered[newly], self.uncovered[~newly]
        everything = np.arange(len(values))
        fewer = gone if len(gone) < len(self.uncovered) else self.uncovered
        counts = self.balls.counts(fewer, np.setdiff1d(everything, fewer))
        self.gains = self.gains - counts if fewer is gone else counts


class _Balls:
    """Balls of one radius around (N, D) rows."""

    def __init__(self, values: torch.Tensor, radius: float) -> None:
        self.values = values
        self.radius = radius

    def on_device(self, positions: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(positions).to(self.values.device)

    def counts(self, members: np.ndarray, others: np.ndarray) -> np.ndarray:
        """(N,) int64 numbers of the members in the ball of each row.

        Each pair of members is looked at once.

        Args:
            members: positions of the rows that are counted.
            others: positions of all other rows.
        """
        order = np.concatenate([members, others])
        counts = np.zeros(len(order), np.int64)  # in this order
        for start in range(0, len(members), _TILE):
            stop = min(start + _TILE, len(members))
            some = self.values[self.on_device(members[start:stop])]
            for begin in range(start, len(order), _TILE):
                rows = self.values[self.on_device(order[begin : begin + _TILE])]
                inside = self.inside(rows, some)
                counts[begin : begin + _TILE] += inside.sum(dim=1).cpu().numpy()
                if stop <= begin < len(members):
                    both = inside[: len(members) - begin]
                    counts[start:stop] += both.sum(dim=0).cpu().numpy()
        result = np.empty_like(counts)
        result[order] = counts
        return result

    def inside(self, rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """(A, B) booleans: whether (A, D) rows and (B, D) others are at most the radius apart."""
        error, absolute_error = product_error(rows)
        margin = 2 * error + absolute_error  # for rows of length 1
        halves = _half_squares(rows), _half_squares(others)
        # x·y − ‖x‖²/2 − ‖y‖²/2 + δ²/2 ≥ 0
        excess = torch.addmm(-halves[1], rows, others.T)
        excess -= (halves[0] - self.radius**2 / 2)[:, None]
        inside = excess > margin
        open_ = excess.abs_() <= margin
        if open_.any():
            i, j = open_.nonzero().unbind(dim=1)
            exact = pair_distances(rows, i, others, j) <= self.radius
            inside[i, j] = exact.to(inside.device)
        return inside


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
