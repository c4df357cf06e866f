"""Candidate columns of a least-squares system: what they gain, alone, one after another, and together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dnnfem.kernels.orthogonal import Factor
from dnnfem.kernels.system import Enrichment
from dnnfem.records import Array, Index

NOVELTY = 1e-7
"""A candidate column whose orthogonal part is smaller than this, relative to its length, gains nothing: what is left of
it is dominated by rounding and by the nonlinearity of its own parameters."""

TINY = np.finfo(float).tiny


@dataclass(frozen=True, eq=False)
class Candidates:
    """Columns of a system after all others have been eliminated.

    Parameters
    ----------
    matrix : array, shape (rows, columns)
        The candidate columns, rotated by the factorization of the others: the first ``base.rank`` rows are the part in
        their range.
    residual : array, shape (rows,)
        The residual, rotated.
    groups : int array, shape (c, k)
        Columns of each candidate.
    lengths : array, shape (c, k)
        Their lengths before the projection.
    base : Factor
        Of the other columns.
    penalties : int array
        Rows, before the rotation, that are not data.
    """

    matrix: Array
    residual: Array
    groups: Index
    lengths: Array
    base: Factor
    penalties: Index

    def _projected(self) -> tuple[Array, Array]:
        rank = self.base.rank
        return self.matrix[rank:], self.residual[rank:]

    def score(self) -> Array:
        """Return the decrease that each candidate gains with all other columns re-solved, shape (c,)."""
        matrix, residual = self._projected()
        return _gains(_products(matrix, self.groups), (matrix.T @ residual)[self.groups], self.lengths)

    def select(self, count: int) -> tuple[Index, Array]:
        """Choose up to `count` candidates one after another, each time re-solving for all that were chosen before.

        This is orthogonal matching pursuit: a pivoted QR of the projected columns.

        Returns
        -------
        order : int array, shape (<= count,)
            Numbers of the chosen candidates, in the order in which they were chosen.
        gains : array, same shape
            Decrease of the value that each one adds.
        """
        matrix, residual = self._projected()
        products, basis = _products(matrix, self.groups), np.empty((len(matrix), 0))
        order: list[int] = []
        gains: list[float] = []
        for _ in range(min(count, len(self.groups))):
            score = _gains(products, (matrix.T @ residual)[self.groups], self.lengths)
            score[order] = 0.0
            best = int(np.argmax(score))
            if not score[best] > 0.0:
                break
            order.append(best)
            gains.append(float(score[best]))
            columns = matrix[:, self.groups[best]] / np.maximum(self.lengths[best], TINY)
            for _ in range(2):  # once leaves rounding errors of the size of what was there before
                columns = columns - basis @ (basis.T @ columns)
            # A group may bring fewer new directions than it has columns.
            found, new, _ = np.linalg.svd(columns, full_matrices=False)
            found = found[:, new > NOVELTY]
            basis = np.concatenate([basis, found], axis=1)
            products -= _products(found.T @ matrix, self.groups)
            residual = residual - found @ (found.T @ residual)
        return np.array(order, dtype=np.int64), np.array(gains)

    def joint(self) -> Enrichment:
        """Return what all candidates gain together."""
        rank = self.base.rank
        matrix, residual = self._projected()
        factor = Factor.of(matrix)
        rotated = factor.rotate(residual[:, None])[:, 0]
        parts = (self.residual[:rank], rotated[: factor.rank], rotated[factor.rank :])
        present, gain, left = (0.5 * float(np.sum(part**2)) for part in parts)
        new = np.zeros((len(self.matrix), factor.rank))
        new[rank:] = factor.expand(np.eye(len(matrix), factor.rank))
        freedom = (self._freedom(np.eye(len(self.matrix), rank)), self._freedom(new))
        return Enrichment(present, gain, left, freedom)

    def _freedom(self, basis: Array) -> float:
        """Return the trace of the projection on orthonormal columns, over the rows that are data."""
        if self.penalties.size == 0:
            return float(basis.shape[1])
        return float(basis.shape[1] - np.sum(self.base.expand(basis)[self.penalties] ** 2))


def _products(matrix: Array, groups: Index) -> Array:
    """Return the products of the columns of each group (c, k) with each other, shape (c, k, k)."""
    columns = np.ascontiguousarray(matrix.T)[groups]
    return np.asarray(columns @ columns.transpose(0, 2, 1))


def _gains(products: Array, slope: Array, length: Array) -> Array:
    """Return ``|P_g r|^2 / 2`` for groups of orthogonalized columns whose original lengths were `length`.

    Parameters
    ----------
    products : array, shape (c, k, k)
        Of the columns of a group with each other.
    slope : array, shape (c, k)
        Of the columns with the residual.
    length : array, shape (c, k)
    """
    floor = (NOVELTY * length) ** 2
    gone = np.einsum("ckk->ck", products) <= floor
    slope, products = np.where(gone, 0.0, slope), products.copy()
    for k in range(products.shape[1]):
        # What is gone may be negative, by rounding.
        products[:, k, k] = np.where(gone[:, k], 1.0, products[:, k, k] + floor[:, k])
    solution = np.linalg.solve(products, slope[..., None])[..., 0]
    return np.asarray(0.5 * np.sum(slope * solution, axis=1))
