"""Frobenius-type norms of layers: lengths are mean squares over the data of what a layer does, not of its entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg

from dnnfem.functionals import Functional, Linearization, Norm
from dnnfem.functionals.sampling import integral_of
from dnnfem.kernels.activations import derivatives
from dnnfem.kernels.program import Block, Program
from dnnfem.norms.rules import MetricOn
from dnnfem.records import Array
from dnnfem.spaces import Purpose, Space, generator

DAMPING = 0.1
"""Part of the mean of its diagonal that is added to each factor: what the points show little of is not free to move."""

POINTS = 512
"""Points for the moments of hidden layers."""

FIRST = 8192
"""Points for those of the first layer, which are computed once: an input that is seldom seen must be seen here."""


@dataclass(frozen=True, eq=False)
class KroneckerFactor:
    """A small matrix, symmetric and positive definite, and what is computed from it once."""

    matrix: Array

    @cached_property
    def root(self) -> Array:
        """Its lower Cholesky factor."""
        return np.asarray(scipy.linalg.cholesky(self.matrix, lower=True))

    @cached_property
    def inverse_root(self) -> Array:
        """The inverse of that."""
        return np.asarray(scipy.linalg.solve_triangular(self.root, np.eye(len(self.matrix)), lower=True))

    @cached_property
    def inverse(self) -> Array:
        """The inverse: damped, the matrix is well conditioned, and every gradient is multiplied by it."""
        return self.inverse_root.T @ self.inverse_root


@dataclass(frozen=True, eq=False)
class Product:
    """``|V|^2 = tr(outer V inner V^T)`` on the coefficients ``V = [W, b]`` of one block.

    Parameters
    ----------
    block : Block
        Where they are.
    inner : KroneckerFactor
        Of size columns + 1, or columns if the block has no bias.
    outer : KroneckerFactor
        Of size rows.
    """

    block: Block
    inner: KroneckerFactor
    outer: KroneckerFactor

    def mapped(self, vectors: Array, left: Array, right: Array) -> Array:
        """Return ``left V right^T`` for coefficients of the block, shape (k, coefficients), as such."""
        b = self.block
        split = b.bias_start - b.start
        weights = vectors[:, :split].reshape(len(vectors), b.rows, b.columns)
        full = np.concatenate([weights, vectors[:, split:, None]], axis=2) if b.bias else weights
        full = left @ full @ right.T
        if not b.bias:
            return np.asarray(full.reshape(len(vectors), -1))
        return np.concatenate([full[..., :-1].reshape(len(vectors), -1), full[..., -1]], axis=1)


@dataclass(frozen=True, eq=False)
class Frobenius(Norm):
    """The sum of the squared norms of the blocks of a network; see `frobenius`.

    Parameters
    ----------
    space : Space
        Where the coefficients live: those of the blocks, one after another.
    products : tuple of Product
        One per block, in their order.
    """

    space: Space
    products: tuple[Product, ...]

    @property
    def dim(self) -> int:
        """Number of coefficients."""
        return self.space.dim

    def _mapped(self, rows: Array, pairs: Sequence[tuple[Array, Array]]) -> Array:
        result = np.empty(rows.shape)
        for product, pair in zip(self.products, pairs, strict=True):
            part = slice(product.block.start, product.block.stop)
            result[:, part] = product.mapped(rows[:, part], *pair)
        return result

    def _matrix(self) -> Array:
        return self._mapped(np.eye(self.dim), [(p.outer.matrix, p.inner.matrix) for p in self.products])

    def apply(self, v: Array) -> Array:
        """Return ``M v``, dual."""
        return np.asarray(self._mapped(v[None], [(p.outer.matrix, p.inner.matrix) for p in self.products])[0])

    def riesz(self, g: Array) -> Array:
        """Return ``M^-1 g``, primal."""
        return np.asarray(self._mapped(g[None], [(p.outer.inverse, p.inner.inverse) for p in self.products])[0])

    def root(self) -> Array:
        """Return ``L.T``, where ``L`` consists of Kronecker products of Cholesky factors."""
        return self._mapped(np.eye(self.dim), [(p.outer.root, p.inner.root) for p in self.products])

    def whiten(self, rows: Array) -> Array:
        """Return ``rows @ inv(L).T`` for dual vectors as rows (k, dim)."""
        return self._mapped(rows, [(p.outer.inverse_root, p.inner.inverse_root) for p in self.products])

    def unwhiten(self, y: Array) -> Array:
        """Return ``inv(L).T @ y``, primal, for y (dim,) or (dim, k)."""
        pairs = [(p.outer.inverse_root.T, p.inner.inverse_root.T) for p in self.products]
        return self._mapped(np.atleast_2d(y.T), pairs).T.reshape(y.shape)


def frobenius(
    functional: Functional, *, outputs: bool = True, damping: float = DAMPING, count: int = POINTS, seed: int = 0
) -> MetricOn:
    """Return the metric ``|v|_x^2 = sum_l tr(B_l V_l A_l V_l^T)`` of a network.

    ``V_l = [W_l, b_l]`` are the coefficients of block ``l``, ``A_l = E[y y^T]`` the second moments of what it reads,
    with a one for the bias, and ``B_l = E[T^T T]``, ``T`` the derivative of the outputs of the network with respect to
    what the block gives.  With ``B_l = I`` this is ``E|V_l y|^2``, the mean square of what the block does; with ``B_l``
    it is the mean square of what that does to the outputs, both taken for independent.  Unlike the curvature of a loss
    it does not vanish where samples are fitted.  A multiple of the identity is added to each factor.

    Parameters
    ----------
    functional : Functional
        With an integral over a space whose coefficients are its weights; it gives the points.
    outputs : bool
        Whether to use ``B_l``; else ``B_l = I``.
    damping : float
        What is added to each factor, relative to the mean of its diagonal.
    count : int
        Points for the means, drawn from those of the quadrature; more of them for the first layer.
    seed : int
        Of the draws.

    Returns
    -------
    callable
        ``(space, linearization) -> Norm``, for the argument `norm` of the solvers.

    Raises
    ------
    ValueError
        If `functional` is not as described, or `damping` or `count` is not positive; at use, if it is on another space.

    References
    ----------
    Herzog, Köhne, Kreis and Schiela, arXiv 2311.15419 (2023).
    """
    integral = integral_of(functional)
    if integral is None or not integral.space.program.is_inclusion or integral.space.program.is_opaque:
        raise ValueError(
            f"functional: got {type(functional).__name__} on {functional.space}, expected one with an integral over a "
            "space whose coefficients are its weights"
        )
    if not 0.0 < damping < np.inf:
        raise ValueError(f"damping: got {damping!r}, expected a positive number, or the norm would not be definite")
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
        raise ValueError(f"count: got {count!r}, expected a positive integer")
    program, q = integral.space.program, integral.quadrature
    random = generator(seed, program.dim, Purpose.MOMENTS)
    few, many = (np.sort(random.permutation(len(q))[: max(count, least)]) for least in (0, FIRST))
    points, weights = integral.ansatz.reference(q.points[few]), q.weights[few] / np.sum(q.weights[few])
    signs = random.choice([-1.0, 1.0], (len(few), program.outputs))
    # The points do not move: what the blocks read from them, by fixed weights at most, is computed once.
    seen, shares = integral.ansatz.reference(q.points[many]), q.weights[many] / np.sum(q.weights[many])
    still, _ = _forward(program.truncated(max(program.fixed)), np.zeros(program.dim), seen)
    blocks = [(number, block) for number, block in enumerate(program.blocks) if block.start < program.dim]
    sources = {number: {stage.input for stage in program.stages if stage.block == number} for number, _ in blocks}
    first = {
        number: KroneckerFactor(_damped(_moments(still[min(sources[number])], shares, block.bias), damping))
        for number, block in blocks
        if len(sources[number]) == 1 and sources[number] <= program.fixed
    }

    def metric(space: Space, linearization: Linearization) -> Frobenius:
        registers, slopes = _forward(program, linearization.x, points)
        cotangents = _backward(program, linearization.x, slopes, signs) if outputs else None
        products = []
        for number, block in blocks:
            places = [place for place, stage in enumerate(program.stages) if stage.block == number]
            if number in first:
                inner = first[number]
            else:
                read = [_moments(registers[program.stages[place].input], weights, block.bias) for place in places]
                inner = KroneckerFactor(_damped(sum(read[1:], read[0]) / len(read), damping))
            if cotangents is None:
                outer = KroneckerFactor(np.eye(block.rows))
            else:
                given = [_moments(cotangents[place], weights, False) for place in places]
                outer = KroneckerFactor(_damped(sum(given[1:], given[0]), damping))
            products.append(Product(block, inner, outer))
        return Frobenius(space, tuple(products))

    return MetricOn(program.dim, metric)


def _damped(matrix: Array, damping: float) -> Array:
    """Add a multiple of the mean diagonal to the diagonal."""
    mean = float(np.mean(np.diagonal(matrix)))
    return matrix + damping * (mean or 1.0) * np.eye(len(matrix))


def _moments(values: Array, weights: Array, bias: bool) -> Array:
    """Return ``E[y y^T]`` for values (m, d), with a one appended to ``y`` if there is a bias."""
    rows = np.column_stack([values, np.ones(len(values))]) if bias else values
    return np.asarray((rows.T * weights) @ rows)


def _forward(program: Program, x: Array, points: Array) -> tuple[list[Array], list[Array]]:
    """Return all registers (m, width), and ``scale * sigma'`` of each stage."""
    registers, slopes, weights = [points], [], program.weights(x)
    with np.errstate(over="ignore", invalid="ignore"):
        for stage in program.stages:
            b = program.blocks[stage.block]
            z = registers[stage.input] @ weights[b.start : b.bias_start].reshape(b.rows, b.columns).T
            value, slope = derivatives(stage.activation, z + weights[b.bias_start : b.stop] if b.bias else z, 1)
            registers.append(stage.scale * value + sum(a * registers[j] for j, a in stage.carry))
            slopes.append(stage.scale * slope)
    return registers, slopes


def _backward(program: Program, x: Array, slopes: list[Array], dual: Array) -> list[Array]:
    """Return the cotangents (m, rows) of what each block gives, for those of the outputs."""
    cotangents: dict[int, Array] = {len(program.stages): dual}
    result: list[Array] = []
    weights = program.weights(x)
    for number in reversed(range(len(program.stages))):
        stage = program.stages[number]
        b = program.blocks[stage.block]
        above = cotangents.pop(stage.output, np.zeros((len(dual), b.rows)))
        own = slopes[number] * above
        result.append(own)
        sources = [(stage.input, own @ weights[b.start : b.bias_start].reshape(b.rows, b.columns))]
        for register, part in sources + [(j, a * above) for j, a in stage.carry]:
            cotangents[register] = cotangents[register] + part if register in cotangents else part
    return result[::-1]
