"""Rank-revealing orthogonal factorizations, one for all groups of columns that repeat the same matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import lapack

from dnnfem.records import Array, Index

RANK_TOLERANCE = 1e-14
"""Columns whose part orthogonal to the others is smaller than this, relative to their length, count as dependent."""

SAFE = 1e-9
"""Columns further than this from the span of those before them, relative to their length, need no pivoting."""


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
        scaled = np.asfortranarray(matrix * scale)
        if matrix.shape[0] >= matrix.shape[1]:
            # Without pivoting it is several times faster, and as good as long as no column is nearly dependent.
            qr, tau, _, _ = lapack.dgeqrf(scaled)
            if np.abs(np.diagonal(qr)).min() > SAFE:
                return cls(qr, tau, np.arange(matrix.shape[1]), scale, matrix.shape[1])
        qr, pivots, tau, _, _ = lapack.dgeqp3(scaled)
        diagonal = np.abs(np.diagonal(qr))
        rank = int(np.count_nonzero(diagonal > RANK_TOLERANCE * np.sqrt(len(matrix))))
        return cls(qr, tau, np.asarray(pivots, dtype=np.int64) - 1, scale, rank)

    @property
    def reflectors(self) -> Array:
        """Householder vectors of `Q`; with fewer rows than columns there is one per row."""
        return self.qr[:, : self.tau.size]

    def rotate(self, columns: Array) -> Array:
        """Return ``Q^T columns`` for (m, k); the first `rank` rows are the part inside the range."""
        return self._multiply(columns, "T")

    def expand(self, rotated: Array) -> Array:
        """Return ``Q rotated`` for (m, k), the inverse of `rotate`."""
        return self._multiply(rotated, "N")

    def _multiply(self, columns: Array, transpose: str) -> Array:
        if self.rank == 0 or columns.size == 0:
            return columns
        out, _, info = lapack.dormqr(
            "L", transpose, self.reflectors, self.tau, np.asfortranarray(columns), 32 * (columns.shape[1] + 1)
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

    def solve_transposed(self, dual: Array) -> Array:
        """Return the least ``s`` with ``A^T s = dual``, shape (f,) to (m,); dependent columns are left out."""
        out = np.zeros((len(self.qr), 1))
        out[: self.rank] = self._half(dual)
        return self.expand(out)[:, 0]

    def normal_solve(self, dual: Array) -> Array:
        """Return the basic solution of ``A^T A z = dual``, shape (f,)."""
        rotated = np.zeros((max(len(self.qr), self.rank), 1))
        rotated[: self.rank] = self._half(dual)
        return self.solve(rotated)[:, 0]

    def _half(self, dual: Array) -> Array:
        """Return ``R^-T P^T D dual``, shape (rank, 1)."""
        if self.rank == 0:
            return np.empty((0, 1))
        scaled = (dual * self.scale)[self.pivots[: self.rank], None]
        return np.asarray(lapack.dtrtrs(self.qr[: self.rank, : self.rank], scaled, trans=1)[0])


@dataclass(frozen=True, eq=False)
class Elimination:
    """Factorization of some columns of a system, one for all groups of columns that repeat the same matrix.

    A network with several outputs repeats its features once per output, on disjoint rows.  Group ``k`` lives on
    ``rows[k]`` and has the columns ``columns[k]``; `factor` is shared; a single group lives on
    all rows.
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
        if len(self.rows) == 1:
            return self.factor.rotate(values)[self.factor.rank :]
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
