"""Affine conjugate Newton method for functionals with a positive definite Hessian, exact and inexact."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import lapack

from dnnfem.functionals import Functional, Linearization, Metric, Norm, Scaled, Shifted, Sum, Tikhonov
from dnnfem.norms import Euclidean, Weighted
from dnnfem.records import Array, Relative, Result, State, Status, Step, Steps
from dnnfem.solvers.conjugate_gradients import check_bound, conjugate_gradients
from dnnfem.solvers.dense import is_dense, signs
from dnnfem.solvers.iteration import (
    NOTHING,
    Iterate,
    Limits,
    Observer,
    Tolerance,
    check_tolerance,
    iterate,
    norm_at,
    product_of,
)
from dnnfem.solvers.trust_region import DENSE_LIMIT, NOISE, ROUNDING, VALUE_WORK

INNER = 0.5
"""``rho``: share of the inner error in what the nonlinearity leaves anyway."""

STANDARD = 0.25
"""Relative inner accuracy as long as nothing is known of the nonlinearity, and without upper bounds the least one for
whatever tolerance: the energy of the correction, of which the estimate is made, would not be known to any digit."""

FINEST = 1e-8
"""Least relative inner accuracy: that is enough for quadratic convergence, and more is soon lost in rounding."""

SHARE = 0.1
"""Inner errors in the energy norm, or residuals, below this part of the tolerance are not worth another product."""

LIMIT = 10
"""Products for a correction, per coefficient: where rounding delays conjugate gradients, a new start delays them more.
"""

LEAST = 1e-10
"""Damping factors below this are not tried."""

LOCAL = 0.5
"""Up to this ``[h]`` the energy of the correction is an estimate of what is left."""


@dataclass(frozen=True, eq=False)
class Correction:
    """An exact or inexact solution of ``H D = -J'(x)``.

    Attributes
    ----------
    step : array, shape (dim,)
        ``D``, primal.
    energy : float
        ``-<J'(x), D>``.
    bend : float
        ``<D, H D>``: the same for a Galerkin solution, but for rounding, which conjugate gradients amplify.
    error : float
        Estimate of the error of ``D`` in the energy norm.
    inner : int
        Products for an inexact one.
    work : float
    factor : array, shape (dim, dim), or None
        Cholesky factor of exact ones.
    definite : bool
        Whether ``H`` is positive definite, as far as that was seen; else ``D`` is of no use.
    """

    step: Array
    energy: float
    bend: float
    error: float
    inner: int
    work: float
    factor: Array | None = None
    definite: bool = True


@dataclass(frozen=True, eq=False)
class Energy(Iterate):
    """An iterate with its norm, its correction, and ``[omega]`` of the step before; zero if there is none."""

    norm: Norm
    correction: Correction
    omega: float


@dataclass(frozen=True, eq=False)
class Conjugate:
    """Damped corrections ``J''(x) D = -J'(x)``; see `newton`."""

    functional: Functional
    metric: Metric | None
    dense: bool
    curvature: bool
    lower_bound: float | None
    tolerance: Tolerance

    def assess(self, linearization: Linearization, step: Step, memory: Mapping[str, Array] = NOTHING) -> Iterate:
        """Compute the correction and its energy, the estimate of the algebraic error."""
        return self._at(linearization, step, memory, math.nan)

    def _at(self, linearization: Linearization, step: Step, memory: Mapping[str, Array], before: float) -> Iterate:
        norm = norm_at(self.metric, self.functional, linearization)
        dual_norm = norm.dual_norm(linearization.derivative)
        omega, first = float(memory.get("omega", 0.0)), float(memory.get("first", dual_norm))
        memory = {"omega": np.array(omega), "first": np.array(first)}
        step = replace(step, dual_norm=dual_norm, work=step.work + 1.0)
        if not math.isfinite(dual_norm):
            return Iterate(linearization, replace(step, dual_norm=math.nan, algebraic=math.nan), memory=memory)
        correction = self._exact(linearization) if self.dense else self._inexact(linearization, norm, omega, first)
        step = replace(step, work=step.work + correction.work)
        if not correction.definite:
            along = product_of(linearization, self.curvature)(norm.riesz(linearization.derivative))
            status = Status.INDEFINITE if np.isfinite(along).all() else Status.NOT_FINITE
            return Iterate(linearization, step, memory=memory, status=status)
        energy = correction.energy
        whole = math.sqrt(energy + correction.error**2)
        contraction = math.sqrt(energy / before) if before > 0.0 else math.nan
        if energy > 0.0 and self.curvature:
            whole = whole / (1.0 - contraction) if contraction < 1.0 else math.inf
        elif energy > 0.0:
            whole = whole if 0.0 < omega * math.sqrt(energy) <= LOCAL else math.inf
        step = replace(step, algebraic=whole, contraction=contraction)
        return Energy(linearization, step, norm, correction, omega, memory=memory)

    def _exact(self, linearization: Linearization) -> Correction:
        """Return the correction by Cholesky factorization."""
        dim, derivative = len(linearization.x), linearization.derivative
        work = 2.0 if self.curvature else 2.0 * dim
        matrix = linearization.gram() if self.curvature else linearization.hessian(np.eye(dim))
        factor, info = lapack.dpotrf(matrix, lower=1, clean=0)
        if info != 0 or not np.isfinite(factor[-1, -1]):
            return Correction(np.zeros(dim), 0.0, 0.0, math.inf, 0, work, definite=False)
        correction, _ = lapack.dpotrs(factor, -derivative, lower=1)
        energy = max(0.0, -float(derivative @ correction))
        return Correction(np.asarray(correction), energy, energy, 0.0, 0, work, factor)

    def _inexact(self, linearization: Linearization, norm: Norm, omega: float, first: float) -> Correction:
        """Return a correction by conjugate gradients, `first` the dual norm at the start."""
        derivative, tolerance = linearization.derivative, self.tolerance
        least, small = (0.0, tolerance.factor * first) if isinstance(tolerance, Relative) else (tolerance, 0.0)

        bound = self.lower_bound
        if bound is None:
            bound = penalized(self.functional, norm) if self.curvature else 0.0
        # With an upper bound the estimate is right whatever part of it the error is.
        roughest = math.inf if bound > 0.0 else STANDARD

        def accuracy(size: float) -> float:
            h = omega * size
            relative = INNER * h / (h + math.sqrt(4.0 + h * h)) if omega > 0.0 else STANDARD
            return max(relative, FINEST, min(roughest, SHARE * least / size))

        found = conjugate_gradients(
            product_of(linearization, self.curvature),
            derivative,
            norm,
            accuracy,
            LIMIT * len(derivative),
            bound,
            SHARE * small,
        )
        energy = -float(derivative @ found.step)
        bend = energy + float(found.residual @ found.step)
        return Correction(
            found.step,
            max(0.0, energy),
            bend,
            found.error,
            found.iterations,
            2.0 * found.iterations,
            definite=not found.indefinite,
        )

    def estimate(self, steps: Steps) -> float:
        """Return the energy norm of the correction; infinite while that says little about what is left.

        Without a part of the Hessian convergence is linear: corrections are then summed up as a geometric series.
        """
        return float(steps[-1].algebraic)

    def advance(self, iterate: Iterate) -> Iterate | Status:
        """Damp the correction until the value falls as it should."""
        assert isinstance(iterate, Energy)
        here, omega, correction = iterate.linearization, iterate.omega, iterate.correction
        energy = correction.energy
        if not energy > 0.0:
            return Status.EXHAUSTED
        damping = optimal(omega * math.sqrt(energy))
        # Below this, differences of values say nothing; between, they say little.
        lost, doubtful = energy <= ROUNDING * abs(here.value), energy <= NOISE * abs(here.value)
        trials, slack = 0, ROUNDING * max(abs(here.value), energy)
        while damping >= LEAST:
            there = self.functional.linearize(here.x + damping * correction.step)
            trials += 1
            if not math.isfinite(there.value):
                damping *= 0.5
                continue
            fall = here.value - there.value
            wanted = damping / 3.0 if self.curvature else damping * (damping + 2.0) / 6.0
            h = _nonlinearity(there, correction, damping)
            accepted = fall >= wanted * energy - slack and not lost
            if accepted or (doubtful and _smaller(there, iterate)):
                break
            if lost:
                return Status.EXHAUSTED
            reduced = optimal(h) if math.isfinite(h) else 0.5 * damping
            damping = reduced if trials == 1 else min(reduced, 0.5 * damping)
        else:
            return Status.EXHAUSTED if doubtful else Status.STAGNATED
        omega = omega if lost else h / math.sqrt(energy)
        row = Step(
            iterate.step.number + 1,
            there.value,
            length=damping * iterate.norm.norm(correction.step),
            ratio=math.nan if lost else fall / (damping * (1.0 - 0.5 * damping) * energy),
            damping=damping,
            omega=omega,
            inner=trials if self.dense else correction.inner,
            work=iterate.step.work + VALUE_WORK * trials,
        )
        return self._at(there, row, {**iterate.memory, "omega": np.array(omega)}, energy)


