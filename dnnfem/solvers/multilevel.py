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
from dnnfem.records import Array, Interrupted, Relative, Result, State, Status, Step, Steps
from dnnfem.solvers.ascent import Ascent
from dnnfem.solvers.iteration import (
    NOTHING,
    Iterate,
    Limits,
    Observer,
    Tolerance,
    begun,
    check_state,
    check_tolerance,
    extrapolated,
    iterate,
    norm_at,
    value_alone,
)
from dnnfem.solvers.levels import Level, levels_of, norms_of
from dnnfem.solvers.recursion import ACCURACY, REST, Recursion
from dnnfem.solvers.trust_region import DENSE_LIMIT, VALUE_WORK, NewtonIterate, TrustRegion
from dnnfem.spaces import Transfer
from dnnfem.spaces.layout import check_coefficients


@dataclass(frozen=True, eq=False)
class CycleIterate(Iterate):
    """A fine iterate with the norms of all levels if coarser levels come next, else with its Newton step.

    In nested iteration it has what goes on below, unless that is only in the memory.
    """

    norms: tuple[Norm, ...]
    newton: NewtonIterate | None
    ascent: Ascent | None = None


@dataclass(frozen=True, eq=False)
class Multilevel:
    """Nested iteration, then corrections and steps of the trust region on the finest level in turn; see `multilevel`.

    In nested iteration, from `start`, the memory is that of an `Ascent`; then it holds what `Recursion` knows of the
    levels, and the number of steps before the next correction.  With `watch`, the finest level is asked in between.
    """

    recursion: Recursion
    metric: Metric | None
    cycle: str
    tolerance: Tolerance
    limits: Limits
    began: float
    start: Array | None = None
    watch: bool = False

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

    @property
    def _price(self) -> float:
        """Work of a dual norm: a gradient, and a product for a norm that depends on the point."""
        return 1.0 if self._fixed is not None else 3.0

    def _norms(self, linearization: Linearization) -> tuple[Norm, ...]:
        if self._fixed is not None:
            return self._fixed
        return norms_of(self.recursion.levels, norm_at(self.metric, self._finest.functional, linearization))

    def assess(self, linearization: Linearization, step: Step, memory: Mapping[str, Array] = NOTHING) -> CycleIterate:
        """Compute the dual norm, and the Newton step unless coarser levels come next: the estimate is infinite then."""
        if value_alone(step):
            return CycleIterate(linearization, step, self._fixed or (), None, memory=memory)
        first = step.number == 0 and self.start is not None and not memory
        levels = memory.get("levels")
        if first or "level" in memory or (levels is not None and memory["steps"] == 0.0):
            norms = self._norms(linearization)
            if levels is None or self.recursion.seen(len(norms) - 1, linearization.derivative, norms, levels):
                work = step.work + self._price
                dual_norm = norms[-1].dual_norm(linearization.derivative)
                # Infinity says that nothing is promised yet, of a derivative that there is.
                step = replace(
                    step, dual_norm=dual_norm, algebraic=math.inf if math.isfinite(dual_norm) else math.nan, work=work
                )
                if first:
                    assert self.start is not None
                    memory = Ascent(0, self.start, dual_norm).memory
                return CycleIterate(linearization, step, norms, None, memory=memory)
        newton = self._smoother.assess(linearization, step, memory)
        return CycleIterate(linearization, newton.step, (), newton, memory=memory)

    def estimate(self, steps: Steps) -> float:
        """Return the smaller of the model's promise and the estimate extrapolated from corrections and steps."""
        # Rows of nested iteration have no length, and there is a first row at least.
        begin = int(np.flatnonzero(np.isnan(steps.column("length")))[-1])
        return min(float(steps[-1].algebraic), extrapolated(Steps(steps[begin:])))

    def advance(self, iterate: Iterate) -> Iterate | Status:
        """Minimize on a coarse level, or correct the iterate, or take a step if that is due, or instead."""
        assert isinstance(iterate, CycleIterate)
        if "level" in iterate.memory:
            return self._ascended(iterate)
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
        there, row = self._smoother.moved(newton)
        if isinstance(there, Status):
            return there
        if levels is None:
            levels = self.recursion.unknown(row.radius)
        left = (left or self.recursion.smoothing) - 1.0
        return self.assess(there, row, {**newton.following, **_memory(levels, left)})

    def _ascended(self, iterate: CycleIterate) -> Iterate:
        """Minimize on a coarse level, and see what the finest one says of the result: its value at least."""
        levels, last, seen = self.recursion.levels, iterate.step, iterate.linearization
        here, work = iterate.ascent or Ascent.remembered(iterate.memory, last.radius), last.work
        norms, level, known = None if self.metric is jacobi else iterate.norms, here.level, last.dual_norm
        # Other norms that depend on the point are those at the last row, which has to be the start of the level.
        between = self.watch and (norms is None or self._fixed is not None)
        while True:
            left = replace(self.limits, seconds=max(self.limits.seconds - (time.perf_counter() - self.began), 0.0))
            spent = work if between else math.inf
            here = here.following(levels, norms, self.recursion.curvature, self.tolerance, left, spent)
            work += here.work
            point, top = here.prolonged(levels), here.level == len(levels) - 1
            if not np.array_equal(point, seen.x):
                seen, known = self._finest.functional.linearize(point), math.nan
                work += VALUE_WORK
            # What is of no use on the finest level may still be on those between.
            if top or here.status is not None or math.isfinite(seen.value):
                break
        status = here.status or (None if math.isfinite(seen.value) else Status.NOT_FINITE)
        row = Step(last.number + 1, seen.value, known, radius=here.radius, algebraic=math.inf, work=work)
        # A look asks for the value alone, and the end of a level for the derivative if the tolerance is about that.
        asked = not between or (here.level > level and isinstance(self.tolerance, Relative))
        if top or (asked and math.isnan(known)):
            # What this counts as well.
            row = replace(row, algebraic=math.nan, work=work - (VALUE_WORK if math.isnan(known) else 1.0))
            assessed = self.assess(seen, row, NOTHING if top else here.memory)
            return replace(assessed, status=status, ascent=None if top else here)
        return CycleIterate(seen, row, iterate.norms, None, here, memory=here.memory, status=status)


