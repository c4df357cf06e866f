"""Sampling error: what other samples of the same kind would change."""

from __future__ import annotations

import math

import numpy as np

from dnnfem.functionals import Functional, Metric, Norm
from dnnfem.functionals.sampling import on_samples, quadrature_of
from dnnfem.norms import Pullback, frobenius
from dnnfem.records import Array, Estimate
from dnnfem.spaces import Purpose, generator
from dnnfem.spaces.layout import check_coefficients

GROUPS = 32
"""Groups of samples, each with a derivative of its own: the estimate is accurate to an eighth."""

DENSE_LIMIT = 2000
"""Up to this number of coefficients the curvature is the default norm."""

QUANTITY = "standard error of the derivative in the dual norm: how far the minimizer may move on other samples"


def sampling(
    functional: Functional, x: Array, *, norm: Metric | None = None, groups: int = GROUPS, seed: int = 0
) -> Estimate:
    """Estimate how far value and derivative are from those for infinitely many samples.

    The samples are divided at random into `groups`, whose derivatives ``g_j`` are independent: with ``n_j`` of ``m``
    samples in a group::

        total^2 = G/(G - 1) sum_j (n_j/m)^2 |g_j - J'|_*^2

    has the expectation ``E |J' - E J'|_*^2``.  At a minimizer, and with the curvature as the norm, that is the mean
    square of the distance to the minimizer for infinitely many samples, and ``total^2 / 2`` the expected excess there.

    Parameters
    ----------
    functional : Functional
        With a quadrature of independent samples.
    x : array, shape (dim,)
        Coefficients (primal), e.g. a minimizer.
    norm : Norm or metric, optional
        Default `dnnfem.Pullback`, for many coefficients `dnnfem.norms.frobenius`.
    groups : int
        Number of groups.
    seed : int
        Of the division.

    Returns
    -------
    Estimate
        One cell per group.  Parts: ``value``, the standard error of ``J(x)``, and ``derivative``, the dual norm of
        ``J'(x)``: while it is much larger than the total, more steps gain more than more samples.

    Raises
    ------
    ValueError
        If `functional` has no quadrature or less than two samples, `groups` is less than two, or `x` or `norm` does not
        fit.
    """
    x = check_coefficients(functional.space, x, finite=True)
    size = len(quadrature_of(functional))
    if isinstance(groups, bool) or not isinstance(groups, int | np.integer) or groups < 2:
        raise ValueError(f"groups: got {groups!r}, expected an integer of at least two")
    if size < 2:
        raise ValueError(f"functional: got one on {size} sample, expected at least two")
    here = functional.linearize(x)
    if norm is None:
        norm = Pullback if functional.space.dim <= DENSE_LIMIT else frobenius(functional)
    metric = norm if isinstance(norm, Norm) else norm(functional.space, here)
    if metric.dim != x.size:
        raise ValueError(f"norm: got a norm on {metric.dim} coefficients, expected {x.size}")
    permutation = generator(seed, x.size, Purpose.GROUPS).permutation(size)
    values, lengths = [], []
    for index in np.array_split(permutation, min(groups, size)):
        part, share = on_samples(functional, index).linearize(x), len(index) / size
        values.append(share * (part.value - here.value))
        lengths.append(share * metric.dual_norm(part.derivative - here.derivative))
    factor = math.sqrt(len(lengths) / (len(lengths) - 1.0))
    indicators = factor * np.array(lengths)
    return Estimate(
        quantity=QUANTITY,
        cells=np.arange(len(indicators)),
        indicators=indicators,
        total=float(np.linalg.norm(indicators)),
        parts={"value": factor * float(np.linalg.norm(values)), "derivative": metric.dual_norm(here.derivative)},
    )
