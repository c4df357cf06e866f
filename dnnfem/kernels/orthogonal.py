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


BLOCK = 32
"""Columns that are factorized and applied at a time."""


@dataclass(frozen=True, eq=False)
class Rotation:
    """The orthogonal factor of a matrix (m, f), as blocks of ``k = min(m, f)`` Householder vectors.

    The compact form with recursive blocks (Elmroth and Gustavson 2000) is several times faster than vectors that come
    one by one, for tall matrices in particular.
    """

    vectors: Array
    blocks: Array

    @classmethod
    def of(cls, matrix: Array) -> tuple[Rotation, Array]:
        """Return the factors ``Q`` and ``R``, shape (k, f), of a matrix that is not empty."""
        k = min(matrix.shape)
        vectors, blocks, _ = lapack.dgeqrt(min(BLOCK, k), np.asfortranarray(matrix))
        return cls(vectors[:, :k], blocks), np.triu(vectors[:k])

    def __call__(self, columns: Array, transpose: str) -> Array:
        """Return ``Q^T columns`` or ``Q columns``, with ``"T"`` or ``"N"``, for (m, c)."""
        out, _ = lapack.dgemqrt(self.vectors, self.blocks, np.asfortranarray(columns), side="L", trans=transpose)
        return np.asarray(out)


@dataclass(frozen=True, eq=False)
class Factor:
    """Rank-revealing QR of a column-scaled matrix, ``A D = Q R P^T``, `Q` as one or two rotations.

    Columns are pivoted only if some are nearly dependent, and then on the triangle of the plain factorization.
    """

    rows: int
    rotation: Rotation | None
    turn: Rotation | None
    triangle: Array
    pivots: Index
    scale: Array
    rank: int

    @classmethod
    def of(cls, matrix: Array) -> Factor:
        """Factorize a matrix (m, f)."""
        m, f = matrix.shape
        length = np.sqrt(np.einsum("mf,mf->f", matrix, matrix))
        scale = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)
        # What is not finite stays so, without a warning.
        scale[~np.isfinite(length)] = np.nan
        if matrix.size == 0:
            return cls(m, None, None, np.empty((0, f)), np.empty(0, dtype=np.int64), scale, 0)
        rotation, triangle = Rotation.of(matrix * scale)
        if m >= f and np.abs(np.diagonal(triangle)).min() > SAFE:
            return cls(m, rotation, None, triangle, np.arange(f), scale, f)
        pivoted, pivots, _, _, _ = lapack.dgeqp3(triangle, lwork=2 * f + BLOCK * (f + 1))
        order = np.asarray(pivots, dtype=np.int64) - 1
        # The order of the columns is known now: their rotation can be had in blocks.
        turn, triangle = Rotation.of(triangle[:, order])
        diagonal = np.abs(np.diagonal(pivoted))
        rank = int(np.count_nonzero(diagonal > RANK_TOLERANCE * np.sqrt(m)))
        return cls(m, rotation, turn, triangle, order, scale, rank)

    def rotate(self, columns: Array) -> Array:
        """Return ``Q^T columns`` for (m, k); the first `rank` rows are the part inside the range."""
        if self.rotation is None or self.rank == 0 or columns.size == 0:
            return columns
        out = self.rotation(columns, "T")
        if self.turn is not None:
            out[: len(self.triangle)] = self.turn(out[: len(self.triangle)], "T")
        return out

    def expand(self, rotated: Array) -> Array:
        """Return ``Q rotated`` for (m, k), the inverse of `rotate`."""
        if self.rotation is None or self.rank == 0 or rotated.size == 0:
            return rotated
        if self.turn is not None:
            turned = self.turn(rotated[: len(self.triangle)], "N")
            rotated = np.concatenate([turned, rotated[len(self.triangle) :]])
        return self.rotation(rotated, "N")

    @property
    def _leading(self) -> Array:
        return self.triangle[: self.rank, : self.rank]

    def solve(self, rotated: Array) -> Array:
        """Return the basic solution of ``min |A d - b|`` from ``Q^T b`` (m, k), shape (f, k)."""
        out = np.zeros((len(self.scale), rotated.shape[1]))
        if self.rank:
            out[self.pivots[: self.rank]] = lapack.dtrtrs(self._leading, rotated[: self.rank])[0]
        return out * self.scale[:, None]

    def solve_transposed(self, dual: Array) -> Array:
        """Return the least ``s`` with ``A^T s = dual``, shape (f,) to (m,); dependent columns are left out."""
        out = np.zeros((self.rows, 1))
        out[: self.rank] = self._half(dual)
        return self.expand(out)[:, 0]

    def normal_solve(self, dual: Array) -> Array:
        """Return the basic solution of ``A^T A z = dual``, shape (f,)."""
        return self.solve(self._half(dual))[:, 0]

    def _half(self, dual: Array) -> Array:
        """Return ``R^-T P^T D dual``, shape (rank, 1)."""
        if self.rank == 0:
            return np.empty((0, 1))
        scaled = (dual * self.scale)[self.pivots[: self.rank], None]
        return np.asarray(lapack.dtrtrs(self._leading, scaled, trans=1)[0])


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
