"""Multilevel trust-region method: corrections from coarser spaces and steps on the finest one in turn."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from dnnfem.functionals import Functional, Linearization, Metric, Norm
from dnnfem.norms import Euclidean, jacobi
from dnnfem.records import Array, Interrupted, Progress, Result, State, Status, Step, Steps, relative
from dnnfem.solvers.iteration import (
    NOTHING,
    Iterate,
    Limits,
    Observer,
    Tolerance,
    View,
    check_state,
    check_tolerance,
    extrapolated,
    interrupted,
    iterate,
    norm_at,
)
from dnnfem.solvers.levels import Level, levels_of, norms_of
from dnnfem.solvers.recursion import ACCURACY, REST, Recursion
from dnnfem.solvers.trust_region import DENSE_LIMIT, NewtonIterate, TrustRegion
from dnnfem.spaces import Transfer
from dnnfem.spaces.layout import check_coefficients

FIRST, LATER = relative(1e-2), relative(0.1)
"""Tolerances of nested iteration on the coarsest level, and on those between it and the finest one."""

FEW = 3
"""Most rows of nested iteration on the levels between, a correction between two steps: what they leave, corrections
take out of finer iterates."""


@dataclass(frozen=True, eq=False)
class CycleIterate(Iterate):
    """A fine iterate with the norms of all levels if a correction comes next, else with its Newton step."""

    norms: tuple[Norm, ...]
    newton: NewtonIterate | None


@dataclass(frozen=True, eq=False)
class Multilevel:
    """Corrections and steps of the trust region on the finest level in turn; see `multilevel`.

    The memory holds what `Recursion` knows of the levels, and the number of steps before the next correction.
    """

    recursion: Recursion
    metric: Metric | None
    cycle: str
    spent: float = 0.0

    @property
    def _finest(self) -> Level:
        return self.recursion.levels[-1]

    @cached_property
    def _smoother(self) -> TrustRegion:
        finest, curvature = self._finest, self.recursion.curvature
        return TrustRegion(finest.functional, self.metric, finest.dense, curvature, accuracy=ACCURACY)

    @cached_property
    def _fixed(self) -> tuple[Norm, ...] | None:
        """The norms of all levels; None if they depend on the point."""
        metric = Euclidean(self._finest.functional.space) if self.metric is None else self.metric
        return norms_of(self.recursion.levels, metric) if isinstance(metric, Norm) else None

    def _norms(self, linearization: Linearization) -> tuple[Norm, ...]:
        if self._fixed is not None:
            return self._fixed
        return norms_of(self.recursion.levels, norm_at(self.metric, self._finest.functional, linearization))

    def assess(self, linearization: Linearization, step: Step, memory: Mapping[str, Array] = NOTHING) -> CycleIterate:
        """Compute the dual norm, and the Newton step unless a correction comes next: the estimate is infinite then."""
        if step.number == 0:
            step = replace(step, work=step.work + self.spent)
        levels = memory.get("levels")
        if levels is not None and memory["steps"] == 0.0:
            norms = self._norms(linearization)
            top = len(norms) - 1
            if self.recursion.seen(top, linearization.derivative, norms, levels):
                work = step.work + (1.0 if self._fixed is not None else 3.0)
                dual_norm = norms[top].dual_norm(linearization.derivative)
                step = replace(step, dual_norm=dual_norm, algebraic=math.inf, work=work)
                return CycleIterate(linearization, step, norms, None, memory=memory)
        newton = self._smoother.assess(linearization, step, memory)
        return CycleIterate(linearization, newton.step, (), newton, memory=memory)

    def estimate(self, steps: Steps) -> float:
        """Return the smaller of the model's promise and the extrapolated estimate."""
        return min(float(steps[-1].algebraic), extrapolated(steps))

    def advance(self, iterate: Iterate) -> Iterate | Status:
        """Correct the iterate, or take a step if that is due, or the correction is rejected."""
        assert isinstance(iterate, CycleIterate)
        here, last, newton = iterate.linearization, iterate.step, iterate.newton
        left = float(iterate.memory.get("steps", 0.0))
        levels = np.array(iterate.memory["levels"]) if "levels" in iterate.memory else None
        if newton is None:
            assert levels is not None
            functional, top = self._finest.functional, len(iterate.norms) - 1
            found = self.recursion.corrected(top, functional, here, iterate.norms, math.inf, levels, self.cycle)
            work = last.work + found.work
            if found.point is not None:
                value, length, radius = found.point.value, found.length, last.radius
                row = Step(last.number + 1, value, length=length, radius=radius, ratio=found.ratio, work=work)
                return self.assess(found.point, row, _memory(levels, self.recursion.smoothing))
            # The derivative at the iterate is counted already.
            newton = self._smoother.assess(here, replace(last, work=work - 1.0), iterate.memory)
        else:
            newton = replace(newton, step=last)
            if levels is not None and left == 0.0:
                levels[REST, -1] = max(levels[REST, -1] - 1.0, 0.0)
        moved = self._smoother.moved(newton)
        if isinstance(moved, Status):
            return moved
        there, row = moved
        if levels is None:
            levels = self.recursion.unknown(row.radius)
        left = (left or self.recursion.smoothing) - 1.0
        return self.assess(there, row, {**newton.following, **_memory(levels, left)})


