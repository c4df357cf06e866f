"""Trust-region Newton method for any functional, convex or not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import lapack

from dnnfem.functionals import Functional, Linearization, Metric, Norm
from dnnfem.norms import Euclidean
from dnnfem.norms.jacobi import jacobi, of_diagonal
from dnnfem.records import Array, Relative, Result, State, Status, Step, Steps
from dnnfem.solvers.chord import GOOD, Landing, corrected
from dnnfem.solvers.dense import NEAR, definite, faithful, is_dense, more_sorensen
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
from dnnfem.solvers.lanczos import Lanczos, truncated

DENSE_LIMIT = {"hessian": 30, "curvature": 2000}
"""Up to this dimension there is a matrix: that of the curvature, which costs no more than few products, for all steps;
the Hessian for those that meet a tolerance, as Krylov spaces do not see all directions."""

ACCEPT = 0.1
SHRINK, GROW = 0.25, 2.0
ROUNDING = 10.0 * np.finfo(float).eps
SINGLE = float(np.finfo(np.float32).eps)
"""Errors of the entries of a matrix whose products are taken in single precision."""

NOISE = 1e-8
"""A promise above this part of the value that is kept at no radius is stagnation, below it may be rounding."""

ROUGH = 0.5
"""Accuracy of steps in Krylov spaces whose length is bounded: they need not be as accurate as Newton's."""

VALUE_WORK = 1.0 / 3.0
"""Work of a value alone: one of the three matrix products of value and derivative."""


@dataclass(frozen=True, eq=False)
class Model:
    """The matrix of dense steps, and the relative error of its entries."""

    matrix: Array
    rounding: float = 0.0

    @property
    def finite(self) -> bool:
        """Whether all entries are."""
        return bool(np.isfinite(self.matrix).all())


@dataclass(frozen=True, eq=False)
class NewtonIterate(Iterate):
    """An iterate with its norm, its model, the step within the radius, and the memory for the next.

    There is no step, and perhaps no model, where that is not finite.
    """

    norm: Norm
    model: Model | Lanczos | None
    trial: InnerStep | None
    following: Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class Enclosure:
    """Where iterates have to stay: ``|x - centre| <= radius``."""

    centre: Array
    radius: float


