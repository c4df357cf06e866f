"""Candidate columns of a least-squares system: what they gain, alone, one after another, and together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dnnfem.kernels.orthogonal import Factor
from dnnfem.kernels.protocol import Enrichment
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
        The candidate columns, projected on the complement of the others.
    residual : array, shape (rows,)
        The residual there.
    groups : int array, shape (c, k)
        Columns of each candidate.
    lengths : array, shape (c, k)
        Their lengths before the projection.
    present : float
        Decrease by re-solving for the other columns.
    rank : int
        Rank of the other columns.
    """

    matrix: Array
    residual: Array
    groups: Index
    lengths: Array
    present: float
    rank: int

    def score(self) -> Array:
        """Return the decrease that each candidate gains with all other columns re-solved, shape (c,)."""
        return _gains(self.matrix, self.residual, self.groups, self.lengths)

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
        matrix, residual = self.matrix.copy(), self.residual.copy()
        order: list[int] = []
        gains: list[float] = []
        for _ in range(min(count, len(self.groups))):
            score = _gains(matrix, residual, self.groups, self.lengths)
            score[order] = 0.0
            best = int(np.argmax(score))
            if not score[best] > 0.0:
                break
            order.append(best)
            gains.append(float(score[best]))
            # A group may bring fewer new directions than it has columns.
            scaled = matrix[:, self.groups[best]] / np.maximum(self.lengths[best], TINY)
            basis, new, _ = np.linalg.svd(scaled, full_matrices=False)
            basis = basis[:, new > NOVELTY]
            matrix -= basis @ (basis.T @ matrix)
            residual -= basis @ (basis.T @ residual)
        return np.array(order, dtype=np.int64), np.array(gains)

    def joint(self) -> Enrichment:
        """Return what all candidates gain together."""
        factor = Factor.of(self.matrix)
        rotated = factor.rotate(self.residual[:, None])[:, 0]
        gain, left = (0.5 * float(np.sum(part**2)) for part in (rotated[: factor.rank], rotated[factor.rank :]))
        return Enrichment(self.present, gain, left, (self.rank, factor.rank))


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
