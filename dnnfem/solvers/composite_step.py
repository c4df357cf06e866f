"""Composite steps for equality constraints: a normal step towards them, a tangential one along them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.optimize import brentq

from dnnfem.functionals import Functional, Linearization, Metric
from dnnfem.functionals.work import gradient_work
from dnnfem.records import Array, Result, State, Status, Step, Steps
from dnnfem.solvers.constraints import Point, point_at, values_of
from dnnfem.solvers.iteration import NOTHING, Iterate, Limits, Observer, Tolerance, iterate
from dnnfem.solvers.krylov import steihaug
from dnnfem.solvers.trust_region import ROUNDING, VALUE_WORK

AIM, MOST, LEAST = 0.25, 0.75, 0.05
"""Contraction that normal steps are damped for, the largest one that is accepted, and the least part of the model's
decrease."""

TRIALS = 60
"""Steps tried from a point."""

CHANGE = 10.0
"""Factor by which an estimate of a Lipschitz constant changes at most, where there is one already."""

PROBE = float(np.finfo(float).eps) ** (1.0 / 3.0)
"""Length of central differences of derivatives, relative to the point."""

FULL = 0.9
"""Steps with at least this damping factor are as good as full ones: the cubic term, which falls by `CHANGE` at most in
a step, hardly matters."""

ACCURACY = 0.1
"""Relative energy error of the first tangential steps."""


@dataclass(frozen=True, eq=False)
class Composite:
    """A step ``d = nu Dn + tau Dt``, with what the models ``q(d) - L(x)`` and ``q(d) + omega_f |d|^3 / 6 - L(x)`` say.

    Attributes
    ----------
    step : array, shape (dim,)
    length : float
    damping : float
        The smaller one of ``nu`` and ``tau``.
    full : bool
        Whether it is nearly the whole step, which no radius has cut.
    quadratic : float
        At ``d``.
    cubic : tuple of float
        At ``nu Dn`` and at ``d``.
    decrease : float
        What the quadratic model gains from ``Dt``.
    iterations : int
        Of conjugate gradients.
    products : int
        With the second derivative of the Lagrangian.
    """

    step: Array
    length: float
    damping: float
    full: bool
    quadratic: float
    cubic: tuple[float, float]
    decrease: float
    iterations: int
    products: int


@dataclass(frozen=True, eq=False)
class CompositeIterate(Iterate):
    """A point, and the first step that is tried from there; `memory` has both Lipschitz constants."""

    point: Point
    trial: Composite


@dataclass(frozen=True, eq=False)
class CompositeStep:
    """See `composite_step`."""

    functional: Functional
    constraints: Functional
    metric: Metric | None
    curvature: bool

    @cached_property
    def _share(self) -> float:
        """Work of a derivative of the constraints, in gradients of the functional."""
        return gradient_work(self.constraints) / gradient_work(self.functional)

    def _product(self, point: Point, v: Array) -> Array:
        """Return ``L_xx v``, dual; the part of the constraints by a difference of derivatives."""
        here = point.linearization
        own: Array = here.curvature(v) if self.curvature else here.hessian(v)
        length = float(np.linalg.norm(v))
        if length == 0.0 or not point.multiplier.any():
            return own
        h = PROBE * max(1.0, float(np.linalg.norm(here.x))) / length
        ends = []
        for sign in (1.0, -1.0):
            system = self.constraints.linearize(here.x + sign * h * v).system()
            assert system is not None
            ends.append(system.pull(point.multiplier))
        return np.asarray(own + (ends[0] - ends[1]) / (2.0 * h))

    def _composed(self, point: Point, omegas: tuple[float, float], accuracy: float) -> Composite | None:
        """Return the step for two Lipschitz constants, of ``c'`` and of ``L_xx``; None if products are not finite."""
        of_constraints, of_functional = omegas
        norm, reach = point.kernel.base, point.reach
        limit = 2.0 * AIM / of_constraints if of_constraints > 0.0 else math.inf
        nu = min(1.0, limit / (2.0 * reach)) if reach > 0.0 else 1.0
        normal = nu * point.normal
        ahead = self._product(point, normal) if nu * reach > 0.0 else np.zeros_like(normal)
        if not np.isfinite(ahead).all():
            return None
        at_normal = float(point.slope @ normal) + 0.5 * float(ahead @ normal)
        room = math.sqrt(max(limit**2 - (nu * reach) ** 2, 0.0)) if math.isfinite(limit) else 1e3 * (1.0 + reach)
        inner = steihaug(
            lambda v: self._product(point, v),
            point.slope + ahead,
            point.kernel,
            max(room, np.finfo(float).tiny),
            accuracy,
            2 * norm.dim + 10,
        )
        along, size = inner.step, norm.norm(inner.step)
        slope = float((point.slope + ahead) @ along)
        bend = float(self._product(point, along) @ along) if size > 0.0 else 0.0
        if not math.isfinite(at_normal + slope + bend):
            return None
        tau = _minimizer(slope, bend, of_functional, nu * reach, size)
        step = normal + tau * along
        length = math.hypot(nu * reach, tau * size)
        quadratic = at_normal + tau * slope + 0.5 * tau * tau * bend
        cubic = [q + of_functional * r**3 / 6.0 for q, r in ((at_normal, nu * reach), (quadratic, length))]
        damping, gained = min(nu, tau), -slope - 0.5 * bend
        full = damping >= FULL and not inner.boundary
        products = inner.iterations + int(nu * reach > 0.0) + int(size > 0.0)
        return Composite(
            step, length, damping, full, quadratic, (cubic[0], cubic[1]), gained, inner.iterations, products
        )

    def _work(self, point: Point, trial: Composite) -> float:
        """Return the work of the products for a step; those with constraints are two derivatives of these each."""
        return trial.products * (2.0 + 2.0 * self._share * bool(point.multiplier.any()))

    def assess(self, linearization: Linearization, step: Step, memory: Mapping[str, Array] = NOTHING) -> Iterate:
        """Compute multiplier, normal and first tangential step.

        What is left to be gained is what the quadratic model promises along the constraints, and the change of the
        value that the linearized constraints cost.  The estimate is infinite where a step is damped or constraints are
        missed that a step could meet; it is NaN, and no tolerance is met, where none could.
        """
        step = replace(step, work=step.work + 1.0 + self._share)
        point = point_at(linearization, self.functional, self.constraints, self.metric)
        trial, along = None, math.nan
        if point is not None:
            along = math.sqrt(max(float(point.slope @ point.kernel.riesz(point.slope)), 0.0))
            accuracy = min(ACCURACY, math.sqrt(along / (1.0 + abs(linearization.value))))
            trial = self._composed(point, _omegas(memory), accuracy)
        if point is None or trial is None:
            return Iterate(linearization, replace(step, dual_norm=math.nan), memory=memory)
        algebraic = math.nan if point.unattainable else math.inf
        if trial.full and point.feasible:
            missed = abs(float(point.multiplier @ point.values))
            algebraic = math.sqrt(2.0 * (max(trial.decrease, 0.0) + missed))
        work, dual_norm = step.work + self._work(point, trial), math.hypot(along, point.reach)
        row = replace(step, dual_norm=dual_norm, algebraic=algebraic, work=work)
        return CompositeIterate(linearization, row, point, trial, memory=memory)

    def estimate(self, steps: Steps) -> float:
        """Return the estimate of the last row: values may rise on the way to the constraints."""
        return float(steps[-1].algebraic)

    def advance(self, iterate: Iterate) -> Iterate | Status:
        """Raise the Lipschitz constants until a step is accepted."""
        assert isinstance(iterate, CompositeIterate)
        point, trial, last = iterate.point, iterate.trial, iterate.step
        here, norm, work, inner = point.linearization, point.kernel.base, last.work, trial.iterations
        omegas, missed = _omegas(iterate.memory), float(point.multiplier @ point.values)
        rounding, value = ROUNDING * max(abs(here.value), abs(missed)), here.value + missed
        for _ in range(TRIALS):
            if trial.length <= point.nowhere:
                return Status.INFEASIBLE
            if trial.length <= np.finfo(float).eps * norm.norm(here.x):
                return Status.EXHAUSTED
            ahead = values_of(self.constraints.linearize(here.x + trial.step))
            expected = point.values + point.kernel.rows @ trial.step
            back = point.kernel.least(expected - ahead) if np.isfinite(ahead).all() else np.zeros_like(trial.step)
            there = self.functional.linearize(here.x + trial.step + back)
            reached = values_of(self.constraints.linearize(here.x + trial.step + back))
            # The value where a step is accepted is counted with the derivative there.
            work += 2.0 * VALUE_WORK * self._share
            change = there.value + float(point.multiplier @ reached) - value
            contraction = norm.norm(back) / trial.length if np.isfinite(ahead).all() else math.inf
            promised, gained = trial.cubic[1] - trial.cubic[0], change - trial.cubic[0]
            before, remainder = omegas, change - trial.quadratic
            if math.isfinite(contraction) and math.isfinite(change):
                found = 6.0 * remainder / trial.length**3 if abs(remainder) > rounding else 0.0
                omegas = _limited(before[0], 2.0 * contraction / trial.length), _limited(before[1], found)
            # Where all differences are rounding the contraction alone decides.
            ratio = 1.0 if max(abs(gained), abs(promised)) <= rounding or promised == 0.0 else gained / promised
            if contraction <= MOST and ratio >= LEAST:
                row = Step(
                    last.number + 1,
                    there.value,
                    length=trial.length,
                    ratio=ratio,
                    damping=trial.damping,
                    omega=omegas[1],
                    contraction=contraction,
                    inner=inner,
                    work=work,
                )
                memory = {"omega_c": np.array(omegas[0]), "omega_f": np.array(omegas[1])}
                return self.assess(there, row, memory)
            # The next step is to be shorter by half at least.
            if contraction <= MOST and math.isfinite(change):
                omegas = omegas[0], max(omegas[1], 2.0 * before[1], 6.0 * abs(promised) / trial.length**3)
            else:
                omegas = max(omegas[0], 2.0 * before[0], 4.0 * AIM / trial.length), omegas[1]
            shorter = self._composed(point, omegas, ACCURACY)
            if shorter is None:
                return Status.NOT_FINITE
            trial = shorter
            inner, work = inner + trial.iterations, work + VALUE_WORK + self._work(point, trial)
        return Status.STAGNATED


