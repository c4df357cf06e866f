"""Transfers: how iterates, corrections and derivatives pass from one space to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from dnnfem.records import Array


class _Apply(Protocol):
    def apply(self, v: Array) -> Array: ...


@dataclass(frozen=True, eq=False)
class Transfer:
    """The affine map ``P(x) = P x + c`` from a coarse into a fine space.

    Iterates are prolonged by ``P(x)``, corrections by ``P @ s``, derivatives are restricted by ``P.T @ g`` and fine
    iterates come back by `project`.

    Parameters
    ----------
    matrix : sparse array, shape (fine, coarse)
        Linear part.
    offset : array, shape (fine,)
        ``c``; not zero where refinement adds coefficients that must not vanish, e.g. the directions of new neurons.

    Raises
    ------
    ValueError
        If the offset has another length than the matrix has rows.

    Examples
    --------
    >>> coarse = fem.FeedforwardSpace(inputs=1, hidden=(3,), outputs=1)
    >>> fine, P = fem.insert_layer(coarse, 1)
    >>> x = coarse.initial(seed=0)
    >>> np.allclose(P.project(P(x)), x)
    True
    """

    matrix: sp.csr_array
    offset: Array

    def __post_init__(self) -> None:
        if self.offset.shape != (self.matrix.shape[0],):
            raise ValueError(f"offset: got shape {self.offset.shape}, expected {(self.matrix.shape[0],)}")

    @property
    def shape(self) -> tuple[int, int]:
        """(fine, coarse)."""
        return (int(self.matrix.shape[0]), int(self.matrix.shape[1]))

    @classmethod
    def identity(cls, dim: int) -> Transfer:
        """Return the identity."""
        return cls(sp.csr_array(sp.eye_array(dim)), np.zeros(dim))

    def __call__(self, x: Array) -> Array:
        """Prolong an iterate (or several as columns), shape (coarse,) -> (fine,)."""
        prolonged = self @ x
        return prolonged + (self.offset if prolonged.ndim == 1 else self.offset[:, None])

    def __matmul__(self, s: Array) -> Array:
        """Prolong a correction (or several as columns): the linear part alone."""
        return np.asarray(self.matrix @ self._checked(s, self.shape[1]))

    @property
    def T(self) -> sp.csc_array:
        """The transpose: ``P.T @ g`` restricts a derivative, (fine,) -> (coarse,)."""
        return self.matrix.T

    def after(self, first: Transfer) -> Transfer:
        """Return the transfer that applies `first`, then this one."""
        offset = self(first.offset)
        return Transfer(sp.csr_array(self.matrix @ first.matrix), offset)

    def project(self, x: Array, norm: _Apply | None = None) -> Array:
        """Return the coarse iterate whose prolongation is nearest: ``M_H^-1 P^T M_h (x - c)``, ``M_H = P^T M_h P``.

        Parameters
        ----------
        x : array, shape (fine,)
            Fine iterate.
        norm : Norm, optional
            Norm of the fine space; default Euclidean.
        """
        difference = self._checked(x, self.shape[0], axes=1) - self.offset
        if norm is None:
            gram = sp.csc_array(self.matrix.T @ self.matrix)
            return np.asarray(splu(gram).solve(np.asarray(self.matrix.T @ difference)))
        dense = self.matrix.toarray()
        gram = dense.T @ np.column_stack([norm.apply(column) for column in dense.T])
        return np.asarray(np.linalg.solve(gram, dense.T @ norm.apply(difference)))

    def _checked(self, vector: Any, expected: int, axes: int = 2) -> Array:
        array = np.asarray(vector)
        if array.dtype.kind not in "fiu":
            raise ValueError(f"vector: got dtype {array.dtype}, expected real numbers")
        if array.shape[:1] != (expected,) or array.ndim > axes:
            raise ValueError(f"vector: got shape {array.shape}, expected ({expected},) for a transfer {self.shape}")
        return array.astype(np.float64, copy=False)

    def __repr__(self) -> str:
        return f"Transfer({self.shape[1]} -> {self.shape[0]}, {self.matrix.nnz} entries)"
