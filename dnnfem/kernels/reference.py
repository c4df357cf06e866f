"""The reference backend: multidual numbers in NumPy, slow and obviously right.

A multidual number has generators ``e_1, ..., e_g`` with ``e_i^2 = 0``; the coefficient of the product over a set ``S``
of generators is a mixed derivative.  One generator per differentiation, with respect to an input or along a direction
of coefficients, gives every derivative that the library needs from two rules: affine maps act on each coefficient
(with the product rule when the weights themselves carry generators), and for a function

    sigma(z)[S] = sum over partitions P of S of  sigma^(|P|)(z[0]) * prod_{B in P} z[B].

No reverse sweep, no hand-derived formula: this is what the fast backends are tested against.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dnnfem.kernels.activations import derivatives
from dnnfem.kernels.components import Component, Laplacian, check, order, squares
from dnnfem.kernels.influence import LeftOut, left_out
from dnnfem.kernels.least_squares import DenseLeastSquares
from dnnfem.kernels.program import Program
from dnnfem.kernels.protocol import MEMORY, Ansatz, JetMap, Law, LawLinearization, PlacedPoints
from dnnfem.records import Array, Index

Set = frozenset[str]
Multidual = dict[Set, Array]


def _partitions(items: tuple[str, ...]) -> Iterator[list[Set]]:
    """Yield every partition of a set into blocks."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for smaller in _partitions(rest):
        yield [frozenset((first,)), *smaller]
        for k, block in enumerate(smaller):
            yield [*smaller[:k], block | {first}, *smaller[k + 1 :]]


def _subsets(items: Sequence[str]) -> list[Set]:
    """Return all subsets, smaller ones first."""
    sets: list[Set] = [frozenset()]
    for item in items:
        sets += [s | {item} for s in sets]
    return sorted(sets, key=lambda s: (len(s), sorted(s)))


def _activate(name: str, z: Multidual, order: int) -> Multidual:
    sigma = derivatives(name, z[frozenset()], order)
    result: Multidual = {}
    for subset in z:
        terms = []
        for partition in _partitions(tuple(sorted(subset))):
            term = sigma[len(partition)]
            for block in partition:
                term = term * z[block]
            terms.append(term)
        result[subset] = sum(terms[1:], terms[0])
    return result


def evaluate(
    program: Program,
    x: Array,
    points: Array,
    inputs: Sequence[int] = (),
    directions: dict[str, Array] | None = None,
) -> Multidual:
    """Run a program on multidual numbers.

    Parameters
    ----------
    program : Program
    x : array, shape (dim,)
        Coefficients.
    points : array, shape (m, d)
        Reference coordinates.
    inputs : sequence of int
        One generator ``"0", "1", ...`` per entry: differentiate with respect to that input.
    directions : mapping of generator name to array, shape (k, dim)
        Differentiate along directions of coefficients; the leading axes k broadcast against each other.

    Returns
    -------
    mapping of set of generators to array, shape (k or 1, m, outputs)
        ``result[frozenset()]`` is the value.
    """
    directions = directions or {}
    generators = [str(n) for n in range(len(inputs))] + list(directions)
    weights: dict[str, Array] = {name: program.directions(v.T).T for name, v in directions.items()}
    base = program.weights(x)
    sets = _subsets(generators)
    zero = np.zeros((1, *points.shape))
    register: Multidual = dict.fromkeys(sets, zero)
    register[frozenset()] = points[None]
    for n, axis in enumerate(inputs):
        seed = np.zeros((1, 1, points.shape[1]))
        seed[..., axis] = 1.0
        register[frozenset((str(n),))] = np.broadcast_to(seed, zero.shape)
    registers = [register]
    for stage in program.stages:
        block = program.blocks[stage.block]
        matrix_part, bias_part = slice(block.start, block.bias_start), slice(block.bias_start, block.stop)

        def matrix(w: Array, part: slice = matrix_part, shape: tuple[int, int] = (block.rows, block.columns)) -> Array:
            return w[..., part].reshape(*w.shape[:-1], *shape)

        r = registers[stage.input]
        z: Multidual = {}
        for s in sets:
            z[s] = r[s] @ matrix(base).T
            for name, w in weights.items():
                if name in s:
                    z[s] = z[s] + r[s - {name}] @ np.swapaxes(matrix(w), -1, -2)
                    if block.bias and s == {name}:
                        z[s] = z[s] + w[:, None, bias_part]
        if block.bias:
            z[frozenset()] = z[frozenset()] + base[bias_part]
        y = _activate(stage.activation, z, len(generators))
        new = {s: stage.scale * y[s] for s in sets}
        for j, factor in stage.carry:
            new = {s: new[s] + factor * registers[j][s] for s in sets}
        registers.append(new)
    return registers[-1]


