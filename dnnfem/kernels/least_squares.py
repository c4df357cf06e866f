"""Dense least squares in NumPy and LAPACK behind the interface of `dnnfem.kernels.protocol.LeastSquaresSystem`.

Everything is done by orthogonal factorizations of the tall matrix; normal equations are never formed, so that the last
digits of a fit are not lost to the square of its condition number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import lapack

from dnnfem.kernels.protocol import Enrichment, Norm
from dnnfem.kernels.spectral import SpectralSteps
from dnnfem.records import Array, Index

RANK_TOLERANCE = 1e-14
"""Columns whose part orthogonal to the others is smaller than this, relative to their length, count as dependent."""

NOVELTY = 1e-7
"""A candidate column whose orthogonal part is smaller than this, relative to its length, gains nothing: what is left of
it is dominated by rounding and by the nonlinearity of its own parameters."""

TINY = np.finfo(float).tiny


@dataclass(frozen=True, eq=False)
class Factor:
    """Rank-revealing QR of a column-scaled matrix, ``A D = Q R P^T``; `Q` is kept as Householder vectors."""

    qr: Array
    tau: Array
    pivots: Index
    scale: Array
    rank: int

    @classmethod
    def of(cls, matrix: Array) -> Factor:
        """Factorize a matrix (m, f)."""
        length = np.sqrt(np.einsum("mf,mf->f", matrix, matrix))
        scale = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)
        if matrix.size == 0:
            return cls(matrix, np.empty(0), np.empty(0, dtype=np.int64), scale, 0)
        qr, pivots, tau, _, _ = lapack.dgeqp3(np.asfortranarray(matrix * scale))
        diagonal = np.abs(np.diagonal(qr))
        rank = int(np.count_nonzero(diagonal > RANK_TOLERANCE * np.sqrt(len(matrix))))
        return cls(qr, tau, np.asarray(pivots, dtype=np.int64) - 1, scale, rank)

    @property
    def reflectors(self) -> Array:
        """Householder vectors of `Q`; with fewer rows than columns there is one per row."""
        return self.qr[:, : self.tau.size]

    def rotate(self, columns: Array) -> Array:
        """Return ``Q^T columns`` for (m, k); the first `rank` rows are the part inside the range."""
        if self.rank == 0:
            return columns
        out, _, info = lapack.dormqr(
            "L", "T", self.reflectors, self.tau, np.asfortranarray(columns), 32 * (columns.shape[1] + 1)
        )
        if info != 0:
            raise ValueError(f"dormqr: argument {-info} is illegal")
        return np.asarray(out)

    def solve(self, rotated: Array) -> Array:
        """Return the basic solution of ``min |A d - b|`` from ``Q^T b`` (m, k), shape (f, k)."""
        f = self.qr.shape[1]
        out = np.zeros((f, rotated.shape[1]))
        if self.rank:
            top, _ = lapack.dtrtrs(self.qr[: self.rank, : self.rank], rotated[: self.rank])
            out[self.pivots[: self.rank]] = top
        return out * self.scale[:, None]


@dataclass(frozen=True, eq=False)
class Elimination:
    """Factorization of some columns of a system, one for all groups of columns that repeat the same matrix.

    A network with several outputs repeats its features once per output, on disjoint rows.  Group ``k`` lives on
    ``rows[k]`` and has the columns ``columns[k]``; `factor` is shared.
    """

    factor: Factor
    rows: list[Index]
    columns: list[Index]

    @classmethod
    def of(cls, matrix: Array, columns: Index) -> Elimination:
        """Eliminate `columns`, shape (f,) or, for groups that may share their matrix, (groups, f)."""
        if columns.ndim == 2 and len(columns) > 1:
            rows = [np.flatnonzero(matrix[:, group].any(axis=1)) for group in columns]
            disjoint = np.unique(np.concatenate(rows)).size == sum(r.size for r in rows)
            if disjoint and len({r.size for r in rows}) == 1:
                first = matrix[np.ix_(rows[0], columns[0])]
                pairs = zip(rows[1:], columns[1:], strict=True)
                if all(np.array_equal(first, matrix[np.ix_(r, group)]) for r, group in pairs):
                    return cls(Factor.of(first), rows, list(columns))
        flat = columns.ravel()
        return cls(Factor.of(matrix[:, flat]), [np.arange(len(matrix))], [flat])

    def complement(self, values: Array) -> Array:
        """Return the part of `values` (m, k) orthogonal to the range, in coordinates: (m - rank, k) rows."""
        untouched = np.ones(len(values), dtype=bool)
        parts = []
        for rows in self.rows:
            untouched[rows] = False
            parts.append(self.factor.rotate(values[rows])[self.factor.rank :])
        return np.concatenate([*parts, values[untouched]])

    def solve(self, values: Array) -> Array:
        """Return the coefficients of the best approximation of `values` (m,), in the flat order of the columns."""
        parts = [self.factor.solve(self.factor.rotate(values[rows, None]))[:, 0] for rows in self.rows]
        return np.concatenate(parts)


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

    def stacked(self, other: DenseLeastSquares) -> DenseLeastSquares:
        """Append the rows of `other`."""
        return DenseLeastSquares(
            np.concatenate([self.matrix, other.matrix]), np.concatenate([self.residual, other.residual])
        )

    def scaled(self, factor: float) -> DenseLeastSquares:
        """Scale the value by `factor` >= 0."""
        root = float(np.sqrt(factor))
        return DenseLeastSquares(root * self.matrix, root * self.residual)

    def transformed(self, transfer: Array) -> DenseLeastSquares:
        """Substitute ``d = transfer @ e``; `transfer` may be sparse."""
        return DenseLeastSquares(np.asarray((transfer.T @ self.matrix.T).T), self.residual)

    def ridge(self, columns: Index, weight: float, values: Array) -> DenseLeastSquares:
        """Append the rows ``sqrt(weight) (c + d_c)``."""
        rows = np.zeros((len(columns), self.matrix.shape[1]))
        rows[np.arange(len(columns)), columns] = np.sqrt(weight)
        return self.stacked(DenseLeastSquares(rows, np.sqrt(weight) * values))

    def pull(self, residual: Array) -> Array:
        """Return ``A^T residual``."""
        if self.elimination is not None:
            residual = self.elimination.complement(residual[:, None])[:, 0]
        return self.matrix.T @ residual

    def lengths(self) -> Array:
        """Return the lengths of the columns."""
        return np.asarray(np.linalg.norm(self.matrix, axis=0))

    def restricted(self, columns: Index) -> DenseLeastSquares:
        """Keep only `columns`."""
        return DenseLeastSquares(self.matrix[:, columns], self.residual, self.elimination)

    def moved(self, correction: Array) -> DenseLeastSquares:
        """Return the system after a correction."""
        return DenseLeastSquares(self.matrix, self.residual + self.matrix @ correction)

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
        both = np.column_stack([self.matrix[:, self._others(columns)], self.residual])
        rotated = elimination.complement(both)
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

    def score(self, columns: Index) -> Array:
        """Return the decrease that each column, or group of columns (c, k), gains with all others re-solved."""
        groups = columns.reshape(len(columns), -1)
        reduced = self.condensed(self._others(columns))
        position = np.argsort(np.argsort(groups.ravel())).reshape(groups.shape)
        length = np.linalg.norm(self.matrix[:, groups.ravel()], axis=0).reshape(groups.shape)
        return _gains(reduced.matrix, reduced.residual, position, length)

    def select(self, columns: Index, count: int) -> tuple[Index, Array]:
        """Choose up to `count` groups one after another, each time re-solving for all that were chosen before.

        This is orthogonal matching pursuit: a pivoted QR of the columns orthogonal to the rest of the system.

        Parameters
        ----------
        columns : int array, shape (c,) or (c, k)
            Candidate columns, or groups of them.
        count : int
            How many at most.

        Returns
        -------
        order : int array, shape (<= count,)
            Numbers of the chosen groups, best first.
        gains : array, same shape
            Decrease of the value that each one adds.
        """
        groups = columns.reshape(len(columns), -1)
        reduced = self.condensed(self._others(columns))
        position = np.argsort(np.argsort(groups.ravel())).reshape(groups.shape)
        length = np.linalg.norm(self.matrix[:, groups.ravel()], axis=0).reshape(groups.shape)
        matrix, residual = reduced.matrix.copy(), reduced.residual.copy()
        order: list[int] = []
        gains: list[float] = []
        for _ in range(min(count, len(groups))):
            score = _gains(matrix, residual, position, length)
            score[order] = 0.0
            best = int(np.argmax(score))
            if not score[best] > 0.0:
                break
            order.append(best)
            gains.append(float(score[best]))
            # A group may bring fewer new directions than it has columns.
            basis, new, _ = np.linalg.svd(
                matrix[:, position[best]] / np.maximum(length[best], TINY), full_matrices=False
            )
            basis = basis[:, new > NOVELTY]
            matrix -= basis @ (basis.T @ matrix)
            residual -= basis @ (basis.T @ residual)
        return np.array(order, dtype=np.int64), np.array(gains)

    def enrichment(self, columns: Index) -> Enrichment:
        """Return what `columns` gain together beyond the others."""
        base = Factor.of(self.matrix[:, self._others(columns)])
        rotated = base.rotate(np.column_stack([self.matrix[:, columns], self.residual]))
        known, new = rotated[: base.rank, -1], rotated[base.rank :]
        factor = Factor.of(new[:, :-1])
        rest = factor.rotate(new[:, -1:])[:, 0]
        gained, left = rest[: factor.rank], rest[factor.rank :]
        halves = [0.5 * float(np.sum(part * part)) for part in (known, gained, left)]
        return Enrichment(*halves, (base.rank, factor.rank))

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


def _gains(matrix: Array, residual: Array, groups: Index, length: Array) -> Array:
    """Return ``|P_g r|^2 / 2`` for groups (c, k) of orthogonalized columns whose original lengths were `length`."""
    slope = (matrix.T @ residual)[groups]
    gram = np.einsum("mck,mcl->ckl", matrix[:, groups], matrix[:, groups])
    floor = (NOVELTY * length) ** 2
    gone = np.einsum("ckk->ck", gram) <= floor
    slope = np.where(gone, 0.0, slope)
    for k in range(groups.shape[1]):
        gram[:, k, k] += np.where(gone[:, k], 1.0, floor[:, k])
    solution = np.linalg.solve(gram, slope[..., None])[..., 0]
    return np.asarray(0.5 * np.sum(slope * solution, axis=1))
