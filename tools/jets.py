"""Rows and Gram matrices of differential equations against torch and JAX; see ``bench_kernels.py --jets``.

The residual is ``Delta u - f`` at 4000 points of the unit square, ``u`` a tanh network; a row is its derivative in all
weights at one point, and the Gram matrix ``A^T A`` belongs to all rows ``A``.  The peers get the Laplacian in the two
ways that are usual, the trace of the Hessian and Taylor mode (a second directional derivative per axis), and the rows
by ``vmap(grad)``; the fastest one counts.  The rows are wanted as one matrix, in any order of its entries: the peers
join their parts row by row and column by column, dnnfem returns the buffer that Gram matrices and systems are made of.

The floor of a Gram matrix is its symmetric half, ``m n (n + 1)`` operations with m rows and n weights, at the rate that
`dgemm` reaches in this run; writing the rows is not in it.

jet_jacobian_vs_best_peer   time of all rows over that of the fastest peer
gram_over_floor

Both are geometric means over networks and numbers of threads.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import turns
from turns import Products, Result

SAMPLES = 4000
JACOBIAN, GRAM = "rows", "Gram"

Array = np.ndarray


@dataclass(frozen=True)
class Network:
    """A tanh network with two inputs and one output."""

    hidden: tuple[int, ...]
    costly = GRAM

    def __str__(self) -> str:
        return f"2-{'-'.join(map(str, self.hidden))}-1, {SAMPLES} Laplacians"

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Shapes of the matrices."""
        return [(fan_out, fan_in) for fan_in, fan_out in pairwise((2, *self.hidden, 1))]

    @property
    def floor(self) -> float:
        """Operations of a Gram matrix."""
        n = sum(rows * (columns + 1) for rows, columns in self.shapes)
        return float(SAMPLES * n * (n + 1))

    def draw(self) -> tuple[Array, list[Array]]:
        """Return points, and matrices and biases in turn."""
        random = np.random.default_rng(0)
        points = random.uniform(-1.0, 1.0, (SAMPLES, 2))
        blocks = [(random.standard_normal(s) / np.sqrt(s[1]), 0.3 * random.standard_normal(s[0])) for s in self.shapes]
        return points, [part for block in blocks for part in block]


NETWORKS = (Network((20, 20, 20, 20)), Network((64,)))


@dataclass(frozen=True, eq=False)
class AtPoints:
    """``Delta u`` at given points as the residual of a law, linearized."""

    residual: Array

    @property
    def density(self) -> Array:
        return np.asarray(0.5 * np.sum(self.residual**2, axis=0))

    @property
    def derivative(self) -> Array:
        return self.residual[None]

    @property
    def slopes(self) -> Array:
        return np.ones((1, 1, 1, 1))

    def hessian(self, jet: Array) -> Array:
        return jet

    curvature = hessian


@dataclass(frozen=True)
class LaplacianLaw:
    """The residual ``Delta u``."""

    components: tuple[Any, ...]
    kind: str = "residual"
    affine: bool = True

    def linearize(self, points: Array, data: Array, jet: Array) -> AtPoints:
        """Return the law at a jet."""
        return AtPoints(jet[0])


def with_dnnfem(network: Network, threads: int) -> Products:
    """Return rows and Gram matrix from the compiled kernels."""
    fem, numba = importlib.import_module("dnnfem"), importlib.import_module("numba")
    names = (".components", "", ".compiled.rows")
    components, kernels, rows = (importlib.import_module(f"dnnfem.kernels{name}") for name in names)
    ansatz = importlib.import_module("dnnfem.problems.ansatz").AffineAnsatz
    numba.set_num_threads(threads)
    points, blocks = network.draw()
    x = np.concatenate([block.ravel() for block in blocks])
    quadrature = fem.Quadrature(points, np.ones(SAMPLES), np.zeros((SAMPLES, 1)))
    law = LaplacianLaw((components.Laplacian((0, 1), (1.0, 1.0)),))
    space, identity = fem.FeedforwardSpace(2, network.hidden, 1), (np.zeros(2), np.ones(2), np.zeros(1), np.ones(1))
    evaluator = kernels.load("compiled").place(space.program, quadrature, ansatz(*identity), law)

    def all_rows() -> Array:
        # In one block: a system of this size would be compressed to a triangle.
        tiles, chosen = evaluator.tiles.count, evaluator.selection(None)
        (block,) = rows.blocks(evaluator.linearize(x), chosen, 1, tiles)
        return np.asarray(block[:, :SAMPLES].T)

    # Matrices of the last points are remembered: this one is always another point, and by rounding no further away.
    moving = (x * (1.0 + np.finfo(float).eps * number) for number in count())
    return {("dnnfem", JACOBIAN): all_rows, ("dnnfem", GRAM): lambda: evaluator.linearize(next(moving)).gram()}


