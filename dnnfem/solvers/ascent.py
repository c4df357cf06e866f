"""Nested iteration: minimize on a coarse level until what is left to gain there is on the next finer one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dnnfem.functionals import Linearization, Norm
from dnnfem.norms import jacobi
from dnnfem.records import STEP_FIELDS, Array, Progress, Relative, Status, Step, Steps
from dnnfem.solvers.iteration import Limits, Tolerance, View, rows
from dnnfem.solvers.levels import Level
from dnnfem.solvers.trust_region import VALUE_WORK, TrustRegion

PATIENCE = 5
"""Steps from which it is judged whether a level has more to give."""

SURE = 2
"""Steps that are enough if the model promises no more; alone it does so in valleys that bend, too."""

SHARE = 0.1
"""What the algebraic error on a level may be of the error of its discretization."""


@dataclass(frozen=True, eq=False)
class Ascent:
    """Where nested iteration stands.

    Attributes
    ----------
    level : int
        0 is the coarsest one.
    x : array, shape (dim of the level,)
        What goes up: the iterate whose value on the next level is the least so far.
    first : float
        Dual norm of the derivative at the start, on the finest level: what a relative tolerance is relative to.
    radius : float
        Trust radius at `x`.
    solve : Progress or None
        How far the solve on the level has come; None if it has not begun.
    above : array, shape (2, iterates)
        Values of the iterates on the next level, and dual norms of the derivative there, NaN without norms.
    work : float
        Of the last call of `following`, in gradients of the finest level.
    status : Status or None
        What has stopped the level before its end.
    table : iterator of Progress or None
        The solve itself, if it was not interrupted.
    """

    level: int
    x: Array
    first: float
    radius: float = math.nan
    solve: Progress | None = None
    above: Array = field(default_factory=lambda: np.empty((2, 0)))
    work: float = 0.0
    status: Status | None = None
    table: Iterator[Progress] | None = None

    @classmethod
    def remembered(cls, memory: Mapping[str, Array], radius: float) -> Ascent:
        """Return what `memory` has kept."""
        begun = cls(int(memory["level"]), memory["coarse"], float(memory["first"]), radius)
        if "table" not in memory:
            return begun
        steps = [Step(int(number), *more) for number, *more in memory["table"].T.tolist()]
        solve = Progress(memory["iterate"], Steps(tuple(steps)), None, memory)
        return replace(begun, solve=solve, above=memory["above"])

    @property
    def memory(self) -> Mapping[str, Array]:
        """The arrays from which an interrupted solve goes on."""
        begun = {"level": np.array(float(self.level)), "coarse": self.x, "first": np.array(self.first)}
        if self.solve is None:
            return begun
        table = np.array([self.solve.steps.column(name) for name in STEP_FIELDS])
        return {**self.solve.memory, **begun, "iterate": self.solve.x, "table": table, "above": self.above}

    def prolonged(self, levels: Sequence[Level]) -> Array:
        """Return `x` on the finest of all levels."""
        x = self.x
        for level in levels[self.level + 1 :]:
            assert level.transfer is not None
            x = level.transfer(x)
        return x

    def following(
        self,
        levels: Sequence[Level],
        norms: Sequence[Norm] | None,
        curvature: bool,
        tolerance: Tolerance,
        limits: Limits,
        spent: float = math.inf,
    ) -> Ascent:
        """Minimize on the level until an error of its discretization is left, as seen from the next one, and go there.

        Without `norms` those of all levels are diagonals of the curvature at the iterate, and dual norms are not
        compared.  Nor is more asked for than the tolerance of the finest level.

        The level stays the same after an interrupt, at the limit on the time, and when it is time for a look at the
        finest level.  That is so after the work ``sqrt(2 p w)``, where ``p`` is the price of a value there and ``w``
        all work, with what was `spent` before.  Then looks every ``d`` cost ``p w / d`` so far, as much as what is
        expected to be wasted between the right moment and the next look, ``d / 2``; the sum is least.  What was seen
        already is not looked at again.
        """
        level, above = levels[self.level], levels[self.level + 1]
        metric, judge = (jacobi, None) if norms is None else (norms[self.level], norms[self.level + 1])
        transfer, look = above.transfer, above.work * (VALUE_WORK if judge is None else 1.0)
        assert transfer is not None
        bound = tolerance.factor * self.first if isinstance(tolerance, Relative) else 0.0
        here, table, status = self, self.table, None
        if table is None:
            begin = self.solve or Progress(self.x, Steps((Step(0, math.nan, radius=self.radius),)))
            limits = replace(limits, seconds=limits.seconds + begin.steps[-1].seconds)
            method = TrustRegion(level.functional, metric, level.dense, curvature)
            own = 0.0 if isinstance(tolerance, Relative) else tolerance
            table = rows(level.functional, method, own, limits, View.plain(level.functional), begin)
        work = 0.0
        try:
            while status is None and not here._over(bound):
                due = work**2 >= 2.0 * VALUE_WORK * (spent + work)
                if due and not np.array_equal(here.x, self.x):
                    return replace(here, work=work, table=table)
                solve = next(table)
                if solve.steps[-1].number == here.above.shape[1]:
                    here = here._judged(solve, above.functional.linearize(transfer(solve.x)), judge)
                    work = here._work(level, look) - self._work(level, look)
                status = solve.status
        except KeyboardInterrupt:
            status = Status.INTERRUPTED
        if status in (Status.INTERRUPTED, Status.TIME_LIMIT):
            return replace(here, work=work, status=status, table=None)
        return Ascent(self.level + 1, transfer(here.x), self.first, here.radius, work=work)

    def _judged(self, solve: Progress, there: Linearization, judge: Norm | None) -> Ascent:
        """Return the state with one more iterate, which the next level has seen."""
        value = there.value if math.isfinite(there.value) else math.inf
        dual_norm = math.nan if judge is None else judge.dual_norm(there.derivative)
        best = value <= min(self.above[0], default=math.inf)
        return replace(
            self,
            x=solve.x if best else self.x,
            radius=solve.steps[-1].radius if best else self.radius,
            solve=solve,
            above=np.column_stack([self.above, (value, dual_norm)]),
        )

    def _work(self, level: Level, look: float) -> float:
        """Return the work on the level so far, with that of the judge."""
        return 0.0 if self.solve is None else self.solve.steps[-1].work * level.work + self.above.shape[1] * look

    def _over(self, bound: float) -> bool:
        """Whether the tolerance is met, or what is left to gain is an error of the discretization.

        Then the last `PATIENCE` steps have lowered the value on the next level by no more than `SHARE` of the
        difference between the values on both, or the last `SURE` steps have and the model promises no more either, or
        the dual norm of the derivative was no more than `SHARE` of that on the next level for `PATIENCE` steps.
        """
        if self.solve is None:
            return False
        steps, (values, slopes) = self.solve.steps, self.above
        last, count = steps[-1], len(values)
        enough = SHARE * abs(float(values[-1]) - last.value)

        def fallen(number: int) -> float:
            return float(min(values[:-number])) - float(min(values)) if count > number else math.nan

        promised = 0.5 * last.algebraic**2
        stalled = fallen(PATIENCE) <= enough or (fallen(SURE) <= enough and promised <= enough < math.inf)
        solved = steps.column("dual_norm")[-PATIENCE:] <= SHARE * slopes[-PATIENCE:]
        return last.dual_norm <= bound or stalled or (count >= PATIENCE and bool(solved.all()))
