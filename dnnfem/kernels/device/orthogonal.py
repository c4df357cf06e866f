"""Orthogonal factorizations of tall matrices on a device: orthonormal columns stay there, triangles come to the host.

There is no rank-revealing factorization on a GPU.  The triangle of a plain one has the same singular values and the
same dependent columns as the tall matrix, and no more numbers than its columns have coefficients: where it shows that
columns are nearly dependent, it is factorized once more, with pivoting, on the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch

from dnnfem.kernels.device.place import Place, array
from dnnfem.kernels.orthogonal import RANK_TOLERANCE, SAFE
from dnnfem.records import Array, Index

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class DeviceFactor:
    """``A D P = Q R`` with a diagonal matrix ``D`` that gives columns unit length and, if need be, pivoting.

    Attributes
    ----------
    place : Place
    basis : tensor, shape (rows, rank)
        ``Q``, orthonormal columns.
    triangle : array, shape (rank, rank)
        ``R``.
    pivots : int array, shape (rank,)
        The columns of ``A`` that it belongs to; the others depend on these.
    scale : array, shape (columns,)
        ``D``.
    """

    place: Place
    basis: Tensor
    triangle: Array
    pivots: Index
    scale: Array

    @classmethod
    def of(cls, place: Place, matrix: Tensor) -> DeviceFactor:
        """Factorize a matrix (m, f)."""
        length = torch.linalg.vector_norm(matrix, dim=0)
        scale = torch.where(length > 0.0, 1.0 / length, torch.zeros_like(length))
        if matrix.numel() == 0:
            empty = np.empty(0, dtype=np.int64)
            return cls(place, matrix[:, :0], np.empty((0, 0)), empty, array(scale))
        basis, upper = torch.linalg.qr(matrix * scale)
        triangle, columns = array(upper), np.arange(matrix.shape[1])
        if matrix.shape[0] < matrix.shape[1] or not np.abs(np.diagonal(triangle)).min() > SAFE:
            inner, triangle, columns = scipy.linalg.qr(triangle, mode="economic", pivoting=True, check_finite=False)
            diagonal = np.abs(np.diagonal(triangle))
            rank = int(np.count_nonzero(diagonal > RANK_TOLERANCE * np.sqrt(len(matrix))))
            basis, triangle, columns = basis @ place.tensor(inner[:, :rank]), triangle[:rank, :rank], columns[:rank]
        return cls(place, basis, triangle, np.asarray(columns, dtype=np.int64), array(scale))

    @property
    def rank(self) -> int:
        """Number of independent columns."""
        return len(self.pivots)

    def inside(self, columns: Tensor) -> Tensor:
        """Return ``Q^T columns`` for (m, k), shape (rank, k)."""
        return self.basis.mT @ columns

    def outside(self, columns: Tensor) -> Tensor:
        """Return what is left of columns (m, k) without their part in the range."""
        return columns - self.basis @ self.inside(columns)

    def solve(self, inside: Array) -> Array:
        """Return the basic solution of ``min |A d - b|`` from ``Q^T b`` (rank,), shape (columns,)."""
        result = np.zeros(len(self.scale))
        if self.rank:
            result[self.pivots] = scipy.linalg.solve_triangular(self.triangle, inside, check_finite=False)
        return result * self.scale

    def normal_solve(self, dual: Array) -> Array:
        """Return the basic solution of ``A^T A z = dual``, shape (columns,)."""
        if self.rank == 0:
            return np.zeros(len(self.scale))
        load = (dual * self.scale)[self.pivots]
        return self.solve(scipy.linalg.solve_triangular(self.triangle, load, trans=1, check_finite=False))


@dataclass(frozen=True, eq=False)
class DeviceElimination:
    """Factorization of some columns of a system, one for all groups of columns that repeat the same matrix.

    As `dnnfem.kernels.orthogonal.Elimination`, but that the rows keep their number: eliminated is what lies in the
    range.
    """

    factor: DeviceFactor
    rows: list[Tensor | slice]

    @classmethod
    def of(cls, place: Place, matrix: Tensor, columns: Index) -> DeviceElimination:
        """Eliminate `columns`, shape (f,) or, for groups that may share their matrix, (groups, f)."""
        if columns.ndim == 2 and len(columns) > 1 and len(matrix):
            groups = [matrix[:, place.index(group)] for group in columns]
            touched = torch.stack([group.ne(0.0).any(dim=1) for group in groups])
            rows = [torch.nonzero(mask)[:, 0] for mask in touched]
            if int(touched.sum(dim=0).max()) <= 1 and len({len(r) for r in rows}) == 1:
                first = groups[0][rows[0]]
                if all(torch.equal(first, group[r]) for group, r in zip(groups[1:], rows[1:], strict=True)):
                    return cls(DeviceFactor.of(place, first), list(rows))
        return cls(DeviceFactor.of(place, matrix[:, place.index(columns.ravel())]), [slice(None)])

    def outside(self, values: Tensor) -> Tensor:
        """Return the part of `values` (m, k) orthogonal to the range."""
        values = values.clone()
        for rows in self.rows:
            values[rows] = self.factor.outside(values[rows])
        return values

    def solve(self, values: Tensor) -> Array:
        """Return the coefficients of the best approximation of `values` (m,), in the flat order of the columns."""
        inside = torch.stack([self.factor.inside(values[rows, None])[:, 0] for rows in self.rows])
        return np.concatenate([self.factor.solve(part) for part in array(inside)])
