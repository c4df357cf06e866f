"""Kernels on a GPU: parity, derivatives, Hessian products, Gauss-Newton steps, two fits; with peers on the same card.

    python tools/bench_gpu.py --json

Without a GPU it says so, and checks parity on torch's CPU device alone.  Times are medians over calls that end with the
result on the host.  The peers are torch.func, autograd, and curvlinops if it is installed; they run in this process.
The floor of a product is the larger of its operations over the measured peak of matrix products and of its traffic over
the measured bandwidth; the traffic is what is kept per neuron and sample, read once, and the tangents, written and read
once.

parity_float64, parity_float32
    largest deviation from the reference backend, relative to the largest entry of a result; the goals are 1e-12 and
    1e-5, and the exit status is 1 where one is missed
hvp_over_gradient
    time of a Hessian product over that of a derivative with its forward sweep, worst network; the goal is 2.2
hvp_fraction_of_floor
    floor over time of a Hessian product, networks with more than 1e10 operations
hvp_vs_torch_func, hvp_vs_autograd, hvp_vs_curvlinops
    time of a Hessian product over that of the peer, geometric mean; null without the peer (autograd keeps the graph of
    the gradient, as dnnfem keeps activations)
graph_speedup
    of Hessian products of the smallest network by a CUDA graph
gauss_newton_vs_cpu, regression_vs_cpu, classification_vs_cpu
    time of a Gauss-Newton step, geometric mean, and of two fits, over that of the compiled backend
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

import dnnfem as fem
from dnnfem.kernels.components import Laplacian
from dnnfem.kernels.device.graphs import FIRST
from dnnfem.norms import Euclidean

GOALS = {"double": 1e-12, "single": 1e-5}
DTYPES = {"double": torch.float64, "single": torch.float32}
LARGE = 1e10
"""Operations of a Hessian product from which on the floor is judged."""

PEERS = {"torch_func": "torch.func", "autograd": "autograd", "curvlinops": "curvlinops"}
"""What a peer is called in the JSON line, and in the table."""

KEPT, FORWARD = 8, 4
"""Numbers per neuron and sample that a Hessian product and a derivative have to move at least."""

Array = np.ndarray


@dataclass(frozen=True)
class Network:
    """A tanh network with some random samples; residual layers after the first if `residual`."""

    widths: tuple[int, ...]
    samples: int
    residual: bool = False

    def __str__(self) -> str:
        if self.residual:
            return f"{self.widths[0]}-{self.widths[1]}-{len(self.widths) - 3}x{self.widths[1]}r-1, {self.samples}"
        return f"{'-'.join(map(str, self.widths))}, {self.samples}"

    @property
    def operations(self) -> float:
        """Of a Hessian product: two products of matrices in the first layer, six in every other."""
        products = [2.0 * self.samples * fan_in * fan_out for fan_in, fan_out in pairwise(self.widths)]
        return 2.0 * products[0] + 6.0 * sum(products[1:])

    def functional(self, **options: Any) -> Any:
        """Return mean squares at random points."""
        random = np.random.default_rng(0)
        points = random.uniform(-1.0, 1.0, (self.samples, self.widths[0]))
        targets = random.standard_normal((self.samples, self.widths[-1]))
        return fem.Regression(points, targets, **options).on(self.space)

    @property
    def space(self) -> Any:
        """The space of the coefficients."""
        hidden = self.widths[1:-1]
        residual = (False, *[self.residual] * (len(hidden) - 1))
        return fem.FeedforwardSpace(self.widths[0], hidden, self.widths[-1], residual=residual)


NETWORKS = (
    Network((2, 20, 20, 20, 1), 1000),
    Network((2, 64, 64, 64, 1), 2**16),
    Network((10, 256, 256, 256, 1), 2**16),
    Network((784, 512, 512, 10), 2**14),
    Network((32, 2048, 2048, 1), 2**13),
    Network((2, *[16] * 64, 1), 2**14, residual=True),
)

STEPS = (Network((2, 20, 20, 1), 10_000), Network((4, 30, 30, 1), 50_000), Network((8, 120, 1), 20_000))


# ---- measurements


def median(call: Callable[[], Any], seconds: float) -> float:
    """Return the median time of a call; as many calls as take `seconds`, three if that is not far too many."""
    call()
    times: list[float] = []
    while sum(times) < seconds or (len(times) < 3 and sum(times) < 5.0 * seconds):
        torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def bandwidth() -> float:
    """Return bytes per second of a copy, read and written."""
    source = torch.zeros(2**27, dtype=torch.float64, device="cuda")
    target = torch.empty_like(source)
    return 2 * 8 * 2**27 / median(lambda: target.copy_(source), 0.2)


def peak(dtype: torch.dtype) -> float:
    """Return operations per second of a product of matrices, float32 without TF32."""
    torch.set_float32_matmul_precision("highest")
    a = torch.randn((8192, 8192), dtype=dtype, device="cuda")
    return 2.0 * 8192**3 / median(lambda: a @ a, 0.5)


def deviation(found: Any, expected: Any) -> float:
    """Return the largest difference, relative to the largest entry."""
    found, expected = np.asarray(found), np.asarray(expected)
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-300))


def answers(functional: Any, x: Array, v: Array, points: Array) -> dict[str, Any]:
    """Return the results of all operations."""
    here, evaluator = functional.linearize(x), functional.evaluator
    system = here.system()
    components = ((), (0,), (0, 1), (1, 1, 0), (0, 0, 1, 1), Laplacian((0, 1), (1.0, 2.0)))
    found = {
        "value": here.value,
        "derivative": here.derivative,
        "Hessian": here.hessian(v),
        "Hessian, one direction": here.hessian(v[:, 0]),
        "curvature": here.curvature(v),
        "Gram matrix": here.gram(),
        "system": system.derivative,
        "columns": system.lengths,
        "left out": functional.left_out(x, 0.1 * np.eye(x.size)).leverage,
        "samples": functional.samplewise(x),
    }
    return found | {f"jet {c}": evaluator.jet(x, points, (c,)) for c in components}


def parity(device: str, precision: str) -> dict[str, float]:
    """Return the largest deviation of each operation, over regression and classification with some activations."""
    random = np.random.default_rng(1)
    points, worst = random.uniform(-1.0, 1.0, (300, 2)), {}
    targets = np.column_stack([np.sin(3.0 * points[:, 0]) * points[:, 1], points[:, 0] ** 2])
    for activation in ("tanh", "sin", "softplus", "gelu", "sigmoid"):
        space = fem.FeedforwardSpace(2, (10, 8), 2, activation=activation)
        x, v = space.initial(seed=0), random.standard_normal((space.dim, 3))
        for kind, data in ((fem.Regression, targets), (fem.Classification, targets[:, 0] > 0.1)):
            places = ({"backend": "reference"}, {"device": device, "precision": precision})
            expected, found = (answers(kind(points, data, **where).on(space), x, v, points[:20]) for where in places)
            for name, value in found.items():
                worst[name] = max(worst.get(name, 0.0), deviation(value, expected[name]))
    return worst


# ---- peers


class Model(torch.nn.Module):
    """A network as a torch module."""

    def __init__(self, network: Network, dtype: torch.dtype) -> None:
        super().__init__()
        self.residual = network.residual
        self.layers = torch.nn.ModuleList(
            torch.nn.Linear(fan_in, fan_out, dtype=dtype, device="cuda") for fan_in, fan_out in pairwise(network.widths)
        )

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return the outputs (m, outputs) at points (m, inputs)."""
        for number, layer in enumerate(self.layers[:-1]):
            value = torch.tanh(layer(z))
            z = z + value if self.residual and number else value
        return self.layers[-1](z)


