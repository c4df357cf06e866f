"""How far targets lie from predictions: Laplace's approximation, calibrated at samples that were held out.

With the derivative ``T`` of the outputs in the coefficients, and the curvature ``H`` of the functional with its
penalty, a network that was trained with ``m`` samples with noise of variance ``s^2`` has outputs of the variance
``s^2 g(p)``, ``g = T H^-1 T^T / m``, and unseen targets deviate from them by ``v(p) = s^2 (1 + g(p))``: the network is
linearized (MacKay 1992).  What the linearization does not know, such as other minima, widths and a penalty that might
have been different, are in the residuals ``e`` at held-out samples: they decide about ``s`` and about the factor ``t``
in ``v(p) = s^2 (1 + t g(p))``, with ``g`` and ``e`` of the network that has not seen the sample.  They have the highest
posterior probability, where the prior of ``t`` is log-normal about one: few residuals say little about ``t``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from dnnfem.estimators.laplace import LaplaceModel
from dnnfem.functionals import Integral
from dnnfem.learn.growth import Fit, Outcome, functional
from dnnfem.problems import Regression
from dnnfem.quadrature import Quadrature
from dnnfem.records import Array

FACTORS = (1e-4, 1e4)
"""Bounds of the factor of the variance that comes from the coefficients."""

DEVIATION = 1.0
"""Of its logarithm, in the prior."""


@dataclass(frozen=True, eq=False)
class Covariance:
    """That of the outputs, for noise of variance one.

    Attributes
    ----------
    integral : Integral
        Of the misfit; its samples do not matter.
    x : array, shape (dim,)
    root : array, shape (dim, k)
        ``R`` with ``H^-1 / m = R R^T``.
    """

    integral: Integral
    x: Array
    root: Array

    @classmethod
    def of(cls, problem: Regression, samples: Quadrature, fit: Fit) -> Covariance:
        """Factorize the curvature of a network that was trained with these samples."""
        model = LaplaceModel.at(functional(problem, samples, fit), fit.x, "curvature")
        # The samples themselves are not kept.
        integral = problem.on(fit.space, samples.subset(slice(0, 1)))
        return cls(integral, fit.x, model.root / math.sqrt(len(samples)))

    def __call__(self, points: Array) -> Array:
        """Return the variances at points (m, d), in reference units, their mean over the outputs, shape (m,)."""
        outputs = self.integral.space.outputs
        there = self.integral.on(quadrature=Quadrature.samples(points, np.zeros((len(points), outputs))))
        leverage = there.left_out(self.x, self.root, exact=False).leverage
        return np.asarray(leverage / there.quadrature.weights / outputs)


@dataclass(frozen=True, eq=False)
class Spread:
    """Standard deviation of unseen targets about the predictions.

    Attributes
    ----------
    covariance : Covariance
    noise, factor : array, shape (outputs,)
        ``s``, in the units of the targets, and ``t``.
    error : array, shape (outputs,)
        Root mean squares of the residuals that it was calibrated with.
    """

    covariance: Covariance
    noise: Array
    factor: Array
    error: Array

    @classmethod
    def calibrated(cls, problem: Regression, outcome: Outcome) -> Spread:
        """Calibrate with the networks of the folds."""
        samples, held = problem.quadrature, outcome.held
        predicted = outcome.unseen(problem, lambda fit, points: problem.solution(fit.space, fit.x)(points))
        variances = np.concatenate(
            [
                Covariance.of(problem, outcome.trained(samples, number), fit)(samples.points[own])
                for number, (fit, own) in enumerate(zip(outcome.folds, outcome.validation.held, strict=True))
            ]
        )
        estimate = outcome.validation.estimate
        # A network that is trained with all samples is better than those of the folds.
        total, fewer = estimate.total, estimate.parts["fewer samples in the folds"]
        better = total / (total + fewer) if 0.0 < total < math.inf else 1.0
        residuals = better * (predicted - samples.data[held])
        weights = samples.weights[held]
        noise, factor = np.array([likely(column, variances, weights) for column in residuals.T]).T
        error = np.sqrt(np.average(residuals**2, axis=0, weights=weights))
        return cls(Covariance.of(problem, samples, outcome.fit), noise, factor, error)

    def __call__(self, points: Array) -> Array:
        """Return the standard deviations at points (m, d), shape (m, outputs)."""
        return np.asarray(self.noise * np.sqrt(1.0 + self.factor * self.covariance(points)[:, None]))


def likely(residuals: Array, variances: Array, weights: Any) -> tuple[float, float]:
    """Return the most probable ``s`` and ``t`` for residuals of the variances ``s^2 (1 + t g)``, with ``g`` given.

    For a given ``t``, ``s^2`` is the weighted mean of ``e^2 / (1 + t g)``, so that the standardized residuals have the
    mean square one, whatever their distribution is.
    """
    share, unit = weights / np.sum(weights), float(np.abs(residuals).max())
    if not 0.0 < unit < math.inf:
        return unit, 0.0
    squares = (residuals / unit) ** 2

    def mean(t: float) -> float:
        return float(share @ (squares / (1.0 + t * variances)))

    def information(logarithm: float) -> float:
        t = math.exp(logarithm)
        prior = (logarithm / DEVIATION) ** 2 / len(residuals)
        return math.log(mean(t)) + float(share @ np.log1p(t * variances)) + prior

    found = minimize_scalar(information, bounds=np.log(FACTORS), method="bounded", options={"xatol": 1e-2})
    t = math.exp(found.x)
    return unit * math.sqrt(mean(t)), t
