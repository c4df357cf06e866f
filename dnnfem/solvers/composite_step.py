"""Composite steps for equality constraints: a normal step towards them, a tangential one along them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq

from dnnfem.functionals import Functional, Linearization, Metric
from dnnfem.norms.projected import Projected
from dnnfem.records import Array, Result, State, Status, Step, Steps
from dnnfem.solvers.iteration import NOTHING, Iterate, Limits, Observer, Tolerance, iterate, norm_at
from dnnfem.solvers.krylov import steihaug
from dnnfem.solvers.trust_region import ROUNDING

AIM, MOST, LEAST = 0.25, 0.75, 0.05
"""Contraction that normal steps are damped for, the largest one that is accepted, and the least part of the model's
decrease."""

TRIALS = 60
"""Steps tried from a point."""

CHANGE = 10.0
"""Factor by which an estimate of a Lipschitz constant changes at most, where there is one already."""

FEASIBLE = 1e-8
"""Length of the normal step, relative to the point, above which there is no estimate of what is left to be gained."""

PROBE = float(np.finfo(float).eps) ** (1.0 / 3.0)
"""Length of central differences of derivatives, relative to the point."""

ACCURACY = 0.1
"""Relative energy error of the first tangential steps."""


@dataclass(frozen=True, eq=False)
class Point:
    """A point with its constraints.

    Attributes
    ----------
    linearization : Linearization
        Of the functional.
    values : array, shape (m,)
        ``c(x)``.
    kernel : Projected
        The norm on the kernel of ``c'(x)``.
    multiplier : array, shape (m,)
        ``p``.
    slope : array, shape (dim,)
        ``L_x = J' + c'^T p``, dual.
    normal : array, shape (dim,)
        The shortest step that solves the linearized constraints, primal.
    """

    linearization: Linearization
    values: Array
    kernel: Projected
    multiplier: Array
    slope: Array
    normal: Array


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
        Whether it is the whole step, which no radius has cut.
    quadratic : float
        At ``d``.
    cubic : tuple of float
        At ``nu Dn`` and at ``d``.
    decrease : float
        What the quadratic model gains from ``Dt``.
    iterations : int
        Of conjugate gradients.
    """

    step: Array
    length: float
    damping: float
    full: bool
    quadratic: float
    cubic: tuple[float, float]
    decrease: float
    iterations: int


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

    def _values(self, x: Array) -> tuple[Linearization, Array]:
        """Return the constraints at a point, and ``c(x)``."""
        here = self.constraints.linearize(x)
        values = here.residual()
        if values is None:
            raise ValueError("constraints: got no sum of squares, expected a functional whose residual is to vanish")
        # From wherever it is.
        return here, np.array(values.tolist(), dtype=np.float64)

    def _point(self, linearization: Linearization) -> Point:
        there, values = self._values(linearization.x)
        system, dim = there.system(), len(linearization.x)
        assert system is not None
        if len(values) > dim:
            raise ValueError(
                f"constraints: got {len(values)} residuals for {dim} coefficients, expected no more, and no penalty"
            )
        rows = np.array([system.pull(unit) for unit in np.eye(len(values))]).reshape(len(values), -1)
        kernel = Projected(norm_at(self.metric, self.functional, linearization), rows)
        multiplier = kernel.multiplier(linearization.derivative)
        slope = linearization.derivative + rows.T @ multiplier
        return Point(linearization, values, kernel, multiplier, slope, kernel.least(-values))

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

    def _composed(self, point: Point, omegas: tuple[float, float], accuracy: float) -> Composite:
        """Return the step for two Lipschitz constants, of ``c'`` and of ``L_xx``."""
        of_constraints, of_functional = omegas
        norm = point.kernel.base
        reach = norm.norm(point.normal)
        limit = 2.0 * AIM / of_constraints if of_constraints > 0.0 else math.inf
        nu = min(1.0, limit / (2.0 * reach)) if reach > 0.0 else 1.0
        normal = nu * point.normal
        ahead = self._product(point, normal) if nu * reach > 0.0 else np.zeros_like(normal)
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
        tau = _minimizer(slope, bend, of_functional, nu * reach, size)
        step = normal + tau * along
        length = math.hypot(nu * reach, tau * size)
        quadratic = at_normal + tau * slope + 0.5 * tau * tau * bend
        cubic = [q + of_functional * r**3 / 6.0 for q, r in ((at_normal, nu * reach), (quadratic, length))]
        damping, gained = min(nu, tau), -slope - 0.5 * bend
        full = damping == 1.0 and not inner.boundary
        return Composite(step, length, damping, full, quadratic, (cubic[0], cubic[1]), gained, inner.iterations)

    def assess(
        self, linearization: Linearization, step: Step, memory: Mapping[str, Array] = NOTHING
    ) -> CompositeIterate:
        """Compute multiplier, normal and first tangential step.

        What is left to be gained is what the quadratic model promises along the constraints, and the change of the
        value that the linearized constraints cost; there is no estimate where a step is damped or the constraints are
        not met.
        """
        point = self._point(linearization)
        norm = point.kernel.base
        along = math.sqrt(max(float(point.slope @ point.kernel.riesz(point.slope)), 0.0))
        reach = norm.norm(point.normal)
        accuracy = min(ACCURACY, math.sqrt(along / (1.0 + abs(linearization.value))))
        trial = self._composed(point, _omegas(memory), accuracy)
        missed = abs(float(point.multiplier @ point.values))
        known = trial.full and reach <= FEASIBLE * max(1.0, norm.norm(linearization.x))
        row = replace(
            step,
            dual_norm=math.hypot(along, reach),
            algebraic=math.sqrt(2.0 * (max(trial.decrease, 0.0) + missed)) if known else math.inf,
            work=step.work + 1.0 + 2.0 * trial.iterations,
        )
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
            if trial.length <= np.finfo(float).eps * norm.norm(here.x):
                return Status.EXHAUSTED
            _, ahead = self._values(here.x + trial.step)
            expected = point.values + point.kernel.rows @ trial.step
            back = point.kernel.least(expected - ahead) if np.isfinite(ahead).all() else np.zeros_like(trial.step)
            there = self.functional.linearize(here.x + trial.step + back)
            _, reached = self._values(here.x + trial.step + back)
            work += 1.0
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
            trial = self._composed(point, omegas, ACCURACY)
            inner, work = inner + trial.iterations, work + 2.0 * trial.iterations
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
        is none as long as they are missed by a step of more than 1e-8 of the length of `x`.  `dnnfem.relative` bounds
        the root of the sum of squares of the dual norm of ``J' + c'^T p`` and of the length of the normal step.
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
        step.

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