def model_of(network: Network, x: Array, dtype: torch.dtype) -> Model:
    """Return a network as a torch module with coefficients `x`."""
    model = Model(network, dtype)
    torch.nn.utils.vector_to_parameters(torch.tensor(x, dtype=dtype, device="cuda"), model.parameters())
    return model


def peers(network: Network, functional: Any, x: Array, v: Array, dtype: torch.dtype) -> dict[str, Callable[[], Array]]:
    """Return Hessian products of peers, scaled to those of the functional."""
    model, q = model_of(network, x, dtype), functional.quadrature
    points = torch.tensor(functional.ansatz.reference(q.points), dtype=dtype, device="cuda")
    targets = torch.tensor((q.data - functional.law.shift) / functional.law.scale, dtype=dtype, device="cuda")
    parameters = {name: part.detach() for name, part in model.named_parameters()}
    direction = torch.tensor(v, dtype=dtype, device="cuda")
    sizes = [part.numel() for part in parameters.values()]
    pieces = direction.split(sizes)
    parts = {name: d.reshape(p.shape) for (name, p), d in zip(parameters.items(), pieces, strict=True)}

    def loss(weights: Any) -> Any:
        out = torch.func.functional_call(model, weights, (points,))
        return 0.5 * torch.sum((out - targets) ** 2) / len(points)

    def product() -> Array:
        _, found = torch.func.jvp(torch.func.grad(loss), (parameters,), (parts,))
        return np.asarray(torch.cat([part.ravel() for part in found.values()]).cpu())

    leaves = {name: part.clone().requires_grad_() for name, part in parameters.items()}
    graph = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
    inner = sum(torch.sum(a * b) for a, b in zip(graph, parts.values(), strict=True))

    def kept() -> Array:
        found = torch.autograd.grad(inner, list(leaves.values()), retain_graph=True)
        return np.asarray(torch.cat([part.ravel() for part in found]).cpu())

    found = {"torch.func": product, "autograd": kept}
    if importlib.util.find_spec("curvlinops"):
        curvlinops = importlib.import_module("curvlinops")
        operator = curvlinops.HessianLinearOperator(
            model, torch.nn.MSELoss(), list(model.parameters()), [(points, targets)], check_deterministic=False
        )
        factor = 0.5 * network.widths[-1]
        found["curvlinops"] = lambda: factor * np.asarray((operator @ direction).detach().cpu())
    return found


