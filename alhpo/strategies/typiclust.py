"""TypiClust: typical images of clusters without labelled images.

Hacohen, Dekel, Weinshall: Active Learning on a Budget: Opposite Strategies Suit High and Low
Budgets (ICML 2022), Algorithm 1 with k-means on given features (TPC_RP).
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from alhpo.base.types import PoolOutputs, Query
from alhpo.strategies.clustering import Clusters, k_means
from alhpo.strategies.registry import register_strategy
from alhpo.strategies.rows import Rows, as_float64, row_blocks

_MOST_CLUSTERS = 500
_SMALLEST_CLUSTER = 5
_NEIGHBOURS = 20


@register_strategy("typiclust", needs={"features", "labeled_features"})
def typiclust(pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
    """The most typical candidate of each of the largest clusters without labelled images.

    Labelled images and candidates are clustered together by k-means into min(L + n, 500) clusters.
    Typicality is 1 / the mean distance to the 20 nearest others of the same cluster (or to all, if
    there are fewer). Each choice is the most typical remaining candidate of the cluster with the
    fewest labelled and chosen images; of such clusters, the largest; of equally large ones, that
    with the most typical candidate. Clusters of fewer than five images come last. Remaining ties go
    to the candidate nearest to the mean of all images, then to the lowest pool index.

    The paper uses features of a self-supervised network. Here they are the penultimate features of
    the classifier, poor after few labels: start from pretrained weights
    (``pretrained=True`` or ``weights``), or call this function with your own features.

    Scores are typicalities: 0 for an image alone in its cluster, and the largest float64 if all its
    neighbours are equal to it. Time O(min(L + n, 500)·N·D) for each iteration of k-means and
    O(M²·D) for a cluster of M images; memory: a copy of the features and blocks of some 30 MB.
    """
    assert pool.features is not None
    assert pool.labeled_features is not None
    known = pool.labeled_features.to(pool.features)
    rows = Rows(torch.cat([known, pool.features]))
    clusters = k_means(rows, min(len(known) + n, _MOST_CLUSTERS, len(rows)), generator)
    groups = _Groups(rows, clusters, len(known))
    positions, scores = [], []
    while len(positions) < n:
        position, score = groups.take(n)
        positions.append(position - len(known))
        scores.append(score)
    return Query(tuple(pool.indices[positions].tolist()), tuple(scores))


class _Groups:
    """Clusters, and the images chosen from them.

    Args:
        rows: the labelled images, then the candidates.
        clusters: their partition.
        n_labeled: the number of labelled images.
    """

    def __init__(self, rows: Rows, clusters: Clusters, n_labeled: int) -> None:
        self.rows = rows
        self.clusters = clusters
        candidates = clusters.labels[n_labeled:]
        k = len(clusters.sizes)
        self.left = np.bincount(candidates, minlength=k)
        self.used = np.bincount(clusters.labels[:n_labeled], minlength=k)
        order = np.argsort(clusters.labels, kind="stable")
        self.members = np.split(order, np.cumsum(clusters.sizes)[:-1])
        self.n_labeled = n_labeled
        self.best: dict[int, list[tuple[float, float, int]]] = {}

    def take(self, n: int) -> tuple[int, float]:
        """Row and typicality of the next choice."""
        sizes = self.clusters.sizes
        key = np.stack([sizes < _SMALLEST_CLUSTER, self.used, -sizes], axis=1)
        key = key[self.left > 0]
        first = key[np.lexsort(key.T[::-1])[0]]
        equal = np.flatnonzero(self.left > 0)[(key == first).all(axis=1)]
        cluster = min(equal.tolist(), key=lambda k: self._candidates(k)[0])
        distance, _, position = self._candidates(cluster).pop(0)
        self.left[cluster] -= 1
        self.used[cluster] += 1
        if distance == 0:
            return position, sys.float_info.max
        return position, min(1 / distance, sys.float_info.max)

    def _candidates(self, cluster: int) -> list[tuple[float, float, int]]:
        """The remaining candidates of a cluster, most typical first: mean distance to the
        neighbours, distance to the mean of all images, row."""
        if cluster not in self.best:
            members = self.members[cluster]
            typical = mean_neighbour_distances(self.rows, members, self.clusters.centres[cluster])
            from_middle = self.clusters.from_middle[members]
            all_ = zip(typical.tolist(), from_middle.tolist(), members.tolist(), strict=True)
            self.best[cluster] = sorted(one for one in all_ if one[2] >= self.n_labeled)
        return self.best[cluster]


def mean_neighbour_distances(rows: Rows, members: np.ndarray, centre: torch.Tensor) -> np.ndarray:
    """(M,) mean distance of each member of a cluster to its 20 nearest others, or to all if fewer.

    It is infinite for a single member. It is rounded to float32, and 0 below a millionth of the
    cluster's radius, so that distances that differ only by rounding are equal.
    """
    count = min(_NEIGHBOURS, len(members) - 1)
    if count == 0:
        return np.full(1, np.inf)
    values = as_float64(rows.values[torch.from_numpy(members).to(rows.values.device)])
    values -= centre.to(values.device)
    squares = values.square().sum(dim=1)
    result = np.empty(len(members), np.float32)
    for part in row_blocks(len(members), max(values.shape)):
        block = torch.addmm(squares, values[part], values.T, alpha=-2).add_(squares[part, None])
        block[block <= 1e-12 * squares.max()] = 0
        block[torch.arange(len(block)), torch.arange(len(members))[part]] = torch.inf
        nearest = block.topk(count, dim=1, largest=False, sorted=False).values
        result[part] = nearest.sqrt_().mean(dim=1).cpu().numpy()
    return result
