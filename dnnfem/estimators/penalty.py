"""The weight of a penalty that makes the data most probable, from one factorization of the curvature."""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack

from dnnfem.estimators.laplace import regularized
from dnnfem.functionals import Functional
from dnnfem.records import Array
from dnnfem.spaces.layout import check_coefficients

CHANGE = 10.0
"""Largest factor by which one re-estimation changes the weight: far from a minimizer it is a rough guess."""

LEAST_FREEDOM = 0.05
"""Degrees of freedom that are left to the noise at least, relative to the number of values."""

FLOOR = 1e-10
"""Least weight, relative to the mean of the diagonal of the curvature: the matrix has to stay definite."""


def penalty_weight(functional: Functional, x: Array) -> float:
    """Re-estimate the weight ``alpha`` of a Tikhonov term by the evidence, with the curvature as Hessian.

    With the curvature ``C`` of the integral, the matrix ``M`` of the norm and ``gamma = tr C (C + alpha M)^-1``
    coefficients that the data determine, noise and prior of which the data and the coefficients would be most typical
    have ``s^2 = |r|^2 / (m k - gamma)`` and ``alpha = s^2 gamma / (m |x - x_ref|^2)``, for ``k`` outputs at each of
    ``m`` samples of weight ``1/m``.
    A few solves with a re-estimation after each reach the fixed point.  Begin with a weak penalty: under one that is
    too strong the network collapses to a constant, a saddle that the curvature does not lead away from.

    This sets the penalty of *one* network, and is too kind to wide ones: how wide it should be,
    `dnnfem.cross_validation` says.

    Parameters
    ----------
    functional : Functional
        ``Sum`` of one integral of a residual law and one `Tikhonov` of positive weight.
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

    References
    ----------
    MacKay, Neural Computation 4 (1992) 415-447, eq. (2.19) f.; with Levenberg-Marquardt steps: Foresee and Hagan,
    International Conference on Neural Networks (1997) 1930-1935.
    """
    integral, penalty, factor = regularized(functional)
    x = check_coefficients(functional.space, x, finite=True)
    linearization = integral.linearize(x)
    alpha, norm = factor * penalty.alpha, penalty.norm
    # In coordinates where the norm is Euclidean, gamma = n - alpha tr (C + alpha)^-1.
    matrix = np.array(norm.whiten(norm.whiten(linearization.gram()).T), order="F")
    least = FLOOR * float(np.mean(np.diagonal(matrix)))
    np.einsum("ii->i", matrix)[:] += max(alpha, least)
    root, info = lapack.dpotrf(matrix, lower=1, overwrite_a=1, clean=1)
    if info != 0:
        return CHANGE * penalty.alpha
    inverse, _ = lapack.dtrtri(root, lower=1, overwrite_c=1)
    gamma = len(x) - max(alpha, least) * float(np.sum(np.square(inverse)))
    values = len(integral.quadrature) * integral.space.outputs
    mass = float(np.sum(integral.quadrature.weights))
    noise = 2.0 * linearization.value / mass * len(integral.quadrature) / max(values - gamma, LEAST_FREEDOM * values)
    difference = x if penalty.x_ref is None else x - penalty.x_ref
    square = norm.inner(difference, difference)
    if not square > 0.0:
        return CHANGE * penalty.alpha
    wanted = mass / len(integral.quadrature) * noise * max(gamma, 0.0) / square
    return float(max(np.clip(wanted, alpha / CHANGE, CHANGE * alpha), least)) / factor
