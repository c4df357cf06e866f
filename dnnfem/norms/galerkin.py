"""The norm of a fine space on a coarse one."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from dnnfem.functionals.protocols import MatrixNorm, Norm
from dnnfem.norms.diagonal import Euclidean, Weighted
from dnnfem.norms.mass import H1, L2, TimeNorm
from dnnfem.spaces import FlowSpace, Space, Transfer

NESTED = 1e-10
"""Relative difference up to which the norm of the coarse space itself is the one that is wanted."""


def galerkin(norm: Norm, transfer: Transfer, coarse: Space) -> Norm:
    """Return ``|s|_H = |P s|_h``, the norm with the matrix ``P^T M P``, on the coarse space.

    Norms of functions of time are those of the coarse space, where these nest; diagonal ones stay diagonal where every
    fine coefficient belongs to one coarse coefficient at most.  Everything else becomes a dense matrix.

    Raises
    ------
    ValueError
        If the transfer is not from the coarse space into that of the norm.
    """
    if transfer.shape != (norm.dim, coarse.dim):
        raise ValueError(f"transfer: got shape {transfer.shape}, expected {(norm.dim, coarse.dim)}")
    if isinstance(norm, TimeNorm) and isinstance(coarse, FlowSpace) and coarse.degree == norm.space.degree:
        own = H1(coarse) if norm.derivatives else L2(coarse)
        v = np.random.default_rng(0).standard_normal(coarse.dim)
        image, wanted = own.apply(v), transfer.T @ norm.apply(transfer @ v)
        if np.abs(image - wanted).max() <= NESTED * np.abs(wanted).max():
            return own
    if isinstance(norm, Euclidean | Weighted):
        weights = np.ones(norm.dim) if isinstance(norm, Euclidean) else norm.weights
        matrix = sp.csr_array(transfer.matrix.T @ sp.diags_array(weights) @ transfer.matrix)
        diagonal = matrix.diagonal()
        if np.count_nonzero(matrix.data) == np.count_nonzero(diagonal):
            return Weighted(coarse, diagonal)
        return MatrixNorm(matrix.toarray())
    columns = transfer.matrix.toarray()
    return MatrixNorm(columns.T @ np.column_stack([norm.apply(column) for column in columns.T]))
