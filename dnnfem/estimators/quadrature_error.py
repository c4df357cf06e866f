"""Quadrature error: what happens between the points that a functional was minimized at."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from dnnfem.estimators.enrichment import QUANTITY
from dnnfem.functionals import Functional
from dnnfem.functionals.sampling import integrals_of
from dnnfem.records import Array, Estimate, Index
from dnnfem.spaces.layout import check_coefficients


@dataclass(frozen=True, eq=False)
class Cellwise:
    """A functional cell by cell, at the present points and at those of a finer quadrature.

    Attributes
    ----------
    cells : int array, shape (c,)
        Numbers of the cells, as `dnnfem.refine_quadrature` takes them.
    present, finer : array, shape (c,)
        Contributions to ``J(x)``.
    """

    cells: Index
    present: Array
    finer: Array


def cellwise(functional: Functional, x: Array) -> Cellwise:
    """Return the contributions of all cells of meshes.

    Raises
    ------
    ValueError
        If no term is an integral over a mesh, or `x` is no finite vector of the space.
    """
    x = check_coefficients(functional.space, x, finite=True)
    present, fine, cells, start = [], [], [], 0
    for factor, integral in integrals_of(functional):
        quadrature = integral.quadrature
        # Regions follow their domain, and are numbered on; those without a mesh too.
        first = start if integral.region else 0
        start = first + quadrature.cell_count
        if quadrature.mesh is None:
            continue
        cells.append(np.arange(first, start))
        finer = replace(integral, quadrature=quadrature.finer())
        present.append(factor * integral.cellwise(x))
        # The children of a cell follow each other.
        fine.append(factor * finer.cellwise(x).reshape(quadrature.mesh.cell_count, -1).sum(axis=1))
    if not fine:
        raise ValueError("functional: got no integral over a mesh, expected one such as Collocation.on(space) returns")
    # Terms over the same domain, such as those of a flux, share their cells.
    numbers, place = np.unique(np.concatenate(cells), return_inverse=True)
    before, after = (np.bincount(place, np.concatenate(parts)) for parts in (present, fine))
    return Cellwise(numbers, before.astype(np.float64), after.astype(np.float64))


def quadrature_error(functional: Functional, x: Array) -> Estimate:
    """Estimate what more points would change: ``|J_h/2(x) - J_h(x)|``, cell by cell.

    A functional that was minimized at given points may be larger between them.  It is computed on a finer quadrature,
    `dnnfem.Quadrature.finer`, and where that changes it points are missing.

    Parameters
    ----------
    functional : Functional
        A `dnnfem.Collocation` or a `dnnfem.Energy` on a space; of sums, the terms that are integrals over meshes.
    x : array, shape (dim,)
        Coefficients.

    Returns
    -------
    Estimate
        Indicators are ``sqrt(2 |change|)``, so that they can be compared with those of `dnnfem.hierarchical`; cells are
        those of the quadrature, then those of its regions, numbered as `dnnfem.refine_quadrature` does it.  ``signed``
        has the changes of ``2 J``; what is changed in different directions does not cancel in the total.

    Raises
    ------
    ValueError
        If no term is an integral of a quadrature with a mesh, or `x` is no finite vector of the space.
    """
    found = cellwise(functional, x)
    change = 2.0 * (found.finer - found.present)
    indicators = np.sqrt(np.abs(change))
    return Estimate(QUANTITY, found.cells, indicators, math.sqrt(float(np.sum(np.abs(change)))), signed=change)
