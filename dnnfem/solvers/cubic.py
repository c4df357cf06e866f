"""Cubic regularization: Newton's method with an estimate of how fast the Hessian changes, in the norm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from dnnfem.functionals import Functional, Linearization, Metric, Norm
from dnnfem.norms import Euclidean
from dnnfem.norms.jacobi import jacobi, of_diagonal
from dnnfem.records import Array, Relative, Result, State, Status, Step, Steps
from dnnfem.solvers.dense import is_dense
from dnnfem.solvers.iteration import (
    NOTHING,
    Iterate,
    Limits,
    Observer,
    Tolerance,
    check_tolerance,
    extrapolated,
    iterate,
    norm_at,
    product_of,
)
from dnnfem.solvers.krylov import InnerStep
from dnnfem.solvers.lanczos import SLIGHT, Lanczos, within
from dnnfem.solvers.secular import Cubic, Spectrum
from dnnfem.solvers.trust_region import NOISE, ROUGH, ROUNDING, VALUE_WORK, inner_accuracy

DENSE_LIMIT = {"hessian": 30, "curvature": 500}
"""Up to this dimension steps come from the eigenvectors of a dense matrix."""

ACCEPT = 0.1
"""A step is taken if it achieves this part of what the model with its cubic term promises."""

FALL, RISE = 0.1, 10.0
"""How far omega may fall and rise at a time."""

REJECT = 2.0
"""Least factor by which omega rises if a step is rejected."""

FIRST = 0.5
"""The first omega, relative to curvature^2 / |J'|_* along steepest descent: it takes a sixth off the step there."""

EPS = float(np.finfo(float).eps)


@dataclass(frozen=True, eq=False)
class CubicStep:
    """A step of the model with its length, and the decrease that Newton's method promises (infinite if it has none)."""

    inner: InnerStep
    length: float
    promise: float

    def promised(self, omega: float) -> float:
        """Return the decrease of the model with its cubic term."""
        return self.inner.decrease - omega / 6.0 * _cube(self.length)

    @property
    def slight(self) -> bool:
        """Whether the cubic term hardly matters."""
        return self.inner.multiplier * self.length**2 <= SLIGHT * self.inner.decrease


@dataclass(frozen=True, eq=False)
class CubicIterate(Iterate):
    """An iterate with its norm, its model (None if it is not finite) and the step of the present omega."""

    norm: Norm
    model: Spectrum | Lanczos | None
    trial: CubicStep | None


