"""Nested iteration: minimize on a coarse level until what is left to gain there is on the next finer one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dnnfem.functionals import Norm
from dnnfem.norms import jacobi
from dnnfem.records import Array, Progress, Relative, Status, Step, Steps
from dnnfem.solvers.iteration import Limits, Tolerance, View, rows
from dnnfem.solvers.levels import Level
from dnnfem.solvers.trust_region import VALUE_WORK, TrustRegion

PATIENCE = 5
"""Steps from which it is judged whether a level has more to give."""

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
        The iterate from which to go on there.
    first : float
        Dual norm of the derivative at the start, on the finest level: what a relative tolerance is relative to.
    radius : float
        Trust radius.
    work : float
        Of the last level, in gradients of the finest one.
    status : Status or None
        What has stopped the level before its end.
    """

    level: int
    x: Array
    first: float
    radius: float = math.nan
    work: float = 0.0
    status: Status | None = None

    @classmethod
    def remembered(cls, memory: Mapping[str, Array], radius: float) -> Ascent:
        """Return what `memory` has kept."""
        return cls(int(memory["level"]), memory["coarse"], float(memory["first"]), radius)

    @property
    def memory(self) -> Mapping[str, Array]:
        """The arrays from which an interrupted solve goes on."""
        return {"level": np.array(float(self.level)), "coarse": self.x, "first": np.array(self.first)}

    def prolonged(self, levels: Sequence[Level]) -> Array:
        """Return the iterate on the finest of all levels."""
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
    ) -> Ascent:
        """Minimize on the level until an error of its discretization is left, as seen from the next one, and go there.

        That is so when the last `PATIENCE` steps have lowered the value on the next level by no more than `SHARE` of
        the difference between the values on both, or when in all of them the dual norm of the derivative was no more
        than `SHARE` of that on the next level.  The iterate whose value is the least there goes up.  Without `norms`
        those of all levels are diagonals of the curvature at the iterate, and dual norms are not compared.  Nor is more
        asked for than the tolerance of the finest level.

        After an interrupt, or at the limit on the time, the level is the same.
        """
        level, above = levels[self.level], levels[self.level + 1]
        metric, judge = (jacobi, None) if norms is None else (norms[self.level], norms[self.level + 1])
        method = TrustRegion(level.functional, metric, level.dense, curvature)
        transfer, look = above.transfer, above.work * (VALUE_WORK if judge is None else 1.0)
        assert transfer is not None
        best, work, solved = self, 0.0, 0
        values: list[float] = []
        status: Status | None = None
        bound = tolerance.factor * self.first if isinstance(tolerance, Relative) else 0.0
        own = 0.0 if isinstance(tolerance, Relative) else tolerance
        begin = Progress(self.x, Steps((Step(0, math.nan, radius=self.radius),)))
        try:
            for now in rows(level.functional, method, own, limits, View.plain(level.functional), begin):
                row, status = now.steps[-1], now.status
                if row.number == len(values):
                    there = above.functional.linearize(transfer(now.x))
                    values.append(there.value if math.isfinite(there.value) else math.inf)
                    if values[-1] == min(values):
                        best = replace(self, x=now.x, radius=row.radius)
                    solved += 1
                    if judge is None or not row.dual_norm <= SHARE * judge.dual_norm(there.derivative):
                        solved = 0
                work = row.work * level.work + len(values) * look
                stalled = len(values) > PATIENCE and (
                    min(values[:-PATIENCE]) - min(values) <= SHARE * abs(values[-1] - row.value)
                )
                if stalled or solved == PATIENCE or row.dual_norm <= bound:
                    break
        except KeyboardInterrupt:
            return replace(best, work=work, status=Status.INTERRUPTED)
        if status is Status.TIME_LIMIT:
            return replace(best, work=work, status=status)
        return replace(best, level=self.level + 1, x=transfer(best.x), work=work)
