"""Dense least squares on a device, behind the interface of `dnnfem.kernels.system.LeastSquaresSystem`.

Matrices with as many rows as there are samples stay on the device, and orthogonal factorizations reduce them there to
triangles.  What is then done with a triangle of the size of the coefficients, one singular value decomposition or the
greedy choice of candidates, is latency and not arithmetic: LAPACK does it on the host.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from dnnfem.kernels.device.orthogonal import DeviceElimination, DeviceFactor
from dnnfem.kernels.device.place import Place, array
from dnnfem.kernels.least_squares import DenseLeastSquares
from dnnfem.kernels.orthogonal import Factor
from dnnfem.kernels.reduction import Reduction
from dnnfem.kernels.selection import Candidates
from dnnfem.kernels.spectral import SpectralSteps
from dnnfem.kernels.system import Enrichment, Norm
from dnnfem.records import Array, Index

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class DeviceLeastSquares:
    """``min_d |r + A d|^2 / 2`` with a dense matrix on a device, in float64.

    Parameters
    ----------
    place : Place
    matrix : tensor, shape (rows, n)
        ``A``.
    residual : tensor, shape (rows,)
        ``r``.
    elimination, penalties, reduction
        As of `dnnfem.kernels.least_squares.DenseLeastSquares`.
    """

    place: Place
    matrix: Tensor
    residual: Tensor
    elimination: DeviceElimination | None = None
    penalties: Index = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    reduction: Reduction | None = None

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
        return 0.5 * float(torch.sum(self.residual * self.residual))

    @cached_property
    def derivative(self) -> Array:
        """``A^T r``, dual."""
        return array(self.matrix.mT @ self.residual)

    def curvature(self, v: Array) -> Array:
        """Return ``A^T A v``."""
        return array(self.matrix.mT @ (self.matrix @ self.place.tensor(v)))

    @cached_property
    def lengths(self) -> Array:
        """Lengths of the columns."""
        return array(torch.linalg.vector_norm(self.matrix, dim=0))

    def _with(self, other: DenseLeastSquares) -> DeviceLeastSquares:
        """Return a system on the host here."""
        matrix, residual = self.place.tensor(other.matrix), self.place.tensor(other.residual)
        return DeviceLeastSquares(self.place, matrix, residual, None, other.penalties, other.reduction)

    @property
    def _host(self) -> DenseLeastSquares:
        """The same on the host."""
        return DenseLeastSquares(array(self.matrix), array(self.residual), None, self.penalties, self.reduction)

    def __add__(self, other: Any) -> Any:
        if isinstance(other, DenseLeastSquares):
            # A linear term is in the range of the sum of all rows, not in that of each part.
            if other.linear is not None:
                return self._host + other
            other = self._with(other)
        matrix, residual = (torch.cat(pair) for pair in ((self.matrix, other.matrix), (self.residual, other.residual)))
        penalties = np.concatenate([self.penalties, self.shape[0] + other.penalties])
        plain = self.reduction is None and other.reduction is None
        reduction = None if plain else self._rows + other._rows
        return DeviceLeastSquares(self.place, matrix, residual, None, penalties, reduction)

    def __radd__(self, other: DenseLeastSquares) -> Any:
        return self._with(other) + self if other.linear is None else other + self._host

    def __rmul__(self, factor: float) -> DeviceLeastSquares:
        root = float(np.sqrt(factor))
        return replace(self, matrix=root * self.matrix, residual=root * self.residual)

    def __matmul__(self, transfer: Any) -> DeviceLeastSquares:
        dense = transfer if isinstance(transfer, np.ndarray) else transfer.toarray()
        return replace(self, matrix=self.matrix @ self.place.tensor(dense))

    def __getitem__(self, columns: Index) -> DeviceLeastSquares:
        return replace(self, matrix=self._columns(columns))

    def _columns(self, columns: Index) -> Tensor:
        return self.matrix[:, self.place.index(np.arange(self.shape[1])[columns])]

    def ridge(self, columns: Index, weight: float, values: Array) -> DeviceLeastSquares:
        """Append the rows ``sqrt(weight) (c + d_c)``."""
        rows = self.place.zeros(len(columns), self.shape[1])
        rows[torch.arange(len(columns), device=rows.device), self.place.index(columns)] = float(np.sqrt(weight))
        residual = float(np.sqrt(weight)) * self.place.tensor(values)
        found: DeviceLeastSquares = self + replace(
            self, matrix=rows, residual=residual, elimination=None, penalties=np.arange(len(columns)), reduction=None
        )
        return found

    def pull(self, residual: Any) -> Array:
        """Return ``A^T residual``."""
        values = residual if self.reduction is None else self.reduction(residual)
        rows = self.place.tensor(values)
        if self.elimination is not None:
            rows = self.elimination.outside(rows[:, None])[:, 0]
        return array(self.matrix.mT @ rows)

    def _others(self, columns: Index) -> Index:
        keep = np.ones(self.shape[1], dtype=bool)
        keep[columns.ravel()] = False
        return np.flatnonzero(keep)

    def _with_residual(self, columns: Index) -> Tensor:
        """Return some columns with the residual behind them."""
        return torch.cat([self._columns(columns), self.residual[:, None]], dim=1)

    def solve(self, columns: Index) -> tuple[Array, DeviceLeastSquares]:
        """Return the correction to `columns` alone, shape of `columns`, and the system after it.

        Dependent columns get zero.  The new residual is that of what was computed, rounding included.
        """
        correction = -DeviceElimination.of(self.place, self.matrix, columns).solve(self.residual)
        change = self._columns(columns.ravel()) @ self.place.tensor(correction)
        return correction.reshape(columns.shape), replace(self, residual=self.residual + change)

    def condensed(self, columns: Index) -> DeviceLeastSquares:
        """Eliminate `columns`, (f,) or (groups, f); the rows are what is orthogonal to these columns."""
        elimination = DeviceElimination.of(self.place, self.matrix, columns)
        left = elimination.outside(self._with_residual(self._others(columns)))
        return DeviceLeastSquares(self.place, left[:, :-1], left[:, -1], elimination, reduction=self.reduction)

    def normal_solve(self, columns: Index, dual: Array) -> Array:
        """Solve ``A_c^T A_c z = dual``; dependent columns get zero."""
        return DeviceFactor.of(self.place, self._columns(columns)).normal_solve(dual)

    @cached_property
    def _triangle(self) -> DenseLeastSquares:
        """The system with its rows compressed to a triangle, on the host."""
        both, n = torch.cat([self.matrix, self.residual[:, None]], dim=1), self.shape[1]
        triangle = array(torch.linalg.qr(both, mode="r").R if both.numel() else both)[:n]
        return DenseLeastSquares(triangle[:, :n], triangle[:, n])

    def steps(self, norm: Norm) -> SpectralSteps:
        """Factorize once; see `SpectralSteps`."""
        return self._triangle.steps(norm)

    def schur_roots(self, groups: list[Index], damping: float) -> list[Array]:
        """Return the roots from one triangular factor; see the protocol."""
        return self._triangle.schur_roots(groups, damping)

    def candidates(self, columns: Index) -> DeviceCandidates:
        """Eliminate all other columns."""
        base = DeviceFactor.of(self.place, self._columns(self._others(columns)))
        groups = columns.reshape(len(columns), -1)
        left = base.outside(self._with_residual(groups.ravel()))
        inside = array(base.inside(self.residual[:, None]))
        places = np.arange(groups.size).reshape(groups.shape)
        return DeviceCandidates(base, left, inside, places, self.lengths[groups], self.place.index(self.penalties))

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
        basis = DeviceFactor.of(self.place, self.matrix).basis
        return array(torch.sum(basis * basis, dim=1))


@dataclass(frozen=True, eq=False)
class DeviceCandidates:
    """Columns of a system after all others have been eliminated; see `dnnfem.kernels.selection.Candidates`.

    Parameters
    ----------
    base : DeviceFactor
        Of the other columns.
    left : tensor, shape (rows, columns + 1)
        What is left of the candidate columns, and of the residual behind them.
    inside : array, shape (rank, 1)
        The part of the residual in the range of the others.
    groups : int array, shape (c, k)
        Columns of each candidate.
    lengths : array, shape (c, k)
        Their lengths before the projection.
    penalties : int tensor
        Rows that are not data.
    """

    base: DeviceFactor
    left: Tensor
    inside: Array
    groups: Index
    lengths: Array
    penalties: Tensor

    @cached_property
    def _triangle(self) -> Candidates:
        """The same candidates with their rows compressed to a triangle, on the host."""
        both = array(torch.linalg.qr(self.left, mode="r").R) if self.left.numel() else array(self.left)
        none = Factor.of(np.empty((len(both), 0)))
        return Candidates(both[:, :-1], both[:, -1], self.groups, self.lengths, none, np.empty(0, dtype=np.int64))

    def score(self) -> Array:
        """Return the decrease that each candidate gains with all other columns re-solved, shape (c,)."""
        return self._triangle.score()

    def select(self, count: int) -> tuple[Index, Array]:
        """Choose up to `count` candidates one after another, each time re-solving for all that were chosen before."""
        return self._triangle.select(count)

    def joint(self) -> Enrichment:
        """Return what all candidates gain together."""
        factor = DeviceFactor.of(self.base.place, self.left[:, :-1])
        residual = self.left[:, -1:]
        gained, remaining = factor.inside(residual), factor.outside(residual)
        present, gain, left = (0.5 * float((part * part).sum()) for part in (self.inside, gained, remaining))
        freedom = [f.rank - float(torch.sum(f.basis[self.penalties] ** 2)) for f in (self.base, factor)]
        return Enrichment(present, gain, left, (freedom[0], freedom[1]))