@dataclass(frozen=True, eq=False)
class TrustRegion:
    """Steps of the quadratic model with the full Hessian or the curvature; see `trust_region`.

    Iterates stay in a `ball`, if there is one.  `accuracy` is the relative energy error of conjugate gradients; default
    one that makes the convergence superlinear.  `tolerance` is what the estimate is compared with, if it is; where a
    step in a Krylov space would meet it, and this is to be `checked`, the step comes from the dense Hessian after all.
    """

    functional: Functional
    metric: Metric | None
    dense: bool
    curvature: bool
    ball: Enclosure | None = None
    accuracy: float | None = None
    tolerance: float = 0.0
    checked: bool = False

    def assess(self, linearization: Linearization, step: Step, memory: Mapping[str, Array] = NOTHING) -> NewtonIterate:
        """Compute the dual norm and the step of the model, whose decrease is the algebraic estimate.

        On the boundary of the trust region the model promises more than it can be trusted with: the estimate is then
        infinite, and only an interior step can meet a tolerance.
        """
        own = self.metric is jacobi and self.dense and self.curvature
        norm = None if own else norm_at(self.metric, self.functional, linearization)
        derivative, work = linearization.derivative, step.work + 1.0
        model: Model | Lanczos | None = self._matrix(linearization, memory) if self.dense else None
        if self.dense:
            work += 2.0 if self.curvature else 2.0 * len(derivative)
        if not np.isfinite(derivative).all() or not (model is None or model.finite):
            return self._lost(linearization, replace(step, work=work), memory)
        if norm is None:
            # The diagonal of the matrix that is there: another one would be computed for that alone.
            assert isinstance(model, Model)
            norm = of_diagonal(self.functional.space, np.diagonal(model.matrix))
        dual_norm = norm.dual_norm(derivative)
        if model is None:
            model = Lanczos(product_of(linearization, self.curvature), derivative, norm)
        radius = step.radius
        if not math.isfinite(radius):
            radius = _first_radius(linearization, norm, model, dual_norm, self.tolerance)
        if self.ball is not None:
            room = self.ball.radius - norm.norm(linearization.x - self.ball.centre)
            # Dense steps may be longer than the radius by that much.
            radius = min(radius, max(room, 0.0) / (1.0 + NEAR if self.dense else 1.0))
        expected = _expected(step.multiplier, step.length, radius)
        trial, model = self._inner(linearization, norm, model, radius, expected)
        if isinstance(model, Lanczos):
            # With the product that the first radius took, which a resumed solve takes here.
            trial = replace(trial, iterations=model.products)
        work += 2.0 * trial.iterations
        if self.checked and model.finite and _algebraic(trial) <= self.tolerance:
            model = self._matrix(linearization, memory)
            work += 2.0 * len(derivative)
            if model.finite:
                trial, model = self._inner(linearization, norm, model, radius, expected)
        if not model.finite:
            return self._lost(linearization, replace(step, work=work), memory)
        algebraic = _algebraic(trial)
        step = replace(step, dual_norm=dual_norm, radius=radius, algebraic=algebraic, work=work)
        following: Mapping[str, Array] = NOTHING
        if self.curvature and isinstance(model, Model) and model.rounding == 0.0:
            enough = faithful(model.matrix, derivative, trial, SINGLE)
            following = NOTHING if enough else {"double": np.array(1.0)}
        # What is resumed here has to begin as this did.
        return NewtonIterate(linearization, step, norm, model, trial, following, memory=memory)

    def _matrix(self, linearization: Linearization, memory: Mapping[str, Array]) -> Model:
        """Return the model of dense steps."""
        if not self.curvature:
            return Model(linearization.hessian(np.eye(len(linearization.x))))
        # Whether single precision is enough is seen when the step is there; where it was not, it rarely is next.
        if "double" not in memory:
            model = Model(linearization.gram(single=True), SINGLE)
            if model.finite:
                return model
        return Model(linearization.gram())

    def _lost(self, linearization: Linearization, step: Step, memory: Mapping[str, Array]) -> NewtonIterate:
        """Return an iterate whose derivative or model is not finite: no norm of it means anything."""
        step = replace(step, dual_norm=math.nan, algebraic=math.nan)
        return NewtonIterate(linearization, step, Euclidean(self.functional.space), None, None, NOTHING, memory=memory)

    def estimate(self, steps: Steps) -> float:
        """Return the smaller of the model's promise and the extrapolated estimate."""
        return min(float(steps[-1].algebraic), extrapolated(steps))

    def _inner(
        self, linearization: Linearization, norm: Norm, model: Model | Lanczos, radius: float, multiplier: float
    ) -> tuple[InnerStep, Model | Lanczos]:
        """Return the step within the radius, and the model that it comes from: a better one if need be."""
        derivative = linearization.derivative
        if isinstance(model, Model):
            step: InnerStep | None = None
            if self.curvature:
                step = definite(model.matrix, derivative, norm, radius, multiplier, model.rounding)
                if step is None and model.rounding > 0.0:
                    model = Model(linearization.gram())
                    step = definite(model.matrix, derivative, norm, radius, multiplier)
            return step or more_sorensen(model.matrix, derivative, norm, radius), model
        accuracy = self.accuracy or inner_accuracy(model.size, linearization.value)
        return truncated(model, radius, accuracy, max(accuracy, ROUGH), 2 * len(derivative) + 10), model

    def _landed(self, iterate: NewtonIterate, trial: InnerStep, model: Model | Lanczos) -> Landing:
        """Return where a step ends; one of a factorized curvature follows the valley as far as the chord method can."""
        here, factor = iterate.linearization, trial.factor

        def land(step: Array) -> Landing:
            there = self.functional.linearize(here.x + step)
            return Landing(there, step, _ratio(iterate, trial, step, there))

        def remainder(landing: Landing) -> Array | None:
            assert isinstance(model, Model)
            ahead = here.mixed(landing.point)
            return None if ahead is None else ahead - here.derivative - model.matrix @ landing.step

        def solve(dual: Array) -> Array:
            return np.asarray(lapack.dpotrs(factor, -dual, lower=1)[0])

        plain = land(trial.step)
        # Corrections know nothing of balls.
        if factor is None or self.ball is not None:
            return plain
        return corrected(plain, trial.decrease, land, remainder, solve, iterate.norm.norm, always=True)

    def advance(self, iterate: Iterate) -> Iterate | Status:
        """Reduce the radius until a step is accepted."""
        assert isinstance(iterate, NewtonIterate)
        there, row = self.moved(iterate)
        return there if isinstance(there, Status) else self.assess(there, row, iterate.following)

    def moved(self, iterate: NewtonIterate) -> tuple[Linearization | Status, Step]:
        """Return the next point, and its row of the table as far as it is known without a model there.

        If there is none, then why, and the last row with the work that this took.
        """
        here, last, norm = iterate.linearization, iterate.step, iterate.norm
        trial, model = iterate.trial, iterate.model
        if trial is None or model is None:
            return Status.NOT_FINITE, last
        work, inner, radius = last.work, max(trial.iterations, 1), last.radius
        exhausted = Status.EXHAUSTED if trial.decrease <= NOISE * abs(here.value) else Status.STAGNATED
        while True:
            if not trial.decrease > 0.0:
                return Status.EXHAUSTED if model.finite else Status.NOT_FINITE, replace(last, work=work)
            landing, length = self._landed(iterate, trial, model), norm.norm(trial.step)
            there, known = landing.point, not math.isnan(landing.contraction)
            work += VALUE_WORK * landing.corrections + (1.0 - VALUE_WORK) * landing.remainders
            if landing.ratio >= ACCEPT:
                break
            if max(abs(here.value - there.value), trial.decrease) <= ROUNDING * abs(here.value):
                # The ratio took a derivative.
                return exhausted, replace(last, work=work + 1.0)
            radius = (landing.factor(accepted=False) if known else SHRINK) * min(radius, length)
            if radius <= np.finfo(float).eps * max(norm.norm(here.x), np.finfo(float).tiny):
                return Status.STAGNATED, replace(last, work=work + VALUE_WORK)
            expected = _expected(trial.multiplier, length, radius)
            trial, model = self._inner(here, norm, model, radius, expected)
            inner += max(trial.iterations, 1)
            work += 2.0 * trial.iterations + VALUE_WORK
        if trial.boundary and known:
            radius = landing.factor(accepted=True) * max(radius, length)
        elif trial.boundary and landing.ratio > GOOD:
            radius = GROW * max(radius, length)
        length, ratio = norm.norm(landing.step), landing.ratio
        row = Step(last.number + 1, there.value, math.nan, length, radius, ratio, trial.multiplier)
        return there, replace(row, inner=inner, work=work, contraction=landing.contraction)