def rows_of(functions: Any, namespace: Any, units: Any, join: Callable[[Any, int], Any]) -> dict[str, Any]:
    """Return functions of the weights and all points that compute the matrix; both libraries have the same names."""

    def output(p: Any, w: Any) -> Any:
        y = p
        for layer in range(len(w) // 2 - 1):
            y = namespace.tanh(w[2 * layer] @ y + w[2 * layer + 1])
        return (w[-2] @ y + w[-1])[0]

    def trace(w: Any, p: Any) -> Any:
        hessian = functions.hessian(output)(p, w)
        return hessian[0, 0] + hessian[1, 1]

    def taylor(w: Any, p: Any) -> Any:
        def second(direction: Any) -> Any:
            def first(q: Any) -> Any:
                return functions.jvp(lambda z: output(z, w), (q,), (direction,))[1]

            return functions.jvp(first, (p,), (direction,))[1]

        return second(units[0]) + second(units[1])

    found = {}
    for name, laplacian in (("trace", trace), ("Taylor", taylor)):
        each = functions.vmap(functions.grad(laplacian), (None, 0))

        def rows(w: Any, points: Any, each: Any = each) -> Any:
            return join([part.reshape(SAMPLES, -1) for part in each(w, points)], 1)

        def columns(w: Any, points: Any, each: Any = each) -> Any:
            return join([namespace.moveaxis(part, 0, -1).reshape(-1, SAMPLES) for part in each(w, points)], 0).T

        found |= {f"{name} rows": rows, f"{name} columns": columns}
    return found


def gram(rows: Any) -> Any:
    """Return ``A^T A``."""
    return rows.T @ rows


def with_torch(network: Network, threads: int) -> Products:
    """Return rows and Gram matrix from `torch.func`."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(threads)
    points, blocks = network.draw()
    p, w = torch.from_numpy(points), tuple(map(torch.from_numpy, blocks))
    units = torch.eye(2, dtype=torch.float64)
    products: Products = {}
    for name, matrix in rows_of(torch.func, torch, units, torch.cat).items():
        products[f"torch {name}", JACOBIAN] = lambda matrix=matrix: matrix(w, p)
        products[f"torch {name}", GRAM] = lambda matrix=matrix: gram(matrix(w, p))
    return products


def with_jax(network: Network, threads: int) -> Products:
    """Return rows and Gram matrix from JAX, compiled; the number of threads is that of the cores of the process."""
    jax = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy
    points, blocks = network.draw()
    p, w = jnp.asarray(points), tuple(map(jnp.asarray, blocks))
    products: Products = {}
    for name, matrix in rows_of(jax, jnp, jnp.eye(2), jnp.concatenate).items():
        for product, function in ((JACOBIAN, matrix), (GRAM, lambda w, p, matrix=matrix: gram(matrix(w, p)))):
            compiled = jax.jit(function)
            products[f"JAX {name}", product] = lambda compiled=compiled: jax.block_until_ready(compiled(w, p))
    return products


SUITE = turns.Suite(
    (str(Path(__file__).resolve().parent / "bench_kernels.py"), "--jets"),
    NETWORKS,
    {"dnnfem": with_dnnfem, "torch": with_torch, "jax": with_jax},
)


def report(results: Sequence[Result]) -> dict[str, float | None]:
    """Return the keys of the JSON line."""
    return {
        "jet_jacobian_vs_best_peer": turns.mean([r.ratio(JACOBIAN) for r in results]),
        "gram_over_floor": turns.mean([r.over_floor for r in results]),
        "gram_vs_best_peer": turns.mean([r.ratio(GRAM) for r in results]),
    }