def _omegas(memory: Mapping[str, Array]) -> tuple[float, float]:
    """Return the Lipschitz constants of ``c'`` and of ``L_xx`` that the last step has seen; 0 if there was none."""
    return float(memory.get("omega_c", 0.0)), float(memory.get("omega_f", 0.0))


def _limited(before: float, found: float) -> float:
    """Return an estimate that does not change too much at a time, and is not negative."""
    found = max(found, 0.0)
    return found if before == 0.0 else min(max(found, before / CHANGE), before * CHANGE)


def _minimizer(slope: float, bend: float, omega: float, a: float, b: float) -> float:
    """Return the minimizer of ``slope t + bend t^2 / 2 + omega (a^2 + b^2 t^2)^(3/2) / 6`` on [0, 1]."""

    def derivative(t: float) -> float:
        return slope + bend * t + 0.5 * omega * b * b * t * math.hypot(a, b * t)

    if derivative(1.0) <= 0.0 or slope >= 0.0:
        return 1.0
    return float(brentq(derivative, 0.0, 1.0))


def composite_step(
    functional: Functional,
    constraints: Functional,
    x: Array,
    tolerance: Tolerance = 1e-8,
    *,
    norm: Metric | None = None,
    state: State | None = None,
    observer: Observer | None = None,
    max_steps: int = 1000,
    max_seconds: float = math.inf,
    curvature: bool = False,
) -> Result:
    """Minimize a functional under equality constraints ``c(x) = 0`` by composite steps.

    A step is a normal one, the shortest that solves the linearized constraints, and a tangential one in their kernel,
    by conjugate gradients on the quadratic model of the Lagrangian.  Both are damped by estimates of two Lipschitz
    constants, that of ``c'`` and that of the second derivative of the Lagrangian; a simplified normal step brings the
    point back to the constraints.

    Parameters
    ----------
    functional : Functional
        What to minimize.
    constraints : Functional
        Its residual is ``c``, e.g. ``Regression(points, values).on(space)`` for values that the network has to take;
        few residuals, on the host, and no penalty.
    x : array, shape (dim,)
        Starting point; it need not meet the constraints.
    tolerance : float or relative(...)
        A float bounds the estimate of ``sqrt(2 (J(x) - min J))``, the minimum being that under the constraints; there
        is none as long as they are missed by a step of more than 1e-8, or 1e-8 of the length of `x` if that is longer
        than one.  `dnnfem.relative` bounds the root of the sum of squares of the dual norm of ``J' + c'^T p`` and of
        the length of the normal step.
    norm : Norm or metric, optional
        In which steps are measured and preconditioned; default Euclidean.
    state : State, optional
        Of the interrupted solve.
    observer : callable, optional
        Called with a `Snapshot` after every step.
    max_steps, max_seconds : optional
        Limits; reaching one is a status, not an error.
    curvature : bool
        Take the positive semidefinite part of ``J''`` only; the second derivatives of the constraints are always used.

    Returns
    -------
    Result
        The table has the damping, the estimate `omega` for the Lagrangian, and the contraction of the simplified normal
        step; its work is that of the constraints too.  Constraints that contradict each other, or whose derivative is
        singular where the iteration ends, are a status.

    Raises
    ------
    ValueError
        If the constraints have no residual, more than there are coefficients, or are on another space; if `x`,
        `tolerance`, `norm`, `state` or a limit do not fit.
    Interrupted
        On Ctrl-C, after the observer has seen the last iterate; the exception carries the result.

    References
    ----------
    Lubkoll, Schiela and Weiser, Optim. Methods Softw. 32 (2017) 1132-1161.
    """
    if constraints.space.dim != functional.space.dim:
        raise ValueError(
            f"constraints: got a functional of {constraints.space.dim} coefficients, expected {functional.space.dim}"
        )
    method = CompositeStep(functional, constraints, norm, curvature)
    return iterate(functional, x, method, tolerance, state, observer, Limits(max_steps, max_seconds))