def _algebraic(trial: InnerStep) -> float:
    """Return the estimate of the model: none on the boundary, where it promises more than it can be trusted with."""
    return math.inf if trial.boundary else math.sqrt(2.0 * max(trial.decrease, 0.0))


def _first_radius(
    linearization: Linearization, norm: Norm, model: Model | Lanczos, dual_norm: float, tolerance: float
) -> float:
    """Length of the minimizer along steepest descent.

    Where that promises less than the tolerance the point may be a solution.  Whether it is, only a step of Newton's
    method can say, which a radius of that size would not admit.
    """
    if dual_norm == 0.0:
        return 1.0
    if isinstance(model, Model):
        descent = norm.riesz(linearization.derivative)
        bend = float(descent @ model.matrix @ descent) / dual_norm**2
    else:
        bend = model.steepest()
    radius, size = dual_norm / bend if bend > 0.0 else 0.0, max(1.0, norm.norm(linearization.x))
    return radius if bend > 0.0 and dual_norm * radius >= tolerance**2 else max(radius, size)


def _ratio(iterate: NewtonIterate, trial: InnerStep, step: Array, there: Linearization) -> float:
    """Return actual over predicted decrease; derivatives decide where the difference of the values may be rounding."""
    here = iterate.linearization
    if not math.isfinite(there.value):
        return -math.inf
    fallen = here.value - there.value
    ratio, size = fallen / trial.decrease, max(abs(fallen), trial.decrease)
    rounding = size <= ROUNDING * abs(here.value)
    if size > NOISE * abs(here.value) or (ratio >= ACCEPT and not rounding):
        return ratio
    if not iterate.norm.dual_norm(there.derivative) < iterate.step.dual_norm:
        return -math.inf if rounding else ratio
    # What a trapezoidal rule makes of both derivatives.
    slopes = -0.5 * float((here.derivative + there.derivative) @ step) / trial.decrease
    return 1.0 if rounding else slopes


