"""Affine covariant Newton method for systems of equations, with error-oriented damping (NLEQ-ERR)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import lapack

from dnnfem.functionals import Functional, Linearization, Metric
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
from dnnfem.solvers.trust_region import VALUE_WORK


@dataclass(frozen=True, eq=False)
class Triangular:
    """A square matrix as ``R^-1 L U C^-1``, with its rows and columns brought to about the same size.

    The scales are powers of two: they change no digit, but what is called singular does not depend on units.
    """

    factors: Array
    pivots: Array
    rows: Array
    columns: Array

    @classmethod
    def of(cls, matrix: Array) -> Triangular | None:
        """Factorize a finite matrix; None if it is singular to working precision."""
        columns = _scales(np.abs(matrix).max(axis=0))
        rows = _scales((np.abs(matrix) * columns).max(axis=1))
        scaled = np.asfortranarray(rows[:, None] * matrix * columns)
        size = float(np.abs(scaled).sum(axis=0).max())
        factors, pivots, info = lapack.dgetrf(scaled, overwrite_a=1)
        if info != 0:
            return None
        reciprocal, _ = lapack.dgecon(factors, size)
        return cls(factors, pivots, rows, columns) if reciprocal > EPS else None

    def solve(self, right: Array) -> Array:
        """Return the solution for a right-hand side, shape (n,)."""
        return np.asarray(lapack.dgetrs(self.factors, self.pivots, self.rows * right)[0]) * self.columns


def _scales(sizes: Array) -> Array:
    """Return powers of two next to the reciprocals of positive sizes, one for zero."""
    return np.exp2(-np.round(np.log2(sizes, out=np.zeros_like(sizes), where=sizes > 0.0)))


@dataclass(frozen=True, eq=False)
class Covariant:
    """Damped corrections ``F'(x) D = -F(x)``; see `nleq_err`."""

    functional: Functional
    metric: Metric | None
    tolerance: float

    def assess(self, linearization: Linearization, step: Step, memory: Mapping[str, Array] = NOTHING) -> Iterate:
        """Factorize the matrix and compute the correction, whose length is the dual norm of the natural level."""
        return self._at(linearization, step, memory, None)

    def _at(
        self,
        linearization: Linearization,
        step: Step,
        memory: Mapping[str, Array],
        before: tuple[Corrected, Trial] | None,
    ) -> Iterate:
        system = dense_system(linearization, "nleq_err")
        if system.shape[0] != system.shape[1]:
            raise ValueError(
                f"functional: got {system.shape[0]} equations in {system.shape[1]} coefficients, expected as many; "
                "try nlscon"
            )
        norm = norm_at(self.metric, self.functional, linearization)
        step = replace(step, work=step.work + MATRIX_WORK)
        if not (np.isfinite(system.matrix).all() and np.isfinite(system.residual).all()):
            return Iterate(linearization, replace(step, dual_norm=math.nan, algebraic=math.nan), memory=memory)
        if not system.residual.any():
            # Solved, even where the matrix is singular.
            return Iterate(linearization, replace(step, dual_norm=0.0, algebraic=0.0), memory=memory)
        factor = Triangular.of(system.matrix)
        if factor is None:
            return Iterate(linearization, step, memory=memory, status=Status.SINGULAR)
        correction = -factor.solve(system.residual)
        length = norm.norm(correction)
        damping = float(memory.get("damping", 1.0))
        if before is not None:
            last, trial = before
            simplified = trial.simplified
            # With one and the same right-hand side this is what the matrix has changed along the simplified correction.
            defect = norm.norm(simplified - correction)
            lengths = norm.norm(last.correction), norm.norm(simplified)
            damping = predicted(trial.damping, *lengths, defect, length)
        largest = scale(memory, linearization.x)
        # Squares of tiny corrections underflow.
        algebraic = 0.0 if length == 0.0 else step.algebraic if math.isfinite(step.algebraic) else math.inf

        def noise() -> float:
            errors = signs(len(correction)) * (np.abs(system.matrix) @ largest + np.abs(system.residual))
            return EPS * norm.norm(factor.solve(errors))

        return Corrected(
            linearization,
            replace(step, dual_norm=length, algebraic=algebraic),
            norm,
            system.matrix,
            correction,
            lambda residual: -factor.solve(residual),
            noise,
            damping,
            memory={"damping": np.array(damping), "scale": largest},
        )

    def estimate(self, steps: Steps) -> float:
        """Return the length of the simplified correction after a full step; infinite while steps are damped."""
        return float(steps[-1].algebraic)

    def advance(self, iterate: Iterate) -> Iterate | Status:
        """Take a damped step; where the simplified correction meets the tolerance, take that as well."""
        assert isinstance(iterate, Corrected)
        trial = damped(self.functional, iterate, self.tolerance)
        if isinstance(trial, Status):
            return trial
        row = replace(
            trial.row(iterate.step, iterate.norm.norm(iterate.correction)),
            algebraic=trial.length if trial.full else math.inf,
        )
        if row.algebraic <= self.tolerance:
            finished = self._finished(iterate, trial, row)
            if finished is not None:
                return finished
        return self._at(trial.linearization, row, iterate.memory, (iterate, trial))

    def _finished(self, last: Corrected, trial: Trial, row: Step) -> Iterate | None:
        """Add the simplified correction; None if the functional is not finite there."""
        there = self.functional.linearize(trial.linearization.x + trial.simplified)
        residual = there.residual()
        assert residual is not None
        left = last.norm.norm(last.solve(residual)) if math.isfinite(there.value) else math.nan
        if not math.isfinite(left):
            return None
        length = last.norm.norm(last.correction + trial.simplified)
        work = row.work + VALUE_WORK
        return Iterate(there, replace(row, value=there.value, dual_norm=left, length=length, work=work))


