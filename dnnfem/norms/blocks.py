"""Products of norms: blocks of coefficients, each with a norm of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dnnfem.functionals.protocols import Norm
from dnnfem.records import Array, Index


@dataclass(frozen=True, eq=False)
class Blocks(Norm):
    """``|v|^2 = sum_b |v_b|_b^2``, e.g. of layers, or of the weights of a flow and the rest.

    Parameters
    ----------
    parts : sequence of (array, Norm)
        Numbers of the coefficients of a block, and a norm of so many; every coefficient is in one block.

    Raises
    ------
    ValueError
        If a norm has another dimension than its block, or the blocks do not make up ``0, ..., dim - 1``.
    """

    parts: Sequence[tuple[Index, Norm]]

    def __post_init__(self) -> None:
        parts = tuple((np.asarray(index), norm) for index, norm in self.parts)
        for number, (index, norm) in enumerate(parts):
            if index.shape != (norm.dim,):
                raise ValueError(
                    f"parts: got a norm of {norm.dim} coefficients for block {number} of shape {index.shape}"
                )
        every = np.sort(np.concatenate([index for index, _ in parts])) if parts else np.empty(0, dtype=np.int64)
        if not parts or not np.array_equal(every, np.arange(len(every))):
            raise ValueError(f"parts: got blocks with {len(every)} numbers, expected each of 0, 1, ... once")
        object.__setattr__(self, "parts", parts)

    @property
    def dim(self) -> int:
        """Number of coefficients."""
        return sum(norm.dim for _, norm in self.parts)

    def apply(self, v: Array) -> Array:
        """Return ``M v``, dual."""
        result = np.empty(self.dim)
        for index, norm in self.parts:
            result[index] = norm.apply(v[index])
        return result

    def riesz(self, g: Array) -> Array:
        """Return ``M^-1 g``, primal."""
        result = np.empty(self.dim)
        for index, norm in self.parts:
            result[index] = norm.riesz(g[index])
        return result

    def _matrix(self) -> Array:
        result = np.zeros((self.dim, self.dim))
        for index, norm in self.parts:
            result[np.ix_(index, index)] = norm.dense()
        return result