@dataclass(frozen=True, eq=False)
class CubicNewton:
    """Steps of the quadratic model with a cubic term; see `cubic`."""

    functional: Functional
    metric: Metric | None
    dense: bool
    curvature: bool
    tolerance: float = 0.0

    def assess(self, linearization: Linearization, step: Step, memory: Mapping[str, Array] = NOTHING) -> CubicIterate:
        """Compute the dual norm and the step; omega too, at the start.

        Newton's method is believed where the cubic term hardly matters.  Elsewhere the algebraic estimate is infinite.
        """
        derivative, work = linearization.derivative, step.work + 1.0
        matrix: Array | None = None
        if self.dense:
            dim = len(linearization.x)
            matrix = linearization.gram() if self.curvature else linearization.hessian(np.eye(dim))
            work += 2.0 if self.curvature else 2.0 * dim
        if not np.isfinite(derivative).all() or not (matrix is None or np.isfinite(matrix).all()):
            return self._lost(linearization, replace(step, work=work), memory)
        if self.metric is jacobi and self.curvature and matrix is not None:
            norm: Norm = of_diagonal(self.functional.space, np.diagonal(matrix))
        else:
            norm = norm_at(self.metric, self.functional, linearization)
        dual_norm = norm.dual_norm(derivative)
        model: Spectrum | Lanczos
        if matrix is None:
            model = Lanczos(product_of(linearization, self.curvature), derivative, norm)
        else:
            model = Spectrum.of(matrix, derivative, norm)
        omega = step.omega
        if not math.isfinite(omega):
            omega = _carried(step) or _first(model, dual_norm, norm.norm(linearization.x), self.tolerance)
        trial = _solved(model, norm, omega, inner_accuracy(dual_norm, linearization.value))
        if isinstance(model, Lanczos):
            # With the product that the first omega took, which a resumed solve takes here.
            trial = replace(trial, inner=replace(trial.inner, iterations=model.products))
        work += 2.0 * trial.inner.iterations
        if isinstance(model, Lanczos) and not model.finite:
            return self._lost(linearization, replace(step, work=work), memory)
        algebraic = math.sqrt(2.0 * trial.promise) if trial.slight else math.inf
        radius = _radius(omega, linearization.value)
        step = replace(step, dual_norm=dual_norm, omega=omega, radius=radius, algebraic=algebraic, work=work)
        return CubicIterate(linearization, step, norm, model, trial, memory=memory)

    def _lost(self, linearization: Linearization, step: Step, memory: Mapping[str, Array]) -> CubicIterate:
        """Return an iterate whose derivative or model is not finite: no norm of it means anything."""
        step = replace(step, dual_norm=math.nan, algebraic=math.nan)
        return CubicIterate(linearization, step, Euclidean(self.functional.space), None, None, memory=memory)

    def estimate(self, steps: Steps) -> float:
        """Return the smaller of Newton's and the extrapolated estimate."""
        return min(float(steps[-1].algebraic), extrapolated(steps))

    def advance(self, iterate: Iterate) -> Iterate | Status:
        """Raise omega until a step is accepted."""
        assert isinstance(iterate, CubicIterate) and iterate.model is not None and iterate.trial is not None
        here, last, norm, trial = iterate.linearization, iterate.step, iterate.norm, iterate.trial
        omega, work, inner = last.omega, last.work, max(trial.inner.iterations, 1)
        accuracy = inner_accuracy(last.dual_norm, here.value)
        exhausted = Status.EXHAUSTED if trial.promised(omega) <= NOISE * abs(here.value) else Status.STAGNATED
        while trial.promised(omega) > 0.0:
            there = self.functional.linearize(here.x + trial.inner.step)
            ratio, estimate = _compared(iterate, trial, omega, there)
            if ratio >= ACCEPT:
                row = Step(last.number + 1, there.value, length=trial.length, ratio=ratio)
                row = replace(row, multiplier=trial.inner.multiplier, inner=inner, work=work)
                return self.assess(there, replace(row, omega=min(max(estimate, FALL * omega), RISE * omega)))
            size = max(abs(here.value - there.value), trial.promised(omega))
            smallest = EPS * max(norm.norm(here.x), float(np.finfo(float).tiny))
            if size <= ROUNDING * abs(here.value) or trial.length <= smallest:
                return exhausted
            omega *= min(max(estimate / omega, REJECT), RISE)
            trial = _solved(iterate.model, norm, omega, accuracy)
            inner += max(trial.inner.iterations, 1)
            work += 2.0 * trial.inner.iterations + VALUE_WORK
        if isinstance(iterate.model, Lanczos) and not iterate.model.finite:
            return Status.NOT_FINITE
        return exhausted if inner > 1 else Status.EXHAUSTED


def _compared(iterate: CubicIterate, trial: CubicStep, omega: float, there: Linearization) -> tuple[float, float]:
    """Return actual over predicted decrease, and the omega with which the model would have been right.

    That is six times the remainder of second order over the third power of the length; where the difference of the
    values may be rounding it comes from the derivatives at both ends, as the decrease does.
    """
    here, promised, length = iterate.linearization, trial.promised(omega), trial.length
    if not math.isfinite(there.value):
        return -math.inf, math.inf
    fallen = here.value - there.value
    ratio, estimate = fallen / promised, 6.0 * (trial.inner.decrease - fallen) / _cube(length)
    if max(abs(fallen), promised) > NOISE * abs(here.value):
        return ratio, estimate
    slope, ahead = (float(end.derivative @ trial.inner.step) for end in (here, there))
    # <J'(x + d) - J' - H d, d> = omega/2 |d|^3 with <H d, d> from the decrease.
    bend = -2.0 * (trial.inner.decrease + slope)
    remainder = ahead - slope - bend
    noise = ROUNDING * (abs(ahead) + abs(slope) + abs(bend))
    estimate = 2.0 * remainder / _cube(length) if abs(remainder) > noise else omega
    if iterate.norm.dual_norm(there.derivative) < iterate.step.dual_norm:
        return max(ratio, -0.5 * (slope + ahead) / promised), estimate
    # Neither the derivative nor, but for rounding, the value falls.
    return ratio if max(abs(fallen), promised) > ROUNDING * abs(here.value) else -math.inf, estimate


def _cube(length: float) -> float:
    # Products overflow to infinity, powers raise an exception.
    return max(length * length * length, float(np.finfo(float).tiny))


