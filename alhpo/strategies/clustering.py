"""k-means clusters of the pool's features.

Seeding: Arthur, Vassilvitskii: k-means++: The Advantages of Careful Seeding (SODA 2007). Then
Lloyd's algorithm (Least Squares Quantization in PCM, 1982).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from alhpo.strategies.rows import NearestRows, Rows, as_float64, row_blocks

SAMPLE = 10_000
_SAMPLE_PER_CLUSTER = 20
_ITERATIONS = 100
_TOLERANCE = 1e-3
#: With fewer rows a cluster, all inner products come first; at most so many (8 MiB in float32).
_ROWS_PER_SEED, _MOST_PRODUCTS = 8, 2**21


@dataclass(frozen=True)
class Clusters:
    """A partition of (N, D) rows.

    Attributes:
        labels: (N,) int64 cluster of each row, below K.
        distances: (N,) float64 distance of each row to the centre of its cluster.
        sizes: (K,) int64 number of rows of each cluster; 0 only if there are fewer distinct rows
            than clusters, or the iterations ended early.
        from_middle: (N,) float64 distance of each row to the mean of all rows.
        centres: (K, D) float64 means of the clusters.
        iterations: number of iterations of Lloyd's algorithm.
    """

    labels: np.ndarray
    distances: np.ndarray
    sizes: np.ndarray
    from_middle: np.ndarray
    centres: torch.Tensor
    iterations: int

    @property
    def inertia(self) -> float:
        """Sum of the squared distances to the centres."""
        return float((self.distances**2).sum())


def k_means(rows: Rows, k: int, generator: np.random.Generator) -> Clusters:
    """``k`` clusters of the rows.

    With more rows than both 10,000 and 20 k, a random sample of that size is seeded and clustered
    first, and its centres are the start for all rows.

    Args:
        rows: the (N, D) rows.
        k: number of clusters, 1 to N.
        generator: draws the sample and the seeds.
    """
    size = max(SAMPLE, _SAMPLE_PER_CLUSTER * k)
    if size >= len(rows):
        return lloyd(rows, rows.values[seeds(rows, k, generator)])
    drawn = np.sort(generator.choice(len(rows), size, replace=False))
    sample = Rows(rows.values[torch.from_numpy(drawn).to(rows.values.device)])
    return lloyd(rows, lloyd(sample, sample.values[seeds(sample, k, generator)]).centres)


def seeds(rows: Rows, k: int, generator: np.random.Generator) -> list[int]:
    """Positions of ``k`` rows by k-means++: the first uniformly, the others in proportion to D²."""
    free = np.ones(len(rows), dtype=bool)
    nearest = NearestRows(rows)
    chosen = [int(generator.integers(len(rows)))]
    n = len(rows)  # a product with all rows takes less time than some n / 8 with one row each
    ahead = range(n) if n <= _ROWS_PER_SEED * k and n**2 <= _MOST_PRODUCTS else ()
    while len(chosen) < k:
        free[chosen[-1]] = False
        nearest.add(chosen[-1], ahead)
        chosen.append(draw(nearest.squares, free, generator))
    return chosen


def draw(mass: np.ndarray, free: np.ndarray, generator: np.random.Generator) -> int:
    """Draw a position in proportion to its mass; if there is no mass, take the lowest free one."""
    cumulative = mass.cumsum()
    if not cumulative[-1] > 0:
        return int(free.argmax())
    position = np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right")
    return min(int(position), int(mass.nonzero()[0][-1]))  # u · total may round up to the total


def lloyd(
    rows: Rows,
    centres: torch.Tensor,
    *,
    iterations: int = _ITERATIONS,
    tolerance: float = _TOLERANCE,
) -> Clusters:
    """Lloyd's algorithm from given centres.

    Each row goes to its nearest centre (the lowest of equals), by float32 products; each centre
    becomes the mean of its rows, summed in float64. An empty cluster takes the row that is
    farthest from the centre of its own cluster; several empty ones take the farthest rows in turn.
    The algorithm ends when no row changes its cluster.

    Args:
        rows: the (N, D) rows.
        centres: (K, D) floating point numbers.
        iterations: the largest number of iterations.
        tolerance: end also when an iteration lowers the inertia by less than this share. On pools
            of 50,000, the default ends about 0.2 % above the inertia without a tolerance, after a
            tenth of the iterations.
    """
    middle = as_float64(rows.values.mean(dim=0))
    centres = as_float64(centres).to(middle.device)
    from_middle = rows.distances(None, middle)
    spread = (from_middle**2).sum()
    sums = _Sums(rows, len(centres))
    labels, _ = _assign(rows, centres, middle)
    inertia, iteration = np.inf, 0
    for iteration in range(1, iterations + 1):  # noqa: B007
        labels = _without_empty(rows, labels, centres)
        centres = sums.means(labels, centres)
        before, previous = labels, inertia
        labels, squares = _assign(rows, centres, middle)
        inertia = squares.sum() + spread
        little = tolerance > 0 and previous - inertia < tolerance * previous
        if little or np.array_equal(labels, before):
            break
    distances = _own_distances(rows, labels, centres)
    sizes = np.bincount(labels, minlength=len(centres))
    return Clusters(labels, distances, sizes, from_middle, centres, iteration)


def _assign(
    rows: Rows, centres: torch.Tensor, middle: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) nearest centre c of each row x; and ‖x − c‖² − ‖x − m‖², with m the mean of all rows.

    The difference is ‖c'‖² + 2m·c' − 2x·c' with c' = c − m. The product with c' is accurate for
    rows far from the origin.
    """
    shifted = centres - middle
    offsets = shifted.square().sum(dim=1).add_(shifted @ middle, alpha=2).to(rows.values)
    shifted = shifted.to(rows.values)
    labels, squares = np.empty(len(rows), np.int64), np.empty(len(rows))
    for part in row_blocks(len(rows), max(shifted.shape)):
        nearest = torch.addmm(offsets, rows.values[part], shifted.T, alpha=-2).min(dim=1)
        labels[part] = nearest.indices.cpu().numpy()
        squares[part] = nearest.values.cpu().numpy()
    return labels, squares


