"""Products of derivatives: dnnfem against torch, JAX and curvlinops, and against the floor by operation count.

    make peers
    python tools/bench_kernels.py --json
    python tools/bench_kernels.py --jets --json         residuals of differential equations, see tools/jets.py

Six tanh networks with mean squares in float64, on one thread and on two: the derivative, Hessian products at a point
that does not move (activations kept, where a tool can keep them), products with the Gauss-Newton curvature.  Every tool
runs in a process of its own; all processes take turns, so that a slow moment of the machine hits each of them, and the
median over the rounds counts.  What they return is compared first: a wrong product is no competitor.

The floor of a Hessian product is two products of matrices in the first layer and six in every other, at the rate that
`dgemm` of 1024 x 1024 reaches in this run; that of a derivative two and three.  Activations cost nothing there.

geomean_hvp_vs_best_peer_small  time of a Hessian product over that of the fastest peer, widths up to 128
worst_hvp_vs_best_peer          the largest of these ratios, all networks
hvp_over_floor                  networks with more than 1e8 operations
derivative_vs_best_peer         all networks
thread_speedup                  of Hessian products with two threads, networks with more than 1e8 operations

least_...                       what the ratio to the fastest peer would be at the floor: none can be smaller

All are geometric means over networks and numbers of threads, but the worst one.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import jets
import numpy as np
import turns
from turns import Products, Result, mean

LARGE = 1e8
"""Operations of a Hessian product from which on the floor and the speedup by threads are judged."""

SMALL_WIDTH = 128
DERIVATIVE, HESSIAN, CURVATURE = "derivative", "hessian", "curvature"

Array = np.ndarray


@dataclass(frozen=True)
class Network:
    """A tanh network with `samples` random samples; residual layers after the first if `residual`."""

    widths: tuple[int, ...]
    samples: int
    residual: bool = False
    costly = HESSIAN
    """What `floor` belongs to."""

    def __str__(self) -> str:
        if self.residual:
            return f"{self.widths[0]}-{self.widths[1]}-{len(self.widths) - 3}x{self.widths[1]}r-1, {self.samples}"
        return f"{'-'.join(map(str, self.widths))}, {self.samples}"

    @property
    def _products(self) -> list[float]:
        """Operations of a product of matrices, layer by layer."""
        return [2.0 * self.samples * fan_in * fan_out for fan_in, fan_out in pairwise(self.widths)]

    @property
    def floor(self) -> float:
        """Operations of a Hessian product."""
        return 2.0 * self._products[0] + 6.0 * sum(self._products[1:])

    @property
    def derivative_floor(self) -> float:
        """Operations of a derivative."""
        return 2.0 * self._products[0] + 3.0 * sum(self._products[1:])

    def draw(self) -> tuple[Array, Array, list[Array], list[Array]]:
        """Return points in [-1, 1], standardized targets, and two points of the coefficient space, block by block.

        A block is a matrix with the bias as last column.
        """
        random = np.random.default_rng(0)
        points = random.uniform(-1.0, 1.0, (self.samples, self.widths[0]))
        # With corners among the samples, and with standardized targets, scaling is the identity.
        points[0], points[1] = -1.0, 1.0
        targets = random.standard_normal((self.samples, self.widths[-1]))
        targets = (targets - targets.mean(axis=0)) / targets.std(axis=0)
        shapes = [(fan_out, fan_in + 1) for fan_in, fan_out in pairwise(self.widths)]
        scale = 0.3 if self.residual else 1.0
        x = [scale * random.standard_normal(shape) / math.sqrt(shape[1]) for shape in shapes]
        return points, targets, x, [random.standard_normal(shape) for shape in shapes]


NETWORKS = (
    Network((2, 20, 20, 20, 1), 256),
    Network((2, 20, 20, 20, 20, 1), 2048),
    Network((2, 64, 64, 64, 1), 1024),
    Network((10, 128, 128, 128, 1), 4096),
    Network((784, 256, 256, 10), 1024),
    Network((2, *[16] * 64, 1), 4096, residual=True),
)


# ---- tools, each in a process of its own


def with_dnnfem(network: Network, threads: int) -> Products:
    """Return the products of dnnfem."""
    fem, numba = importlib.import_module("dnnfem"), importlib.import_module("numba")
    numba.set_num_threads(threads)
    points, targets, x, v = network.draw()
    flat_x, flat_v = (np.concatenate([np.append(b[:, :-1], b[:, -1]) for b in blocks]) for blocks in (x, v))
    hidden = network.widths[1:-1]
    residual = (False, *[network.residual] * (len(hidden) - 1))
    space = fem.FeedforwardSpace(network.widths[0], hidden, network.widths[-1], residual=residual)
    J = fem.Regression(points, targets).on(space)
    kept = J.linearize(flat_x)
    return {
        ("dnnfem", DERIVATIVE): lambda: J.linearize(flat_x).derivative,
        ("dnnfem", HESSIAN): lambda: kept.hessian(flat_v),
        ("dnnfem", CURVATURE): lambda: kept.curvature(flat_v),
    }


def flat(blocks: Any) -> Array:
    """Return blocks (weights, bias), (weights, bias), ... as one vector."""
    return np.concatenate([np.asarray(block).ravel() for block in blocks])


def with_torch(network: Network, threads: int) -> Products:
    """Return the products of torch: autograd with the graph kept, and `torch.func`."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(threads)
    points, targets, x, v = network.draw()
    p, t = torch.from_numpy(points), torch.from_numpy(targets)
    x, v = (tuple(torch.from_numpy(part.copy()) for b in blocks for part in (b[:, :-1], b[:, -1])) for blocks in (x, v))

    def output(w: Any) -> Any:
        y = p
        for layer in range(len(w) // 2 - 1):
            z = torch.tanh(torch.nn.functional.linear(y, w[2 * layer], w[2 * layer + 1]))
            y = y + z if network.residual and layer else z
        return torch.nn.functional.linear(y, w[-2], w[-1])

    def loss(w: Any) -> Any:
        return 0.5 * torch.sum((output(w) - t) ** 2) / len(p)

    leaves = tuple(block.clone().requires_grad_() for block in x)
    graph = torch.autograd.grad(loss(leaves), leaves, create_graph=True)
    inner = sum(torch.sum(a * b) for a, b in zip(graph, v, strict=True))

    def curvature() -> Any:
        _, du = torch.func.jvp(output, (x,), (v,))
        return pull(du / len(p))[0]

    _, pull = torch.func.vjp(output, x)
    return {
        ("autograd", DERIVATIVE): lambda: flat(torch.autograd.grad(loss(leaves), leaves)),
        ("graph kept", HESSIAN): lambda: flat(torch.autograd.grad(inner, leaves, retain_graph=True)),
        ("torch.func", HESSIAN): lambda: flat(torch.func.jvp(torch.func.grad(loss), (x,), (v,))[1]),
        ("reverse sweep kept", CURVATURE): lambda: flat(curvature()),
    }


def with_jax(network: Network, threads: int) -> Products:
    """Return the products of JAX, compiled; the number of threads is that of the cores of the process."""
    jax = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy
    points, targets, x, v = network.draw()
    x, v = ([jnp.asarray(part) for b in blocks for part in (b[:, :-1], b[:, -1])] for blocks in (x, v))

    def output(w: Any) -> Any:
        y = points
        for layer in range(len(w) // 2 - 1):
            z = jnp.tanh(y @ w[2 * layer].T + w[2 * layer + 1])
            y = y + z if network.residual and layer else z
        return y @ w[-2].T + w[-1]

    def loss(w: Any) -> Any:
        return 0.5 * jnp.sum((output(w) - targets) ** 2) / len(points)

    def joined(function: Any) -> Any:
        return jax.jit(lambda *arguments: jnp.concatenate([block.ravel() for block in function(*arguments)]))

    def curvature(w: Any, d: Any) -> Any:
        _, du = jax.jvp(output, (w,), (d,))
        return jax.vjp(output, w)[1](du / len(points))[0]

    push, pull = jax.linearize(output, x)[1], jax.vjp(output, x)[1]
    derivative, products = joined(jax.grad(loss)), jax.linearize(jax.grad(loss), x)[1]
    hessian, kept = joined(lambda w, d: jax.jvp(jax.grad(loss), (w,), (d,))[1]), joined(products)
    both, linear = joined(curvature), joined(lambda d: pull(push(d) / len(points))[0])
    return {
        ("JAX jit", DERIVATIVE): lambda: np.asarray(derivative(x)),
        ("JAX jit", HESSIAN): lambda: np.asarray(hessian(x, v)),
        ("JAX linearize", HESSIAN): lambda: np.asarray(kept(v)),
        ("JAX jit", CURVATURE): lambda: np.asarray(both(x, v)),
        ("JAX linearize", CURVATURE): lambda: np.asarray(linear(v)),
    }


def with_curvlinops(network: Network, threads: int) -> Products:
    """Return the products of curvlinops."""
    torch, curvlinops = importlib.import_module("torch"), importlib.import_module("curvlinops")
    torch.set_num_threads(threads)
    points, targets, x, v = network.draw()
    nn, data = torch.nn, [(torch.from_numpy(points), torch.from_numpy(targets))]

    class Residual(nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, y: Any) -> Any:
            return y + self.inner(y)

    layers: list[Any] = []
    for number, (fan_in, fan_out) in enumerate(pairwise(network.widths)):
        layer: Any = nn.Linear(fan_in, fan_out, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(x[number][:, :-1]))
            layer.bias.copy_(torch.from_numpy(x[number][:, -1]))
        if number < len(network.widths) - 2:
            layer = nn.Sequential(layer, nn.Tanh())
            layer = Residual(layer) if network.residual and number else layer
        layers.append(layer)
    model = nn.Sequential(*layers)
    # Its mean is over samples and outputs.
    factor = 0.5 * network.widths[-1]
    parameters = list(model.parameters())
    direction = torch.from_numpy(flat([part for b in v for part in (b[:, :-1], b[:, -1])]))
    options = {"check_deterministic": False}
    operators = {}
    for product, name in ((HESSIAN, "HessianLinearOperator"), (CURVATURE, "GGNLinearOperator")):
        operators[product] = getattr(curvlinops, name)(model, nn.MSELoss(), parameters, data, **options)
    return {
        ("curvlinops", product): (lambda operator=operator: factor * np.asarray((operator @ direction).detach()))
        for product, operator in operators.items()
    }


TOOLS = {"dnnfem": with_dnnfem, "torch": with_torch, "jax": with_jax, "curvlinops": with_curvlinops}


KERNELS = turns.Suite((str(Path(__file__).resolve()),), NETWORKS, TOOLS)


def report(results: list[Result]) -> dict[str, float | None]:
    """Return the keys of the JSON line."""
    small = [r for r in results if max(r.network.widths[1:]) <= SMALL_WIDTH]
    large = [r for r in results if r.network.floor > LARGE]
    one = {r.network: r.seconds["dnnfem", HESSIAN] for r in large if r.threads == 1}
    speedups = [one[r.network] / r.seconds["dnnfem", HESSIAN] for r in large if r.threads == 2 and r.network in one]
    ratios = [r.ratio(HESSIAN) for r in results]
    return {
        "geomean_hvp_vs_best_peer_small": mean([r.ratio(HESSIAN) for r in small]),
        "least_hvp_vs_best_peer_small": mean([r.network.floor / r.peak / r.best_peer(HESSIAN) for r in small]),
        "worst_hvp_vs_best_peer": None if any(map(math.isnan, ratios)) else max(ratios),
        "hvp_over_floor": mean([r.over_floor for r in large]),
        "derivative_vs_best_peer": mean([r.ratio(DERIVATIVE) for r in results]),
        "least_derivative_vs_best_peer": mean(
            [r.network.derivative_floor / r.peak / r.best_peer(DERIVATIVE) for r in results]
        ),
        "curvature_vs_best_peer": mean([r.ratio(CURVATURE) for r in results]),
        "thread_speedup": mean(speedups),
    }


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jets", action="store_true", help="rows and Gram matrices of Laplacian residuals")
    parser.add_argument("--networks", help="numbers of some networks, separated by commas; default all")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, help="1 or 2; default both")
    parser.add_argument("--quick", action="store_true", help="two networks and two rounds, to see that it runs")
    parser.add_argument("--json", action="store_true", help="print one JSON line, last")
    parser.add_argument("--worker", choices=list(TOOLS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    suite, keys_of = (jets.SUITE, jets.report) if options.jets else (KERNELS, report)
    if options.worker:
        turns.work(suite, options.worker, options.threads)
        return
    numbers = [int(n) for n in options.networks.split(",")] if options.networks else list(range(len(suite.networks)))
    numbers, rounds = (numbers[:2], 2) if options.quick else (numbers, options.rounds)
    counts = [options.threads] if options.threads else [1, 2]
    results = [result for threads in counts for result in turns.run(suite, threads, numbers, rounds)]
    keys = keys_of(results)
    for key, value in keys.items():
        print(f"{key}: {'no peer' if value is None else f'{value:.3f}'}")
    if options.json:
        print(json.dumps(keys))


if __name__ == "__main__":
    main()