def _solved(model: Spectrum | Lanczos, norm: Norm, omega: float, accuracy: float) -> CubicStep:
    if isinstance(model, Lanczos):
        inner, promise = within(model, Cubic(omega), accuracy, max(accuracy, ROUGH), norm.dim)
    else:
        inner, promise = model.minimize(Cubic(omega)), model.diagonal.promise
    return CubicStep(inner, norm.norm(inner.step), promise)


def _first(model: Spectrum | Lanczos, dual_norm: float, length: float, tolerance: float) -> float:
    """Return the first omega, from the curvature along steepest descent; the latter may be negative, but not zero.

    Where steepest descent promises less than the tolerance the point may be a solution.  Whether it is, only a step of
    Newton's method can say, which an omega of that size would cut.
    """
    curvature = model.steepest()
    known = math.isfinite(curvature) and curvature != 0.0
    if dual_norm > 0.0 and known and not 0.0 < dual_norm**2 < curvature * tolerance**2:
        return FIRST * curvature * curvature / dual_norm
    return 2.0 * (dual_norm or 1.0) / max(1.0, length) ** 2


def _radius(omega: float, value: float) -> float:
    """Return the length for which the cubic term is as large as the value."""
    radius = math.cbrt(6.0 * abs(value) / omega)
    return radius if 0.0 < radius < math.inf else math.nan


def _carried(step: Step) -> float:
    """Return the omega that belongs to the radius of the solve before; zero if there is none."""
    return 6.0 * abs(step.value) / _cube(step.radius) if math.isfinite(step.radius) else 0.0


def cubic(
    functional: Functional,
    x: Array,
    tolerance: Tolerance = 1e-10,
    *,
    norm: Metric | None = None,
    state: State | None = None,
    observer: Observer | None = None,
    max_steps: int = 1000,
    max_seconds: float = math.inf,
    dense: bool | None = None,
    curvature: bool = False,
) -> Result:
    """Minimize any functional by Newton's method with cubic regularization.

    A step minimizes ``J + <J', d> + <H d, d>/2 + omega/6 |d|^3``.  With a Lipschitz constant ``omega`` of the Hessian
    in the norm this is a bound on the functional, whatever the curvature; it is estimated from every step, so that
    nothing has to be chosen.

    Parameters
    ----------
    functional : Functional
        What to minimize.
    x : array, shape (dim,)
        Starting point.
    tolerance : float or relative(...)
        A float bounds the estimate of ``sqrt(2 (J(x) - min J))``, `dnnfem.relative` the dual norm of the derivative.
    norm : Norm or metric, optional
        In which lengths and dual norms are measured, and the preconditioner; default Euclidean, for dense steps from
        the curvature `dnnfem.norms.jacobi`.
    state : State, optional
        Of the solve before, or of the interrupted one.  What goes over to another level is the length for which the
        cubic term is as large as the value: a nested functional has the same value there, hence the same omega.
    observer : callable, optional
        Called with a `Snapshot` after every step.
    max_steps, max_seconds : optional
        Limits; reaching one is a status, not an error.
    dense : bool, optional
        Exact steps, from the eigenvectors of the dense Hessian, instead of steps in Krylov spaces; default for at most
        30 coefficients, with `curvature` 500.
    curvature : bool
        Use the positive semidefinite part of the Hessian only.

    Returns
    -------
    Result
        In the table, `omega` is the constant that the next step begins with, `radius` the length for which the cubic
        term is then as large as the value, and `multiplier` ``omega |d| / 2``.

    Raises
    ------
    ValueError
        If `x`, `tolerance`, `norm`, `state`, `dense` or a limit do not fit.
    Interrupted
        On Ctrl-C, after the observer has seen the last iterate; the exception carries the result.

    References
    ----------
    Schiela, A flexible framework for cubic regularization algorithms for nonconvex optimization in function space,
    Numer. Funct. Anal. Optim. 40 (2019) 85-118.

    Cartis, Gould and Toint, Math. Program. 127 (2011) 245-295.
    """
    dense = is_dense(dense, functional.space.dim, DENSE_LIMIT["curvature" if curvature else "hessian"])
    if norm is None and curvature and dense:
        norm = jacobi
    tolerance = check_tolerance(tolerance)
    aim = 0.0 if isinstance(tolerance, Relative) else tolerance
    method = CubicNewton(functional, norm, dense, curvature, aim)
    return iterate(functional, x, method, tolerance, state, observer, Limits(max_steps, max_seconds))
