"""Gauss-Newton in a trust region, on the condensed functional, with many radii per factorization."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from dnnfem.functionals import Condensed, Functional, Linearization, Metric, Norm, condense
from dnnfem.kernels.protocol import StepFamily
from dnnfem.records import Array, Result, State, Status, Step
from dnnfem.solvers.iteration import PLAIN, Iterate, Limits, Observer, Tolerance, View, iterate, norm_at
from dnnfem.solvers.trust_region import ROUNDING, VALUE_WORK

ACCEPT = 0.1
"""A step is taken if it achieves this part of what the model promises: a small target, so that the largest useful step
is taken rather than the safest (Webb, Jerad, Cartis 2026)."""

FACTOR = 3.0
"""Ratio of neighbouring radii."""


@dataclass(frozen=True, eq=False)
class GaussNewtonIterate(Iterate):
    """An iterate with its norm and the steps of all radii."""

    norm: Norm
    family: StepFamily


@dataclass(frozen=True, eq=False)
class GaussNewton:
    """Steps of the linearized least-squares problem; see `gauss_newton`."""

    functional: Functional
    metric: Metric | None

    def assess(self, linearization: Linearization, step: Step) -> GaussNewtonIterate:
        """Factorize the system."""
        norm = norm_at(self.metric, self.functional, linearization)
        system = linearization.system()
        if system is None:
            raise ValueError(
                "functional: got one without a least-squares system, expected residual laws; try trust_region"
            )
        family = system.steps(norm)
        radius = step.radius if math.isfinite(step.radius) else max(1.0, norm.norm(linearization.x))
        _, decrease = family(radius)
        step = replace(
            step,
            dual_norm=norm.dual_norm(system.derivative),
            radius=radius,
            algebraic=math.sqrt(2.0 * max(decrease, 0.0)),
            work=step.work + 2.0,
        )
        return GaussNewtonIterate(linearization, step, norm, family)

    def advance(self, iterate: Iterate) -> Iterate | Status:
        """Take the largest step of a geometric family of radii that keeps its promise."""
        assert isinstance(iterate, GaussNewtonIterate)
        here, last = iterate.linearization, iterate.step
        radius, trials = last.radius, 0
        floor = np.finfo(float).eps * max(iterate.norm.norm(here.x), np.finfo(float).tiny)
        while True:
            correction, predicted = iterate.family(radius)
            if predicted <= ROUNDING * here.value:
                return Status.EXHAUSTED
            there = self.functional.linearize(here.x + correction)
            trials += 1
            ratio = (here.value - there.value) / predicted if math.isfinite(there.value) else -math.inf
            if ratio >= ACCEPT:
                break
            radius = min(radius, iterate.norm.norm(correction)) / FACTOR
            if radius <= floor:
                return Status.STAGNATED
        length = iterate.norm.norm(correction)
        step = Step(
            last.number + 1,
            there.value,
            length=length,
            radius=FACTOR * radius if trials == 1 else radius,
            ratio=ratio,
            inner=trials,
            work=last.work + VALUE_WORK * trials,
        )
        return self.assess(there, step)


def gauss_newton(
    functional: Functional,
    x: Array,
    tolerance: Tolerance = 1e-10,
    *,
    norm: Metric | None = None,
    state: State | None = None,
    observer: Observer | None = None,
    max_steps: int = 1000,
    max_seconds: float = math.inf,
    condensed: bool | None = None,
) -> Result:
    """Minimize a sum of squares by a trust-region Gauss-Newton method.

    The coefficients of an affine output layer are eliminated (`dnnfem.condense`) and only the inner ones are iterated;
    the result has them all.  One factorization per step serves every trust radius.

    Parameters
    ----------
    functional : Functional
        With a least-squares system.
    x : array, shape (dim,)
        Starting point; its condensable part plays no role.
    tolerance : float or relative(...)
        A float bounds the estimate of ``sqrt(2 (J(x) - min J))``, `dnnfem.relative` the dual norm of the derivative.
    norm : Norm or metric, optional
        On the inner coefficients (on all of them if `condensed` is False); default Euclidean.
    state : State, optional
        Of the solve before, or of the interrupted one.
    observer : callable, optional
        Called with a `Snapshot` after every step.
    max_steps, max_seconds : optional
        Limits; reaching one is a status, not an error.
    condensed : bool, optional
        Whether to eliminate; default if the functional allows it.

    Returns
    -------
    Result

    Raises
    ------
    ValueError
        If `functional` has no least-squares system, or `x`, `tolerance` or `norm` do not fit.

    References
    ----------
    Golub and Pereyra (1973); Kaufman (1975); Moré (1978); Webb, Jerad and Cartis (2026), arXiv 2607.02194.
    """
    if condensed is None:
        condensed = functional.condensable is not None
    limits = Limits(max_steps, max_seconds)
    if not condensed:
        return iterate(functional, x, GaussNewton(functional, norm), tolerance, state, observer, limits, PLAIN)
    reduced = condense(functional)
    return iterate(reduced, x, GaussNewton(reduced, norm), tolerance, state, observer, limits, _view(reduced))


def _view(reduced: Condensed) -> View:
    """The user's coefficients include the eliminated ones."""

    def inner(x: Array) -> Array:
        expected = (reduced.functional.space.dim,)
        if np.shape(x) != expected:
            raise ValueError(f"x: got shape {np.shape(x)}, expected {expected}")
        return np.array(x, dtype=np.float64)[reduced.inner]

    return View(inner, reduced.expand_at)