@dataclass(frozen=True, eq=False)
class ReferenceEvaluator:
    """See `dnnfem.kernels.protocol.Evaluator`."""

    program: Program
    quadrature: PlacedPoints
    ansatz: Ansatz
    law: Law

    def _jets(
        self, x: Array, points: Array, components: Sequence[Component], directions: dict[str, Array]
    ) -> dict[Set, Array]:
        """Return reference jets (k, reads, outputs, m), for every subset of the directions."""
        check(components, self.program.inputs)
        reference, reads = self.ansatz.reference(points), self.ansatz.reads(components)
        result: dict[Set, list[Array]] = {s: [] for s in _subsets(list(directions))}
        for component in reads:
            parts = squares(component) if isinstance(component, Laplacian) else [(1.0, component)]
            spatial = frozenset(str(n) for n in range(order(component)))
            values = [(a, evaluate(self.program, x, reference, part, directions)) for a, part in parts]
            for s, rows in result.items():
                terms = [a * value[spatial | s] for a, value in values]
                rows.append(np.swapaxes(sum(terms[1:], terms[0]), 1, 2))
        batch = max([1, *(len(v) for v in directions.values())])
        full = (len(reads), self.program.outputs, len(points))
        return {
            s: np.stack([np.broadcast_to(r, (batch if s else 1, *full[1:])) for r in rows], axis=1)
            for s, rows in result.items()
        }

    def jet(self, x: Array, points: Array, components: Sequence[Component]) -> Array:
        """Return the user's jet at any points, shape (components, outputs, m)."""
        value = self._jets(x, points, components, {})[frozenset()][0]
        return self.ansatz.at(points, components).jet(value)

    @cached_property
    def map(self) -> JetMap:
        """From reference jets to the user's at the points of the quadrature."""
        return self.ansatz.at(self.quadrature.points, self.law.components)

    def _law(self, x: Array) -> LawLinearization:
        q = self.quadrature
        jet = self._jets(x, q.points, self.law.components, {})[frozenset()][0]
        return self.law.linearize(q.points, q.data, self.map.jet(jet))

    def value(self, x: Array) -> float:
        """Return ``sum_q w_q L``."""
        return float(np.sum(self.quadrature.weights * self._law(x).density))

    def cellwise(self, x: Array) -> Array:
        """Return the sums of ``w L`` per cell."""
        values, cells = self.samplewise(x), self.quadrature.cells
        return values if cells is None else np.bincount(cells, weights=values).astype(np.float64)

    def samplewise(self, x: Array) -> Array:
        """Return ``w L`` at every point."""
        return np.asarray(self.quadrature.weights * self._law(x).density)

    def left_out(self, x: Array, root: Array, exact: bool) -> LeftOut:
        """Return every sample as the network without it sees it."""
        q, jet = self.quadrature, self.jet(x, self.quadrature.points, self.law.components)
        tangents = np.sqrt(q.weights) * self.linearize(x).tangents
        rows = np.einsum("njm,nk->jmk", tangents.reshape(len(x), -1, len(q.weights)), root)
        return left_out(self.law, q.points, q.data, jet, rows, exact)

    def linearize(self, x: Array) -> ReferenceLinearization:
        """Evaluate all first derivatives of the jet in the coefficients."""
        return ReferenceLinearization(self, np.array(x, dtype=np.float64), self._law(x))


