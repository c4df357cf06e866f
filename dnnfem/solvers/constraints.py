"""Equality constraints at a point: multiplier, normal step, and whether any step could meet them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dnnfem.functionals import Functional, Linearization, Metric
from dnnfem.norms.projected import Projected
from dnnfem.records import Array
from dnnfem.solvers.iteration import norm_at
from dnnfem.solvers.trust_region import ROUNDING

FEASIBLE = 1e-8
"""Length, relative to one or to that of the point if it is longer, by which constraints may be missed."""

SHORT = 1e-10
"""Steps shorter than this part of the normal step get nowhere: ``c'`` is singular, or nearly."""


@dataclass(frozen=True, eq=False)
class Point:
    """A point with its constraints.

    Attributes
    ----------
    linearization : Linearization
        Of the functional.
    values : array, shape (m,)
        ``c(x)``.
    kernel : Projected
        The norm on the kernel of ``c'(x)``.
    multiplier : array, shape (m,)
        ``p``.
    slope : array, shape (dim,)
        ``L_x = J' + c'^T p``, dual.
    normal : array, shape (dim,)
        The shortest step that solves the linearized constraints in the sense of least squares, primal.
    reach : float
        Its length.
    shortfall : float
        What it leaves of the linearized constraints, as the least length in which these can change by as much; at most
        `size`.
    size : float
        Length of the point, at least one.
    """

    linearization: Linearization
    values: Array
    kernel: Projected
    multiplier: Array
    slope: Array
    normal: Array
    reach: float
    shortfall: float
    size: float

    @property
    def unattainable(self) -> bool:
        """Whether no step meets the linearized constraints."""
        return self.shortfall > FEASIBLE * self.size

    @property
    def feasible(self) -> bool:
        """Whether the constraints are met, up to a short step."""
        return self.reach <= FEASIBLE * self.size and not self.unattainable

    @property
    def nowhere(self) -> float:
        """Length of steps that are too short to get to the constraints; negative where these are met."""
        if self.unattainable:
            return FEASIBLE * self.size
        return -math.inf if self.feasible else SHORT * self.reach


def values_of(here: Linearization) -> Array:
    """Return ``c(x)``, shape (m,), from a linearization of the constraints.

    Raises
    ------
    ValueError
        If they have no residual.
    """
    values = here.residual()
    if values is None:
        raise ValueError("constraints: got no sum of squares, expected a functional whose residual is to vanish")
    # From wherever it is.
    return np.array(values.tolist(), dtype=np.float64)


def point_at(
    linearization: Linearization, functional: Functional, constraints: Functional, metric: Metric | None
) -> Point | None:
    """Return what is known at the point of a linearization; None if it is not finite.

    Raises
    ------
    ValueError
        If the constraints have no residual, or more than there are coefficients.
    """
    there, dim = constraints.linearize(linearization.x), len(linearization.x)
    values, system = values_of(there), there.system()
    assert system is not None
    if len(values) > dim:
        raise ValueError(
            f"constraints: got {len(values)} residuals for {dim} coefficients, expected no more, and no penalty"
        )
    rows = np.array([system.pull(unit) for unit in np.eye(len(values))]).reshape(len(values), -1)
    if not all(np.isfinite(part).all() for part in (values, rows, linearization.derivative)):
        return None
    kernel = Projected(norm_at(metric, functional, linearization), rows)
    multiplier = kernel.multiplier(linearization.derivative)
    slope, normal = linearization.derivative + rows.T @ multiplier, kernel.least(-values)
    size, stretch = max(1.0, kernel.norm(linearization.x)), kernel.stretch
    missed, shortfall = float(np.linalg.norm(values + rows @ normal)), 0.0
    if missed > ROUNDING * float(np.linalg.norm(values)):
        shortfall = min(missed / stretch, size) if stretch > 0.0 else size
    return Point(linearization, values, kernel, multiplier, slope, normal, kernel.norm(normal), shortfall, size)
