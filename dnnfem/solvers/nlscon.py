"""Affine covariant Gauss-Newton method, which says where Gauss-Newton cannot work (NLSCON)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from dnnfem.functionals import Functional, Linearization, Metric, Norm
from dnnfem.kernels.least_squares import DenseLeastSquares
from dnnfem.kernels.orthogonal import Factor
from dnnfem.records import Array, Relative, Result, State, Status, Step, Steps
from dnnfem.solvers.damping import EPS, MATRIX_WORK, Corrected, Trial, damped, dense_system, predicted, scale
from dnnfem.solvers.dense import signs
from dnnfem.solvers.iteration import (
    NOTHING,
    Iterate,
    Limits,
    Observer,
    Tolerance,
    check_tolerance,
    iterate,
    norm_at,
)

REPELLED = 2
"""Full steps in a row that turn back and do not shrink, from which on the problem counts as incompatible."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a step says about the one before.

    Attributes
    ----------
    damping : float
        Predicted damping factor.
    kappa : float
        Incompatibility factor.
    rate : float
        ``|D_k| / |D_{k-1}|``.
    back : bool
        Whether the correction turns back.
    """

    damping: float
    kappa: float
    rate: float
    back: bool


@dataclass(frozen=True, eq=False)
class GaussNewtonPath:
    """Damped corrections ``D = -r'(x)^+ r(x)``; see `nlscon`."""

    functional: Functional
    metric: Metric | None
    tolerance: float

    def assess(self, linearization: Linearization, step: Step, memory: Mapping[str, Array] = NOTHING) -> Iterate:
        """Factorize the Jacobian and compute the correction, whose length is the dual norm of the natural level."""
        return self._at(linearization, step, memory, None)

    def _at(
        self,
        linearization: Linearization,
        step: Step,
        memory: Mapping[str, Array],
        before: tuple[Corrected, Trial] | None,
    ) -> Iterate:
        system = dense_system(linearization, "nlscon")
        rows, dim = system.shape
        if rows < dim:
            raise ValueError(f"functional: got {rows} residuals in {dim} coefficients, expected at least as many")
        norm = norm_at(self.metric, self.functional, linearization)
        step = replace(step, work=step.work + MATRIX_WORK)
        if not (np.isfinite(system.matrix).all() and np.isfinite(system.residual).all()):
            return Iterate(linearization, replace(step, dual_norm=math.nan, algebraic=math.nan), memory=memory)
        if not system.residual.any():
            # Solved, even where the matrix is singular.
            return Iterate(linearization, replace(step, dual_norm=0.0, algebraic=0.0), memory=memory)
        factor = Factor.of(system.matrix)
        if factor.rank < dim:
            return Iterate(linearization, step, memory=memory, status=Status.SINGULAR)

        def solve(residual: Array) -> Array:
            return -factor.solve(factor.rotate(residual[:, None]))[:, 0]

        correction = solve(system.residual)
        length = norm.norm(correction)
        damping, repelled = float(memory.get("damping", 1.0)), int(memory.get("repelled", 0))
        algebraic = 0.0 if length == 0.0 else math.inf
        if before is not None:
            last, trial = before
            turned = _compare(norm, last, trial, correction, solve)
            damping = turned.damping
            repelled = repelled + 1 if trial.full and turned.kappa >= 1.0 and turned.back else 0
            if trial.full and damping == 1.0 and turned.rate < 1.0:
                algebraic = length / (1.0 - turned.rate)
            step = replace(step, contraction=turned.kappa)
        largest = scale(memory, linearization.x)
        return Corrected(
            linearization,
            replace(step, dual_norm=length, algebraic=algebraic),
            norm,
            system.matrix,
            correction,
            solve,
            lambda: norm.norm(solve(_errors(system, largest))) + norm.norm(_bent(system, factor)),
            damping,
            memory={"damping": np.array(damping), "repelled": np.array(float(repelled)), "scale": largest},
            status=Status.INCOMPATIBLE if repelled >= REPELLED else None,
        )

    def estimate(self, steps: Steps) -> float:
        """Return ``|D_k| / (1 - |D_k| / |D_{k-1}|)`` after a full step; infinite while steps are damped."""
        return float(steps[-1].algebraic)

    def advance(self, iterate: Iterate) -> Iterate | Status:
        """Take a damped step."""
        assert isinstance(iterate, Corrected)
        trial = damped(self.functional, iterate, self.tolerance)
        if isinstance(trial, Status):
            return trial
        # The contraction is known when the next correction is.
        row = replace(trial.row(iterate.step, iterate.norm.norm(iterate.correction)), contraction=math.nan)
        return self._at(trial.linearization, row, iterate.memory, (iterate, trial))


