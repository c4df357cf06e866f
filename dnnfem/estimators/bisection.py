"""Hierarchical estimate in time: what would a flow gain from cells of half the length?"""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse as sp

from dnnfem.estimators.algebraic import algebraic
from dnnfem.estimators.enrichment import QUANTITY, WITHOUT_SYSTEM, Enriched, dispersion_of, joint
from dnnfem.functionals import Functional, Tikhonov
from dnnfem.functionals.sampling import terms_of
from dnnfem.functionals.trajectories import why_not_finite
from dnnfem.norms import TimeNorm
from dnnfem.records import Array, Estimate
from dnnfem.refinement.time import bisect, bisection_costs
from dnnfem.spaces import FlowSpace
from dnnfem.spaces.layout import check_coefficients


def of_bisection(functional: Functional, x: Array) -> Estimate:
    """Return the hierarchical estimate on the bisected weight mesh; see `dnnfem.hierarchical`."""
    space = functional.space
    assert isinstance(space, FlowSpace)
    x = check_coefficients(space, x, finite=True)
    fine, transfer = bisect(space, range(space.cells))
    finer = functional.on(space=fine, transfer=transfer)
    linearization = finer.linearize(transfer(x))
    if not math.isfinite(linearization.value):
        raise ValueError(f"x: {why_not_finite(finer, transfer(x))}")
    system = linearization.system()
    if system is None:
        raise ValueError(WITHOUT_SYSTEM)
    basis = sp.csr_array(sp.hstack([transfer.matrix, _details(space, fine)]))
    groups = list(space.dim + np.arange(space.cells * space.size).reshape(space.cells, space.size))
    enriched = Enriched(system @ basis, groups)
    part = captured(functional, space)
    total, parts = joint(enriched, dispersion_of(functional), "weights", part, np.inf)
    if len(fine.state_mesh) > len(space.state_mesh):
        # With more steps the old coefficients have another minimum: that is no error of the solver.
        parts["algebraic"] = algebraic(functional, x).total
        total = math.sqrt(sum(parts[name] ** 2 for name in ("weights", "algebraic", "sampling")))
    gains = np.maximum(enriched.system.candidates(np.array(groups)).score(), 0.0) / part
    cells, costs = np.arange(space.cells), bisection_costs(space)
    return Estimate(QUANTITY, cells, np.sqrt(2.0 * gains), total, parts=parts, cost=costs)


def captured(functional: Functional, space: FlowSpace) -> float:
    """Return the part that bisection has of what ever more cells gain, ``1 - 4^-q``.

    ``q`` is the order of the best approximation in the norm of the penalties: ``degree + 1`` in L2, one less in H1.
    """
    norms = [term.norm for factor, term in terms_of(functional) if isinstance(term, Tikhonov) and factor * term.alpha]
    derivatives = max((norm.derivatives for norm in norms if isinstance(norm, TimeNorm)), default=0)
    return 1.0 - 0.25 ** (space.degree + 1 - derivatives)


def _details(space: FlowSpace, fine: FlowSpace) -> sp.csr_array:
    """Return the functions that the bisected mesh has besides, as columns, cell by cell.

    They are 1 on the left half and -1 on the right one for piecewise constant weights, and the hat of the new node for
    piecewise linear ones.
    """
    halves = np.kron(np.eye(space.cells), [[1.0], [-1.0]])
    values = halves if space.degree == 0 else np.eye(fine.places)[:, 1::2]
    in_theta = sp.kron(values, sp.eye_array(space.size))
    above = sp.csr_array((fine.theta_start, in_theta.shape[1]))
    below = sp.csr_array((fine.dim - fine.theta_stop, in_theta.shape[1]))
    return sp.csr_array(sp.vstack([above, in_theta, below]))