# ---- sections


def products(network: Network, precision: str, rates: tuple[float, float], seconds: float) -> dict[str, float]:
    """Print the times of one network; return its ratios."""
    functional, (width, rate) = network.functional(device="cuda", precision=precision), rates
    x = network.space.initial(seed=0)
    v = np.random.default_rng(2).standard_normal(x.size)
    here = functional.linearize(x)
    # The first products are launched kernel by kernel, before there is a graph.
    mine = [here.hessian(v) for _ in range(FIRST + 2)][-1]
    gradient = median(lambda: functional.linearize(x).derivative, seconds)
    hessian = median(lambda: here.hessian(v), seconds)
    size = 8 if precision == "double" else 4
    numbers = size * network.samples * sum(network.widths[1:])
    floor = max(network.operations / rate, KEPT * numbers / width)
    forward = max(0.5 * network.operations / rate, FORWARD * numbers / width)
    bound = "matrix peak" if network.operations / rate >= KEPT * numbers / width else "bandwidth"
    result = {"gradient": hessian / gradient, "floor": floor / hessian}
    print(f"\n{network}, {precision}; milliseconds")
    print(f"  derivative {1e3 * gradient:.3f} ({forward / gradient:.0%} of its floor)")
    print(f"  Hessian product {1e3 * hessian:.3f} ({floor / hessian:.0%} of the {bound})", end="")
    print(f", {hessian / gradient:.2f} derivatives")
    for name, call in peers(network, functional, x, v, DTYPES[precision]).items():
        error = deviation(call(), mine)
        if error > 1e2 * GOALS[precision]:
            print(f"  {name} deviates by {error:.1e} and is left out")
            continue
        taken = median(call, seconds)
        result[name] = hessian / taken
        print(f"  {name} {1e3 * taken:.3f}, ratio {hessian / taken:.2f}")
    if functional.evaluator.graphs.found:
        plainly = replace(functional.evaluator, capture=False).linearize(x)
        plainly.hessian(v)
        result["graph"] = median(lambda: plainly.hessian(v), seconds) / hessian
        print(f"  without a graph {result['graph']:.2f} times as long")
    return result


def step(functional: Any, x: Array) -> Array:
    """Return the step of a condensed Gauss-Newton method within a radius."""
    reduced = fem.condense(functional)
    system = reduced.linearize(x[reduced.inner]).system()
    return np.asarray(system.steps(Euclidean(reduced.space))(0.1).step)


def gauss_newton(network: Network, seconds: float) -> float:
    """Print the time of a step; return it over that of the compiled backend."""
    x = network.space.initial(seed=0)
    device, host = network.functional(device="cuda"), network.functional()
    error = deviation(step(device, x), step(host, x))
    times = [median(lambda f=f: step(f, x), seconds) for f in (device, host)]
    print(f"  {network}: {1e3 * times[0]:.1f} ms, compiled {1e3 * times[1]:.1f} ms, deviation {error:.1e}")
    return times[0] / times[1]


