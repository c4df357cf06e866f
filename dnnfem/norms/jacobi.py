"""The diagonal of the curvature as a norm: steps no longer depend on the units of single coefficients."""

from __future__ import annotations

import numpy as np

from dnnfem.functionals import Linearization
from dnnfem.norms.diagonal import Weighted
from dnnfem.records import Array
from dnnfem.spaces import Space

FLOOR = 0.1
"""Least weight, relative to the mean of all: coefficients that do nothing yet are not free to run away."""


def jacobi(space: Space, linearization: Linearization) -> Weighted:
    """Return the norm ``|v|_x^2 = sum_i max(C_ii, floor) v_i^2`` with the diagonal of the curvature ``C`` at a point.

    It is a metric, for the argument `norm` of the solvers: the scaling of Levenberg-Marquardt methods.  The diagonal is
    that of the matrix in single precision, which dense steps begin with.

    Parameters
    ----------
    space : Space
    linearization : Linearization
        At the point.

    Returns
    -------
    Weighted
        Definite by its floor.

    References
    ----------
    Moré, The Levenberg-Marquardt algorithm, Lecture Notes in Mathematics 630 (1978) 105-116.
    """
    return of_diagonal(space, np.diagonal(linearization.gram(single=True)))


def of_diagonal(space: Space, diagonal: Array) -> Weighted:
    """Return the same norm from the diagonal of a curvature that is there already."""
    floor = FLOOR * float(np.mean(diagonal)) or 1.0
    return Weighted(space, np.maximum(diagonal, floor))
