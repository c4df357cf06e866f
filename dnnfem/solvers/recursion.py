"""Corrections from coarser spaces: the recursion of multilevel trust-region methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dnnfem.functionals import Functional, Linearization, Norm, Shifted
from dnnfem.functionals.algebra import CombinedLinearization
from dnnfem.records import Array, Status, Step
from dnnfem.solvers.iteration import NOTHING
from dnnfem.solvers.levels import Level
from dnnfem.solvers.trust_region import ROUNDING, VALUE_WORK, Enclosure, TrustRegion

KAPPA = 0.1
"""A correction is asked for if the coarse space sees this part of the derivative's dual norm."""

ACCEPT, GOOD = 0.1, 0.75
SHRINK, GROW = 0.5, 2.0
"""Actual over promised decrease of a correction, and what becomes of the bound on its length."""

ACCURACY = 0.1
"""Relative energy error of conjugate gradients: what a step leaves, the next correction sees."""

ENOUGH = 0.1
"""A coarse problem is solved when the dual norm of its derivative is this part of that at its start."""

EDGE = 0.99
"""Coarse iterates stop when they have used up this part of the bound."""

RADIUS, BOUND, REST, FAILED = range(4)
"""Rows of what is remembered of every level: the trust radius of its steps, the bound on corrections of its iterates,
how many of these are left out from now on, and how many were rejected in a row."""


@dataclass(frozen=True, eq=False)
class Correction:
    """What the coarser levels have found for an iterate.

    Attributes
    ----------
    point : Linearization or None
        The corrected iterate; None if there is none, or it was rejected.
    work : float
        In gradients of the finest level, without that at the corrected iterate.
    ratio : float
        Actual over promised decrease.
    length : float
        Of the correction.
    """

    point: Linearization | None
    work: float
    ratio: float = math.nan
    length: float = math.nan


