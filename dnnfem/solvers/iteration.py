"""What all solvers share: start and resume, tolerances, limits, the table of steps, the observer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from dnnfem.functionals import Functional, Linearization, Metric, Norm
from dnnfem.functionals.trajectories import why_not_finite
from dnnfem.norms import Euclidean
from dnnfem.records import (
    Array,
    Interrupted,
    Progress,
    Relative,
    Result,
    Snapshot,
    State,
    Status,
    Step,
    Steps,
)
from dnnfem.spaces.layout import check_coefficients

FEWEST = 8
"""Steps before decreases are extrapolated; see `extrapolated`."""

NOTHING: Mapping[str, Array] = {}
"""The memory of a method that needs none."""

Tolerance = float | Relative
Observer = Callable[[Snapshot], None]


@dataclass(frozen=True)
class Limits:
    """Bounds on one solve; a run that reaches them returns what it has."""

    steps: int
    seconds: float

    def __post_init__(self) -> None:
        steps, seconds = self.steps, self.seconds
        if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 0:
            raise ValueError(f"max_steps: got {steps!r}, expected a non-negative integer")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float | np.floating) or not seconds >= 0:
            raise ValueError(f"max_seconds: got {seconds!r}, expected a non-negative number")


@dataclass(frozen=True, eq=False)
class Iterate:
    """A point of the iteration, with what its linearization said, and what a method carries besides.

    `status` says why there is no step from here, if that is known before a tolerance is looked at.
    """

    linearization: Linearization
    step: Step
    memory: Mapping[str, Array] = field(default_factory=dict, kw_only=True)
    status: Status | None = field(default=None, kw_only=True)


class Method(Protocol):
    """What distinguishes one solver from another."""

    def assess(self, linearization: Linearization, step: Step, memory: Mapping[str, Array]) -> Iterate:
        """Complete a row of the table: dual norm and algebraic estimate; keep what `advance` can use again.

        `memory` is that of the solve that is resumed, empty otherwise.
        """
        ...

    def estimate(self, steps: Steps) -> float:
        """Return the algebraic estimate of the last row, given all rows before it."""
        ...

    def advance(self, iterate: Iterate) -> Iterate | Status:
        """Take one step, or say why there is none."""
        ...


@dataclass(frozen=True, eq=False)
class View:
    """How the iterated vector relates to the coefficients that the user sees (condensation hides some of them)."""

    functional: Functional
    inner: Callable[[Array], Array]
    full: Callable[[Linearization], Array]

    @classmethod
    def plain(cls, functional: Functional) -> View:
        """The iterated vector is what the user sees."""
        return cls(functional, lambda x: x, lambda linearization: linearization.x)


def norm_at(metric: Metric | None, functional: Functional, linearization: Linearization) -> Norm:
    """Return the norm of a metric at a point; default Euclidean, and where a rule would begin with what is not finite.

    Raises
    ------
    ValueError
        If the norm has another dimension than the functional, or is no rule with two arguments.
    """
    if metric is None or not (isinstance(metric, Norm) or np.isfinite(linearization.derivative).all()):
        return Euclidean(functional.space)
    try:
        norm = metric if isinstance(metric, Norm) else metric(functional.space, linearization)
    except TypeError as error:
        # Only the call itself is meant, not a mistake inside of the rule.
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:
            raise
        words = f"norm: got {metric!r}, expected a norm or a rule (space, linearization) -> norm"
        raise ValueError(words) from error
    if norm.dim != functional.space.dim:
        raise ValueError(f"norm: got a norm on {norm.dim} coefficients, expected {functional.space.dim}")
    return norm


def product_of(linearization: Linearization, curvature: bool) -> Callable[[Array], Array]:
    """Return the products with the curvature, or with the Hessian."""
    return linearization.curvature if curvature else linearization.hessian


def check_tolerance(tolerance: Tolerance) -> Tolerance:
    """Raise a `ValueError` unless the tolerance is a non-negative number or a `relative` one."""
    if isinstance(tolerance, Relative):
        return tolerance
    if (
        isinstance(tolerance, bool)
        or not isinstance(tolerance, int | float | np.floating)
        or not 0 <= tolerance < math.inf
    ):
        raise ValueError(f"tolerance: got {tolerance!r}, expected a non-negative number or relative(...)")
    return float(tolerance)


def met(tolerance: Tolerance, steps: Steps) -> Status | None:
    """Return the status if the last row of the table meets the tolerance; one without an estimate cannot."""
    last, first = steps[-1], steps[0]
    if value_alone(last):
        return None
    if not math.isfinite(last.dual_norm):
        return Status.NOT_FINITE
    if math.isnan(last.algebraic):
        return None
    if last.dual_norm == 0.0:
        # At a saddle the model still promises a decrease, on the boundary of the trust region.
        return Status.STATIONARY if math.isfinite(last.algebraic) else None
    if isinstance(tolerance, Relative):
        return Status.STATIONARY if last.dual_norm <= tolerance.factor * first.dual_norm else None
    return Status.CONVERGED if last.algebraic <= tolerance else None


def extrapolated(steps: Steps) -> float:
    """Estimate ``sqrt(2 (J - min J))`` from the decreases over two windows of steps.

    With the decreases ``d_0`` from step ``k/4`` to ``k/2`` and ``d_1`` from ``k/2`` to ``k``, and ``q = d_1 / d_0``,
    what remains is ``d_1 q / (1 - q)``.  As each window is twice as long as the one before, this is exact for values
    that approach their limit like a power of ``k``, the slow tails of badly conditioned problems, and too large for
    linear convergence.  That the values will fall again after a plateau, nobody can see from them.  Returns infinity
    for fewer than `FEWEST` steps, or if the decreases do not fall.
    """
    last = len(steps) - 1
    if last < FEWEST:
        return math.inf
    quarter, half, now = (float(steps[number].value) for number in (last // 4, last // 2, last))
    earlier, later = quarter - half, half - now
    if not 0.0 <= later < earlier:
        return math.inf
    return math.sqrt(2.0 * later * later / (earlier - later))


def iterate(
    functional: Functional,
    x: Array,
    method: Method,
    tolerance: Tolerance,
    state: State | None,
    observer: Observer | None,
    limits: Limits,
    view: View | None = None,
) -> Result:
    """Run a method to its tolerance, or to a limit.

    A `state` that carries a `Progress` goes on exactly where it stands; a finished one is returned as it is.
    """
    view = view or View.plain(functional)
    tolerance = check_tolerance(tolerance)
    state = check_state(state)
    if state.progress is None:
        start = check_coefficients(view.functional.space, x, finite=True)
        radius = math.nan if state.radius is None else state.radius
        now = Progress(start, Steps((Step(0, math.nan, radius=radius),)))
    else:
        start = check_coefficients(view.functional.space, state.progress.x, "state", finite=True)
        now = replace(state.progress, x=start)
    if now.status is not None and now.status.final:
        return result_of(view, now)
    table = rows(functional, method, tolerance, limits, view, now)
    try:
        for now in table:
            _show(observer, now)
    except KeyboardInterrupt:
        raise interrupted(view, now, observer) from None
    return result_of(view, now)


def rows(
    functional: Functional, method: Method, tolerance: Tolerance, limits: Limits, view: View, begin: Progress
) -> Iterator[Progress]:
    """Go on from `begin`, row by row; the last one has a status, and may be the one before again."""
    began = time.perf_counter()
    linearization = functional.linearize(view.inner(begin.x))
    steps, last = begin.steps, begin.steps[-1]
    fresh = not begun(steps)
    if not math.isfinite(linearization.value):
        steps = Steps((replace(last, value=linearization.value),)) if fresh else steps
        yield replace(begin, steps=steps, status=Status.NOT_FINITE)
        return
    if fresh:
        current = method.assess(linearization, replace(last, value=linearization.value), NOTHING)
        steps = Steps((current.step,))
        yield Progress(view.full(linearization), steps, None, current.memory)
    else:
        current = replace(method.assess(linearization, last, begin.memory), step=last)
        began -= last.seconds
    status = current.status or met(tolerance, steps)
    while status is None:
        if steps[-1].number >= limits.steps:
            status = Status.STEP_LIMIT
        elif time.perf_counter() - began >= limits.seconds:
            status = Status.TIME_LIMIT
        else:
            following = method.advance(current)
            if isinstance(following, Status):
                status = following
                break
            algebraic = method.estimate(steps + following.step)
            step = replace(following.step, algebraic=algebraic, seconds=time.perf_counter() - began)
            current = replace(following, step=step)
            steps = steps + step
            status = current.status or met(tolerance, steps)
            if status is None:
                yield Progress(view.full(current.linearization), steps, None, current.memory)
    yield Progress(view.full(current.linearization), steps, status, current.memory)


def value_alone(step: Step) -> bool:
    """Whether nobody has asked for the derivative at a row, in contrast to one that is not finite."""
    return math.isnan(step.dual_norm) and step.algebraic == math.inf


def begun(steps: Steps) -> bool:
    """Whether the first row is complete: a solve that was interrupted before has not begun."""
    return steps[-1].number > 0 or not math.isnan(steps[-1].dual_norm)


def check_state(state: State | None) -> State:
    """Return the state to begin with.

    Raises
    ------
    ValueError
        If it is no `State`, or its radius is no positive number.
    """
    if state is None:
        return State()
    if not isinstance(state, State):
        hint = ": state=result.state on the next level, state=result.resumable for the same solve"
        raise ValueError(
            f"state: got {type(state).__name__}, expected a State or None{hint if isinstance(state, Result) else ''}"
        )
    if state.radius is not None and not 0.0 < state.radius < math.inf:
        raise ValueError(f"state: got the radius {state.radius!r}, expected a positive number or None")
    return state


def interrupted(view: View, progress: Progress, observer: Observer | None) -> Interrupted:
    """Return what a solve that the user stops ends with, after the observer has seen where it stands."""
    progress = replace(progress, status=Status.INTERRUPTED)
    # A second interrupt does not wait for the observer.
    with suppress(KeyboardInterrupt):
        _show(observer, progress)
    return Interrupted(result_of(view, progress))


def _show(observer: Observer | None, progress: Progress) -> None:
    if observer is not None:
        observer(Snapshot(progress.steps[-1], State(_radius(progress.steps), progress)))


def _radius(steps: Steps) -> float | None:
    radius = steps[-1].radius
    return radius if math.isfinite(radius) else None


def result_of(view: View, progress: Progress) -> Result:
    """Return the result of a solve that has ended."""
    x, steps, status = progress.x, progress.steps, progress.status
    assert status is not None
    remarks = (why_not_finite(view.functional, x),) if status is Status.NOT_FINITE else ()
    radius = _radius(steps)
    return Result(x, status, steps, State(radius), steps[-1].algebraic, remarks, State(radius, progress))
