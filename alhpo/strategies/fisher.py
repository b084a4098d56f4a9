"""Greedy minimisation of tr(M⁻¹F) over images whose Fisher information is added to M.

The information of an image about the last layer is I = V Vᵀ with V = T ⊗ h, of its D features h and
a factor T of C × R numbers. With P = M⁻¹ and G = P F P, adding it lowers the trace by
tr((1 + VᵀPV)⁻¹ VᵀGV), and removing it raises the trace by tr((1 − VᵀPV)⁻¹ VᵀGV).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from alhpo.strategies.rows import Rows, as_float64, row_blocks

#: The factors T at some positions: (B, C, R) float64.
Factors = Callable[[np.ndarray | slice], np.ndarray]

_FIRST = 32  # gains, at most, that are computed exactly at once; more if these do not decide
_CLOSE = 1e-6  # relative difference of gains that may be equal after rounding to 24 bits
_ALIKE = 1e-3  # and of gains that rounding may have set apart, though the rows are equal


def information(features: torch.Tensor, factors: Factors) -> torch.Tensor:
    """(C·D, C·D) float64 sum of the information of (L, D) features; C and D lead in this order."""
    width = features.shape[1]
    n_classes = factors(slice(0, 0)).shape[1]
    device = as_float64(features[:0]).device
    total = torch.zeros(n_classes, width, n_classes, width, dtype=torch.float64, device=device)
    for part in row_blocks(len(features), max(width, n_classes**2)):
        h, t = as_float64(features[part]), torch.from_numpy(factors(part)).to(device)
        squares = t @ t.transpose(1, 2)
        for c in range(n_classes):
            for other in range(c + 1):
                total[c, :, other] += (h * squares[:, c, other, None]).T @ h
    for c in range(n_classes):
        for other in range(c):
            total[other, :, c] = total[c, :, other].T
    return total.view(n_classes * width, n_classes * width)


def select(
    rows: Rows, factors: Factors, matrix: torch.Tensor, fisher: torch.Tensor, n: int
) -> tuple[list[int], list[float]]:
    """Add min(2n, N) rows one by one, each the best, then remove all but n, each the least costly.

    Ties go to the lowest position: of equals the lowest is added first, the highest removed first.
    Values are equal if they are equal in float64 rounded to 24 bits, so that the order of
    summation does not decide.

    Args:
        rows: (N, D) features.
        factors: their T.
        matrix: M without them, (C·D, C·D) float64, at least the identity.
        fisher: F, (C·D, C·D) float64.
        n: how many to choose, at most N.

    Returns:
        n positions in the order of their addition, and by how much each lowered the trace then.
    """
    trace = _Trace(matrix, fisher)
    candidates = _Candidates(rows, factors, trace)
    free = np.ones(len(rows), dtype=bool)
    gains: dict[int, float] = {}
    while True:
        position, gain = candidates.best(free)
        gains[position] = gain
        free[position] = False
        change = trace.change(vectors(rows, factors, np.array([position]))[0], 1)
        if len(gains) == min(2 * n, len(rows)):
            break
        candidates.update(*change)
    left = set(_prune(rows, factors, np.sort(list(gains)), n, trace, matrix))
    chosen = [position for position in gains if position in left]
    return chosen, [gains[position] for position in chosen]


def vectors(rows: Rows, factors: Factors, positions: np.ndarray) -> torch.Tensor:
    """(M, C·D, R) float64 V of the rows at these positions."""
    h = as_float64(rows.values[torch.from_numpy(positions).to(rows.values.device)])
    t = torch.from_numpy(factors(positions)).to(h.device)
    return torch.einsum("mcr,md->mcdr", t, h).flatten(1, 2)


class _Trace:
    """M⁻¹ under changes of M.

    Attributes:
        inverse: P = M⁻¹, changed in place.
        fisher: F.
    """

    def __init__(self, matrix: torch.Tensor, fisher: torch.Tensor) -> None:
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
        self.fisher = fisher

    def change(self, v: torch.Tensor, sign: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Add V Vᵀ to M, or with sign −1 subtract it (Woodbury).

        Returns:
            (C·D, R) W and Z, and the sign: P has changed by −sign·W Wᵀ, G by −(W Zᵀ + Z Wᵀ).
        """
        w = self.inverse @ v
        one = torch.eye(v.shape[1], dtype=v.dtype, device=v.device)
        w = _over_root(w, one + sign * (v.T @ w))
        fisher_w = self.fisher @ w
        z = sign * (self.inverse @ fisher_w) - w @ (w.T @ fisher_w) / 2
        self.inverse.addmm_(w, w.T, alpha=-sign)
        return w, z, sign


