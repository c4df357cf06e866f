"""What small errors do in an equation: the law linearized at a solution, and all conditions, for any functions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dnnfem.functionals import Integral
from dnnfem.functionals.integral import budget
from dnnfem.kernels.components import Component
from dnnfem.kernels.laws import LinearForm, Misfit
from dnnfem.kernels.protocol import Ansatz, Law
from dnnfem.problems.collocation import Collocation
from dnnfem.quadrature import Quadrature
from dnnfem.records import Array
from dnnfem.spaces.layout import NetworkSpace

SAMPLES = 1600
"""Points at which a residual is looked at, at least."""

ENOUGH = 8
"""Points of a condition that holds exactly, per coefficient, at least: solvers have none there."""


@dataclass(frozen=True, eq=False)
class Form:
    """Residuals that are linear in the jet, at some points.

    Attributes
    ----------
    components : tuple of Component
        Of the jet.
    points, weights : array, shape (m, d) and (m,)
    slopes : array, shape (equations, components, outputs, m)
    """

    components: tuple[Component, ...]
    points: Array
    weights: Array
    slopes: Array

    def equation(self, number: int) -> Form:
        """Return one of the equations."""
        return replace(self, slopes=self.slopes[number : number + 1])

    def times(self, factors: Array) -> Form:
        """Return the residuals multiplied by numbers (equations, m)."""
        return replace(self, slopes=factors[:, None, None] * self.slopes)


@dataclass(frozen=True, eq=False)
class Perturbations:
    """Residuals of perturbations ``v`` of a solution, linearized there.

    The ``v`` are the tangents of the network at its coefficients, without the ansatz of the problem: conditions that
    hold exactly are residuals as all others, so that they can be violated.

    Parameters
    ----------
    problem : Collocation
    soft : Collocation
        The same problem with all conditions as residuals.
    space : NetworkSpace
    x : array, shape (dim,)
        Coefficients of the solution.
    """

    problem: Collocation
    soft: Collocation
    space: NetworkSpace
    x: Array

    @classmethod
    def of(cls, problem: Collocation, space: NetworkSpace, x: Array) -> Perturbations:
        """Make all conditions of a problem residuals."""
        none: Any = None
        soft = replace(problem, exact=False, quadrature=none, weight=None) if problem.exact else problem
        return cls(problem, soft, space, x)

    @property
    def names(self) -> list[str]:
        """Those of all residuals, that of the equation first."""
        return list(self.soft.laws)

    def samples(self, name: str) -> Quadrature:
        """Return points spread over where a residual is."""
        part = self.problem.quadrature if name == "law" else self.soft.quadrature.regions[name]
        return _with(replace(part, regions={}), SAMPLES)

    def resolved(self, name: str, quadrature: Quadrature) -> Quadrature:
        """Return points that determine the tangents where a residual is, from those of a `quadrature` if it has them.

        A solver has few points for each coefficient, between which tangents do what they like: the norm of a
        perturbation is not known from the points where its residuals are.
        """
        part = replace(quadrature, regions={}) if name == "law" else quadrature.regions.get(name)
        if part is None:
            return _with(self.samples(name), ENOUGH * self.space.dim)
        return part if part.mesh is None else part.finer()

    def form(self, name: str, part: Quadrature) -> Form:
        """Return a linearized residual at some points."""
        # In the size that it has in the problem, if that has it.
        law = replace(self.problem.laws.get(name, self.soft.laws[name]), weight=None)
        points, data = np.asarray(part.points, dtype=np.float64), np.asarray(part.data, dtype=np.float64)
        jet = self._integral(part, law, self.problem.ansatz).evaluator.jet(self.x, points, law.components)
        slopes = law.linearize(points, data, jet).slopes
        return Form(law.components, part.points, part.weights, np.broadcast_to(slopes, (*slopes.shape[:3], len(part))))

    def on(self, form: Form) -> Integral:
        """Return the integral of a residual."""
        equations, _, outputs, m = form.slopes.shape
        part = Quadrature(form.points, form.weights, form.slopes.reshape(-1, m).T)
        return self._integral(part, LinearForm(form.components, equations, outputs), self.soft.ansatz)

    def values(self, part: Quadrature) -> Integral:
        """Return ``sum_q w_q |v(p_q)|^2 / 2``."""
        targets = np.zeros((len(part), self.problem.outputs))
        return self._integral(Quadrature(part.points, part.weights, targets), Misfit(), self.soft.ansatz)

    def _integral(self, part: Quadrature, law: Law, ansatz: Ansatz) -> Integral:
        problem, memory = self.problem, budget(self.problem.memory, part, self.problem.device)
        where = (problem.backend, memory, problem.device, problem.precision)
        return Integral(self.space, part, ansatz, law, *where)


def _with(part: Quadrature, count: int) -> Quadrature:
    """Return a quadrature with at least so many points, if it can be refined: the end of an interval is one point."""
    while len(part) < count and part.mesh is not None:
        finer = part.refined(np.arange(part.cell_count))
        if len(finer) == len(part):
            break
        part = finer
    return part