class _Sums:
    """Float64 sums of the rows of each cluster; after the first call only changes are added."""

    def __init__(self, rows: Rows, k: int) -> None:
        self.rows = rows
        self.labels: np.ndarray | None = None
        self.sums = torch.zeros(k, rows.values.shape[1], dtype=torch.float64)

    def means(self, labels: np.ndarray, otherwise: torch.Tensor) -> torch.Tensor:
        """(K, D) means of the clusters; those of ``otherwise`` for empty ones."""
        if self.labels is None:
            self._add(np.arange(len(labels)), labels, 1)
        else:
            changed = np.flatnonzero(labels != self.labels)
            self._add(changed, self.labels[changed], -1)
            self._add(changed, labels[changed], 1)
        self.labels = labels
        sizes = torch.from_numpy(np.bincount(labels, minlength=len(self.sums)))[:, None]
        return torch.where(sizes > 0, self.sums / sizes, otherwise.cpu()).to(otherwise.device)

    def _add(self, positions: np.ndarray, labels: np.ndarray, sign: int) -> None:
        for part in row_blocks(len(positions), self.sums.shape[1]):
            some = torch.from_numpy(positions[part]).to(self.rows.values.device)
            block = as_float64(self.rows.values[some]).cpu()  # the order of sums on a GPU varies
            self.sums.index_add_(0, torch.from_numpy(labels[part]), block, alpha=sign)


def _without_empty(rows: Rows, labels: np.ndarray, centres: torch.Tensor) -> np.ndarray:
    """The labels, after each empty cluster has taken a row that is far from its centre."""
    sizes = np.bincount(labels, minlength=len(centres))
    empty = np.flatnonzero(sizes == 0).tolist()
    if not empty:
        return labels
    labels = labels.copy()
    distances = _own_distances(rows, labels, centres)
    for position in np.argsort(-distances, kind="stable").tolist():
        if not empty or distances[position] == 0:
            break
        if sizes[labels[position]] > 1:
            sizes[labels[position]] -= 1
            labels[position] = empty.pop(0)
    return labels


def _own_distances(rows: Rows, labels: np.ndarray, centres: torch.Tensor) -> np.ndarray:
    """(N,) exact distance of each row to the centre of its cluster."""
    distances = np.empty(len(rows))
    for part in row_blocks(len(rows), rows.values.shape[1]):
        own = centres[torch.from_numpy(labels[part]).to(centres.device)]
        differences = as_float64(rows.values[part]).sub_(own)
        distances[part] = torch.linalg.vector_norm(differences, dim=1).cpu().numpy()
    return distances
