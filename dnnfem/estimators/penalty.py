"""The weight of a penalty that makes the data most probable, from one factorization of the curvature."""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack
from scipy.sparse.linalg import LinearOperator, cg

from dnnfem.estimators.laplace import regularized
from dnnfem.functionals import Functional, Linearization, Norm
from dnnfem.records import Array
from dnnfem.spaces.layout import check_coefficients

CHANGE = 10.0
"""Largest factor by which one re-estimation changes the weight: far from a minimizer it is a rough guess."""

LEAST_FREEDOM = 0.05
"""Degrees of freedom that are left to the noise at least, relative to the number of values."""

FLOOR = 1e-10
"""Least weight, relative to the mean of the diagonal of the curvature: the matrix has to stay definite."""

DENSE = 3000
"""With more coefficients no matrix is built: the trace is estimated from products with random vectors."""

PROBES, ITERATIONS, ACCURACY = 4, 200, 1e-2
"""Random vectors of the estimated trace, whose relative deviation then is ``sqrt(2 / (4 gamma))`` at most; limits of
the conjugate gradients."""


def penalty_weight(functional: Functional, x: Array) -> float:
    """Re-estimate the weight ``alpha`` of a Tikhonov term by the evidence, with the curvature as Hessian.

    With the curvature ``C`` of the integral, the matrix ``M`` of the norm and ``gamma = tr C (C + alpha M)^-1``
    coefficients that the data determine, noise and prior of which the data and the coefficients would be most typical
    have ``s^2 = |r|^2 / (m k - gamma)`` and ``alpha = s^2 gamma / (m |x - x_ref|^2)``, for ``k`` outputs at each of
    ``m`` samples of weight ``1/m``.  A loss is taken for a negative log-likelihood, which knows its noise: ``s = 1``.
    A few solves with a re-estimation after each reach the fixed point.  Begin with a weak penalty: under one that is
    too strong the network collapses to a constant, a saddle that the curvature does not lead away from.

    This sets the penalty of *one* network, and is too kind to wide ones: how wide it should be,
    `dnnfem.cross_validation` says.

    Parameters
    ----------
    functional : Functional
        ``Sum`` of one integral of a residual law or a loss and one `Tikhonov` of positive weight.
    x : array, shape (dim,)
        Near a minimizer.

    Returns
    -------
    float
        Between a tenth and ten times the present weight; but never below `FLOOR` times the mean diagonal of the
        curvature, under which the matrix would not be definite.

    Raises
    ------
    ValueError
        If the functional is no such sum or `x` no finite vector of its space.

    Notes
    -----
    With more than `DENSE` coefficients the trace is estimated by products with four random vectors (Hutchinson).

    References
    ----------
    MacKay, Neural Computation 4 (1992) 415-447, eq. (2.19) f., and 720-736 for classes; with Levenberg-Marquardt steps:
    Foresee and Hagan, International Conference on Neural Networks (1997) 1930-1935; for the trace: Hutchinson,
    Communications in Statistics 18 (1989) 1059-1076.
    """
    integral, penalty, factor = regularized(functional, losses=True)
    x = check_coefficients(functional.space, x, finite=True)
    linearization = integral.linearize(x)
    alpha, norm = factor * penalty.alpha, penalty.norm
    found = (_dense if len(x) <= DENSE else _estimated)(linearization, norm, alpha)
    if found is None:
        return CHANGE * penalty.alpha
    gamma, least = found
    difference = x if penalty.x_ref is None else x - penalty.x_ref
    square = norm.inner(difference, difference)
    if not square > 0.0:
        return CHANGE * penalty.alpha
    values = len(integral.quadrature) * integral.space.outputs
    mass, noise = float(np.sum(integral.quadrature.weights)), 1.0
    if integral.dispersion is None:
        noise = (
            2.0 * linearization.value / mass * len(integral.quadrature) / max(values - gamma, LEAST_FREEDOM * values)
        )
    wanted = mass / len(integral.quadrature) * noise * max(gamma, 0.0) / square
    return float(max(np.clip(wanted, alpha / CHANGE, CHANGE * alpha), least)) / factor


def _dense(linearization: Linearization, norm: Norm, alpha: float) -> tuple[float, float] | None:
    """Return ``gamma`` and the least weight; None if the matrix is not definite."""
    # In coordinates where the norm is Euclidean, gamma = n - alpha tr (C + alpha)^-1.
    matrix = np.array(norm.whiten(norm.whiten(linearization.gram()).T), order="F")
    least = FLOOR * float(np.mean(np.diagonal(matrix)))
    np.einsum("ii->i", matrix)[:] += max(alpha, least)
    root, info = lapack.dpotrf(matrix, lower=1, overwrite_a=1, clean=1)
    if info != 0:
        return None
    inverse, _ = lapack.dtrtri(root, lower=1, overwrite_c=1)
    return len(matrix) - max(alpha, least) * float(np.sum(np.square(inverse))), least


def _estimated(linearization: Linearization, norm: Norm, alpha: float) -> tuple[float, float]:
    """Return estimates of both from products with random signs."""
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (PROBES, norm.dim))

    def curvature(v: Array) -> Array:
        return np.asarray(norm.whiten(linearization.curvature(norm.unwhiten(v))[None, :])[0])

    least = FLOOR * float(np.mean([e @ curvature(e) for e in signs])) / norm.dim
    shift = max(alpha, least)
    matrix = LinearOperator((norm.dim, norm.dim), matvec=lambda v: curvature(v) + shift * v)
    solved = (cg(matrix, e, rtol=ACCURACY, maxiter=ITERATIONS)[0] for e in signs)
    return float(np.mean([norm.dim - shift * (e @ y) for e, y in zip(signs, solved, strict=True)])), least
