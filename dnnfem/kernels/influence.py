"""What a sample does to its own fit: leave-one-out by one Newton step per sample.

Where the derivative of ``J = sum_q w_q L(jet_q) + ...`` vanishes, the Newton step for ``J`` without sample ``i`` moves
the jet at this sample by ``d = G (L' + L'' d)``, ``G = w_i T_i H^-1 T_i^T``, with ``T_i`` the derivative of the jet in
the coefficients and ``H`` the Hessian of the whole functional; of the Hessian of the sample itself, which goes with it,
the part ``T^T L'' T`` is taken.  For a residual that is affine in the jet, ``r + r' d = (I - r' G r'^T)^-1 r``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

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
    return LeftOut(*moved(law, points, data, jet, np.einsum("imk,jmk->mij", rows, rows, optimize=True), exact))


def moved(law: Law, points: Any, data: Any, jet: Any, influence: Any, exact: bool) -> tuple[Any, Any, Any]:
    """Return losses, leverages and margins, in the array library of the arguments.

    `influence` are the products ``G``, shape (m, components * outputs, components * outputs); the others are as for
    `left_out`.
    """
    xp, shape, size = array_namespace(jet), jet.shape, jet.shape[0] * jet.shape[1]
    here = law.linearize(points, data, jet)
    apply = here.hessian if exact else here.curvature
    identity = xp.eye(size, dtype=jet.dtype, device=device(jet))
    units = xp.broadcast_to(identity.reshape(size, *shape[:2], 1), (size, *shape))
    bend = xp.stack([xp.broadcast_to(apply(units[k]), shape).reshape(size, -1).T for k in range(size)], axis=2)
    product = influence @ bend
    squares, basis = xp.linalg.eigh(influence)
    half = basis * xp.sqrt(xp.where(squares > 0.0, squares, xp.zeros_like(squares)))[:, None, :]
    symmetric = xp.matrix_transpose(half) @ bend @ half
    margin = 1.0 - xp.linalg.eigvalsh(0.5 * (symmetric + xp.matrix_transpose(symmetric)))[:, -1]
    safe = margin > NEAR
    matrix = identity - xp.where(safe[:, None, None], product, xp.zeros_like(product))
    force = influence @ xp.broadcast_to(here.derivative, shape).reshape(size, -1).T[..., None]
    there = jet + xp.linalg.solve(matrix, force)[..., 0].T.reshape(shape)
    losses = law.linearize(points, data, there).density
    leverage = xp.linalg.trace(product)
    return xp.where(safe, losses, xp.full_like(losses, float("inf"))), leverage, margin