class _Candidates:
    """The gains of all rows.

    They are running values in float64, changed by products in the precision of the rows. Their
    errors are bounded, and values that are too close for the bounds are computed again.

    Attributes:
        spread: (N, R, R) VᵀPV of each row.
        worth: (N, R, R) VᵀGV of each.
        errors: (2, N) bounds of the errors of both, in the Frobenius norm.
    """

    def __init__(self, rows: Rows, factors: Factors, trace: _Trace) -> None:
        self.rows = rows
        self.factors = factors
        self.trace = trace
        self.n_classes, self.rank = factors(slice(0, 0)).shape[1:]
        self.spread = np.empty((len(rows), self.rank, self.rank))
        self.worth = np.empty_like(self.spread)
        self.errors = np.zeros((2, len(rows)))
        # of VᵀX for X of norm 1
        self.product_errors = rows.error * np.sqrt(rows.squares) + rows.absolute_error
        for part in self._blocks():
            self.product_errors[part] *= _norms(factors(part))
        self._compute(np.arange(len(rows)))

    def best(self, free: np.ndarray) -> tuple[int, float]:
        """Position and gain of the best of the ``free`` rows, a mask."""
        gains, least, most = np.empty((3, len(self.rows)))
        for part in self._blocks():
            gains[part], least[part], most[part] = self._bounded(part)
        exact = ~self.errors.any(axis=0) & free
        values = np.where(exact, rounded(gains), -1)
        floor = least[free].max()
        count = _FIRST
        while True:
            floor = max(floor, values.max())
            open_ = np.flatnonzero(free & ~exact & (most >= floor * (1 - _CLOSE)))
            if not len(open_):
                position = int(values.argmax())  # the first of equals
                close = np.flatnonzero(free & (values >= values[position] * (1 - _ALIKE)))
                if values[position] > 0 and len(close) > 1:
                    position = int(close[_equal(self.rows, self.factors, close, position)][0])
                return position, float(values[position])
            if len(open_) > count:
                open_ = np.sort(open_[np.argpartition(-most[open_], count)[:count]])
            self._compute(open_)
            values[open_] = rounded(self.gains(open_, 1))
            exact[open_] = True
            count *= 2

    def gains(self, part: np.ndarray | slice, sign: int) -> np.ndarray:
        """(B,) change of the trace by adding, or with sign −1 removing, the rows at ``part``.

        It is infinite for a removal after which M would be singular in float64.
        """
        gains = _traces(self._inverses(part, sign), self.worth[part])
        if sign < 0:
            top = np.linalg.eigvalsh(self.spread[part])[:, -1]
            gains[top > 1 - 1e-9] = np.inf
        return gains

    def update(self, w: torch.Tensor, z: torch.Tensor, sign: int) -> None:
        """Follow a change of the trace."""
        values = self.rows.values
        # (D, C, 2R), of length 1 where float32 could overflow or underflow
        columns = torch.cat([w, z], dim=1).view(self.n_classes, -1, 2 * self.rank).transpose(0, 1)
        sizes = [float(torch.linalg.vector_norm(x)) or 1.0 for x in (w, z)]
        scale = np.repeat(sizes, self.rank)
        columns = columns / torch.from_numpy(scale).to(columns.device)
        # a column after the other in memory: two or three are multiplied five times as fast
        columns = columns.flatten(1).to(values).T.contiguous().T
        for part in self._blocks():
            products = (values[part] @ columns).cpu().numpy().astype(np.float64)
            products = products.reshape(-1, self.n_classes, 2 * self.rank) * scale
            both = self._matmul(self.factors(part).transpose(0, 2, 1), products)
            s, u = both[..., : self.rank], both[..., self.rank :]
            change = self._matmul(s, u.transpose(0, 2, 1))
            self.spread[part] -= sign * self._matmul(s, s.transpose(0, 2, 1))
            self.worth[part] -= change + change.transpose(0, 2, 1)
            s_error, u_error = (self.product_errors[part] * size for size in sizes)
            s_norm, u_norm = _norms(s), _norms(u)
            self.errors[0, part] += (2 * s_norm + s_error) * s_error
            self.errors[1, part] += 2 * (s_norm * u_error + (u_norm + u_error) * s_error)

    def _blocks(self) -> Iterator[slice]:
        return row_blocks(len(self.rows), 4 * self.n_classes * self.rank)

    def _matmul(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Products of (B, ·, ·) matrices; those of one number are multiplied a lot faster."""
        return a * b if self.n_classes == self.rank == 1 else a @ b

    def _inverses(self, part: np.ndarray | slice, sign: int) -> np.ndarray:
        matrices = np.eye(self.rank) + sign * self.spread[part]
        return 1 / matrices if self.rank == 1 else np.linalg.inv(matrices)

    def _bounded(self, part: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(B,) gains, and lower and upper bounds of the true gains.

        With an error Δ of VᵀPV and X the computed inverse, the true inverse is between
        X / (1 + ‖X‖‖Δ‖) and X / (1 − ‖X‖‖Δ‖), in the order of positive semidefinite matrices.
        """
        inverses = self._inverses(part, 1)
        gains, norms = _traces(inverses, self.worth[part]), _norms(inverses)
        spread_error, worth_error = self.errors[:, part]
        loss, error = norms * spread_error, norms * worth_error
        with np.errstate(divide="ignore", invalid="ignore"):
            most = np.where(loss < 1, (gains + error) / (1 - loss), np.inf)
        return gains, np.maximum((gains - error) / (1 + loss), 0), np.maximum(most, 0)

    def _compute(self, positions: np.ndarray) -> None:
        """Spread and worth at these positions, in float64 from P and F."""
        inverse, fisher = self.trace.inverse, self.trace.fisher
        size = len(inverse)
        # With several columns a row, products with G are cheaper than those with P and F.
        many = (self.rank - 1) * len(positions) > 2 * size
        gram = inverse @ fisher @ inverse if many else None
        for part in row_blocks(len(positions), size * self.rank):
            some = positions[part]
            h = as_float64(self.rows.values[torch.from_numpy(some).to(self.rows.values.device)])
            t = torch.from_numpy(self.factors(some)).to(h.device)
            y, spread = _quadratic(h, t, inverse)
            if gram is None:
                worth = (y.flatten(0, 1) @ fisher).view_as(y) @ y.transpose(1, 2)
            else:
                worth = _quadratic(h, t, gram)[1]
            self.spread[some] = spread.cpu().numpy()
            self.worth[some] = worth.cpu().numpy()
            self.errors[:, some] = 0
            if gram is not None:
                rounding = size * torch.finfo(gram.dtype).eps * torch.linalg.matrix_norm(gram)
                lengths = self.rows.squares[some] * t.square().sum(dim=(1, 2)).cpu().numpy()
                self.errors[1, some] = float(rounding) * lengths


def _prune(
    rows: Rows,
    factors: Factors,
    positions: np.ndarray,
    n: int,
    trace: _Trace,
    matrix: torch.Tensor,
) -> list[int]:
    """The n of the ascending positions that are left after removals.

    Args:
        rows: of all candidates.
        factors: of all candidates.
        positions: of the rows in M.
        n: how many to keep.
        trace: with all of them in M; changed.
        matrix: M without them.
    """
    if len(positions) == n:
        return positions.tolist()
    v = vectors(rows, factors, positions)
    few = len(positions) * v.shape[2] <= 2 * len(matrix)
    removal = _OfFew(v, matrix, trace.fisher) if few else _OfMany(rows, factors, positions, trace)
    left = np.arange(len(positions))
    while len(left) > n:
        costs = rounded(removal.costs(left))
        last = len(left) - 1 - int(costs[::-1].argmin())  # the last of equals
        close = np.flatnonzero(costs <= costs[last] * (1 + _ALIKE))
        if len(close) > 1:
            rest = positions[left[close]]
            last = int(close[_equal(rows, factors, rest, int(positions[left[last]]))][-1])
        removal.remove(int(left[last]))
        left = np.delete(left, last)
    return positions[left].tolist()


class _OfMany:
    """Removals by changes of P. 1 − VᵀPV loses digits where only one row says something about a
    direction; with more rows than directions such a row is never removed."""

    def __init__(self, rows: Rows, factors: Factors, positions: np.ndarray, trace: _Trace) -> None:
        values = rows.values[torch.from_numpy(positions).to(rows.values.device)]
        self.rows, own = Rows(as_float64(values)), factors(positions)
        self.factors: Factors = lambda part: own[part]
        self.trace = trace
        self.candidates = _Candidates(self.rows, self.factors, trace)

    def costs(self, left: np.ndarray) -> np.ndarray:
        """(M,) rise of the trace by removal of each of the rows that are ``left``."""
        return self.candidates.gains(left, -1)

    def remove(self, i: int) -> None:
        """Remove the row at ``i``."""
        v = vectors(self.rows, self.factors, np.array([i]))[0]
        self.candidates.update(*self.trace.change(v, -1))


class _OfFew:
    """Removals by changes of a matrix of the size of the rows.

    With all V side by side and P without them, K = 1 + VᵀPV and B = VᵀGV, the blocks of Q = K⁻¹ and
    R = Q B Q of a row are 1 − VᵀPV and VᵀGV with all of them in M. K is at least 1, so nothing
    cancels. Removing a row leaves the Schur complement in Q.

    Args:
        v: (M, C·D, R) V of the rows.
        matrix: M without them.
        fisher: F.
    """

    def __init__(self, v: torch.Tensor, matrix: torch.Tensor, fisher: torch.Tensor) -> None:
        self.rank = v.shape[2]
        flat = v.transpose(1, 2).flatten(0, 1)
        y = torch.cholesky_solve(flat.T, torch.linalg.cholesky(matrix)).T
        k = y @ flat.T
        k.diagonal().add_(1)
        root = torch.linalg.cholesky(k)
        self.q = torch.cholesky_inverse(root)
        y = torch.cholesky_solve(y, root)  # before F, as Q cancels what rows have in common
        self.r = y @ fisher @ y.T

    def costs(self, left: np.ndarray) -> np.ndarray:
        """(M,) rise of the trace by removal of each of the rows that are ``left``."""
        shape = (len(self.q) // self.rank, self.rank) * 2
        q, r = (
            x.view(shape).diagonal(dim1=0, dim2=2).permute(2, 0, 1).cpu().numpy()[left]
            for x in (self.q, self.r)
        )
        return _traces(np.linalg.inv(q), r)

    def remove(self, i: int) -> None:
        """Remove the row at ``i``."""
        own = slice(i * self.rank, (i + 1) * self.rank)
        kappa = self.q[own, own].clone()
        w, u = _over_root(self.q[:, own], kappa), _over_root(self.r[:, own], kappa)
        z = u - w @ _over_root(u[own].T, kappa).T / 2
        self.q.addmm_(w, w.T, alpha=-1)
        self.r.addmm_(w, z.T, alpha=-1).addmm_(z, w.T, alpha=-1)


def rounded(values: np.ndarray) -> np.ndarray:
    """The values, and 0 for those below, rounded to the 24 bits of float32 in float64's range."""
    mantissa, exponent = np.frexp(np.maximum(values, 0))
    return np.ldexp(np.rint(mantissa * 2**24), exponent - 24)


def _equal(rows: Rows, factors: Factors, positions: np.ndarray, one: int) -> np.ndarray:
    """(M,) booleans: which rows at these positions equal one row, bit for bit."""
    values = rows.values[torch.from_numpy(positions).to(rows.values.device)]
    features = (values == rows.values[one]).all(dim=1).cpu().numpy()
    return features & (factors(positions) == factors(np.array([one]))).all(axis=(1, 2))


def _over_root(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """X L⁻ᵀ for the Cholesky factor L of the matrix."""
    root = torch.linalg.cholesky(matrix)
    return torch.linalg.solve_triangular(root, x.T, upper=False).T


def _quadratic(
    h: torch.Tensor, t: torch.Tensor, matrix: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, R, C·D) VᵀX and (B, R, R) VᵀXV for a matrix X, V = T ⊗ h of (B, D) h and (B, C, R) T."""
    n_classes, rank = t.shape[1:]
    products = h @ matrix.view(n_classes, h.shape[1], -1)
    y = t.transpose(1, 2) @ products.transpose(0, 1)
    contracted = (y.view(len(h), rank * n_classes, -1) @ h[:, :, None]).view(-1, rank, n_classes)
    return y, contracted @ t


def _traces(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(B,) traces of products of symmetric (B, R, R) matrices."""
    return np.einsum("nij,nij->n", a, b)


def _norms(matrices: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("nij,nij->n", matrices, matrices))
