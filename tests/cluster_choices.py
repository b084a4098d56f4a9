"""Which rows stand for k-means clusters, written out."""

import numpy as np


def nearest_to_centres(x: np.ndarray, labels: np.ndarray, n: int) -> list[tuple[int, int]]:
    """(−size, position) of the row nearest to the mean of each cluster, the largest first.

    In a cluster of two, both are equally far from it: the nearer to the mean of all rows counts.
    """
    found = []
    for cluster in range(n):
        members = np.flatnonzero(labels == cluster)
        centre = x.mean(axis=0) if len(members) == 2 else x[members].mean(axis=0)
        distances = np.linalg.norm(x[members] - centre, axis=1)
        found.append((-len(members), int(members[distances.argmin()])))
    return sorted(found)
