"""The curvature as a matrix, in double or single precision, as evaluators remember it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from dnnfem.kernels.recent import Recent, frozen
from dnnfem.records import Array

SMALLEST, LARGEST = 1e-20, 1e30
"""Means of the diagonal between which squares in single precision neither vanish nor overflow."""


class Curved(Protocol):
    """The part of a linearization that is needed here."""

    @property
    def x(self) -> Array:
        """The point."""
        ...

    def curvature(self, v: Array) -> Array:
        """Return products with the curvature."""
        ...

    def gram(self) -> Array:
        """Return the matrix in double precision."""
        ...


def remembered(
    grams: Recent[Array], linearization: Curved, compute: Callable[[bool], Array | None], single: bool
) -> Array:
    """Return the Gram matrix of a linearization; see `dnnfem.kernels.protocol.Linearization.gram`.

    Parameters
    ----------
    grams : Recent
        What the evaluator remembers.
    linearization : Curved
    compute : callable
        Sums up the products of rows, in single precision or not; None if the law gives none.
    single : bool
    """

    def computed() -> Array:
        matrix = compute(single)
        if single and (matrix is None or not SMALLEST < float(np.mean(np.diagonal(matrix))) < LARGEST):
            return linearization.gram()
        return frozen(linearization.curvature(np.eye(linearization.x.size)) if matrix is None else matrix)

    return grams(bytes([single]) + linearization.x.tobytes(), computed)
