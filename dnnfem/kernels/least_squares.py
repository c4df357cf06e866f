"""Dense least squares in NumPy and LAPACK behind the interface of `dnnfem.kernels.system.LeastSquaresSystem`.

Everything is done by orthogonal factorizations of the tall matrix; normal equations are never formed, so that the last
digits of a fit are not lost to the square of its condition number.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import scipy.linalg
from scipy.linalg import lapack

from dnnfem.kernels.orthogonal import Elimination, Factor, Rotation
from dnnfem.kernels.reduction import Reduction
from dnnfem.kernels.selection import Candidates
from dnnfem.kernels.spectral import SpectralSteps
from dnnfem.kernels.system import Norm
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
    penalties : int array
        Rows that are penalties and not data; unknown (and empty) once columns were eliminated.
    reduction : Reduction, optional
        If rows were compressed, ``A`` and ``r`` to ``Q^T A`` and ``Q^T r``: how residual vectors of the original rows
        follow.  Values, derivatives and solutions are those of the original rows.
    linear : array, shape (n,), optional
        A further term ``<linear, d>``, dual: densities of energies have a curvature, and derivatives that are no
        ``A^T r`` point by point.
    """

    matrix: Array
    residual: Array
    elimination: Elimination | None = None
    penalties: Index = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    reduction: Reduction | None = None
    linear: Array | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, coefficients)."""
        return (int(self.matrix.shape[0]), int(self.matrix.shape[1]))

    @property
    def samples(self) -> int:
        """Rows that are data, before they were compressed."""
        return self._rows.rows - len(self.penalties)

    @property
    def _rows(self) -> Reduction:
        return self.reduction or Reduction(((len(self.matrix), None),))

    @cached_property
    def value(self) -> float:
        """``|r|^2 / 2``."""
        return 0.5 * float(np.sum(self.residual * self.residual))

    @cached_property
    def derivative(self) -> Array:
        """``A^T r``, dual, and the linear term."""
        dual = self.matrix.T @ self.residual
        return dual if self.linear is None else dual + self.linear

    @cached_property
    def absorbed(self) -> DenseLeastSquares:
        """The same without a linear term: it becomes ``A^T s``, on all columns that are not dependent."""
        if self.linear is None:
            return self
        moved = self.residual + Factor.of(self.matrix).solve_transposed(self.linear)
        return replace(self, residual=moved, linear=None)

    def curvature(self, v: Array) -> Array:
        """Return ``A^T A v``."""
        return self.matrix.T @ (self.matrix @ v)

    @cached_property
    def lengths(self) -> Array:
        """Lengths of the columns."""
        return np.asarray(np.linalg.norm(self.matrix, axis=0))

    def __add__(self, other: DenseLeastSquares) -> DenseLeastSquares:
        if not isinstance(other, DenseLeastSquares):
            return NotImplemented
        # Columns stay contiguous: kernels write them so, and LAPACK reads them so.
        matrix = np.empty((self.shape[0] + other.shape[0], self.shape[1]), order="F")
        matrix[: self.shape[0]], matrix[self.shape[0] :] = self.matrix, other.matrix
        penalties = np.concatenate([self.penalties, self.shape[0] + other.penalties])
        residual = np.concatenate([self.residual, other.residual])
        plain = self.reduction is None and other.reduction is None
        reduction = None if plain else self._rows + other._rows
        linear = self.linear if other.linear is None else other.linear + (0.0 if self.linear is None else self.linear)
        return DenseLeastSquares(matrix, residual, None, penalties, reduction, linear)

    def __rmul__(self, factor: float) -> DenseLeastSquares:
        root = float(np.sqrt(factor))
        linear = None if self.linear is None else factor * self.linear
        return replace(self, matrix=root * self.matrix, residual=root * self.residual, linear=linear)

    def __matmul__(self, transfer: Array) -> DenseLeastSquares:
        # Transposed, so that sparse transfers work too.
        linear = None if self.linear is None else np.asarray(transfer.T @ self.linear)
        return replace(self, matrix=np.asarray((transfer.T @ self.matrix.T).T), linear=linear)

    def ridge(self, columns: Index, weight: float, values: Array) -> DenseLeastSquares:
        """Append the rows ``sqrt(weight) (c + d_c)``."""
        rows = np.zeros((len(columns), self.matrix.shape[1]))
        rows[np.arange(len(columns)), columns] = np.sqrt(weight)
        return self + DenseLeastSquares(rows, np.sqrt(weight) * values, penalties=np.arange(len(columns)))

    def pull(self, residual: Array) -> Array:
        """Return ``A^T residual``."""
        if self.reduction is not None:
            residual = self.reduction(residual)
        if self.elimination is not None:
            residual = self.elimination.complement(residual[:, None])[:, 0]
        return self.matrix.T @ residual

    def __getitem__(self, columns: Index) -> DenseLeastSquares:
        return replace(
            self, matrix=self.matrix[:, columns], linear=None if self.linear is None else self.linear[columns]
        )

    def _with_residual(self, columns: Index) -> Array:
        """Return some columns with the residual behind them, columns contiguous."""
        both = np.empty((self.shape[0], len(columns) + 1), order="F")
        both[:, :-1], both[:, -1] = self.matrix[:, columns], self.residual
        return both

    def _others(self, columns: Index) -> Index:
        keep = np.ones(self.matrix.shape[1], dtype=bool)
        keep[columns.ravel()] = False
        return np.flatnonzero(keep)

    def solve(self, columns: Index) -> tuple[Array, DenseLeastSquares]:
        """Return the correction to `columns` alone, shape of `columns`, and the system after it.

        Dependent columns get zero.  The new residual is that of what was computed, rounding included.
        """
        if self.linear is not None:
            return self.absorbed.solve(columns)
        correction = -Elimination.of(self.matrix, columns).solve(self.residual)
        moved = replace(self, residual=self.residual + self.matrix[:, columns.ravel()] @ correction)
        return correction.reshape(columns.shape), moved

    def condensed(self, columns: Index) -> DenseLeastSquares:
        """Eliminate `columns`, (f,) or (groups, f) as in `Elimination`."""
        if self.linear is not None:
            return self.absorbed.condensed(columns)
        elimination = Elimination.of(self.matrix, columns)
        rotated = elimination.complement(self._with_residual(self._others(columns)))
        return DenseLeastSquares(rotated[:, :-1], rotated[:, -1], elimination, reduction=self.reduction)

    def normal_solve(self, columns: Index, dual: Array) -> Array:
        """Solve ``A_c^T A_c z = dual``; dependent columns get zero."""
        return Factor.of(self.matrix[:, columns]).normal_solve(dual)

    def steps(self, norm: Norm) -> SpectralSteps:
        """Factorize once; see `SpectralSteps`."""
        matrix, residual = norm.whiten(self.matrix), self.absorbed.residual
        if matrix.shape[0] > matrix.shape[1] > 0:
            rotation, matrix = Rotation.of(matrix)
            residual = rotation(residual[:, None], "T")[: len(matrix), 0]
        return SpectralSteps.of(matrix, residual, norm)

    def candidates(self, columns: Index) -> Candidates:
        """Eliminate all other columns; see `dnnfem.kernels.selection.Candidates`."""
        if self.linear is not None:
            return self.absorbed.candidates(columns)
        base = Factor.of(self.matrix[:, self._others(columns)])
        groups = columns.reshape(len(columns), -1)
        rotated = base.rotate(self._with_residual(groups.ravel()))
        places = np.arange(groups.size).reshape(groups.shape)
        return Candidates(rotated[:, :-1], rotated[:, -1], places, self.lengths[groups], base, self.penalties)

    def schur_roots(self, groups: list[Index], damping: float) -> list[Array]:
        """Return the roots from one triangular factor; see the protocol."""
        lengths = np.where(self.lengths > 0.0, self.lengths, 1.0)
        scaled = np.vstack([self.matrix / lengths, np.sqrt(damping) * np.eye(len(lengths))])
        inverse = lapack.dtrtri(Rotation.of(scaled)[1])[0] if len(lengths) else np.empty((0, 0))
        # With H^-1 = R^-1 R^-T and B the rows of R^-1 that belong to a group, the complement is (B B^T)^-1.
        roots = []
        for group in groups:
            _, triangle = np.linalg.qr(inverse[group].T)
            roots.append(scipy.linalg.solve_triangular(triangle.T, np.diag(lengths[group]), lower=True))
        return roots

    def leverage(self) -> Array:
        """Return the diagonal of the hat matrix ``A A^+``, shape (rows,).

        Raises
        ------
        ValueError
            If rows were compressed.
        """
        if self.reduction is not None:
            raise ValueError(
                f"leverage: got a system whose {self.samples} rows were compressed, expected all rows; "
                "ask the functional for `left_out` instead"
            )
        factor = Factor.of(self.matrix)
        basis = factor.expand(np.eye(len(self.matrix), factor.rank))
        return np.asarray(np.einsum("mk,mk->m", basis, basis))