def _memory(levels: Array, steps: float) -> Mapping[str, Array]:
    return {"levels": levels, "steps": np.array(float(steps))}


def multilevel(
    functionals: Sequence[Functional],
    transfers: Sequence[Transfer],
    x: Array,
    tolerance: Tolerance = 1e-10,
    *,
    nested: bool = False,
    cycle: Literal["V", "F"] = "V",
    smoothing: int = 1,
    norm: Metric | None = None,
    costs: Sequence[float] | None = None,
    state: State | None = None,
    observer: Observer | None = None,
    max_steps: int = 1000,
    max_seconds: float = math.inf,
    dense: bool | None = None,
    curvature: bool = False,
) -> Result:
    """Minimize the functional on the finest of several spaces, mostly by steps on the coarser ones.

    Steps of the trust region on the finest space take turns with corrections from the next coarser one.  The coarse
    model is the functional there, shifted by a linear term so that its derivative is that of the fine one, restricted;
    it is minimized approximately in the same way, by corrections and steps.  The coarse functional need not be the fine
    one on a subspace: flows should have coarse state meshes on coarse levels.

    Parameters
    ----------
    functionals : sequence of Functional
        The same problem on spaces from coarse to fine, e.g. ``[problem.on(space) for space in hierarchy.spaces]``.
    transfers : sequence of Transfer
        From each space into the next one, e.g. ``hierarchy.transfers``.
    x : array, shape (dim,)
        Starting point in the finest space; with `nested` in the coarsest.
    tolerance : float or relative(...)
        A float bounds the estimate of ``sqrt(2 (J(x) - min J))``, `dnnfem.relative` the dual norm of the derivative.
    nested : bool
        Begin on the coarsest space and solve on each of them: to a hundredth of the dual norm at the start on the
        coarsest, on the others to a tenth, but with one correction at most, and to the tolerance on the finest.  The
        observer is shown the latter, whose table counts all work.  After an interrupt on a coarser level the result is
        its iterate, prolonged: from there it goes on with ``nested=False``, or with the state ``result.resumable``.
    cycle : str
        ``"V"``: a coarse model is corrected once from the level below it; ``"F"``: twice, by an F- and a V-cycle.
    smoothing : int
        Steps on the finest level after a correction; on coarser levels as many as cost no more.
    norm : Norm or metric, optional
        As of `trust_region`, on the finest space; coarse corrections ``s`` are measured by ``|P s|``.  With `nested` a
        metric is taken at the prolonged start of each level, but for the default.
    costs : sequence of float, optional
        Work of a gradient on each level, in any unit; default what `dnnfem.functionals.gradient_work` counts.
    state : State, optional
        Of the solve before, or of the interrupted one.
    observer : callable, optional
        Called with a `Snapshot` after every step and correction of the finest iterate.
    max_steps, max_seconds : optional
        Limits on the rows of the table, with `nested` on each level, and on the time of all; reaching one is a status.
    dense, curvature : optional
        As of `trust_region`, on every level.

    Returns
    -------
    Result
        In the table, a row is a step or an accepted correction; the latter has no multiplier and ``inner`` 0.  Work is
        counted in gradients of the finest level.

    Raises
    ------
    ValueError
        If there is only one level, transfers do not fit, costs fall, or another argument is not as described.
    Interrupted
        On Ctrl-C, after the observer has seen the last iterate; the exception carries the result.

    References
    ----------
    Gratton, Sartenaer and Toint, SIAM J. Optim. 19 (2008) 414-444.

    Kopaničáková and Krause, arXiv:2105.02941.
    """
    if cycle not in ("V", "F"):
        raise ValueError(f"cycle: got {cycle!r}, expected 'V' or 'F'")
    if isinstance(smoothing, bool) or not isinstance(smoothing, int | np.integer) or smoothing < 1:
        raise ValueError(f"smoothing: got {smoothing!r}, expected a positive integer")
    limits, tolerance, state = Limits(max_steps, max_seconds), check_tolerance(tolerance), check_state(state)
    usual = DENSE_LIMIT["curvature" if curvature else "hessian"]
    levels = levels_of(functionals, transfers, costs, usual if dense is None else math.inf if dense else 0)
    metric = jacobi if norm is None and curvature and levels[-1].dense else norm
    spent, began = 0.0, time.perf_counter()
    if nested and state.progress is None:
        start = check_coefficients(levels[0].functional.space, x, finite=True)
        x, state, spent = _nested(levels, start, metric, cycle, smoothing, curvature, state, observer, limits)
    method = Multilevel(Recursion(levels, curvature, int(smoothing)), metric, cycle, spent)
    left = Limits(max_steps, max(max_seconds - (time.perf_counter() - began), 0.0))
    return iterate(levels[-1].functional, x, method, tolerance, state, observer, left)