def _memory(levels: Array, steps: float) -> Mapping[str, Array]:
    return {"levels": levels, "steps": np.array(float(steps))}


def multilevel(
    functionals: Sequence[Functional],
    transfers: Sequence[Transfer],
    x: Array,
    tolerance: Tolerance = 1e-10,
    *,
    nested: bool = False,
    watch: bool = False,
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
        Begin on the coarsest space and minimize on each of them until what is left is an error of its discretization,
        as seen from the next one: the last five steps have lowered the value there by no more than a tenth of the
        difference between the values on both spaces, or the last two have and the model promises no more either, or the
        derivative here has been no more than a tenth of that there; with the default norm of dense steps, which has no
        meaning on two spaces, not the last of these.  A space also ends at the tolerance.  The table has a row for the
        start and one for each space, with value and dual norm on the finest one, so that a relative tolerance is that
        of the start, and may be met before the finest space has taken a step; from row to row values may rise.  A solve
        that was interrupted on a coarse space has one row more, of the best iterate there, and goes on bit for bit,
        unless the norm is a rule of your own that depends on the point.
    watch : bool
        In nested iteration, rows during long solves on coarse spaces, too, for an observer that knows when it is
        enough: after the work ``sqrt(2 w / 3)``, with ``w`` that of all rows so far, unless nothing better was found.
        Such rows, and those of coarse spaces if the tolerance is not relative, ask for the value only: the dual norm is
        NaN, and to a tolerance the way is longer by a third of a gradient a look.  Nobody looks if the norm is a rule
        of your own that depends on the point.
    cycle : str
        ``"V"``: a coarse model is corrected once from the level below it; ``"F"``: twice, by an F- and a V-cycle.
    smoothing : int
        Steps on the finest level after a correction; on coarser levels as many as cost no more.
    norm : Norm or metric, optional
        As of `trust_region`, on the finest space; coarse corrections ``s`` are measured by ``|P s|``.
    costs : sequence of float, optional
        Work of a gradient on each level, in any unit; default what `dnnfem.functionals.gradient_work` counts.
    state : State, optional
        Of the solve before, or of the interrupted one.
    observer : callable, optional
        Called with a `Snapshot` after every row of the table.
    max_steps, max_seconds : optional
        Limits on the rows of the table, those of `watch` too, and on the steps on each space in nested iteration, and
        on the time of all; reaching one is a status.
    dense, curvature : optional
        As of `trust_region`, on every level.

    Returns
    -------
    Result
        In the table, a row is a step or an accepted correction; the latter has no multiplier and ``inner`` 0.  Rows of
        nested iteration have no length either.  Work is counted in gradients of the finest level.

    Raises
    ------
    ValueError
        If there is only one level, transfers do not fit, costs fall, or another argument is not as described.
    Interrupted
        On Ctrl-C, after the observer has seen the last iterate, prolonged if it is that of a coarse space; the
        exception carries the result.

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
    began, start, stands = time.perf_counter(), None, state.progress
    # A solve that was interrupted before its first row was complete begins.
    if nested and (stands is None or not begun(stands.steps)):
        start = check_coefficients(levels[0].functional.space, x, finite=True)
        x = Ascent(0, start, math.nan).prolonged(levels)
    if stands is not None:
        began -= stands.steps[-1].seconds
    method = Multilevel(
        Recursion(levels, curvature, int(smoothing)), metric, cycle, tolerance, limits, began, start, watch
    )
    result = iterate(levels[-1].functional, x, method, tolerance, state, observer, limits)
    if result.status is Status.INTERRUPTED:
        raise Interrupted(result)
    return result
