"""Rows of a least-squares system that were replaced by few: how vectors of the original rows follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from dnnfem.kernels.orthogonal import Factor
from dnnfem.records import Array


def stacked(parts: list[Any]) -> Any:
    """Return residual vectors one below the other, where the first lives that is not one of NumPy's."""
    home = next((part for part in parts if not isinstance(part, np.ndarray)), None)
    if home is None:
        return np.concatenate(parts)
    xp = array_namespace(home)
    return xp.concat([xp.asarray(part, dtype=home.dtype, device=device(home)) for part in parts])


@dataclass(frozen=True, eq=False)
class Compression:
    """``Q^T s`` for ``A = Q R``, of which the triangle ``R`` is there and ``Q`` is not.

    As ``R^T Q^T s = A^T s``, the derivative along the rows and a triangular solve give the part of ``Q^T s`` that
    matters: that in the range of ``R``.  For well-conditioned columns this is exact, up to rounding times the
    condition.

    Parameters
    ----------
    triangle : array, shape (k, n)
        ``R``.
    pull : callable
        ``s -> A^T s``.
    """

    triangle: Array
    pull: Callable[[Array], Array]

    @cached_property
    def _factor(self) -> Factor:
        return Factor.of(self.triangle)

    def __call__(self, values: Array) -> Array:
        """Return the vector of k rows for one of the original rows."""
        return self._factor.solve_transposed(self.pull(values))


@dataclass(frozen=True, eq=False)
class Reduction:
    """What became of blocks of original rows, one below the other.

    Parameters
    ----------
    blocks : tuple of (int, Compression or None)
        Numbers of original rows, and how they were compressed if they were.
    """

    blocks: tuple[tuple[int, Compression | None], ...]

    @property
    def rows(self) -> int:
        """Number of original rows."""
        return sum(count for count, _ in self.blocks)

    def __add__(self, other: Reduction) -> Reduction:
        return Reduction(self.blocks + other.blocks)

    def __call__(self, values: Array) -> Array:
        """Return the vector of the present rows for one of the original rows."""
        parts, start = [], 0
        for count, compress in self.blocks:
            part = values[start : start + count]
            parts.append(part if compress is None else compress(part))
            start += count
        result: Array = stacked(parts)
        return result
