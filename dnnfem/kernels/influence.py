"""What a sample does to its own fit: leave-one-out by one Newton step per sample.

Where the derivative of ``J = sum_q w_q L(jet_q) + ...`` vanishes, the Newton step for ``J`` without sample ``i`` moves
the jet at this sample by ``d = G (L' + L'' d)``, ``G = w_i T_i H^-1 T_i^T``, with ``T_i`` the derivative of the jet in
the coefficients and ``H`` the Hessian of the whole functional; of the Hessian of the sample itself, which goes with it,
the part ``T^T L'' T`` is taken.  For a residual that is affine in the jet, ``r + r' d = (I - r' G r'^T)^-1 r``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dnnfem.kernels.protocol import Law
from dnnfem.records import Array

NEAR = 1e-8
"""A margin below this is none."""


@dataclass(frozen=True, eq=False)
class LeftOut:
    """Every sample as the network without it sees it.

    Attributes
    ----------
    losses : array, shape (m,)
        ``L`` at the jet without the sample, infinite where the margin is not positive.
    leverage : array, shape (m,)
        Trace of ``G L''``: the degrees of freedom that the sample takes.
    margin : array, shape (m,)
        Smallest eigenvalue of ``I - G L''``.  Where it is not positive the quadratic model without the sample has no
        minimum; where it is small the sample determines its own fit.
    """

    losses: Array
    leverage: Array
    margin: Array

    @classmethod
    def joined(cls, parts: list[LeftOut]) -> LeftOut:
        """Return the samples of all parts."""
        names = ("losses", "leverage", "margin")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def left_out(law: Law, points: Array, data: Array, jet: Array, rows: Array, exact: bool) -> LeftOut:
    """Take one Newton step per sample.

    Parameters
    ----------
    law : Law
    points, data : array, shape (m, d) and (m, k)
    jet : array, shape (components, outputs, m)
        The user's jet at the points.
    rows : array, shape (components * outputs, m, n)
        ``sqrt(w) T R`` with ``H^-1 = R R^T``.
    exact : bool
        Whether ``L''`` is that of the law, or only its positive semidefinite part.
    """
    shape, size = jet.shape, jet.shape[0] * jet.shape[1]
    here = law.linearize(points, data, jet)
    influence = np.einsum("imk,jmk->mij", rows, rows, optimize=True)
    apply = here.hessian if exact else here.curvature
    units = np.broadcast_to(np.eye(size).reshape(size, *shape[:2], 1), (size, *shape))
    bend = np.stack([np.broadcast_to(apply(unit), shape).reshape(size, -1).T for unit in units], axis=2)
    product = influence @ bend
    squares, basis = np.linalg.eigh(influence)
    half = basis * np.sqrt(np.maximum(squares, 0.0))[:, None, :]
    symmetric = np.swapaxes(half, 1, 2) @ bend @ half
    margin = 1.0 - np.linalg.eigvalsh(0.5 * (symmetric + np.swapaxes(symmetric, 1, 2)))[:, -1]
    safe = margin > NEAR
    matrix = np.eye(size) - np.where(safe[:, None, None], product, 0.0)
    force = influence @ np.broadcast_to(here.derivative, shape).reshape(size, -1).T[..., None]
    moved = jet + np.linalg.solve(matrix, force)[..., 0].T.reshape(shape)
    losses = np.where(safe, law.linearize(points, data, moved).density, np.inf)
    return LeftOut(losses, np.trace(product, axis1=1, axis2=2), margin)
