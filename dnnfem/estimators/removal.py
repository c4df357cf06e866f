"""The dual question to refinement: how much does the functional rise when a neuron goes?"""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg

from dnnfem.functionals import Functional
from dnnfem.records import Array, Estimate
from dnnfem.spaces import FeedforwardSpace

DAMPING = 1e-10
"""Relative to the mean diagonal of the curvature: directions flatter than this do not help to replace a neuron."""


def removal(functional: Functional, x: Array) -> Estimate:
    """Predict the rise of ``J`` when the outgoing weights of each neuron are set to zero and all others re-solved.

    At a stationary point with curvature ``H`` and the constraint ``B x = 0`` the rise is
    ``(B x)^T (B H^-1 B^T)^-1 (B x) / 2``.  The inverse lets *all* other coefficients react, linearized; the prediction
    is therefore sharp for neurons that are nearly redundant and too small for those that carry the solution.

    Parameters
    ----------
    functional : Functional
        On a `FeedforwardSpace`.
    x : array, shape (dim,)
        A minimizer, or close to one.

    Returns
    -------
    Estimate
        Cells are pairs (layer, neuron) as `dnnfem.coarsen` takes them, indicators ``sqrt(2 rise)``; the total is the
        smallest of them: what the cheapest removal would cost.

    Raises
    ------
    ValueError
        If the functional is not on a feedforward space.
    """
    space = functional.space
    if not isinstance(space, FeedforwardSpace):
        raise ValueError(f"functional: got one on {space}, expected a FeedforwardSpace")
    linearization = functional.linearize(x)
    curvature = linearization.curvature(np.eye(space.dim))
    mean = float(np.trace(curvature)) / space.dim or 1.0
    damped = 0.5 * (curvature + curvature.T) + DAMPING * mean * np.eye(space.dim)
    inverse = scipy.linalg.cho_solve(scipy.linalg.cho_factor(damped), np.eye(space.dim))
    cells, indicators = [], []
    for layer, width in enumerate(space.hidden):
        if space.residual[layer]:
            continue
        for neuron in range(width):
            rows = _readers(space, layer, neuron)
            constraint = x[rows]
            rise = float(constraint @ np.linalg.solve(inverse[np.ix_(rows, rows)], constraint))
            cells.append((layer, neuron))
            indicators.append(math.sqrt(max(rise, 0.0)))
    values = np.array(indicators)
    return Estimate(
        "rise sqrt(2 (J - J(x))) when a neuron is removed",
        np.array(cells, dtype=np.int64),
        values,
        float(values.min()),
        parts={"cheapest": float(values.min()), "dearest": float(values.max())},
        cost=np.array([-len(_readers(space, *cell)) - space.blocks[cell[0]].columns - 1.0 for cell in cells]),
    )


def _readers(space: FeedforwardSpace, layer: int, neuron: int) -> Array:
    """Return the coefficients by which later layers read a neuron; through residual layers it is read several times."""
    rows = [space.outgoing(layer, neuron)]
    while layer + 1 < len(space.hidden) and space.residual[layer + 1]:
        layer += 1
        rows.append(space.outgoing(layer, neuron))
    return np.concatenate(rows)
