"""Confidence in unknown coefficients: what the noise of observations makes of them, and how much observations count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.special

from dnnfem.functionals import Functional, Integral
from dnnfem.functionals.sampling import OBSERVATIONS, integrals_of
from dnnfem.quadrature import Quadrature
from dnnfem.records import Array
from dnnfem.spaces.layout import check_coefficients

DAMPING = 1e-14
"""Penalty on each coefficient, relative to the square of its column: directions that neither the equation nor the
observations see do not count."""

STATIONARY = 0.1
"""Largest correction of a coefficient, relative to its standard deviation, with which `x` counts as stationary."""

UNSEEN = 10.0 * DAMPING
"""Unknowns are not determined if not more of their curvature than this is left when all else reacts."""

LEAST = 0.1
"""Least part of the squared residual of the equation that noise is not made responsible for, and least factor of the
weight of the observations from one solve to the next: a solver can follow."""

NEGLIGIBLE = 0.05
"""The weight of the observations is left as it is if no more degrees of freedom than this part of the unknowns follow
the noise, and no more than this part of the variance of any of them is due to the equation."""


@dataclass(frozen=True, eq=False)
class Confidence:
    """Result of `confidence`.

    Attributes
    ----------
    names : tuple of str
        The unknowns.
    estimates : array, shape (k,)
        Their values, in the user's units.
    parts : mapping of str to array (k, k)
        Covariances: ``noise``, from that of the observations, and ``equation``, from what is left of its residual.
    noise : float
        Standard deviation of a single observation.
    freedom : float
        Degrees of freedom that are left to the noise, from which it was estimated; infinite if it was given.
    fitted : float
        Degrees of freedom of the observations that were fitted: one for each unknown, and those by which the equation
        was violated.
    residual : float
        Root of the sum of the mean squares of the residuals of equation and conditions.
    weight : float
        Sum of the weights of the observations for the next solve, see `reweighted`.
    correction : array, shape (k,)
        Gauss-Newton step that is left, in the user's units.
    remarks : tuple of str
        What speaks against trusting it.
    """

    names: tuple[str, ...]
    estimates: Array
    parts: dict[str, Array]
    noise: float
    freedom: float
    fitted: float
    residual: float
    weight: float
    correction: Array
    remarks: tuple[str, ...]

    @cached_property
    def covariance(self) -> Array:
        """Sum of the parts, shape (k, k)."""
        return sum(self.parts.values(), np.zeros((len(self.names), len(self.names))))

    @property
    def values(self) -> dict[str, float]:
        """The unknowns by name."""
        return dict(zip(self.names, self.estimates.tolist(), strict=True))

    @property
    def deviations(self) -> dict[str, float]:
        """Standard deviations by name."""
        return dict(zip(self.names, np.sqrt(np.diagonal(self.covariance)).tolist(), strict=True))

    def intervals(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Return an interval for each unknown, one at a time, that covers it with the probability `level`.

        Student's distribution takes the place of the normal one where the noise was estimated.

        Raises
        ------
        ValueError
            If `level` is not between 0 and 1.
        """
        if not 0.0 < level < 1.0:
            raise ValueError(f"level: got {level!r}, expected a probability between 0 and 1")
        p = 0.5 + 0.5 * level
        known = math.isinf(self.freedom)
        quantile = float(scipy.special.ndtri(p) if known else scipy.special.stdtrit(self.freedom, p))
        deviations = self.deviations
        return {n: (v - quantile * deviations[n], v + quantile * deviations[n]) for n, v in self.values.items()}

    def reweighted(self, quadrature: Quadrature) -> Quadrature:
        """Return a quadrature whose observations have the `weight`; everything else is as before.

        Raises
        ------
        ValueError
            If it has no observations.
        """
        if OBSERVATIONS not in quadrature.regions:
            raise ValueError(
                f"quadrature: got the regions {list(quadrature.regions)}, expected {OBSERVATIONS!r} among them"
            )
        region = quadrature.regions[OBSERVATIONS]
        part = replace(region, weights=region.weights * (self.weight / region.total))
        return replace(quadrature, regions={**quadrature.regions, OBSERVATIONS: part})

    def __str__(self) -> str:
        intervals, deviations = self.intervals(), self.deviations
        lines = [
            f"{name} = {value:.6g} +- {deviations[name]:.2g}, 95 % in [{intervals[name][0]:.6g}, "
            f"{intervals[name][1]:.6g}]"
            for name, value in self.values.items()
        ]
        lines[-1] += f"; noise {self.noise:.3g}, residual {self.residual:.3g}"
        return "\n".join([*lines, *self.remarks])


