"""The Kronecker-factored curvature as a norm: a preconditioner where the curvature is too large to be formed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg

from dnnfem.functionals import Functional, Integral, Linearization, Norm, Scaled, Sum, Tikhonov
from dnnfem.kernels.program import Block
from dnnfem.norms.rules import MetricOn
from dnnfem.records import Array, Index
from dnnfem.spaces import Purpose, Space, generator

FLOOR = 1e-2
"""Least eigenvalue, relative to the mean of all: where the factors see nothing, a step is bounded too."""

SAMPLES = 2048
"""Points from which the factors are computed at most: a rough preconditioner costs few more iterations."""

LEAST = 1e-12
"""Least penalty on a column, relative to the largest one in its layer."""

LEADING, POINTS = 128, 512
"""Directions in which the curvature is taken as it is, and from how many points at most.  Networks with no more than
twice as many coefficients do without them: their matrix is as cheap."""


@dataclass(frozen=True, eq=False)
class Layer:
    """Coordinates of the coefficients ``[W, b]`` of one layer: those in the basis ``u_i w_j^T``.

    Parameters
    ----------
    block : Block
        Where they are.
    outer : array, shape (rows, rows)
        Orthonormal directions ``u`` of the layer's arguments, as columns.
    primal, dual : array, shape (columns + 1, columns + 1)
        ``w`` are the columns of `primal`; those of `dual` are biorthogonal to them.
    """

    block: Block
    outer: Array
    primal: Array
    dual: Array

    @property
    def size(self) -> int:
        """Number of coefficients."""
        return self.block.rows * (self.block.columns + 1)

    def coordinates(self, v: Array, basis: Array) -> Array:
        """Return ``outer^T [W, b] basis``, flat."""
        b = self.block
        weights = v[b.start : b.bias_start].reshape(b.rows, b.columns)
        return (self.outer.T @ (weights @ basis[:-1] + np.outer(v[b.bias_start : b.stop], basis[-1]))).ravel()

    def write(self, coordinates: Array, basis: Array, out: Array) -> None:
        """Write ``outer coordinates basis^T`` to the places of the coefficients in `out`."""
        b = self.block
        full = self.outer @ coordinates.reshape(b.rows, b.columns + 1) @ basis.T
        out[b.start : b.bias_start], out[b.bias_start : b.stop] = full[:, :-1].ravel(), full[:, -1]


@dataclass(frozen=True, eq=False)
class Kronecker(Norm):
    """A norm that is diagonal in Kronecker products of small bases but for some of them; see `kronecker`.

    Parameters
    ----------
    space : Space
        Where the coefficients live.
    layers : tuple of Layer
        Their bases, which together make one of all coefficients.
    values : array, shape (dim,)
        The diagonal, positive, layer by layer.
    leading : int array, shape (k,)
        Coordinates that belong to `coupling` instead.
    coupling : array, shape (k, k)
        Symmetric and positive definite.
    """

    space: Space
    layers: tuple[Layer, ...]
    values: Array
    leading: Index
    coupling: Array

    @property
    def dim(self) -> int:
        """Number of coefficients."""
        return self.space.dim

    @cached_property
    def _factor(self) -> Array:
        return np.asarray(scipy.linalg.cholesky(self.coupling, lower=True))

    def apply(self, v: Array) -> Array:
        """Return ``M v``, dual."""
        bases = [layer.dual for layer in self.layers]
        c = self._coordinates(v, bases)
        image = self.values * c
        image[self.leading] = self.coupling @ c[self.leading]
        return self._combined(image, bases)

    def riesz(self, g: Array) -> Array:
        """Return ``M^-1 g``, primal."""
        bases = [layer.primal for layer in self.layers]
        c = self._coordinates(g, bases)
        image = c / self.values
        image[self.leading] = scipy.linalg.cho_solve((self._factor, True), c[self.leading])
        return self._combined(image, bases)

    def _coordinates(self, v: Array, bases: Sequence[Array]) -> Array:
        return np.concatenate([layer.coordinates(v, basis) for layer, basis in zip(self.layers, bases, strict=True)])

    def _combined(self, coordinates: Array, bases: Sequence[Array]) -> Array:
        out = np.empty(self.dim)
        parts = np.split(coordinates, _starts(self.layers)[1:-1])
        for layer, part, basis in zip(self.layers, parts, bases, strict=True):
            layer.write(part, basis, out)
        return out


def _starts(layers: Sequence[Layer]) -> Array:
    """Return where the coordinates of each layer begin, and their number."""
    return np.cumsum([0, *(layer.size for layer in layers)])


def kronecker(functional: Functional) -> MetricOn:
    """Return the metric ``|v|_x^2 = sum_l tr(G_l V_l A_l V_l^T) + |v|_D^2`` of a functional, its large part exactly.

    ``V_l = [W_l, b_l]`` are the coefficients of layer ``l``, ``A_l`` the second moments of what it reads, with a one
    for the bias, and ``G_l`` those of the cotangents of its arguments through a root of the curvature: the curvature
    matrix with both taken for independent, and layers too.  ``D`` is the diagonal of the penalties, which is
    diagonalized together with ``A_l``, so that the norm is diagonal in a basis of Kronecker products; products with the
    inverse cost two small matrix products per layer.  A small multiple of ``D`` (of the identity if there is none)
    bounds it from below.

    It is as large as the curvature: `dnnfem.trust_region` is to take that, with ``curvature=True``.  Where the
    curvature nearly vanishes the whole Hessian may not, as where outgoing weights are zero, and negative curvature in
    directions that the norm takes for short makes steps fail.

    That layers are not independent is what preconditioning suffers from: a change of one can be undone by others.
    In large networks the directions of the basis with the largest values therefore span a coarse space, which has the
    curvature itself, across all layers: as the others keep their diagonal the norm is definite.  Where the law reads
    derivatives in the inputs, the factors are those of the values, and only there are derivatives seen.  A metric costs
    little more than a derivative at 2048 points and one at 512 points for each row of the root.

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
    2408-2417, for the factors; Herzog, Köhne, Kreis and Schiela, arXiv 2311.15419 (2023), for the inner products;
    Tselepidis, Kohler and Orvieto, Two-level K-FAC preconditioning for deep learning, arXiv 2011.00573 (2020), for
    coarse spaces that couple layers, there spanned by constants.
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
    # Drawn: every other point of a grid would be a part of its lines.
    drawn = generator(0, program.dim, Purpose.MOMENTS).permutation(m)
    integral, few = (
        integral if m <= most else integral.on(quadrature=integral.quadrature.subset(np.sort(drawn[:most])))
        for most in (SAMPLES, POINTS)
    )
    count = LEADING if program.dim > 2 * LEADING else 0
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
        moments, cotangents = here.moments, system.curvature(np.eye(len(biases)))
        layers, parts, traces = [], [], []
        for number, (stage, block) in enumerate(zip(stages, blocks, strict=True)):
            if program.stages[stage].input in program.fixed and number not in kept:
                kept[number] = _diagonalized(moments[stage], penalty[number])
            inner, primal = kept.get(number) or _diagonalized(moments[stage], penalty[number])
            part = slice(ends[number], ends[number + 1])
            outer, directions = np.linalg.eigh(factor * cotangents[part, part])
            outer = np.maximum(outer, 0.0)
            layers.append(Layer(block, directions, primal, penalty[number][:, None] * primal))
            parts.append(np.outer(outer, inner))
            # Biases are hardly penalized and would dominate a mean of all ratios.
            ratios = np.diagonal(moments[stage])[:-1] / penalty[number][:-1]
            traces.append(float(np.sum(outer) * np.mean(ratios)) * (block.columns + 1))
        floor = FLOOR * sum(traces) / program.dim or FLOOR
        values = np.concatenate([part.ravel() for part in parts])
        # Curvatures along unit vectors: those of biases are not larger for being penalized less.
        lengths = [np.tile(np.sum(layer.primal**2, axis=0), layer.block.rows) for layer in layers]
        leading = np.argsort(-values / np.concatenate(lengths), kind="stable")[:count]
        bound = (0.0 if diagonal is None else 1.0) + floor
        coupling = np.zeros((0, 0))
        if count:
            leading, products = _directions(layers, stages, leading)
            curvature = few.evaluator.linearize(linearization.x).curvature_along(products)
            assert curvature is not None
            coupling = factor * curvature + bound * np.eye(count)
        return Kronecker(space, tuple(layers), values + bound, leading, coupling)

    return MetricOn(program.dim, metric)


def _directions(
    layers: Sequence[Layer], stages: Sequence[int], numbers: Index
) -> tuple[Index, dict[int, tuple[Array, Array]]]:
    """Return some elements of the basis, sorted, and with their two factors for each stage."""
    numbers, starts = np.sort(numbers), _starts(layers)
    found = {}
    for k, layer in enumerate(layers):
        own = numbers[(starts[k] <= numbers) & (numbers < starts[k + 1])] - starts[k]
        i, j = np.divmod(own, layer.block.columns + 1)
        if own.size:
            found[stages[k]] = layer.outer[:, i], layer.primal[:, j]
    return numbers, found


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
