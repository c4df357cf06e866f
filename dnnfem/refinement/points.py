"""Refinement of the points: those of a mesh get more of its cells."""

from __future__ import annotations

from typing import Any

from dnnfem.quadrature import Quadrature


def refine_quadrature(quadrature: Quadrature, marked: Any) -> Quadrature:
    """Refine cells of a quadrature: boxes and simplices are bisected, sequences of points go on.

    The sum of the weights is kept, in the interior and in every region.  Where nothing is marked the quadrature itself
    is returned.

    Parameters
    ----------
    quadrature : Quadrature
        Of a mesh, e.g. `dnnfem.BoxMesh` or `dnnfem.SobolPoints`; so have to be the regions whose cells are marked.
    marked : int array, shape (k,)
        Numbers of cells, in any order: first those of the interior, then those of the regions, one region after
        another.

    Returns
    -------
    Quadrature
        Cells are numbered anew: those that a cell was cut into take its place.

    Raises
    ------
    ValueError
        If there is no such cell, or it belongs to a part that has no mesh, or data that do not come from its mesh, or
        it cannot be refined any further.

    Examples
    --------
    >>> problem = fem.Collocation(lambda p, u: u.laplacian + 2.0, fem.Box([0], [1]), dirichlet=0.0)
    >>> coarse = problem.quadrature
    >>> fine = fem.refine_quadrature(coarse, [0])
    >>> fine.cell_count - coarse.cell_count, float(fine.weights.sum().round(12))
    (1, 1.0)
    """
    return quadrature.refined(marked)