def optimal(h: float) -> float:
    """Return the damping factor that makes the most of the bound ``(-s + s^2/2 + s^3 h/6) eps`` of what is gained."""
    return 2.0 / (1.0 + math.sqrt(1.0 + 2.0 * h))


def _nonlinearity(there: Linearization, correction: Correction, damping: float) -> float:
    """Return ``[h]``, from the derivative along the correction at a trial point, and not less than rounding."""
    slope = float(there.derivative @ correction.step)
    left = slope + correction.energy - damping * correction.bend
    return max(2.0 * abs(left) / (damping**2 * correction.energy), ROUNDING)


def _smaller(there: Linearization, iterate: Energy) -> bool:
    """Whether the derivative is smaller than before: in the energy norm if the matrix has a factor."""
    factor = iterate.correction.factor
    if factor is None:
        return iterate.norm.dual_norm(there.derivative) < iterate.step.dual_norm
    half, _ = lapack.dtrtrs(factor, there.derivative, lower=1)
    return bool(float(half @ half) < iterate.correction.energy)


def penalized(functional: Functional, norm: Norm) -> float:
    """Return ``alpha`` with ``alpha |v|^2 <= <C v, v>`` for the curvature ``C``, from the penalties of a functional.

    Penalties in the same norm count, and those in norms with a diagonal; zero if there are none.
    """
    return max(_bound(functional, norm), 0.0)


