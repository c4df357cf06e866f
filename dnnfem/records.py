"""Frozen records that pass between the parts of an adaptive loop.

Nothing here computes.  A record is what one verb hands to the next: a solver returns a `Result`, an estimator an
`Estimate`, the control a `Decision`.  All of them are plain data, so that they can be printed, compared and archived.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from dnnfem.given import real_array, real_number
from dnnfem.notebook import table

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]


class Status(enum.Enum):
    """Why a solver stopped; the value is the sentence for the user."""

    CONVERGED = "converged: the estimated algebraic error is below the tolerance"
    STATIONARY = "converged: the dual norm of the derivative is below the tolerance"
    EXHAUSTED = "stopped: what could still be gained is lost in rounding although the tolerance is not met"
    STAGNATED = "stopped: the steps no longer reduce the value although the tolerance is not met"
    STEP_LIMIT = "stopped: the limit on the number of steps was reached"
    TIME_LIMIT = "stopped: the limit on the time was reached"
    WORK_LIMIT = "stopped: the next step would exceed the limit on the work"
    INTERRUPTED = "stopped: interrupted by the user; the last iterate is returned"
    LEAST_DAMPING = "stopped: no damping makes corrections shorter: the path ends at a singular matrix, or in rounding"
    SINGULAR = "failed: the matrix is singular to working precision at the iterate"
    INDEFINITE = "failed: the Hessian is not positive definite at the iterate; use trust_region"
    INCOMPATIBLE = (
        "failed: the residual is too large for Gauss-Newton steps to contract; use gauss_newton or trust_region"
    )
    INFEASIBLE = "failed: the constraints contradict each other near the iterate, or their derivative is singular there"
    NOT_FINITE = "failed: the value or its derivative is not finite at the iterate"

    @property
    def converged(self) -> bool:
        """Whether the goal of the solve was met."""
        return self in (Status.CONVERGED, Status.STATIONARY)

    @property
    def final(self) -> bool:
        """Whether going on from here with larger limits would change nothing."""
        limits = (Status.STEP_LIMIT, Status.TIME_LIMIT, Status.WORK_LIMIT, Status.INTERRUPTED)
        return self not in limits


@dataclass(frozen=True)
class Step:
    """One row of a solver's table; what does not apply is NaN.

    Attributes
    ----------
    number : int
        0 for the starting point.
    value : float
        ``J`` after the step.
    dual_norm : float
        Dual norm of the derivative after the step, in the norm of the solver; where the derivative is that of the
        natural level function, as in `dnnfem.nleq_err` and `dnnfem.nlscon`, it is the length of the next correction.
        NaN where only the value was asked for (`dnnfem.multilevel`).
    length : float
        Norm of the correction.
    radius : float
        Trust radius that the next step starts from.
    ratio : float
        Actual over predicted decrease.
    multiplier : float
        Lagrange multiplier of the trust radius, by which the correction was damped: 0 for a full step.
    damping : float
        Part of the Newton correction that was taken.
    omega : float
        Estimate of the affine invariant Lipschitz constant of the derivatives, as the solver defines it.
    contraction : float
        Length of the simplified correction over that of the correction before (`dnnfem.nleq_err`), the incompatibility
        factor (`dnnfem.nlscon`), or the energy norm of a correction over that of the one before (`dnnfem.newton`; of
        those of one step, the largest, where a step of a sum of squares needs corrections).
    algebraic : float
        Estimate of ``sqrt(2 (J(x) - min J))`` after the step; of `dnnfem.nleq_err` and `dnnfem.nlscon` that of the
        distance to the solution, in the norm of the solver.
    inner : int
        Inner iterations, or trial points of a solver that factorizes.
    work : float
        Work so far in units of one value with derivative.
    seconds : float
        Time so far; a record for people, never part of an algorithm.
    """

    number: int
    value: float
    dual_norm: float = math.nan
    length: float = math.nan
    radius: float = math.nan
    ratio: float = math.nan
    multiplier: float = math.nan
    damping: float = math.nan
    omega: float = math.nan
    contraction: float = math.nan
    algebraic: float = math.nan
    inner: int = 0
    work: float = 0.0
    seconds: float = 0.0


STEP_FIELDS = tuple(item.name for item in fields(Step))

TITLES = {"number": "step", "dual_norm": "dual norm"}

FORMATS = {
    "number": "d",
    "value": ".5e",
    "dual_norm": ".2e",
    "length": ".2e",
    "radius": ".2e",
    "ratio": ".2f",
    "multiplier": ".2e",
    "damping": ".2g",
    "omega": ".2e",
    "contraction": ".2g",
    "algebraic": ".2e",
    "inner": "d",
    "work": ".1f",
    "seconds": ".2f",
}
"""How the columns of a table are printed."""


@dataclass(frozen=True)
class Steps(Sequence[Step]):
    """The table of steps of one solve, a sequence of `rows`; printing it gives the table."""

    rows: tuple[Step, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __add__(self, step: Step) -> Steps:
        return Steps((*self.rows, step))

    def column(self, name: str) -> Array:
        """Return one column, e.g. ``steps.column("value")``, as an array of shape (rows,).

        Raises
        ------
        ValueError
            If there is no such column.
        """
        if name not in STEP_FIELDS:
            raise ValueError(f"name: got {name!r}, expected one of {', '.join(STEP_FIELDS)}")
        return np.array([getattr(row, name) for row in self.rows], dtype=np.float64)

    def _lines(self) -> list[list[str]]:
        """Return titles and rows, without the columns that no row has a number in."""
        shown = [name for name in FORMATS if not self.rows or not np.isnan(self.column(name)).all()]
        lines = [[format(getattr(row, name), FORMATS[name]) for name in shown] for row in self.rows]
        return [[TITLES.get(name, name) for name in shown], *lines]

    def __str__(self) -> str:
        lines = self._lines()
        width = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(" ".join(text.rjust(width[k]) for k, text in enumerate(line)) for line in lines)

    def _repr_html_(self) -> str:
        return table(self._lines())


@dataclass(frozen=True)
class Progress:
    """Where a solve stands: enough to go on with it bit for bit.

    Attributes
    ----------
    x : array, shape (dim,)
        The iterate, in the coefficients of the functional that the user passed.
    steps : Steps
        The table so far; row 0 is the starting point.
    status : Status or None
        None while the solve is running.
    memory : mapping of str to array
        What else the solver needs, such as means over the steps so far; numbers are arrays without axes.
    """

    x: Array
    steps: Steps
    status: Status | None = None
    memory: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """What a solver carries from one solve to the next.

    Attributes
    ----------
    radius : float or None
        Trust radius, a length in the solver's norm, hence meaningful on a refined space as it is.
    progress : Progress or None
        Set only if the state belongs to a solve of the *same* functional, as that of a `Snapshot` does, and
        ``result.resumable``; a solver that gets such a state goes on exactly there, within limits that count from its
        beginning, or returns the finished result at once.
    """

    radius: float | None = None
    progress: Progress | None = None


@dataclass(frozen=True)
class Snapshot:
    """What an observer is shown after every step.

    Attributes
    ----------
    step : Step
    state : State
        What a solver goes on with from here, bit for bit.
    """

    step: Step
    state: State

    @property
    def x(self) -> Array:
        """The iterate."""
        assert self.state.progress is not None
        return self.state.progress.x


@dataclass(frozen=True)
class Result:
    """What a solver returns.

    Attributes
    ----------
    x : array, shape (dim,)
        Coefficients (primal).
    status : Status
        Why the solver stopped.
    steps : Steps
        Table of the solve.
    state : State
        To be handed to the next solve, on another level or with other points.
    algebraic : float
        Estimate of ``sqrt(2 (J(x) - min J))``, the energy-like distance to the discrete solution; NaN if unknown.
    remarks : tuple of str
        Sentences, e.g. at which step a flow is not finite.
    resumable : State or None
        What the same solve goes on with, bit for bit, after an interrupt or with larger limits; one that is finished is
        returned as it is.
    """

    x: Array
    status: Status
    steps: Steps
    state: State
    algebraic: float = math.nan
    remarks: tuple[str, ...] = ()
    resumable: State | None = field(default=None, repr=False, compare=False)

    @property
    def value(self) -> float:
        """What was minimized, at `x`; where coefficients were condensed, with the tiny penalty of `dnnfem.condense`."""
        return float(self.steps[-1].value)

    def __str__(self) -> str:
        last = self.steps[-1]
        words = f"{last.number} steps, value {last.value:.5e}, algebraic {self.algebraic:.2e}, work {last.work:.1f}"
        return "\n".join([f"{self.status.value} ({words}, {last.seconds:.2f} s)", *self.remarks])

    def _repr_html_(self) -> str:
        return table(self.steps._lines(), str(self))


class Interrupted(KeyboardInterrupt):
    """The user has stopped a solve; `result` is where it stood, and what the observer was shown last.

    It ends a script like any `KeyboardInterrupt`; who catches it has a usable `Result`, and goes on with its
    `resumable`.  Where not even the start has been evaluated its value is NaN.
    """

    def __init__(self, result: Result) -> None:
        super().__init__(str(result))
        self.result = result


@dataclass(frozen=True)
class Estimate:
    """An a-posteriori estimate: a total, and one indicator per cell.

    Attributes
    ----------
    quantity : str
        What is estimated, in words: estimates of different quantities must not be compared.
    cells : sequence, length c
        What the indicators belong to; ``cells[marked]`` is what a refinement takes.
    indicators : array, shape (c,)
        Unsquared, non-negative.
    total : float
        The estimate itself; in general *not* the root of the sum of squares of the indicators.
    signed : array, shape (c,), or None
        Signed contributions whose sum is a signed total, if the estimator has them.
    parts : mapping of str to float
        Named parts of the total.
    cost : array, shape (c,), or None
        Coefficients that the refinement of each cell would add; for flows also the weights that additional steps would
        apply to each sample.
    guaranteed : bool
        Whether `total` is a proved bound.
    remarks : tuple of str
        Sentences: what speaks against trusting the estimate, seen while it was computed.

    Raises
    ------
    ValueError
        If the indicators are no real numbers in one axis, the total is no number, or cells, signed contributions or
        costs are not as many as the indicators.
    """

    quantity: str
    cells: Any
    indicators: Array
    total: float
    signed: Array | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    cost: Array | None = None
    guaranteed: bool = False
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        indicators = real_array("indicators", self.indicators, axes=1)
        object.__setattr__(self, "indicators", indicators)
        real_number("total", self.total, "a number")
        for name in ("cells", "signed", "cost"):
            values = getattr(self, name)
            if values is not None and len(values) != len(indicators):
                raise ValueError(f"{name}: got {len(values)}, expected {len(indicators)}, one per indicator")

    def __str__(self) -> str:
        parts = "".join(f", {name} {value:.3g}" for name, value in self.parts.items())
        line = f"{self.quantity}: {self.total:.4e} ({len(self.indicators)} cells{parts})"
        return "\n".join([line, *self.remarks])

    def _repr_html_(self) -> str:
        return table([["part", "value"], *([name, f"{value:.4e}"] for name, value in self.parts.items())], str(self))


@dataclass(frozen=True)
class Decision:
    """What to do next: refine `part`, or stop if it is None; `reason` is a sentence."""

    part: str | None
    reason: str

    @property
    def stop(self) -> bool:
        """Whether the loop should end."""
        return self.part is None

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Relative:
    """A tolerance on the dual norm of the derivative: `factor` times its value at the start of the solve."""

    factor: float


def relative(factor: float) -> Relative:
    """Return a tolerance relative to the start: stop when ``|J'(x)|_* <= factor |J'(x_0)|_*``.

    Parameters
    ----------
    factor : float
        In (0, 1).

    Returns
    -------
    Relative

    Raises
    ------
    ValueError
        If `factor` is not in (0, 1).
    """
    if not 0.0 < real_number("factor", factor, "a number between 0 and 1") < 1.0:
        raise ValueError(f"factor: got {factor!r}, expected a number between 0 and 1")
    return Relative(float(factor))