def fits(count: int, steps: int) -> dict[str, float]:
    """Print seconds of a regression and a classification; return them over those of the compiled backend."""
    random = np.random.default_rng(4)
    points = random.uniform(-1.0, 1.0, (count, 4))
    wave = np.sin(4.0 * points[:, 0] * points[:, 1]) + np.cos(3.0 * points[:, 2] + points[:, 3] ** 2)
    labels = np.digitize(wave, [-0.5, 0.5, 1.0])
    ratios = {}
    for name in ("regression", "classification"):
        taken, values = [], []
        for device in ("cuda", None):
            if name == "regression":
                space = fem.FeedforwardSpace(4, (24, 24), 1)
                J = fem.Regression(points, wave, device=device).on(space)
            else:
                space = fem.FeedforwardSpace(4, (64, 64), 4)
                J = fem.Classification(points, labels, device=device).on(space)
                J = fem.Sum(J, fem.Tikhonov(space, Euclidean, 1e-5))
            x = space.initial(seed=0)
            J.linearize(x).hessian(x)
            solve = fem.gauss_newton if name == "regression" else fem.trust_region
            began = time.perf_counter()
            result = solve(J, x, max_steps=steps)
            taken.append(time.perf_counter() - began)
            values.append(J.value(result.x))
        print(f"  {name}, {count} samples: {taken[0]:.2f} s, value {values[0]:.3e}; ", end="")
        print(f"compiled {taken[1]:.2f} s, value {values[1]:.3e}")
        ratios[name] = taken[0] / taken[1]
    return ratios


def mean(values: list[float]) -> float | None:
    """Return the geometric mean; None without values."""
    return math.exp(statistics.fmean(map(math.log, values))) if values else None


def measured(quick: bool) -> dict[str, float | None]:
    """Print what a GPU does; return the keys of the JSON line."""
    seconds, networks, steps = (0.05, NETWORKS[:2], STEPS[:1]) if quick else (0.3, NETWORKS, STEPS)
    width = bandwidth()
    rates = {precision: (width, peak(dtype)) for precision, dtype in DTYPES.items()}
    print(f"bandwidth {width / 1e9:.0f} GB/s", end="")
    print("".join(f", {p} {rate / 1e12:.1f} TFLOP/s" for p, (_, rate) in rates.items()))
    rows = {(n, p): products(n, p, rates[p], seconds) for n in networks for p in DTYPES}
    print("\nGauss-Newton step")
    ratios = [gauss_newton(network, seconds) for network in steps]
    print("\nfits")
    fit = fits(*((5000, 5) if quick else (20_000, 15)))
    large = [row["floor"] for (network, _), row in rows.items() if network.operations > LARGE]
    return {
        "bandwidth_GB_per_s": width / 1e9,
        "hvp_over_gradient": max(row["gradient"] for row in rows.values()),
        "hvp_fraction_of_floor": mean(large),
        **{f"hvp_vs_{key}": mean([row[peer] for row in rows.values() if peer in row]) for key, peer in PEERS.items()},
        "graph_speedup": rows[networks[0], "double"].get("graph"),
        "gauss_newton_vs_cpu": mean(ratios),
        "regression_vs_cpu": fit["regression"],
        "classification_vs_cpu": fit["classification"],
    }


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two networks and short fits, to see that it runs")
    parser.add_argument("--json", action="store_true", help="print one JSON line, last")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "torch finds no GPU: parity on its CPU device alone"
    print(name)
    keys: dict[str, Any] = {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    missed = False
    for precision, key in (("double", "parity_float64"), ("single", "parity_float32")):
        found = parity(device, precision)
        worst = max(found, key=lambda operation: found[operation])
        keys[key] = found[worst]
        missed |= not found[worst] <= GOALS[precision]
        print(f"parity, {precision}: {found[worst]:.1e} ({worst}), goal {GOALS[precision]:.0e}", flush=True)
    if device == "cuda":
        keys |= measured(options.quick)
    if options.json:
        print(json.dumps(keys))
    sys.exit(int(missed))


if __name__ == "__main__":
    main()
