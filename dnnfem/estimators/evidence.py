"""Evidence: how probable the data are under the model, and which noise and penalty would make them most probable."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dnnfem.estimators.laplace import LaplaceModel, regularized
from dnnfem.functionals import Functional
from dnnfem.records import Array


@dataclass(frozen=True)
class Evidence:
    """Result of `evidence`.

    Attributes
    ----------
    logarithm : float
        ``log p(data)`` with the noise `noise`; minus infinity where the Hessian is singular.
    noise : float
        Standard deviation of the noise in the units of the residuals: the given one, or the most probable one with the
        present ratio of noise and penalty.
    well_determined : float
        Number ``gamma`` of coefficients that the data determine rather than the penalty.
    next_noise : float
        The noise ``sqrt(|r|^2 / (m - gamma))`` that a fixed point of the evidence would have; infinite if ``gamma``
        is not below the number ``m`` of values.
    next_alpha : float
        The weight of the penalty for the next solve, from the same fixed point.
    remarks : tuple of str
        What speaks against trusting it.
    """

    logarithm: float
    noise: float
    well_determined: float
    next_noise: float
    next_alpha: float
    remarks: tuple[str, ...]

    def __str__(self) -> str:
        line = (
            f"log evidence {self.logarithm:.6g} with noise {self.noise:.4g}, {self.well_determined:.4g} determined "
            f"coefficients; next: noise {self.next_noise:.4g}, alpha {self.next_alpha:.4g}"
        )
        return "\n".join([line, *self.remarks])


def evidence(functional: Functional, x: Array, *, noise: float | None = None) -> Evidence:
    """Approximate the evidence of a regression with a Tikhonov term by Laplace's method.

    ``J = a sum_q w_q |r_q|^2 / 2 + alpha/2 |x - x_ref|^2_V`` is, up to the factor ``s^2 a W / m``, the negative
    logarithm of the posterior for Gaussian noise of variance ``s^2`` (over the relative weight of a sample) and a
    Gaussian prior with the inverse covariance ``alpha m / (s^2 a W) M``; ``W`` is the sum of the weights, ``m`` the
    number of samples, ``M`` the matrix of the norm.  The integral of the posterior is taken with the Hessian at `x`,
    which is exact for linear models.

    It answers: how strong should the penalty of *this* architecture be?  It estimates no error, and the width on
    noisy data is not for it to choose: `dnnfem.cross_validation` over the growth path decides that.

    Parameters
    ----------
    functional : Functional
        Sum of one integral of a residual law and one `Tikhonov`.
    x : array, shape (dim,)
        A minimizer.
    noise : float, optional
        Standard deviation of the noise, in the units of the residuals (for `dnnfem.Regression` those of the targets
        over their deviation); default the one that makes the data most probable.

    Returns
    -------
    Evidence

    Raises
    ------
    ValueError
        If the functional is no such sum, `x` is no finite vector of the space, or `noise` is not positive.

    Notes
    -----
    The equivalent minima of a network (permutations and signs of its neurons) are not counted.

    Examples
    --------
    Re-estimating the penalty, with a solve in between::

        for _ in range(20):
            J = dnnfem.Sum(problem.on(space), dnnfem.Tikhonov(space, weight_decay, alpha))
            x = dnnfem.trust_region(J, x).x
            last, alpha = alpha, dnnfem.evidence(J, x).next_alpha
            if abs(alpha - last) < 0.01 * last:
                break

    References
    ----------
    MacKay, Neural Computation 4 (1992) 415-447 and 448-472.
    """
    _, penalty, relative = regularized(functional)
    if noise is not None and not 0.0 < noise < math.inf:
        raise ValueError(f"noise: got {noise!r}, expected a positive number")
    model = LaplaceModel.at(functional, x, "full")
    factor = relative * model.factor
    alpha = factor * penalty.alpha
    remarks = list(model.remarks)
    data = model.factor * model.integral.value(model.x)
    difference = model.x if penalty.x_ref is None else model.x - penalty.x_ref
    square = penalty.norm.inner(difference, difference)
    root = penalty.norm.root()
    dim, values, unit = len(model.x), model.values, model.mass / len(model.integral.quadrature)
    # With the residuals' own units, J = unit * (|r|^2 / 2 + ...).
    energy = (data + 0.5 * alpha * square) / unit
    if noise is None:
        noise = math.sqrt(2.0 * energy / values)
    weights = model.integral.quadrature.weights
    relative = float(np.sum(np.log(weights / np.mean(weights)))) * model.integral.space.outputs
    prior = dim * math.log(alpha / unit) + 2.0 * float(np.sum(np.log(np.abs(np.diagonal(root)))))
    posterior = model.log_determinant - dim * math.log(unit)
    logarithm = -math.inf
    if noise > 0.0 and math.isfinite(posterior):
        likelihood = -2.0 * energy / noise**2 - values * math.log(2.0 * math.pi * noise**2) + relative
        logarithm = 0.5 * (likelihood + prior - posterior)
    gamma = dim - alpha * float(np.sum((root @ model.root) ** 2))
    left = values - gamma
    next_noise = math.sqrt(2.0 * data / unit / left) if left > 0.0 else math.inf
    next_alpha = unit * next_noise**2 * gamma / square / factor if gamma > 0.0 and square > 0.0 else math.inf
    if not 0.0 < gamma < values:
        remarks.append(
            f"{gamma:.1f} well-determined coefficients for {values} values: no noise and penalty can be re-estimated"
        )
    misfit = math.sqrt(2.0 * data / model.mass)
    return Evidence(logarithm, noise, gamma, next_noise, next_alpha, (*remarks, *model.on_stationarity(misfit)))
