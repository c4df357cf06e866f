"""Damped corrections along a Newton path, measured by their lengths: what equations and least squares share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from dnnfem.functionals import Functional, Linearization, Norm
from dnnfem.kernels.least_squares import DenseLeastSquares
from dnnfem.records import Array, Status, Step
from dnnfem.solvers.iteration import Iterate
from dnnfem.solvers.trust_region import VALUE_WORK

LEAST = 1e-10
"""Damping factors below this are not tried."""

LONGER = 4.0
"""An accepted damping factor is tried anew if the trial says that one this much larger is possible."""

FALL = 0.1
"""A rejected damping factor falls at most by this: a trial far away says little about where linearization ends."""

NOISE = 10.0
"""Corrections up to this multiple of what rounding makes of them are rounding."""

MATRIX_WORK = 2.0
"""Work of a value, a derivative, and a matrix."""

EPS = float(np.finfo(float).eps)


@dataclass(frozen=True, eq=False)
class Corrected(Iterate):
    """An iterate with its correction ``D = -A^+ r(x)``.

    Attributes
    ----------
    norm : Norm
        In which corrections are measured.
    matrix : array, shape (rows, dim)
        ``A``.
    correction : array, shape (dim,)
        ``D``, primal.
    solve : callable
        ``s -> -A^+ s`` for residual vectors, primal.
    noise : callable
        ``() -> `` length of what rounding makes of ``D``.
    damping : float
        Predicted damping factor, at most one.
    """

    norm: Norm
    matrix: Array
    correction: Array
    solve: Callable[[Array], Array]
    noise: Callable[[], float]
    damping: float


@dataclass(frozen=True, eq=False)
class Trial:
    """A trial point ``x + lambda D`` with the simplified correction ``B = -A^+ r(x + lambda D)``.

    Attributes
    ----------
    linearization : Linearization
        At the trial point.
    damping : float
        ``lambda``.
    simplified : array, shape (dim,)
        ``B``, primal.
    length, defect : float
        Lengths of ``B`` and of ``B - (1 - lambda) D``.
    contraction : float
        ``Theta = |B| / |D|``.
    omega : float
        ``[omega] = 2 |B - (1 - lambda) D| / (lambda |D|)^2``; NaN if the difference is rounding.
    possible : float
        ``1 / ([omega] |D|)``, the largest damping factor that this estimate allows, perhaps larger than one.
    trials : int
        Trial points up to this one.
    small : bool
        Whether a full step and the correction after it are both below the tolerance.
    """

    linearization: Linearization
    damping: float
    simplified: Array
    length: float
    defect: float
    contraction: float
    omega: float
    possible: float
    trials: int
    small: bool

    @property
    def full(self) -> bool:
        """Whether the full step was taken and the estimate allows it: the phase of local convergence."""
        return self.damping == 1.0 and (self.possible >= 1.0 or self.small)

    def row(self, last: Step, length: float) -> Step:
        """Return the row of the table for the step to this point, `length` that of ``D``."""
        return Step(
            last.number + 1,
            self.linearization.value,
            length=self.damping * length,
            damping=self.damping,
            omega=self.omega,
            contraction=self.contraction,
            inner=self.trials,
            work=last.work + VALUE_WORK * self.trials,
        )


def damped(functional: Functional, here: Corrected, tolerance: float) -> Trial | Status:
    """Return the first trial point whose simplified correction is short enough, ``Theta <= 1 - lambda/4``.

    The damping begins with its prediction.  A rejected factor is replaced by what the trial allows, between its tenth
    and its half; an accepted one is tried anew, once, if the trial allows four times as much.

    References
    ----------
    Deuflhard, Newton Methods for Nonlinear Problems (2004), algorithm NLEQ-ERR.
    """
    length = here.norm.norm(here.correction)
    damping, reduced, trials = here.damping, False, 0
    while damping >= LEAST:
        trials += 1
        trial = _try(functional, here, damping, length, trials, tolerance)
        if trial is None:
            damping, reduced = 0.5 * damping, True
        elif not trial.small and not trial.contraction <= 1.0 - 0.25 * damping:
            if length <= NOISE * here.noise():
                return Status.EXHAUSTED
            damping, reduced = max(min(trial.possible, 0.5 * damping), FALL * damping), True
        elif min(1.0, trial.possible) >= LONGER * damping and not reduced:
            damping, reduced = min(1.0, trial.possible), True
        else:
            return trial if trial.defect > here.noise() else replace(trial, omega=math.nan)
    return Status.LEAST_DAMPING


def _try(
    functional: Functional, here: Corrected, damping: float, length: float, trials: int, tolerance: float
) -> Trial | None:
    """Evaluate a trial point; None if it is not finite."""
    there = functional.linearize(here.linearization.x + damping * here.correction)
    if not math.isfinite(there.value):
        return None
    residual = there.residual()
    assert residual is not None
    simplified = here.solve(residual)
    if not np.isfinite(simplified).all():
        return None
    after = here.norm.norm(simplified)
    defect = here.norm.norm(simplified - (1.0 - damping) * here.correction)
    possible = 0.5 * length * damping**2 / defect if defect > 0.0 else math.inf
    omega = 2.0 * (defect / (damping * length)) / (damping * length)
    small = damping == 1.0 and max(length, after) <= tolerance
    return Trial(there, damping, simplified, after, defect, after / length, omega, possible, trials, small)


def predicted(last: float, before: float, simplified: float, defect: float, length: float) -> float:
    """Return the damping factor that the step before predicts, at most one.

    It is ``1 / ([omega] |D_k|)`` with ``[omega] = defect / (lambda |D_{k-1}| |B_k|)``: what the matrix has changed over
    the step before, along its simplified correction ``B_k``.

    Parameters
    ----------
    last : float
        ``lambda`` of the step before.
    before, simplified, length : float
        ``|D_{k-1}|``, ``|B_k|``, ``|D_k|``.
    defect : float
        ``|A_k^+ (A_{k-1} - A_k) B_k|``.
    """
    product = defect * length
    return min(1.0, last * before * simplified / product) if product > 0.0 else 1.0


def scale(memory: Mapping[str, Array], x: Array) -> Array:
    """Return how large each coefficient has been so far: what rounding is relative to."""
    return np.maximum(memory["scale"], np.abs(x)) if "scale" in memory else np.abs(x)


def dense_system(linearization: Linearization, solver: str) -> DenseLeastSquares:
    """Return the least-squares system of a functional, with all rows.

    Raises
    ------
    ValueError
        If the functional is no sum of squares, or its rows are on a device or were compressed.
    """
    system = linearization.system()
    if system is None or linearization.residual() is None:
        raise ValueError(
            f"functional: got one that is no sum of squares, expected residuals with a Jacobian for {solver}; "
            "try newton or trust_region"
        )
    if not isinstance(system, DenseLeastSquares) or system.reduction is not None:
        kind = "on a device" if not isinstance(system, DenseLeastSquares) else "that were compressed"
        raise ValueError(
            f"functional: got one with rows {kind}, expected all rows on the host for {solver}; try gauss_newton"
        )
    return system
