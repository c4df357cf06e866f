"""Dense least squares in NumPy and LAPACK behind the interface of `dnnfem.kernels.protocol.LeastSquaresSystem`.

Everything is done by orthogonal factorizations of the tall matrix; normal equations are never formed, so that the last
digits of a fit are not lost to the square of its condition number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import lapack

from dnnfem.kernels.orthogonal import Elimination, Factor
from dnnfem.kernels.protocol import Norm
from dnnfem.kernels.selection import Candidates
from dnnfem.kernels.spectral import SpectralSteps
from dnnfem.records import Array, Index


@dataclass(frozen=True, eq=False)
class DenseLeastSquares:
    """``min_d |r + A d|^2 / 2`` with a dense matrix.

    Parameters
    ----------
    matrix : array, shape (rows, n)
        ``A``.
    residual : array, shape (rows,)
        ``r``.
    elimination : Elimination, optional
        If columns were eliminated: how residual vectors of the original rows are brought to the present ones.
    """

    matrix: Array
    residual: Array
    elimination: Elimination | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, coefficients)."""
        return (int(self.matrix.shape[0]), int(self.matrix.shape[1]))

    @cached_property
    def value(self) -> float:
        """``|r|^2 / 2``."""
        return 0.5 * float(np.sum(self.residual * self.residual))

    @cached_property
    def derivative(self) -> Array:
        """``A^T r``, dual."""
        return self.matrix.T @ self.residual

    def curvature(self, v: Array) -> Array:
        """Return ``A^T A v``."""
        return self.matrix.T @ (self.matrix @ v)

    @cached_property
    def lengths(self) -> Array:
        """Lengths of the columns."""
        return np.asarray(np.linalg.norm(self.matrix, axis=0))

    def __add__(self, other: DenseLeastSquares) -> DenseLeastSquares:
        # Columns stay contiguous: kernels write them so, and LAPACK reads them so.
        matrix = np.empty((self.shape[0] + other.shape[0], self.shape[1]), order="F")
        matrix[: self.shape[0]], matrix[self.shape[0] :] = self.matrix, other.matrix
        return DenseLeastSquares(matrix, np.concatenate([self.residual, other.residual]))

    def __rmul__(self, factor: float) -> DenseLeastSquares:
        root = float(np.sqrt(factor))
        return DenseLeastSquares(root * self.matrix, root * self.residual)

    def __matmul__(self, transfer: Array) -> DenseLeastSquares:
        # Transposed, so that sparse transfers work too.
        return DenseLeastSquares(np.asarray((transfer.T @ self.matrix.T).T), self.residual)

    def ridge(self, columns: Index, weight: float, values: Array) -> DenseLeastSquares:
        """Append the rows ``sqrt(weight) (c + d_c)``."""
        rows = np.zeros((len(columns), self.matrix.shape[1]))
        rows[np.arange(len(columns)), columns] = np.sqrt(weight)
        return self + DenseLeastSquares(rows, np.sqrt(weight) * values)

    def pull(self, residual: Array) -> Array:
        """Return ``A^T residual``."""
        if self.elimination is not None:
            residual = self.elimination.complement(residual[:, None])[:, 0]
        return self.matrix.T @ residual

    def __getitem__(self, columns: Index) -> DenseLeastSquares:
        return DenseLeastSquares(self.matrix[:, columns], self.residual, self.elimination)

    def moved(self, correction: Array) -> DenseLeastSquares:
        """Return the system after a correction."""
        return DenseLeastSquares(self.matrix, self.residual + self.matrix @ correction)

    def _with_residual(self, columns: Index) -> Array:
        """Return some columns with the residual behind them, columns contiguous."""
        both = np.empty((self.shape[0], len(columns) + 1), order="F")
        both[:, :-1], both[:, -1] = self.matrix[:, columns], self.residual
        return both

    def _others(self, columns: Index) -> Index:
        keep = np.ones(self.matrix.shape[1], dtype=bool)
        keep[columns.ravel()] = False
        return np.flatnonzero(keep)

    def solve(self, columns: Index) -> Array:
        """Return the correction to `columns` alone, shape of `columns`; dependent columns get zero."""
        return -Elimination.of(self.matrix, columns).solve(self.residual).reshape(columns.shape)

    def condensed(self, columns: Index) -> DenseLeastSquares:
        """Eliminate `columns`, (f,) or (groups, f) as in `Elimination`."""
        elimination = Elimination.of(self.matrix, columns)
        rotated = elimination.complement(self._with_residual(self._others(columns)))
        return DenseLeastSquares(rotated[:, :-1], rotated[:, -1], elimination)

    def normal_solve(self, columns: Index, dual: Array) -> Array:
        """Solve ``A_c^T A_c z = dual``; dependent columns get zero."""
        factor = Factor.of(self.matrix[:, columns])
        out = np.zeros(len(columns))
        if factor.rank:
            chosen = factor.pivots[: factor.rank]
            triangle = factor.qr[: factor.rank, : factor.rank]
            half, _ = lapack.dtrtrs(triangle, (dual * factor.scale)[chosen], trans=1)
            out[chosen], _ = lapack.dtrtrs(triangle, half)
        return out * factor.scale

    def steps(self, norm: Norm) -> SpectralSteps:
        """Factorize once; see `SpectralSteps`."""
        matrix, residual = norm.whiten(self.matrix), self.residual
        if matrix.shape[0] > matrix.shape[1]:
            qr, tau, _, _ = lapack.dgeqrf(np.asfortranarray(matrix))
            n = matrix.shape[1]
            rotated, _, _ = lapack.dormqr("L", "T", qr, tau, np.asfortranarray(residual[:, None]), 64)
            matrix, residual = np.triu(qr[:n]), rotated[:n, 0]
        return SpectralSteps.of(matrix, residual, norm)

    def candidates(self, columns: Index) -> Candidates:
        """Eliminate all other columns; see `dnnfem.kernels.selection.Candidates`."""
        base = Factor.of(self.matrix[:, self._others(columns)])
        groups = columns.reshape(len(columns), -1)
        rotated = base.rotate(self._with_residual(groups.ravel()))
        places = np.arange(groups.size).reshape(groups.shape)
        present = 0.5 * float(np.sum(rotated[: base.rank, -1] ** 2))
        rest = rotated[base.rank :]
        return Candidates(rest[:, :-1], rest[:, -1], places, self.lengths[groups], present, base.rank)

    def leverage(self) -> Array:
        """Return the diagonal of the hat matrix ``A A^+``, shape (rows,)."""
        factor = Factor.of(self.matrix)
        if factor.rank == 0:
            return np.zeros(len(self.matrix))
        basis = np.zeros((len(self.matrix), factor.rank))
        np.fill_diagonal(basis, 1.0)
        out, _, _ = lapack.dormqr(
            "L", "N", factor.reflectors, factor.tau, np.asfortranarray(basis), 64 * max(factor.rank, 1)
        )
        return np.asarray(np.einsum("mk,mk->m", out, out))
