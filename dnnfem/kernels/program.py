"""Straight-line programs over registers: what a kernel runs.

A program knows nothing of meshes, layers or neurons.  Its stages compute, one after another,

    r_o = sum_j a_j r_j + h sigma(W_k r_i + b_k),

each register is written once, and the weights come from the coefficients by a sparse affine map,
``weights = embedding @ x + offset``.  Plain layers, residual layers, Runge-Kutta stages with shared weights, double
layers and Hamiltonian fields are all of this form.

In the place of an affine map there may be one that a program knows nothing of, a module of torch: the backend for
devices runs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from dnnfem.given import real_array
from dnnfem.records import Array, Index

ACTIVATIONS = ("identity", "tanh", "sin", "softplus", "gelu", "relu", "sigmoid")
SMOOTH_ACTIVATIONS = ("tanh", "sin", "softplus", "gelu", "sigmoid")


class Opaque(Protocol):
    """A map of which a program knows no more than its widths and how many weights it has; torch differentiates it."""

    @property
    def size(self) -> int:
        """Number of weights."""
        ...

    def __call__(self, weights: Any, y: Any) -> Any:
        """Return the values (m, rows) for weights (size,) and samples (m, columns), each of them by itself.

        These are tensors of torch, of float32 or float64 on any device, or arrays of NumPy.
        """
        ...

    def check(self, columns: int, rows: int) -> None:
        """Raise a `ValueError` unless it maps `columns` components to `rows`."""
        ...


@dataclass(frozen=True)
class Block:
    """Place of one affine map ``r -> W r + b`` in the vector of weights.

    ``W`` has shape (rows, columns) and is stored row by row from `start`, then follows ``b`` (rows,) if `bias`.  If
    there is an opaque `map`, it takes the place of the affine one, and its weights begin at `start`.
    """

    rows: int
    columns: int
    start: int
    bias: bool = True
    map: Opaque | None = None

    @property
    def bias_start(self) -> int:
        """Index of the first bias."""
        return self.start + self.rows * self.columns

    @property
    def stop(self) -> int:
        """Index after the last weight of the block."""
        if self.map is not None:
            return self.start + self.map.size
        return self.bias_start + (self.rows if self.bias else 0)


@dataclass(frozen=True)
class Stage:
    """One line of a program: ``r_output = sum_j a_j r_j + scale * sigma(W_block r_input + b_block)``.

    `carry` lists the pairs ``(j, a_j)``.
    """

    output: int
    input: int
    block: int
    activation: str = "identity"
    scale: float = 1.0
    carry: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Program:
    """A network as straight-line code.  Register 0 is the input, the last register the output.

    Parameters
    ----------
    widths : tuple of int
        Width of each register.
    stages : tuple of Stage
        Executed in order; stage ``s`` writes register ``s + 1``.
    blocks : tuple of Block
        Affine and opaque maps; several stages may use the same one.
    embedding : sparse array, shape (weights, coefficients)
        Linear part of the map from coefficients to weights.
    offset : array, shape (weights,)
        Its constant part.

    Raises
    ------
    ValueError
        If a register is read before it is written or widths do not fit.
    """

    widths: tuple[int, ...]
    stages: tuple[Stage, ...]
    blocks: tuple[Block, ...]
    embedding: sp.csr_array
    offset: Array

    def __post_init__(self) -> None:
        if len(self.stages) != len(self.widths) - 1:
            raise ValueError(
                f"stages: got {len(self.stages)} stages for {len(self.widths)} registers, expected one less"
            )
        for number, stage in enumerate(self.stages):
            block = self.blocks[stage.block]
            read = (stage.input, *(j for j, _ in stage.carry))
            if stage.output != number + 1 or max(read) > number:
                raise ValueError(
                    f"stages: stage {number} must write register {number + 1} and read earlier ones, got {stage}"
                )
            if stage.activation not in ACTIVATIONS:
                raise ValueError(f"activation: got {stage.activation!r}, expected one of {', '.join(ACTIVATIONS)}")
            expected = (self.widths[stage.output], self.widths[stage.input])
            if (block.rows, block.columns) != expected:
                raise ValueError(
                    f"blocks: stage {number} needs a block of shape {expected}, got {(block.rows, block.columns)}"
                )
            if any(self.widths[j] != self.widths[stage.output] for j, _ in stage.carry):
                raise ValueError(f"carry: stage {number} adds registers of another width than its output")
        if self.embedding.shape[0] != self.offset.size:
            raise ValueError(f"embedding: got shape {self.embedding.shape} for {self.offset.size} weights")

    @property
    def inputs(self) -> int:
        """Width of the input register."""
        return self.widths[0]

    @property
    def outputs(self) -> int:
        """Width of the output register."""
        return self.widths[-1]

    @property
    def dim(self) -> int:
        """Number of coefficients."""
        return int(self.embedding.shape[1])

    @cached_property
    def applied(self) -> int:
        """Number of weights that all stages together apply to a sample: the work of a sweep."""
        return sum(block.stop - block.start for block in (self.blocks[stage.block] for stage in self.stages))

    @cached_property
    def is_opaque(self) -> bool:
        """Whether some map is opaque, so that only the backend for devices can run it."""
        return any(block.map is not None for block in self.blocks)

    @cached_property
    def is_identity(self) -> bool:
        """Whether weights and coefficients are the same vector, so that kernels can skip the embedding."""
        return self.is_inclusion and self.offset.size == self.dim

    @cached_property
    def is_inclusion(self) -> bool:
        """Whether the first weights are the coefficients, and those behind them fixed."""
        e, dim = self.embedding, self.dim
        return (
            e.nnz == dim <= e.shape[0]
            and not self.offset[:dim].any()
            and np.array_equal(e.indptr[: dim + 1], np.arange(dim + 1))
            and np.array_equal(e.indices, np.arange(dim))
            and bool((e.data == 1.0).all())
        )

    @cached_property
    def places(self) -> Index | None:
        """Number of the weight that each coefficient is, shape (dim,); None where the embedding mixes weights."""
        e = self.embedding.tocsc()
        single = np.array_equal(e.indptr, np.arange(self.dim + 1)) and bool((e.data == 1.0).all())
        return np.asarray(e.indices, dtype=np.int64) if single and np.unique(e.indices).size == self.dim else None

    @cached_property
    def fixed(self) -> frozenset[int]:
        """Registers that do not depend on the coefficients: the input, and what fixed weights make of it."""
        found = {0}
        for stage in self.stages:
            block, rows = self.blocks[stage.block], self.embedding.indptr
            if rows[block.start] == rows[block.stop] and found.issuperset((stage.input, *(j for j, _ in stage.carry))):
                found.add(stage.output)
        return frozenset(found)

    def weights(self, x: Array) -> Array:
        """Return the weights that belong to the coefficients `x`."""
        return x if self.is_identity else self.embedding @ x + self.offset

    def directions(self, v: Array) -> Array:
        """Return the weight direction(s) of coefficient direction(s) `v`, shape (dim,) or (dim, k)."""
        return v if self.is_identity else self.embedding @ v

    def restrict(self, g: Array) -> Array:
        """Pull a dual vector (or several as columns) of the weights back to the coefficients."""
        return g if self.is_identity else self.embedding.T @ g

    def require_affine(self, backend: str) -> None:
        """Raise a `ValueError` that names the backend for devices if some map is opaque."""
        for block in self.blocks:
            if block.map is not None:
                raise ValueError(
                    f"backend: got {backend!r} for a network with {block.map}, expected 'device', which is the default "
                    "there: only torch can run it"
                )

    def truncated(self, register: int) -> Program:
        """Return the program that ends with `register` as its output, in the same coefficients."""
        return Program(self.widths[: register + 1], self.stages[:register], self.blocks, self.embedding, self.offset)


def as_columns(v: Array, dim: int) -> Array:
    """Return directions of coefficients (dim,) or (dim, k) as columns (dim, k), primal.

    Raises
    ------
    ValueError
        If `v` has another shape.
    """
    v = real_array("v", v).astype(np.float64, copy=False)
    if v.ndim not in (1, 2) or v.shape[0] != dim:
        raise ValueError(f"v: got shape {v.shape}, expected {(dim,)} or ({dim}, k)")
    return v.reshape(dim, -1) if v.size else v.reshape(dim, 0 if v.ndim == 2 else 1)