def _compare(
    norm: Norm, last: Corrected, trial: Trial, correction: Array, solve: Callable[[Array], Array]
) -> Comparison:
    """Split a correction into what nonlinearity leaves along the Jacobian before, and what its residual asks for.

    With the simplified correction ``B`` of the step before, the residual is ``-A_{k-1} B`` and a part orthogonal to the
    range of ``A_{k-1}``.  To the latter belongs ``D_k - A_k^+ A_{k-1} B``: it would be zero if the Jacobian had not
    changed, and is ``kappa`` times the step.
    """
    simplified, before = trial.simplified, norm.norm(last.correction)
    moved = -solve(last.matrix @ simplified)
    turned = correction - moved
    length, defect = norm.norm(correction), norm.norm(moved - simplified)
    return Comparison(
        predicted(trial.damping, before, norm.norm(simplified), defect, length),
        norm.norm(turned) / (trial.damping * before),
        length / before,
        norm.inner(turned, last.correction) < 0.0,
    )


def _errors(system: DenseLeastSquares, largest: Array) -> Array:
    """Return what rounding may make of residuals."""
    return EPS * signs(system.shape[0]) * (np.abs(system.matrix) @ largest + np.abs(system.residual))


def _bent(system: DenseLeastSquares, factor: Factor) -> Array:
    """Return what rounding of the Jacobian makes of the correction for a residual that is orthogonal to its range."""
    return EPS * factor.normal_solve(signs(system.shape[1]) * (np.abs(system.matrix).T @ np.abs(system.residual)))


def nlscon(
    functional: Functional,
    x: Array,
    tolerance: Tolerance = 1e-10,
    *,
    norm: Metric | None = None,
    state: State | None = None,
    observer: Observer | None = None,
    max_steps: int = 1000,
    max_seconds: float = math.inf,
) -> Result:
    """Minimize a sum of squares by the affine covariant damped Gauss-Newton method, where that can converge.

    Without a trust region, every step is the minimizer of the linearized problem, damped as far as the Jacobian changes
    along it.  What decides about convergence is the incompatibility factor ``kappa``, by which full steps contract in
    the end: it is zero if the residual can be made zero or the Jacobian is constant, and at least one where the
    residual at the solution is larger than the radius of curvature of what the model can reach.  Minima of that kind
    do not depend on the data in a stable way.  Iterates do not change if the residual is multiplied by an orthogonal
    matrix.

    The table has the damping factor, ``[omega]`` of `dnnfem.nleq_err` with the pseudo-inverse, and as contraction the
    incompatibility factor ``[kappa] = |r'(x_k)^+ s| / |x_k - x_{k-1}|``, ``s`` the part of the residual at ``x_k``
    that is orthogonal to the range of ``r'(x_{k-1})``.

    Parameters
    ----------
    functional : Functional
        A sum of squares: residual laws and penalties, or ``from_callables(n, residual=r, jacobian=dr)``; at least as
        many residuals as coefficients, all rows on the host (large systems, of more than two million numbers, have
        their rows compressed).
    x : array, shape (dim,)
        Starting point.
    tolerance : float or relative(...)
        A float bounds the estimate ``|D_k| / (1 - |D_k| / |D_{k-1}|)`` of the distance to the solution, after a full
        step; `dnnfem.relative` the length of the correction against the first one.
    norm : Norm or metric, optional
        In which corrections are measured; default Euclidean.  Corrections themselves do not depend on it.
    state : State, optional
        Of the interrupted solve.
    observer : callable, optional
        Called with a `Snapshot` after every step.
    max_steps, max_seconds : optional
        Limits; reaching one is a status, not an error.

    Returns
    -------
    Result
        A Jacobian whose columns are dependent to working precision, a problem that is not compatible with Gauss-Newton,
        and a damping factor that is too small are statuses.

    Raises
    ------
    ValueError
        If `functional` is no sum of squares with all rows, or has too few, or `x`, `tolerance`, `norm`, `state` or a
        limit do not fit.
    Interrupted
        On Ctrl-C, after the observer has seen the last iterate; the exception carries the result.

    References
    ----------
    Deuflhard, Newton Methods for Nonlinear Problems (2004), section 4.3; Nowak and Weimann, ZIB TR 91-10 (1991).
    """
    tolerance = check_tolerance(tolerance)
    method = GaussNewtonPath(functional, norm, 0.0 if isinstance(tolerance, Relative) else tolerance)
    return iterate(functional, x, method, tolerance, state, observer, Limits(max_steps, max_seconds))
