"""The dual question to refinement: how much does the functional rise when a neuron goes?"""

from __future__ import annotations

import numpy as np

from dnnfem.functionals import Functional
from dnnfem.records import Array, Estimate
from dnnfem.refinement.width import cost, readers
from dnnfem.spaces import FeedforwardSpace

DAMPING = 1e-16
"""Penalty on each coefficient, relative to the square of its column: a neuron is not replaced by others with 1e8 times
its coefficients."""


def removal(functional: Functional, x: Array) -> Estimate:
    """Predict the rise of ``J`` when the outgoing weights of each neuron are set to zero and all others re-solved.

    At a stationary point with curvature ``H`` and the constraint ``B x = 0`` the rise is
    ``(B x)^T (B H^-1 B^T)^-1 (B x) / 2``.  The inverse lets *all* other coefficients react, linearized; the prediction
    is therefore sharp for neurons that are nearly redundant and too small for those that carry the solution.  ``H`` is
    the Gauss-Newton curvature ``A^T A``, with a tiny penalty that keeps it definite; it is never formed.

    Parameters
    ----------
    functional : Functional
        On a `FeedforwardSpace`, with a least-squares system: residual laws, and losses with a root of ``L''``.
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
        If the functional is not on a feedforward space, has no least-squares system, or all layers are residual.
    """
    space = functional.space
    if not isinstance(space, FeedforwardSpace):
        raise ValueError(f"functional: got one on {space}, expected a FeedforwardSpace")
    cells = [(n, k) for n, width in enumerate(space.hidden) if not space.residual[n] for k in range(width)]
    if not cells:
        raise ValueError(f"functional: got one on {space}, expected a layer that is not residual")
    linearization = functional.linearize(x)
    system = linearization.system()
    if system is None:
        raise ValueError(
            "functional: got one without a least-squares system, expected residual laws or losses with a root of their "
            "curvature"
        )
    reads = [readers(space, *cell) for cell in cells]
    roots = system.schur_roots(reads, DAMPING)
    values = np.array([np.linalg.norm(s @ linearization.x[rows]) for s, rows in zip(roots, reads, strict=True)])
    return Estimate(
        "rise sqrt(2 (J - J(x))) when a neuron is removed",
        np.array(cells, dtype=np.int64),
        values,
        float(values.min()),
        parts={"cheapest": float(values.min()), "dearest": float(values.max())},
        cost=np.array([float(cost(space, layer, -1)) for layer, _ in cells]),
    )
