"""Algebraic error: how far the iterate is from the discrete solution."""

from __future__ import annotations

import math

import numpy as np

from dnnfem.functionals import Functional, condense
from dnnfem.norms import Euclidean
from dnnfem.records import Array, Estimate
from dnnfem.solvers.krylov import steihaug
from dnnfem.spaces.layout import check_coefficients


def algebraic(functional: Functional, x: Array) -> Estimate:
    """Estimate ``sqrt(2 (J(x) - min J))`` by the Gauss-Newton decrement ``sqrt(<C d, d>)``, ``C d = -J'``.

    The decrement is exact for a quadratic functional and asymptotically exact near a minimizer with small residual.  It
    is what the *linear* model promises; far from a minimizer, or along directions in which the model is curved, that is
    more than can be had.

    Parameters
    ----------
    functional : Functional
    x : array, shape (dim,)

    Returns
    -------
    Estimate
        One cell; with a least-squares system the parts ``outer`` (what re-solving the affine output layer alone would
        gain) and ``inner`` (the rest) are given.

    Raises
    ------
    ValueError
        If `x` is no finite vector of the space.

    References
    ----------
    Deuflhard, Newton Methods for Nonlinear Problems (2004), ch. 3 and 4.
    """
    x = check_coefficients(functional.space, x, finite=True)
    linearization = functional.linearize(x)
    # The system of a loss law has a row for each sample and class: conjugate gradients do without it.
    system = None if linearization.residual() is None else linearization.system()
    parts: dict[str, float] = {}
    if system is not None:
        decrease = system.steps(Euclidean(functional.space)).full.decrease
        if functional.condensable is not None:
            reduced = condense(functional)
            gain = max(linearization.value - reduced.linearize(x[reduced.inner]).relaxed().value, 0.0)
            parts = {"outer": math.sqrt(2.0 * gain), "inner": math.sqrt(2.0 * max(decrease - gain, 0.0))}
    else:
        norm = Euclidean(functional.space)
        limit = 2 * functional.space.dim + 10
        decrease = steihaug(linearization.curvature, linearization.derivative, norm, np.inf, 1e-3, limit).decrease
    total = math.sqrt(2.0 * max(decrease, 0.0))
    return Estimate("algebraic error sqrt(2 (J(x) - min J))", np.array([0]), np.array([total]), total, parts=parts)
