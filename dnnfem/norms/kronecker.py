"""The Kronecker-factored curvature as a norm: a preconditioner where the curvature is too large to be formed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dnnfem.functionals import Functional, Integral, Linearization, Norm, Scaled, Sum, Tikhonov
from dnnfem.kernels.program import Block
from dnnfem.norms.rules import MetricOn
from dnnfem.records import Array
from dnnfem.spaces import Space

FLOOR = 1e-3
"""Least eigenvalue, relative to the mean of all in its layer: where the factors see nothing, a step is bounded too."""

SAMPLES = 2048
"""Points from which the factors are computed at most: a rough preconditioner costs few more iterations."""

LEAST = 1e-12
"""Least penalty on a column, relative to the largest one in its layer."""


@dataclass(frozen=True, eq=False)
class Layer:
    """``M = sum_ij values_ij (u_i u_i^T) x (w_j w_j^T)`` on the coefficients ``[W, b]`` of one layer.

    Parameters
    ----------
    block : Block
        Where they are.
    outer : array, shape (rows, rows)
        Orthonormal directions ``u`` of the layer's arguments, as columns.
    primal, dual : array, shape (columns + 1, columns + 1)
        ``w`` are the columns of `dual`; those of `primal` are biorthogonal to them.
    values : array, shape (rows, columns + 1)
        Positive.
    """

    block: Block
    outer: Array
    primal: Array
    dual: Array
    values: Array

    def coordinates(self, v: Array, basis: Array) -> Array:
        """Return ``outer^T [W, b] basis``."""
        b = self.block
        weights = v[b.start : b.bias_start].reshape(b.rows, b.columns)
        return np.asarray(self.outer.T @ (weights @ basis[:-1] + np.outer(v[b.bias_start : b.stop], basis[-1])))

    def write(self, coordinates: Array, basis: Array, out: Array) -> None:
        """Write ``outer coordinates basis^T`` to the places of the coefficients in `out`."""
        b, full = self.block, self.outer @ coordinates @ basis.T
        out[b.start : b.bias_start], out[b.bias_start : b.stop] = full[:, :-1].ravel(), full[:, -1]


@dataclass(frozen=True, eq=False)
class Kronecker(Norm):
    """A norm with one Kronecker product, and a multiple of the identity, per layer; see `kronecker`."""

    space: Space
    layers: tuple[Layer, ...]

    @property
    def dim(self) -> int:
        """Number of coefficients."""
        return self.space.dim

    def apply(self, v: Array) -> Array:
        """Return ``M v``, dual."""
        out = np.empty(self.dim)
        for layer in self.layers:
            layer.write(layer.values * layer.coordinates(v, layer.dual), layer.dual, out)
        return out

    def riesz(self, g: Array) -> Array:
        """Return ``M^-1 g``, primal."""
        out = np.empty(self.dim)
        for layer in self.layers:
            layer.write(layer.coordinates(g, layer.primal) / layer.values, layer.primal, out)
        return out


def kronecker(functional: Functional) -> MetricOn:
    """Return the metric ``|v|_x^2 = sum_l tr(G_l V_l A_l V_l^T) + |v|_D^2`` of a functional.

    ``V_l = [W_l, b_l]`` are the coefficients of layer ``l``, ``A_l`` the second moments of what it reads, with a one
    for the bias, and ``G_l`` those of the cotangents of its arguments through a root of the curvature: the curvature
    matrix with both taken for independent.  ``D`` is the diagonal of the penalties, which is diagonalized together
    with ``A_l``, so that products with the inverse cost two small matrix products per layer.  As a preconditioner of
    conjugate gradients it needs no choice of any weight.

    Parameters
    ----------
    functional : Functional
        An integral over a space whose layers share no coefficients, with a root of the curvature, and penalties
        `dnnfem.Tikhonov` with diagonal norms.

    Returns
    -------
    callable
        ``(space, linearization) -> Norm``, for the argument `norm` of `dnnfem.trust_region`.

    Raises
    ------
    ValueError
        If the functional is no sum of one integral and penalties, its layers share coefficients, or the norm of a
        penalty is not diagonal; at use, if it is on another space.

    References
    ----------
    Martens and Grosse, Optimizing neural networks with Kronecker-factored approximate curvature, ICML, PMLR 37 (2015)
    2408-2417; Herzog, Köhne, Kreis and Schiela, arXiv 2311.15419 (2023), for the inner products.
    """
    integrals, diagonal = _parts(functional, 1.0)
    if len(integrals) != 1:
        raise ValueError(f"functional: got {len(integrals)} integrals in {functional!r}, expected one, and penalties")
    factor, integral = integrals[0]
    program, m = integral.space.program, len(integral.quadrature)
    # Stages with fixed weights come without coefficients.
    stages = [n for n, stage in enumerate(program.stages) if program.blocks[stage.block].start < program.dim]
    blocks = [program.blocks[program.stages[n].block] for n in stages]
    if not program.is_inclusion or len(set(blocks)) < len(blocks) or not all(block.bias for block in blocks):
        raise ValueError(
            f"functional: got one on {integral.space}, expected a space whose layers have biases and coefficients of "
            "their own"
        )
    if m > SAMPLES:
        integral = integral.on(quadrature=integral.quadrature.subset(slice(None, None, math.ceil(m / SAMPLES))))
    penalty = _columns(diagonal, blocks) if diagonal is not None else [np.ones(block.columns + 1) for block in blocks]
    biases = np.concatenate([np.arange(block.bias_start, block.stop) for block in blocks])
    ends = np.cumsum([0, *(block.rows for block in blocks)])
    # The points do not move: what the first layer reads is diagonalized once.
    kept: dict[int, tuple[Array, Array]] = {}

    def metric(space: Space, linearization: Linearization) -> Norm:
        here = integral.evaluator.linearize(linearization.x)
        system = here.system(biases)
        if system is None:
            raise ValueError("functional: got a law without a root of its curvature, expected one, or another norm")
        moments, cotangents = here.moments(), system.curvature(np.eye(len(biases)))
        layers = []
        for number, (stage, block) in enumerate(zip(stages, blocks, strict=True)):
            if program.stages[stage].input in program.fixed and number not in kept:
                kept[number] = _diagonalized(moments[stage], penalty[number])
            inner, primal = kept.get(number) or _diagonalized(moments[stage], penalty[number])
            part = slice(ends[number], ends[number + 1])
            outer, directions = np.linalg.eigh(factor * cotangents[part, part])
            values = np.outer(np.maximum(outer, 0.0), inner) + (0.0 if diagonal is None else 1.0)
            # Biases are hardly penalized and would dominate a mean of all ratios.
            ratios = np.diagonal(moments[stage])[:-1] / penalty[number][:-1]
            values += FLOOR * float(np.mean(np.maximum(outer, 0.0)) * np.mean(ratios)) or FLOOR
            layers.append(Layer(block, directions, primal, penalty[number][:, None] * primal, values))
        return Kronecker(space, tuple(layers))

    return MetricOn(program.dim, metric)


def _diagonalized(moments: Array, penalty: Array) -> tuple[Array, Array]:
    """Return ``lambda`` and ``P`` with ``P^T A P = diag lambda`` and ``P^T diag(penalty) P = I``."""
    root = 1.0 / np.sqrt(penalty)
    values, vectors = np.linalg.eigh(root[:, None] * moments * root)
    return np.maximum(values, 0.0), root[:, None] * vectors


def _columns(diagonal: Array, blocks: Sequence[Block]) -> list[Array]:
    """Return the mean penalty on each column of ``[W, b]``, per layer; positive."""
    means = []
    for b in blocks:
        weights = diagonal[b.start : b.bias_start].reshape(b.rows, b.columns).mean(axis=0)
        column = np.append(weights, diagonal[b.bias_start : b.stop].mean())
        means.append(np.maximum(column, LEAST * float(column.max())))
    return means


def _diagonal(norm: Norm) -> Array:
    """Return the diagonal of a norm that has nothing else."""
    diagonal = norm.apply(np.ones(norm.dim))
    # Any other matrix would have to map two vectors without a pattern alike.
    probe = np.random.default_rng(0).standard_normal(norm.dim)
    if not np.allclose(norm.apply(probe), diagonal * probe, rtol=1e-10, atol=0.0):
        raise ValueError(
            f"functional: got a penalty in the norm {type(norm).__name__}, expected a diagonal one, such as Euclidean "
            "or Weighted"
        )
    return diagonal


def _parts(functional: Functional, factor: float) -> tuple[list[tuple[float, Integral]], Array | None]:
    """Return the integrals in a functional with their factors, and the diagonal of its penalties, None without any."""
    if isinstance(functional, Integral):
        return [(factor, functional)], None
    if isinstance(functional, Scaled):
        return _parts(functional.functional, factor * functional.factor)
    if isinstance(functional, Tikhonov):
        weight = factor * functional.alpha
        return [], None if weight == 0.0 else weight * _diagonal(functional.norm)
    if not isinstance(functional, Sum):
        raise ValueError(f"functional: got {functional!r}, expected an integral, or its sum with penalties")
    integrals: list[tuple[float, Integral]] = []
    diagonal: Array | None = None
    for term in functional.terms:
        inside, weights = _parts(term, factor)
        integrals += inside
        if weights is not None:
            diagonal = weights if diagonal is None else diagonal + weights
    return integrals, diagonal