def nleq_err(
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
    """Solve a system of as many equations as unknowns, ``F(x) = 0``, by an affine covariant damped Newton method.

    Iterates, damping and stopping do not change if ``F`` is replaced by ``A F`` with any regular matrix: lengths of
    corrections decide, never lengths of residuals.  The value of the functional, ``|F|^2 / 2``, may well rise.

    The table has the damping factor, ``[omega] = 2 |B - (1 - lambda) D| / (lambda |D|)^2`` for the correction ``D``
    and the simplified one ``B`` at the trial point, an estimate of the constant in
    ``|F'(x)^-1 (F'(x + s D) - F'(x)) D| <= s omega |D|^2``, and the contraction ``|B| / |D|``.

    Parameters
    ----------
    functional : Functional
        With a square least-squares system, e.g. ``from_callables(n, residual=F, jacobian=dF)``.
    x : array, shape (dim,)
        Starting point.
    tolerance : float or relative(...)
        A float bounds the length of the last simplified correction, an estimate of the error before that correction
        was added; `dnnfem.relative` the length of the Newton correction against the first one.
    norm : Norm or metric, optional
        In which corrections are measured; default Euclidean.
    state : State, optional
        Of the interrupted solve.
    observer : callable, optional
        Called with a `Snapshot` after every step.
    max_steps, max_seconds : optional
        Limits; reaching one is a status, not an error.

    Returns
    -------
    Result
        A singular matrix and a damping factor that is too small are statuses.

    Raises
    ------
    ValueError
        If the system is not square or has no Jacobian, or `x`, `tolerance`, `norm`, `state` or a limit do not fit.
    Interrupted
        On Ctrl-C, after the observer has seen the last iterate; the exception carries the result.

    References
    ----------
    Deuflhard, Newton Methods for Nonlinear Problems (2004), section 3.3; Nowak and Weimann, ZIB TR 91-10 (1991).
    """
    tolerance = check_tolerance(tolerance)
    method = Covariant(functional, norm, 0.0 if isinstance(tolerance, Relative) else tolerance)
    return iterate(functional, x, method, tolerance, state, observer, Limits(max_steps, max_seconds))
