"""Euclidean distances between rows: bounds by float32 products, exact values in float64.

‖x − c‖² = ‖x‖² + ‖c‖² − 2x·c takes one product of the features without a copy, but loses digits
if x and c are close. Here it gives only a lower bound: the value minus the largest error of the
product. If the bound does not decide, the rows are subtracted in float64 and then squared, so that
equal rows have distance 0 and equal distances tie. No N×N matrix is ever made.

Values per row are NumPy vectors on the CPU: with other processes on the cores, splitting such short
vectors between threads costs a hundred times more than it gains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

BLOCK = 2**19  # elements of a block, 4 MiB in float64


def as_float64(tensor: torch.Tensor) -> torch.Tensor:
    """A float64 copy on the tensor's device, or on the CPU if the device has no float64 (MPS)."""
    if tensor.device.type == "mps":
        tensor = tensor.cpu()
    return tensor.detach().to(torch.float64, copy=True)


def rows_at(rows: torch.Tensor, positions: np.ndarray) -> torch.Tensor:
    """A copy of the rows at these positions; ``index_select`` copies rows six times as fast as an
    index."""
    return rows.index_select(0, torch.from_numpy(positions).to(rows.device))


def row_blocks(n_rows: int, width: int) -> Iterator[slice]:
    """Consecutive slices of ``n_rows`` rows, each of at most half a million values."""
    step = max(1, BLOCK // max(1, width))
    return (slice(start, start + step) for start in range(0, n_rows, step))


class Rows:
    """(N, D) rows, and distances from them to points.

    Args:
        rows: kept as they are in float32 and float64; half precision becomes float32, and numbers
            whose squares float32 cannot hold become float64.

    Attributes:
        values: the rows, contiguous, on their device.
        squares: (N,) squared norms, float64.
        error: relative error bound: the error of a product x·c is at most ``error`` · ‖x‖‖c‖ +
            ``absolute_error``.
        absolute_error: bound of the error by underflow.
    """

    def __init__(self, rows: torch.Tensor) -> None:
        known = rows.dtype in (torch.float32, torch.float64)
        self.values = (rows.detach() if known else rows.detach().float()).contiguous()
        self.squares = self.distances(None, torch.zeros_like(self.values[0])) ** 2
        if self.squares.max() > torch.finfo(self.values.dtype).max / 8:
            self.values = as_float64(self.values)
        self.error, self.absolute_error = product_error(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def products(self, positions: Sequence[int]) -> np.ndarray:
        """(K, N) inner products of all rows with those at K ≥ 1 positions, in one pass."""
        return products(self.values, positions)

    def distances(self, positions: np.ndarray | None, point: torch.Tensor) -> np.ndarray:
        """(M,) float64 distances of the rows at these positions to a (D,) point.

        Positions are ascending; None means all. The distances are computed from float64
        differences and do not depend on which rows are asked for.
        """
        if positions is not None and len(positions) == len(self):
            positions = None
        result = np.empty(len(self) if positions is None else len(positions))
        centre = as_float64(point)
        for part in row_blocks(len(result), self.values.shape[1]):
            block = (
                self.values[part] if positions is None else rows_at(self.values, positions[part])
            )
            differences = as_float64(block).sub_(centre)
            result[part] = torch.linalg.vector_norm(differences, dim=1).cpu().numpy()
        return result

    def nearest_distances(self, centres: Rows) -> np.ndarray:
        """(N,) float64 distances of the rows to the nearest of L ≥ 1 centres.

        Time O(N·L·D), in products of the rows and centres as they are.
        """
        result = np.empty(len(self))
        dtype = torch.promote_types(self.values.dtype, centres.values.dtype)
        points = centres.values.to(self.values.device, dtype)
        squares = torch.from_numpy(centres.squares)
        for part in row_blocks(len(self), max(self.values.shape[1], len(centres))):
            block = self.values[part].to(dtype)
            block_squares = torch.from_numpy(self.squares[part])
            result[part] = _nearest(block, points, block_squares, squares).numpy()
        return result


class NearestRows:
    """Distances of all rows to the nearest of the rows added so far.

    Args:
        rows: the rows.
        distances: (N,) float64 distances to begin with, changed in place; infinite by default.

    Attributes:
        distances: (N,) exact float64 distances.
        squares: (N,) their squares.
    """

    def __init__(self, rows: Rows, distances: np.ndarray | None = None) -> None:
        self.rows = rows
        self.distances = np.full(len(rows), np.inf) if distances is None else distances
        self.squares = self.distances**2
        self._products: dict[int, np.ndarray] = {}

    def add(self, position: int, ahead: Sequence[int] = ()) -> None:
        """Take the row at ``position`` into account.

        Args:
            position: of the row.
            ahead: rows that are likely to be added next. If a product with all rows is needed,
                theirs are computed at the same time and kept.
        """
        near, exact = self.nearer(position, ahead)
        self._products.pop(position)
        self.distances[near] = np.minimum(self.distances[near], exact)
        self.squares[near] = self.distances[near] ** 2

    def nearer(self, position: int, ahead: Sequence[int] = ()) -> tuple[np.ndarray, np.ndarray]:
        """Ascending positions of all rows that may be nearer to the row at ``position`` than to
        any added one, and their exact distances to it. ``add`` after it needs no other product.
        """
        rows = self.rows
        if position not in self._products:
            wanted = [position, *ahead]
            self._products = dict(zip(wanted, rows.products(wanted), strict=True))
        norms = rows.squares + rows.squares[position]
        bound = (1 - rows.error) * norms - 2 * self._products[position] - rows.absolute_error
        near = np.flatnonzero(~(bound >= self.squares))
        return near, rows.distances(near, rows.values[position])


def products(rows: torch.Tensor, positions: Sequence[int]) -> np.ndarray:
    """(K, N) inner products of all (N, D) rows with those at K ≥ 1 positions, in one pass.

    A single position is doubled: MKL's matrix-vector product takes 1.7 times as long as its
    product with two columns, and one with four takes less than twice as long as that.
    """
    wanted = list(positions) * (2 if len(positions) == 1 else 1)
    return (rows @ rows[wanted].T).cpu().numpy().T[: len(positions)]


def normalised(*parts: torch.Tensor) -> torch.Tensor:
    """All rows of the parts, scaled to length 1, in float32 or wider; rows of zeros stay."""
    single = torch.float64 if parts[-1].dtype == torch.float64 else torch.float32
    result = torch.empty(
        sum(map(len, parts)), parts[-1].shape[1], dtype=single, device=parts[-1].device
    )
    start = 0
    for values in parts:
        for part in row_blocks(*values.shape):
            block = as_float64(values[part])
            # Divide by the largest entry first: squares of large float64 numbers may overflow.
            block /= block.abs().amax(dim=1, keepdim=True).clamp_(min=torch.finfo(block.dtype).tiny)
            block /= torch.linalg.vector_norm(block, dim=1, keepdim=True).clamp_(min=0.5)
            result[start : start + len(block)] = block
            start += len(block)
    return result


def coordinates(*parts: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Fewer columns with the same inner products, by a rotation; of equal rows, equal ones.

    The (M, D) rows of all parts span at most as many directions as there are different ones, R.
    Their coordinates in an orthonormal basis are the columns of the triangle of a QR decomposition,
    with errors of some float64 roundings of the length of each row. Time O(M·D·R).

    Args:
        parts: rows with the same number D of columns, on one device.

    Returns:
        (·, R) float64 rows of each part; or the parts as they are, if M > 0.8 D, where the
        decomposition would cost what it saves.
    """
    sizes = [len(part) for part in parts]
    if sum(sizes) > 0.8 * parts[0].shape[1]:
        return parts
    rows, numbers = as_float64(torch.cat(parts)).unique(dim=0, return_inverse=True)
    return torch.linalg.qr(rows.T, mode="r").R.T[numbers].split(sizes)


def product_error(rows: torch.Tensor) -> tuple[float, float]:
    """Bounds e and t: the error of a computed product of rows x and c is at most e·‖x‖‖c‖ + t.

    e is D rounding errors, whatever the order of summation (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1), and a few for computations with the products; t bounds the
    error by underflow.
    """
    info, width = torch.finfo(rows.dtype), rows.shape[1]
    exact = rows.dtype == torch.float64 or torch.get_float32_matmul_precision() == "highest"
    rounding = info.eps / 2 if exact else 2**-8  # bfloat16, the coarsest the setting allows
    return 1.1 * (width + 8) * rounding, 4 * width * info.tiny


def _nearest(
    rows: torch.Tensor,
    centres: torch.Tensor,
    row_squares: torch.Tensor,
    centre_squares: torch.Tensor,
) -> torch.Tensor:
    """(B,) float64 distances, on the CPU, of the (B, D) rows to the nearest of (L, D) centres.

    The nearest centre by product is tried first, then all centres that may be nearer, given the
    error of the product. If these are many, the products are computed again in float64.
    """
    offsets = centre_squares.to(rows)
    products = torch.addmm(offsets, rows, centres.T, alpha=-2)
    first = products.argmin(dim=1)
    result = pair_distances(rows, torch.arange(len(rows)), centres, first)
    error, absolute_error = product_error(rows)
    margin = error * (row_squares + centre_squares.max()) + absolute_error
    limit = torch.where(result > 0, result.square() - row_squares + margin, -torch.inf)
    pairs = (products <= limit.to(rows)[:, None]).nonzero()
    if len(pairs) > 8 * len(rows) and rows.dtype == torch.float32 and rows.device.type != "mps":
        return _nearest(rows.double(), centres.double(), row_squares, centre_squares)
    i, j = pairs[pairs[:, 1] != first[pairs[:, 0]]].unbind(dim=1)
    return result.scatter_reduce_(0, i.cpu(), pair_distances(rows, i, centres, j), "amin")


def pair_distances(
    rows: torch.Tensor, i: torch.Tensor, others: torch.Tensor, j: torch.Tensor
) -> torch.Tensor:
    """(P,) exact float64 distances, on the CPU, of the rows at ``i`` to the others at ``j``."""
    distances = torch.empty(len(i), dtype=torch.float64)
    for part in row_blocks(len(i), rows.shape[1]):
        ours, theirs = rows.index_select(0, i[part]), others.index_select(0, j[part])
        differences = as_float64(ours).sub_(as_float64(theirs))
        distances[part] = torch.linalg.vector_norm(differences, dim=1).cpu()
    return distances
