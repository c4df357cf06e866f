"""Goal-oriented estimates for flows: how far is the functional from that of the continuous problem?"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from dnnfem.estimators.bisection import captured
from dnnfem.estimators.enrichment import QUANTITY
from dnnfem.functionals import Functional
from dnnfem.functionals.sampling import integrals_of
from dnnfem.functionals.trajectories import why_not_finite
from dnnfem.records import Array, Estimate
from dnnfem.refinement.time import applied, bisect, bisection_costs
from dnnfem.spaces import FlowSpace
from dnnfem.spaces.layout import check_coefficients
from dnnfem.spaces.meshes import lengths
from dnnfem.spaces.unrolling import WithDefects

CANCELLED = 0.2
"""Sums of parts below this share of those of their absolute values are remarked upon."""


def goal_oriented(functional: Functional, x: Array, of: Literal["states", "weights"] = "states") -> Estimate:
    """Estimate what the functional would change if the steps, or the cells of the weights, became ever smaller.

    The dual weighted residual method: the functional is its own goal, and its adjoint states, which every derivative
    computes, are the weights.

    * ``"states"``: ``J* - J`` for the exact flow of the *present* weights is ``sum_k sum_q w_q lambda_{k+1}^T d_k``,
      with the local defects ``d_k`` of the scheme of order ``p``: what two steps of half the size say minus what one
      step says, over ``1 - 2^-p``.
    * ``"weights"``: at a minimizer over the present weights, ``J* - J = J'(x)(R x - x) / 2`` to leading order, with the
      best weights for the present steps and a reconstruction ``R x`` of them: piecewise linear instead of piecewise
      constant, piecewise quadratic instead of piecewise linear.  It is taken on the bisected mesh, which sees a part of
      ``1 - 4^-q`` of it, with ``q = degree + 1``, or one less if a penalty is in H1.

    Parameters
    ----------
    functional : Functional
        On a `FlowSpace`.
    x : array, shape (dim,)
        For the weights: a minimizer, or close to one.
    of : str
        Which of the two.

    Returns
    -------
    Estimate
        Cells are steps, for `dnnfem.refine_states`, or cells of the weight mesh, for `dnnfem.bisect`.  `signed` are
        their parts of ``J* - J``, which add up to the part ``change``; the total is ``sqrt(2 |change|)``, the
        indicators are ``sqrt(2 |signed|)``.  `cost` is in weights, for both: coefficients that are added, and weights
        that additional steps apply to each sample.

    Raises
    ------
    ValueError
        If the functional is not on a `FlowSpace` or not finite, there is a single cell and nothing to reconstruct
        weights from, `x` is no finite vector of the space, or `of` is neither of the two.

    References
    ----------
    Becker and Rannacher, Acta Numerica 10 (2001) 1-102; Becker, Kapp and Rannacher, SIAM J. Control Optim. 39 (2000)
    113-132; Meidner and Vexler, SIAM J. Control Optim. 46 (2007) 116-142.
    """
    space = functional.space
    if not isinstance(space, FlowSpace):
        raise ValueError(f"functional: got one on {space}, expected a FlowSpace")
    if of not in ("states", "weights"):
        raise ValueError(f"of: got {of!r}, expected 'states' or 'weights'")
    if of == "weights" and space.cells == 1:
        raise ValueError(f"space: got {space}, expected neighbours to reconstruct from; ask `hierarchical` instead")
    x = check_coefficients(space, x, finite=True)
    signed = _of_states(functional, space, x) if of == "states" else _of_weights(functional, space, x)
    change = float(np.sum(signed))
    if not math.isfinite(change):
        raise ValueError(f"x: {why_not_finite(functional, x)}")
    costs = np.full(space.steps, applied(space)) if of == "states" else bisection_costs(space)
    return Estimate(
        QUANTITY,
        np.arange(len(signed)),
        np.sqrt(2.0 * np.abs(signed)),
        math.sqrt(2.0 * abs(change)),
        signed=signed,
        parts={"change": change},
        cost=costs,
        remarks=_remarks(of, signed),
    )


def _remarks(of: str, signed: Array) -> tuple[str, ...]:
    """Return what is doubtful."""
    if of == "weights" and np.sum(signed) > 0.0:
        return ("refinement cannot raise a minimum: weights of neighbouring cells do not suggest better ones yet",)
    if abs(np.sum(signed)) < CANCELLED * np.sum(np.abs(signed)):
        return ("parts of both signs cancel, and the total may be small by chance",)
    return ()


def _of_states(functional: Functional, space: FlowSpace, x: Array) -> Array:
    """Return the parts of steps: derivatives in the factors of their defects; penalties do not see these."""
    wide = WithDefects(space)
    start = wide.extended(x)
    parts = [
        factor * integral.on(space=wide).linearize(start).derivative[space.dim :]
        for factor, integral in integrals_of(functional)
    ]
    if not parts:
        raise ValueError("functional: got one without an integral, expected one of `problem.on(space)`")
    return np.asarray(sum(parts[1:], parts[0]))


def _of_weights(functional: Functional, space: FlowSpace, x: Array) -> Array:
    """Return the parts of cells of the weight mesh."""
    fine, transfer = bisect(space, range(space.cells))
    prolonged = transfer(x)
    change = np.zeros(fine.dim)
    fine.theta(change)[:] = reconstructed(space, x) - fine.theta(prolonged)
    dual = functional.on(space=fine, transfer=transfer).linearize(prolonged).derivative
    products = np.sum(fine.theta(dual) * fine.theta(change), axis=1)
    parts = products.reshape(-1, 2).sum(axis=1) if space.degree == 0 else products[1::2]
    return np.asarray(0.5 * parts / captured(functional, space))


def reconstructed(space: FlowSpace, x: Array) -> Array:
    """Return theta, reconstructed with one more order, at the places of the mesh with all cells bisected.

    From the slopes (degree 0) or second derivatives (degree 1) that neighbouring values suggest; there must be some.
    """
    theta, h = space.theta(x), lengths(space.weight_mesh)
    if space.degree == 0:
        middles = np.cumsum(h) - 0.5 * h
        shift = 0.25 * h[:, None] * np.gradient(theta, middles, axis=0)
        return np.stack([theta - shift, theta + shift], axis=1).reshape(-1, space.size)
    fine = np.empty((2 * space.cells + 1, space.size))
    fine[::2], fine[1::2] = theta, 0.5 * (theta[:-1] + theta[1:])
    slopes = np.diff(theta, axis=0) / h[:, None]
    bends = np.diff(slopes, axis=0) / (0.5 * (h[:-1] + h[1:]))[:, None]
    ends = np.concatenate([bends[:1], bends, bends[-1:]])
    fine[1::2] -= 0.125 * h[:, None] ** 2 * 0.5 * (ends[:-1] + ends[1:])
    return fine