@dataclass(frozen=True, eq=False)
class Recursion:
    """Corrections by approximate minimizers of coarse models, which are corrected themselves from still coarser ones.

    For an iterate ``x`` of a functional ``J`` on level ``k`` the coarse model is
    ``J_H(y) + <P^T J'(x) - J_H'(x_H), y>`` with ``J_H`` of level ``k - 1`` and ``x_H`` the projection of ``x``; its
    derivative at ``x_H`` is ``P^T J'(x)``.

    `memory` arguments, shape (4, levels), are updated in place; see `RADIUS` and what follows it.
    """

    levels: tuple[Level, ...]
    curvature: bool
    smoothing: int

    def unknown(self, radius: float) -> Array:
        """Return the memory before the first correction, which may be as long as the trust radius on the finest."""
        memory = np.zeros((4, len(self.levels)))
        memory[RADIUS], memory[BOUND, :-1], memory[BOUND, -1] = radius, math.nan, radius
        return memory

    def seen(self, k: int, derivative: Array, norms: Sequence[Norm], memory: Array) -> bool:
        """Whether a correction of an iterate on level `k` is worth a try."""
        transfer = self.levels[k].transfer
        if transfer is None or memory[REST, k] > 0.0:
            return False
        whole, part = norms[k].dual_norm(derivative), norms[k - 1].dual_norm(transfer.T @ derivative)
        return math.isfinite(whole) and whole > 0.0 and part >= KAPPA * whole

    def corrected(
        self,
        k: int,
        model: Functional,
        here: Linearization,
        norms: Sequence[Norm],
        room: float,
        memory: Array,
        cycle: str,
    ) -> Correction:
        """Return a correction, not longer than `room`, of the iterate `here` of a model on level `k`."""
        level, transfer, norm = self.levels[k - 1], self.levels[k].transfer, norms[k]
        assert transfer is not None
        bound = float(np.fmin(memory[BOUND, k], room))
        x = norms[k - 1].riesz(transfer.T @ norm.apply(here.x - transfer.offset))
        start = level.functional.linearize(x)
        if not math.isfinite(start.value) or not np.isfinite(start.derivative).all():
            return self._rejected(k, level.work, bound, memory)
        shift = transfer.T @ here.derivative - start.derivative
        shifted = CombinedLinearization(x, (start,), (1.0,), shift)
        end, work = self._minimized(k - 1, Shifted(level.functional, shift), shifted, norms, bound, memory, cycle)
        work += level.work
        promised = shifted.value - end.value
        if not promised > 0.0:
            return self._rejected(k, work, bound, memory)
        step = transfer @ (end.x - x)
        length = norm.norm(step)
        there = model.linearize(here.x + step)
        ratio = _achieved(here, there, promised, norm)
        if not ratio >= ACCEPT:
            return self._rejected(k, work + VALUE_WORK * self.levels[k].work, min(bound, length), memory)
        memory[FAILED, k] = 0.0
        if ratio > GOOD:
            memory[BOUND, k] = np.fmax(memory[BOUND, k], GROW * length)
        return Correction(there, work, ratio, length)

    def _rejected(self, k: int, work: float, tried: float, memory: Array) -> Correction:
        """Shorten the bound; leave corrections out for once, then three, seven ... times."""
        memory[BOUND, k] = SHRINK * tried
        memory[FAILED, k] += 1.0
        memory[REST, k] = 2.0 ** memory[FAILED, k] - 1.0
        return Correction(None, work)

    def _minimized(
        self,
        k: int,
        model: Functional,
        here: Linearization,
        norms: Sequence[Norm],
        bound: float,
        memory: Array,
        cycle: str,
    ) -> tuple[Linearization, float]:
        """Minimize a coarse model approximately in a ball around its start; return the end and the work."""
        ball, enough, work = Enclosure(here.x, bound), ENOUGH * norms[k].dual_norm(here.derivative), 0.0
        for visit in ("F", "V") if cycle == "F" and k > 0 else ("V",):
            room = bound - norms[k].norm(here.x - ball.centre)
            if room <= (1.0 - EDGE) * bound:
                break
            if self.seen(k, here.derivative, norms, memory):
                found = self.corrected(k, model, here, norms, room, memory, visit)
                work += found.work
                if found.point is not None:
                    here = found.point
                    work += self.levels[k].work
            elif memory[REST, k] > 0.0:
                memory[REST, k] -= 1.0
            here, more = self._relaxed(k, model, here, norms[k], ball, enough, memory)
            work += more
        return here, work

    def _relaxed(
        self, k: int, model: Functional, here: Linearization, norm: Norm, ball: Enclosure, enough: float, memory: Array
    ) -> tuple[Linearization, float]:
        """Take steps of the trust region, as many as cost no more than those on the finest level."""
        level = self.levels[k]
        method = TrustRegion(model, norm, level.dense, self.curvature, ball, ACCURACY)
        row, keep, work = Step(0, here.value, radius=float(memory[RADIUS, k])), NOTHING, 0.0
        for _ in range(max(1, round(self.smoothing / level.work))):
            if norm.norm(here.x - ball.centre) >= EDGE * ball.radius or norm.dual_norm(here.derivative) <= enough:
                break
            current = method.assess(here, replace(row, work=0.0), keep)
            there, following = method.moved(current)
            # The derivative at `here` is counted already, that at the next point is not.
            work += following.work
            if isinstance(there, Status):
                work -= 1.0
                break
            radius, used, here, row = row.radius, current.step.radius, there, following
            # A step that the ball has shortened says nothing against the radius.
            if row.radius >= used and radius > used:
                row = replace(row, radius=radius)
            keep = current.following
        memory[RADIUS, k] = row.radius
        return here, work * level.work


def _achieved(here: Linearization, there: Linearization, decrease: float, norm: Norm) -> float:
    """Return the actual over the predicted decrease.

    Where the difference of the values is rounding the derivative decides: 1 if its dual norm falls, NaN otherwise.
    """
    if max(abs(here.value - there.value), decrease) <= ROUNDING * abs(here.value):
        return 1.0 if norm.dual_norm(there.derivative) < norm.dual_norm(here.derivative) else math.nan
    return (here.value - there.value) / decrease if math.isfinite(there.value) else -math.inf