def inner_accuracy(dual_norm: float, value: float) -> float:
    """Return the accuracy of steps in Krylov spaces, so that convergence is faster than linear."""
    return min(0.1, math.sqrt(dual_norm / (1.0 + abs(value))))


def _expected(multiplier: float, length: float, radius: float) -> float:
    """Return the multiplier that goes with a radius if steps get longer like ``multiplier^-1/2``; 0 if none is known.

    Steps of networks nearly do, over many decades.
    """
    expected = multiplier * (length / radius) ** 2
    return expected if math.isfinite(expected) else 0.0


def trust_region(
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
    """Minimize any functional by a trust-region Newton method.

    Negative curvature is used.  Where the derivative vanishes Krylov spaces cannot see it, the dense Hessian can: up to
    30 coefficients it has the last word, so that a solve does not end at a saddle.

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
        Of the solve before, or of the interrupted one.
    observer : callable, optional
        Called with a `Snapshot` after every step.
    max_steps, max_seconds : optional
        Limits; reaching one is a status, not an error.
    dense : bool, optional
        Steps from the dense Hessian (Moré and Sorensen) instead of steps in Krylov spaces (`dnnfem.solvers.gltr`);
        default with `curvature` for at most 2000 coefficients, and with a relative tolerance for at most 30.  With a
        number, steps in Krylov spaces need fewer products, and for at most 30 coefficients one that meets the tolerance
        is computed once more from the dense Hessian.
    curvature : bool
        Use the positive semidefinite part of the Hessian only: for sums of squares the method of Levenberg and
        Marquardt, with normal equations; if dense, steps follow valleys that bend.  The fastest choice for penalized
        problems and many samples.

    Returns
    -------
    Result

    Raises
    ------
    ValueError
        If `x`, `tolerance`, `norm`, `state`, `dense` or a limit do not fit.
    Interrupted
        On Ctrl-C, after the observer has seen the last iterate; the exception carries the result.

    References
    ----------
    Conn, Gould and Toint, Trust-Region Methods (2000), ch. 6 and 7.

    Gould, Lucidi, Roma and Toint, SIAM J. Optim. 9 (1999) 504-525.

    Transtrum and Sethna, arXiv:1201.5885, and Fan, Math. Comp. 81 (2012) 447-466 (corrections of steps).

    Examples
    --------
    >>> t = np.linspace(-1.0, 1.0, 100)
    >>> J = fem.Regression(t, np.exp(t)).on(fem.FeedforwardSpace(inputs=1, hidden=(4,), outputs=1))
    >>> result = fem.trust_region(J, J.space.initial(seed=0), fem.relative(1e-3))
    >>> print(result.status.value)
    converged: the dual norm of the derivative is below the tolerance
    """
    small = is_dense(dense, functional.space.dim, DENSE_LIMIT["curvature" if curvature else "hessian"])
    # What is relative to the start says nothing of a single step.
    checked = small and dense is None and not curvature and not isinstance(tolerance, Relative)
    dense = small and not checked
    if norm is None and curvature and dense:
        norm = jacobi
    tolerance = check_tolerance(tolerance)
    aim = 0.0 if isinstance(tolerance, Relative) else tolerance
    method = TrustRegion(functional, norm, dense, curvature, tolerance=aim, checked=checked)
    return iterate(functional, x, method, tolerance, state, observer, Limits(max_steps, max_seconds))
