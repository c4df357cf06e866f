"""Residual estimate: how large the residuals of a differential equation are, also between the points."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from dnnfem.functionals import Functional
from dnnfem.functionals.sampling import integrals_of
from dnnfem.records import Array, Estimate
from dnnfem.spaces.layout import check_coefficients

QUANTITY = "residual sqrt(2 J(x)), in the norm of the functional"


def residual(functional: Functional, x: Array) -> Estimate:
    """Estimate ``sqrt(2 J(x))`` with ``J`` the integral over the domain, on points that the solver did not see.

    A residual that was minimized at given points may be larger between them.  The integral is computed on a finer
    quadrature, `dnnfem.Quadrature.finer`, and what that adds says whether points are missing, and where.

    Parameters
    ----------
    functional : Functional
        A `dnnfem.Collocation` on a space; of sums, the terms that are integrals over meshes.
    x : array, shape (dim,)
        Coefficients.

    Returns
    -------
    Estimate
        Of the *residual*: what that says of the error of the solution depends on the equation, and high frequencies of
        the residual make small errors.  Cells are those of the quadrature, then those of its regions, numbered as
        `dnnfem.refine_quadrature` does it, with the residual on the finer quadrature as indicator; ``signed`` is what
        that adds to the square on each cell: ``abs(estimate.signed) ** 0.5`` marks where points are missing.  Parts:
        ``known``, the same at the present points, and ``points``, the root of the sum of what is added, in absolute
        values.

    Raises
    ------
    ValueError
        If no term is an integral of a quadrature with a mesh, or `x` is no finite vector of the space.

    References
    ----------
    Verfürth, A Posteriori Error Estimation Techniques for Finite Element Methods (2013), for the principle.
    """
    x = check_coefficients(functional.space, x, finite=True)
    known, fine, cells, start = [], [], [], 0
    for factor, integral in integrals_of(functional):
        quadrature = integral.quadrature
        # Regions follow their domain, and are numbered on; those without a mesh too.
        first = start if integral.region else 0
        start = first + quadrature.cell_count
        if quadrature.mesh is None:
            continue
        cells.append(np.arange(first, start))
        finer = replace(integral, quadrature=quadrature.finer())
        known.append(2.0 * factor * integral.cellwise(x))
        # The children of a cell follow each other.
        fine.append(2.0 * factor * finer.cellwise(x).reshape(quadrature.mesh.cell_count, -1).sum(axis=1))
    if not fine:
        raise ValueError("functional: got no integral over a mesh, expected one such as Collocation.on(space) returns")
    present, found = np.concatenate(known), np.concatenate(fine)
    added = found - present
    return Estimate(
        quantity=QUANTITY,
        cells=np.concatenate(cells),
        indicators=np.sqrt(np.maximum(found, 0.0)),
        total=math.sqrt(max(float(np.sum(found)), 0.0)),
        signed=added,
        parts={
            "known": math.sqrt(max(float(np.sum(present)), 0.0)),
            "points": math.sqrt(float(np.sum(np.abs(added)))),
        },
    )
