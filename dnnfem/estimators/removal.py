"""The dual question to refinement: how much does the functional rise when a neuron goes?"""

from __future__ import annotations

import math

import numpy as np

from dnnfem.estimators.enrichment import WITHOUT_SYSTEM, dispersion_of
from dnnfem.functionals import Functional, LeastSquaresSystem
from dnnfem.records import Array, Estimate, Index
from dnnfem.refinement.width import cost, readers
from dnnfem.spaces import FeedforwardSpace
from dnnfem.spaces.layout import check_coefficients

DAMPING = 1e-16
"""Penalty on each coefficient, relative to the square of its column: a neuron is not replaced by others with 1e8 times
its coefficients."""

LEAST_FREEDOM = 0.05
"""With fewer degrees of freedom left to the noise, relative to the residuals, a remark says so."""


def removal(functional: Functional, x: Array) -> Estimate:
    """Predict the rise of ``J`` when the outgoing weights of each neuron are set to zero and all others re-solved.

    At a stationary point with curvature ``H`` and the constraint ``B x = 0`` the rise is
    ``(B x)^T (B H^-1 B^T)^-1 (B x) / 2``.  The inverse lets *all* other coefficients react, linearized; the prediction
    is therefore sharp for neurons that are nearly redundant and too small for those that carry the solution.  ``H`` is
    the Gauss-Newton curvature ``A^T A``, with a tiny penalty that keeps it definite; it is never formed.

    On noisy data every neuron lowers ``J``, needed or not.  Of ``2 rise``, the ``k`` degrees of freedom of a neuron
    have ``k sigma^2`` from noise alone, and the rest is what the network loses; on the other hand the sampling error
    ``k sigma^2`` goes with them.  The square of the error at unseen points thus rises by ``2 rise - 2 k sigma^2``: a
    neuron for which this is negative does not pay.  As in `dnnfem.hierarchical`, ``sigma^2`` is what the system leaves
    per degree of freedom, or known for likelihoods, and degrees of freedom are traces of hat matrices over the data;
    each coefficient of the neuron counts as many as one has in the mean.

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
        smallest of them: what the cheapest removal would cost.  `signed` is ``2 rise - 2 k sigma^2``, negative where
        the neuron does not pay.  Rises do not add up, as the neurons that are left take over: remove some of those that
        do not pay, solve, and look again.  Parts: ``cheapest`` and ``dearest`` of the indicators, ``degrees of
        freedom`` (of the whole network), ``noise`` (its root mean square; not for losses).

    Raises
    ------
    ValueError
        If the functional is not on a feedforward space, has no least-squares system, or all layers are residual, or `x`
        is no finite vector of the space.

    References
    ----------
    Mallows, Technometrics 15 (1973) 661-675, for the comparison of rise and noise.
    """
    space = functional.space
    if not isinstance(space, FeedforwardSpace):
        raise ValueError(f"functional: got one on {space}, expected a FeedforwardSpace")
    cells = [(n, k) for n, width in enumerate(space.hidden) if not space.residual[n] for k in range(width)]
    if not cells:
        raise ValueError(f"functional: got one on {space}, expected a layer that is not residual")
    linearization = functional.linearize(check_coefficients(space, x, finite=True))
    system = linearization.system()
    if system is None:
        raise ValueError(WITHOUT_SYSTEM)
    reads = [readers(space, *cell) for cell in cells]
    roots = system.schur_roots(reads, DAMPING)
    values = np.array([np.linalg.norm(s @ linearization.x[rows]) for s, rows in zip(roots, reads, strict=True)])
    costs = np.array([float(cost(space, layer, -1)) for layer, _ in cells])
    known = dispersion_of(functional)
    freedom, variance = _noise(system, reads[0], known)
    remarks = []
    if known is None and system.samples - freedom < LEAST_FREEDOM * system.samples:
        words = f"{freedom:.1f} degrees of freedom for {system.samples} residuals"
        remarks.append(f"{words}: noise and fit cannot be told apart, a penalty would leave more to the noise")
    parts = {"cheapest": float(values.min()), "dearest": float(values.max()), "degrees of freedom": freedom}
    if known is None:
        parts["noise"] = math.sqrt(variance * system.samples)
    return Estimate(
        "rise sqrt(2 (J - J(x))) when a neuron is removed",
        np.array(cells, dtype=np.int64),
        values,
        float(values.min()),
        signed=values**2 + 2.0 * costs * freedom / space.dim * variance,
        parts=parts,
        cost=costs,
        remarks=tuple(remarks),
    )


def _noise(system: LeastSquaresSystem, some: Index, known: float | None) -> tuple[float, float]:
    """Return the degrees of freedom of all columns, and the variance of the noise: estimated where it is not known."""
    # Both come with the division of the columns into any two parts.
    joint = system.candidates(some).joint()
    freedom = sum(joint.freedom)
    left = 2.0 * joint.remaining / max(system.samples - freedom, 1.0)
    return freedom, left if known is None else known