def _bound(functional: Functional, norm: Norm) -> float:
    if isinstance(functional, Sum):
        return sum(_bound(term, norm) for term in functional.terms)
    if isinstance(functional, Shifted):
        return _bound(functional.functional, norm)
    if isinstance(functional, Scaled):
        if functional.factor < 0.0:
            return -math.inf
        return functional.factor * _bound(functional.functional, norm) if functional.factor > 0.0 else 0.0
    if not isinstance(functional, Tikhonov):
        return 0.0
    own = functional.norm
    if all(isinstance(each, Euclidean | Weighted) for each in (own, norm)):
        ones = np.ones(norm.dim)
        return functional.alpha * float(np.min(own.apply(ones) / norm.apply(ones)))
    # Two norms that agree on a vector without a pattern are the same.
    probe = signs(norm.dim)
    return functional.alpha if np.array_equal(own.apply(probe), norm.apply(probe)) else 0.0


def penalty_norm(functional: Functional) -> Norm | None:
    """Return the norm of the first penalty of a functional; None if there is none."""
    if isinstance(functional, Tikhonov):
        return functional.norm if functional.alpha > 0.0 else None
    if isinstance(functional, Scaled | Shifted):
        return penalty_norm(functional.functional)
    terms = functional.terms if isinstance(functional, Sum) else ()
    return next((norm for norm in map(penalty_norm, terms) if norm is not None), None)


def newton(
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
    lower_bound: float | None = None,
) -> Result:
    """Minimize a functional with a positive definite Hessian by an affine conjugate damped Newton method.

    Convex problems: penalized sums of squares with affine models, logistic regression, convex energies, or any
    functional close enough to a minimizer.  Exact corrections do not depend on the basis of the coefficients:
    ``J(B y)`` has the iterates ``B^-1 x_k``.  Inexact ones come from conjugate gradients, as accurate as the
    nonlinearity makes worthwhile, and are as independent if the norm changes along.

    The table has the damping factor, ``[omega]``, an estimate of the constant in
    ``|<(J''(x + s D) - J''(x)) D, D>| <= s omega |D|_H^3``, the ratio of the energy norms of two corrections in a
    row as contraction, and actual over predicted decrease.

    Parameters
    ----------
    functional : Functional
        What to minimize.
    x : array, shape (dim,)
        Starting point.
    tolerance : float or relative(...)
        A float bounds the energy norm of the correction, an estimate of ``sqrt(2 (J(x) - min J))`` once ``[h]`` is at
        most a half (with `curvature` divided by one minus the contraction instead), `dnnfem.relative` the dual norm of
        the derivative.
    norm : Norm or metric, optional
        Preconditioner of conjugate gradients, and what dual norms and the length of corrections are measured in;
        default that of the first penalty of the functional, else Euclidean.
    state : State, optional
        Of the interrupted solve.
    observer : callable, optional
        Called with a `Snapshot` after every step.
    max_steps, max_seconds : optional
        Limits; reaching one is a status, not an error.
    dense : bool, optional
        Exact corrections by Cholesky factorization; default for at most 30 coefficients, with `curvature` 2000.
    curvature : bool
        Use the positive semidefinite part of the Hessian only.  Convergence is linear where the rest matters.
    lower_bound : float, optional
        ``alpha`` with ``alpha |v|^2 <= <H v, v>`` for all ``v``, in `norm`: it gives upper bounds of inner errors.
        Default with `curvature` what the penalties of the functional guarantee, else none.  One that proves to be false
        is not used in the step where it does.

    Returns
    -------
    Result
        That the Hessian is not positive definite is a status.  Conjugate gradients need not notice it.  What they leave
        at their limit of ``10 dim`` products is part of the estimate, and infinite if it is not known.

    Raises
    ------
    ValueError
        If `x`, `tolerance`, `norm`, `state`, `dense`, `lower_bound` or a limit do not fit.
    Interrupted
        On Ctrl-C, after the observer has seen the last iterate; the exception carries the result.

    References
    ----------
    Deuflhard, Newton Methods for Nonlinear Problems (2004), section 3.4.
    """
    tolerance = check_tolerance(tolerance)
    lower_bound = None if lower_bound is None else check_bound(lower_bound, ", or None")
    dense = is_dense(dense, functional.space.dim, DENSE_LIMIT["curvature" if curvature else "hessian"])
    metric = penalty_norm(functional) if norm is None else norm
    method = Conjugate(functional, metric, dense, curvature, lower_bound, tolerance)
    return iterate(functional, x, method, tolerance, state, observer, Limits(max_steps, max_seconds))