@dataclass(frozen=True, eq=False)
class ReferenceLinearization:
    """See `dnnfem.kernels.protocol.Linearization`."""

    evaluator: ReferenceEvaluator
    x: Array
    law: LawLinearization

    @property
    def weights(self) -> Array:
        """Quadrature weights."""
        return self.evaluator.quadrature.weights

    @property
    def value(self) -> float:
        """``J(x)``."""
        return float(np.sum(self.weights * self.law.density))

    def _user(self, jets: Array) -> Array:
        return np.stack([self.evaluator.map.tangent(jet) for jet in jets])

    @cached_property
    def tangents(self) -> Array:
        """Derivative of the user's jet in each coefficient, shape (dim, components, outputs, m)."""
        e = self.evaluator
        basis = {"t": np.eye(e.program.dim)}
        return self._user(e._jets(self.x, e.quadrature.points, e.law.components, basis)[frozenset("t")])

    @cached_property
    def derivative(self) -> Array:
        """``J'(x)``."""
        return np.asarray(np.einsum("m,com,ncom->n", self.weights, self.law.derivative, self.tangents))

    def _columns(self, v: Array) -> Array:
        """Bring v (n,) or (n, k) into the form (k, n)."""
        return np.atleast_2d(np.asarray(v, dtype=np.float64).T)

    def curvature(self, v: Array) -> Array:
        """``sum w T^T C T v``."""
        out = [
            np.einsum(
                "m,com,ncom->n",
                self.weights,
                self.law.curvature(np.tensordot(d, self.tangents, 1)),
                self.tangents,
            )
            for d in self._columns(v)
        ]
        return np.stack(out, axis=-1).reshape(np.shape(v))

    def gram(self, single: bool = False) -> Array:
        """``sum w T^T C T``, in any case in double precision."""
        return self.curvature(np.eye(len(self.x)))

    def hessian(self, v: Array) -> Array:
        """``sum w (T^T L'' T v + L' d_v T)``."""
        e = self.evaluator
        out = []
        for d in self._columns(v):
            directions = {"s": d[None], "t": np.eye(e.program.dim)}
            mixed = self._user(e._jets(self.x, e.quadrature.points, e.law.components, directions)[frozenset("st")])
            inner = self.law.hessian(np.tensordot(d, self.tangents, 1))
            out.append(
                np.einsum("m,com,ncom->n", self.weights, inner, self.tangents)
                + np.einsum("m,com,ncom->n", self.weights, self.law.derivative, mixed)
            )
        return np.stack(out, axis=-1).reshape(np.shape(v))

    @cached_property
    def moments(self) -> tuple[Array, ...]:
        """``sum_q w (y, 1) (y, 1)^T`` of what each stage reads."""
        e, one = self.evaluator, np.ones((len(self.weights), 1))
        reference, result = e.ansatz.reference(e.quadrature.points), []
        for stage in e.program.stages:
            rows = np.column_stack([evaluate(e.program.truncated(stage.input), self.x, reference)[frozenset()][0], one])
            result.append((rows.T * self.weights) @ rows)
        return tuple(result)

    def curvature_along(self, directions: Mapping[int, tuple[Array, Array]]) -> Array | None:
        """Return ``<C d_i, d_j>`` for directions of rank one of the weights of stages."""
        program, columns = self.evaluator.program, []
        for stage, (outer, inner) in directions.items():
            block = program.blocks[program.stages[stage].block]
            for u, w in zip(outer.T, inner.T, strict=True):
                column = np.zeros(program.embedding.shape[0])
                column[block.start : block.bias_start] = np.outer(u, w[:-1]).ravel()
                column[block.bias_start : block.stop] = u * w[-1]
                columns.append(program.embedding.T @ column)
        v = np.column_stack(columns)
        return None if self.law.slopes is None else v.T @ self.curvature(v)

    def residual(self) -> Array | None:
        """``sqrt(w) r``, residuals running slower than samples."""
        if self.evaluator.law.kind != "residual" or self.law.residual is None:
            return None
        return np.asarray((np.sqrt(self.weights) * self.law.residual).ravel())

    def mixed(self, other: ReferenceLinearization) -> Array | None:
        """``A^T r(y)``."""
        residual, system = other.residual(), self.system()
        return None if residual is None or system is None else system.pull(residual)

    def system(self, columns: Index | None = None) -> DenseLeastSquares | None:
        """Rows ``sqrt(w) r' T``, residuals running slower than samples."""
        if self.law.slopes is None:
            return None
        root = np.sqrt(self.weights)
        tangents = self.tangents if columns is None else self.tangents[columns]
        slopes = np.broadcast_to(self.law.slopes, (*self.law.slopes.shape[:3], len(root)))
        rows = np.einsum("m,rcom,ncom->rmn", root, slopes, tangents)
        matrix = rows.reshape(rows.shape[0] * rows.shape[1], rows.shape[2])
        if self.law.residual is None:
            linear = self.derivative if columns is None else self.derivative[columns]
            return DenseLeastSquares(matrix, np.zeros(len(matrix)), linear=linear)
        return DenseLeastSquares(matrix, (root * self.law.residual).ravel())


@dataclass(frozen=True, eq=False)
class Converted:
    """A quadrature in float64."""

    points: Array
    weights: Array
    cells: Index | None
    data: Array


def resources() -> dict[str, str]:
    """Return what the backend computes with: nothing of its own."""
    return {}


def place(
    program: Program, quadrature: PlacedPoints, ansatz: Ansatz, law: Law, memory: int = MEMORY
) -> ReferenceEvaluator:
    """Bind program, quadrature, ansatz and law; all samples are held at a time, whatever the memory is.

    Raises
    ------
    ValueError
        If the program has an opaque map.
    """
    program.require_affine("reference")
    points, weights, data = (
        np.asarray(array, dtype=np.float64) for array in (quadrature.points, quadrature.weights, quadrature.data)
    )
    return ReferenceEvaluator(program, Converted(points, weights, quadrature.cells, data), ansatz, law)