def confidence(functional: Functional, x: Array, *, noise: float | None = None) -> Confidence:
    """Estimate covariances and intervals of the unknowns of an inverse problem, and the weight of its observations.

    With ``J = J_e + J_o``, ``J_o = sum_i w_i |u(p_i) - y_i|^2 / 2`` the observations, ``H = H_e + H_o`` the curvatures
    (Gauss-Newton) and ``Z`` the columns of ``H^-1`` that belong to the unknowns, independent errors of variance
    ``s^2 mean(w) / w_i`` in the ``m`` values move these by the covariance ``s^2 mean(w) Z^T H_o Z``.  The noise comes
    from the misfit: with ``W = H^-1 H_o``, ``s^2 = 2 J_o / (mean(w) tr((I - W)^2))``, the trace taken over the values.

    Where a solution follows noise instead of the equation, that leaves residuals with the mean square
    ``s^2 mean(w) tr(W - W^2)``, in ``f`` degrees of freedom, ``tr(W)`` less one for each unknown.  The rest
    of ``2 J_e`` is what the network, or the solver, has left of the equation.  Only its size is known: the equation is
    like one more observation, of variance ``t^2 = rest / (1 + f)``.  Its part of the covariance is ``t^2 Z^T H_e Z``,
    and in the likelihood of both an observation has the weight ``(t / s)^2``: `weight` is the sum of these, but at
    least a tenth of the present one, and the present one if another would make no difference.

    All this is seen at the points of the quadrature.  A network that fits an observation with a spike between them
    violates an equation that nobody looks at: `dnnfem.residual` sees that, and says where points are missing.

    Parameters
    ----------
    functional : Functional
        Of a `dnnfem.Collocation` with unknowns and observations.
    x : array, shape (dim,)
        A minimizer, or close to one.
    noise : float, optional
        Standard deviation of the observations, if it is known.

    Returns
    -------
    Confidence
        What it does *not* contain: an equation that is not the one behind the observations, noise that is not
        independent, and the curvature of the solution in the unknowns over the width of the intervals.

    Raises
    ------
    ValueError
        If the functional has no unknowns or no observations or terms without residuals, `x` is no finite vector of the
        space, or `noise` is not positive.

    References
    ----------
    Bard, Nonlinear Parameter Estimation (1974); MacKay, Neural Computation 4 (1992) 415-447, for the weights.
    """
    number = isinstance(noise, int | float | np.integer | np.floating) and not isinstance(noise, bool)
    if noise is not None and not (number and math.isfinite(noise) and noise > 0.0):
        raise ValueError(f"noise: got {noise!r}, expected a positive number")
    x = check_coefficients(functional.space, x, finite=True)
    factor, observations = _observations(functional)
    unknowns: Any = getattr(observations.ansatz, "unknowns", ())
    if not len(unknowns):
        raise ValueError("functional: got one without unknowns, expected that of a problem with some")
    here = functional.linearize(x)
    system = here.system()
    if system is None:
        raise ValueError("functional: got one without a least-squares system, expected residual laws")
    dim, k, places = len(x), len(unknowns), np.arange(len(x) - len(unknowns), len(x))
    size = len(observations.quadrature)
    m, each = size * observations.space.outputs, factor * observations.quadrature.total / size
    # H = S^T S, by orthogonal transformations: what determines the unknowns is a small part of their columns.
    (root,) = system.schur_roots([np.arange(dim)], DAMPING)
    inverse = np.linalg.solve(root, np.eye(dim))
    there = observations.linearize(x)
    seen = there.system()
    assert seen is not None
    # S^-T H_o S^-1 from rows and not from H_o, whose rounding would be seen in flat directions.
    white = factor * (seen @ inverse).curvature(np.eye(dim))
    fitted, squares = float(np.trace(white)), float(np.sum(white * white))
    half = inverse[places].T * unknowns.scale
    by_observations = half.T @ white @ half
    residual = max(2.0 * (here.value - factor * there.value), 0.0)
    freedom = math.inf if noise is not None else max(m - 2.0 * fitted + squares, 1.0)
    variance = noise**2 if noise is not None else 2.0 * factor * there.value / each / freedom
    left = max(residual - variance * each * (fitted - squares), LEAST * residual) / (1.0 + max(fitted - k, 0.0))
    parts = {"noise": variance * each * by_observations, "equation": left * _definite(half.T @ half - by_observations)}
    by_noise, by_equation = np.diagonal(parts["noise"]), np.diagonal(parts["equation"])
    settled = fitted - k <= NEGLIGIBLE * k and bool((by_equation <= NEGLIGIBLE * by_noise).all())
    present = factor * observations.quadrature.total
    known = left > 0.0 and variance > 0.0 and not settled
    correction = -half.T @ (inverse.T @ here.derivative)
    lengths = np.where(system.lengths[places] > 0.0, system.lengths[places], 1.0)
    unseen = (unknowns.scale / lengths) ** 2 < UNSEEN * np.sum(half * half, axis=0)
    remarks = _remarks(unknowns.names, unseen, np.abs(correction), np.sqrt(by_noise + by_equation))
    if m - fitted < 1.0 and noise is None:
        remarks.append(f"{fitted:.3g} of {m} observations were fitted: nothing is left that would show the noise")
    if (by_equation > by_noise).any():
        remarks.append("the residual of the equation does more to the unknowns than the noise: solve on, or refine")
    if fitted > 2.0 * k:
        words = f"{fitted - k:.3g} degrees of freedom follow the noise and not the equation"
        remarks.append(f"{words}: give the observations their weight, and solve on")
    return Confidence(
        names=unknowns.names,
        estimates=np.array(list(unknowns.values(x).values())),
        parts=parts,
        noise=math.sqrt(variance),
        freedom=freedom,
        fitted=fitted,
        residual=math.sqrt(residual),
        weight=max(size * left / variance, LEAST * present) if known else present,
        correction=correction,
        remarks=tuple(remarks),
    )


def _remarks(names: Sequence[str], unseen: Array, steps: Array, deviations: Array) -> list[str]:
    """Return remarks on single unknowns: whether they are determined, and whether they have been found."""
    remarks = []
    for name, lost, step, deviation in zip(names, unseen, steps, deviations, strict=True):
        if lost:
            remarks.append(f"{name} is not determined: all else reacts so that nothing changes")
        elif step > STATIONARY * deviation > 0.0:
            words = f"{name} would still move by {step / deviation:.2g} of its standard deviation"
            remarks.append(f"x is not stationary, {words}: solve on")
    return remarks


def _observations(functional: Functional) -> tuple[float, Integral]:
    """Return the term of the observations with its factor."""
    found = [(factor, term) for factor, term in integrals_of(functional) if term.region == OBSERVATIONS]
    if len(found) != 1:
        raise ValueError(
            f"functional: got {type(functional).__name__} with {len(found)} terms of observations, expected one"
        )
    return found[0]


def _definite(matrix: Array) -> Array:
    """Return a symmetric matrix without negative eigenvalues, which are rounding here."""
    values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    return np.asarray(vectors * np.maximum(values, 0.0) @ vectors.T)
