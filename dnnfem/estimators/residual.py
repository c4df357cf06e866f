"""Residual estimate: how large the residuals of a differential equation are, also between the points."""

from __future__ import annotations

import math

import numpy as np

from dnnfem.estimators.quadrature_error import cellwise
from dnnfem.functionals import Functional
from dnnfem.functionals.sampling import integrals_of
from dnnfem.records import Array, Estimate

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
        If no term is an integral of a quadrature with a mesh, a law has no residuals, or `x` is no finite vector of the
        space.

    References
    ----------
    Verfürth, A Posteriori Error Estimation Techniques for Finite Element Methods (2013), for the principle.

    Examples
    --------
    >>> problem = fem.Collocation(lambda p, u: u.laplacian + 2.0, fem.Box([0], [1]), dirichlet=0.0)
    >>> J = problem.on(fem.FeedforwardSpace(inputs=1, hidden=(4,), outputs=1))
    >>> estimate = fem.residual(J, fem.gauss_newton(J, J.space.initial(seed=0), 1e-5).x)
    >>> estimate.total < 1e-3, len(estimate.cells) == problem.quadrature.cell_count
    (True, True)
    """
    terms = [integral for _, integral in integrals_of(functional) if integral.quadrature.mesh is not None]
    kinds = {str(integral.law.kind) for integral in terms} - {"residual"}
    if kinds:
        raise ValueError(f"functional: got a law of kind {min(kinds)!r}, expected residuals; see quadrature_error")
    cells = cellwise(functional, x)
    present, found = 2.0 * cells.present, 2.0 * cells.finer
    added = found - present
    return Estimate(
        quantity=QUANTITY,
        cells=cells.cells,
        indicators=np.sqrt(np.maximum(found, 0.0)),
        total=math.sqrt(max(float(np.sum(found)), 0.0)),
        signed=added,
        parts={
            "known": math.sqrt(max(float(np.sum(present)), 0.0)),
            "points": math.sqrt(float(np.sum(np.abs(added)))),
        },
    )
