"""Transfers: how iterates, corrections and derivatives pass from one space to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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
        """Prolong an iterate, shape (coarse,) -> (fine,)."""
        self._check(x, self.shape[1])
        return np.asarray(self.matrix @ x) + self.offset

    def __matmul__(self, s: Array) -> Array:
        """Prolong a correction (or several as columns): the linear part alone."""
        self._check(s, self.shape[1])
        return np.asarray(self.matrix @ s)

    @property
    def T(self) -> sp.csc_array:
        """The transpose: ``P.T @ g`` restricts a derivative, (fine,) -> (coarse,)."""
        return self.matrix.T

    def after(self, first: Transfer) -> Transfer:
        """Return the transfer that applies `first`, then this one."""
        self._check(first.offset, self.shape[1])
        return Transfer(sp.csr_array(self.matrix @ first.matrix), self(first.offset))

    def project(self, x: Array, norm: _Apply | None = None) -> Array:
        """Return the coarse iterate whose prolongation is nearest: ``M_H^-1 P^T M_h (x - c)``, ``M_H = P^T M_h P``.

        Parameters
        ----------
        x : array, shape (fine,)
            Fine iterate.
        norm : Norm, optional
            Norm of the fine space; default Euclidean.
        """
        self._check(x, self.shape[0])
        difference = x - self.offset
        if norm is None:
            gram = sp.csc_array(self.matrix.T @ self.matrix)
            return np.asarray(splu(gram).solve(np.asarray(self.matrix.T @ difference)))
        dense = self.matrix.toarray()
        gram = dense.T @ np.column_stack([norm.apply(column) for column in dense.T])
        return np.asarray(np.linalg.solve(gram, dense.T @ norm.apply(difference)))

    def _check(self, vector: Array, expected: int) -> None:
        if np.shape(vector)[:1] != (expected,):
            raise ValueError(
                f"vector: got shape {np.shape(vector)}, expected ({expected},) for a transfer {self.shape}"
            )

    def __repr__(self) -> str:
        return f"Transfer({self.shape[1]} -> {self.shape[0]}, {self.matrix.nnz} entries)"