def _nested(
    levels: tuple[Level, ...],
    x: Array,
    metric: Metric | None,
    cycle: str,
    smoothing: int,
    curvature: bool,
    state: State,
    observer: Observer | None,
    limits: Limits,
) -> tuple[Array, State, float]:
    """Solve on all levels but the finest; return the start there, what goes over to it, and the work."""
    finest = levels[-1].functional
    norms: Sequence[Metric | None] = [metric] * len(levels)
    if isinstance(metric, Norm):
        norms = norms_of(levels, metric)
    spent, began = 0.0, time.perf_counter()
    for k, level in enumerate(levels[:-1]):
        rows = min(limits.steps, FEW) if k > 0 else limits.steps
        left = Limits(rows, max(limits.seconds - (time.perf_counter() - began), 0.0))
        try:
            if metric is not None and metric is not jacobi and not isinstance(metric, Norm):
                # A rule of the finest space, at the best that is known there.
                norms = norms_of(levels, norm_at(metric, finest, finest.linearize(_prolonged(levels[k:], x))))
                spent += 1.0
            method: TrustRegion | Multilevel = TrustRegion(level.functional, norms[0], level.dense, curvature)
            if k > 0:
                own = tuple(replace(other, work=other.work / level.work) for other in levels[: k + 1])
                method = Multilevel(Recursion(own, curvature, smoothing), norms[k], cycle)
            result = iterate(level.functional, x, method, LATER if k else FIRST, state, None, left)
        except KeyboardInterrupt as stop:
            if isinstance(stop, Interrupted):
                x, state = stop.result.x, stop.result.state
                spent += stop.result.steps[-1].work * level.work
            x = _prolonged(levels[k:], x)
            radius = math.nan if state.radius is None else state.radius
            row = Step(0, finest.value(x), radius=radius, algebraic=math.inf, work=spent)
            raise interrupted(View.plain(finest), Progress(x, Steps((row,))), observer) from None
        spent += result.steps[-1].work * level.work
        transfer = levels[k + 1].transfer
        assert transfer is not None
        x, state = transfer(result.x), result.state
    return x, state, spent


def _prolonged(levels: tuple[Level, ...], x: Array) -> Array:
    """Return an iterate on the first of some levels in the finest space."""
    for level in levels[1:]:
        assert level.transfer is not None
        x = level.transfer(x)
    return x
