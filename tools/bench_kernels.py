"""Products of derivatives: dnnfem against torch, JAX and curvlinops, and against the floor by operation count.

    make peers
    python tools/bench_kernels.py --json

Six tanh networks with mean squares in float64, on one thread and on two: the derivative, Hessian products at a point
that does not move (activations kept, where a tool can keep them), products with the Gauss-Newton curvature.  Every tool
runs in a process of its own; all processes take turns, so that a slow moment of the machine hits each of them, and the
median over the rounds counts.  What they return is compared first: a wrong product is no competitor.

The floor of a Hessian product is two products of matrices in the first layer and six in every other, at the rate that
`dgemm` of 1024 x 1024 reaches in this run.

geomean_hvp_vs_best_peer_small  time of a Hessian product over that of the fastest peer, widths up to 128
worst_hvp_vs_best_peer          the largest of these ratios, all networks
hvp_over_floor                  networks with more than 1e8 operations
derivative_vs_best_peer         all networks
thread_speedup                  of Hessian products with two threads, networks with more than 1e8 operations

All are geometric means over networks and numbers of threads, but the worst one.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".venv-peers" / "bin" / "python"
LARGE = 1e8
"""Operations of a Hessian product from which on the floor and the speedup by threads are judged."""

SMALL_WIDTH = 128
SECONDS = 0.05
"""Of one measurement."""

AGREE = 1e-9
"""Relative difference of a product from the one that dnnfem returns."""

DERIVATIVE, HESSIAN, CURVATURE = "derivative", "hessian", "curvature"
PRODUCTS = (DERIVATIVE, HESSIAN, CURVATURE)

Array = np.ndarray
Products = dict[tuple[str, str], Callable[[], Any]]
"""Functions without arguments by (method, product)."""


@dataclass(frozen=True)
class Network:
    """A tanh network with `samples` random samples; residual layers after the first if `residual`."""

    widths: tuple[int, ...]
    samples: int
    residual: bool = False

    def __str__(self) -> str:
        if self.residual:
            return f"{self.widths[0]}-{self.widths[1]}-{len(self.widths) - 3}x{self.widths[1]}r-1, {self.samples}"
        return f"{'-'.join(map(str, self.widths))}, {self.samples}"

    @property
    def floor(self) -> float:
        """Operations of a Hessian product."""
        products = [2.0 * self.samples * fan_in * fan_out for fan_in, fan_out in pairwise(self.widths)]
        return 2.0 * products[0] + 6.0 * sum(products[1:])

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
        _, pull = torch.func.vjp(output, x)
        return pull(du / len(p))[0]

    return {
        ("autograd", DERIVATIVE): lambda: flat(torch.autograd.grad(loss(leaves), leaves)),
        ("graph kept", HESSIAN): lambda: flat(torch.autograd.grad(inner, leaves, retain_graph=True)),
        ("torch.func", HESSIAN): lambda: flat(torch.func.jvp(torch.func.grad(loss), (x,), (v,))[1]),
        ("torch.func", CURVATURE): lambda: flat(curvature()),
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

    derivative = jax.jit(jax.grad(loss))
    hessian = jax.jit(lambda w, d: jax.jvp(jax.grad(loss), (w,), (d,))[1])
    kept = jax.jit(jax.linearize(jax.grad(loss), x)[1])

    @jax.jit
    def curvature(w: Any, d: Any) -> Any:
        _, du = jax.jvp(output, (w,), (d,))
        return jax.vjp(output, w)[1](du / len(points))[0]

    return {
        ("JAX jit", DERIVATIVE): lambda: flat(derivative(x)),
        ("JAX jit", HESSIAN): lambda: flat(hessian(x, v)),
        ("JAX linearize", HESSIAN): lambda: flat(kept(v)),
        ("JAX jit", CURVATURE): lambda: flat(curvature(x, v)),
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


def measured(call: Callable[[], Any], seconds: float) -> float:
    """Return seconds per call, over as many as take `seconds`."""
    count, began = 0, time.perf_counter()
    while True:
        call()
        count += 1
        spent = time.perf_counter() - began
        if spent >= seconds:
            return spent / count


def gemm(threads: int) -> Callable[[], float]:
    """Return a measurement of the rate of `dgemm`, in operations per second."""
    limits = importlib.import_module("threadpoolctl").threadpool_limits(threads)
    a = np.random.default_rng(0).standard_normal((1024, 1024))
    b = a + 1.0

    def rate() -> float:
        assert limits is not None
        return 2.0 * 1024**3 / measured(lambda: a @ b, SECONDS)

    return rate


def work(tool: str, threads: int) -> None:
    """Answer requests, line by line: a number of a network makes it ready, `time` measures all of its products."""
    # A pool of threads that a tool starts is as large as the set of cores that it finds.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    products: Products = {}
    rate = gemm(threads) if tool == "dnnfem" else None
    for line in sys.stdin:
        if line.strip() == "time":
            times = [[*key, measured(call, SECONDS)] for key, call in products.items()]
            answer: Any = [*times, *([["dgemm", "rate", rate()]] if rate else [])]
        else:
            network = NETWORKS[int(line)]
            products = TOOLS[tool](network, threads)
            probe = np.random.default_rng(1).standard_normal(sum(b.size for b in network.draw()[2]))
            answer = []
            for (method, product), call in products.items():
                value = np.asarray(call())
                answer.append([method, product, float(value @ probe[: value.size]), float(np.linalg.norm(value))])
        print(json.dumps(answer), flush=True)


# ---- the driver


@dataclass(frozen=True)
class Worker:
    """A process that runs one tool."""

    tool: str
    process: subprocess.Popen[str]

    @classmethod
    def start(cls, tool: str, threads: int) -> Worker | str:
        """Start a process; return why not if it cannot."""
        python = Path(sys.executable) if tool == "dnnfem" else PEERS
        if not python.exists():
            return "not installed: make peers"
        settings = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(settings, str(threads)), "JAX_PLATFORMS": "cpu"}
        if tool != "dnnfem":
            command = [str(python), "-c", f"import {tool}"]
            found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if found.returncode:
                return found.stderr.strip().splitlines()[-1]
        command = [str(python), str(Path(__file__).resolve()), "--worker", tool, "--threads", str(threads)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        return cls(tool, process)

    def ask(self, request: object) -> list[list[Any]]:
        """Send a line, return the answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(request, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.tool}: the process ended")
        return list(json.loads(answer))


@dataclass(frozen=True)
class Result:
    """Seconds of one network on some threads, by (method, product); what deviates is left out."""

    network: Network
    threads: int
    seconds: dict[tuple[str, str], float]
    peak: float

    def ratio(self, product: str) -> float:
        """Time over that of the fastest peer; NaN if there is none."""
        peers = [t for (method, p), t in self.seconds.items() if p == product and method != "dnnfem"]
        return self.seconds["dnnfem", product] / min(peers) if peers else math.nan

    @property
    def over_floor(self) -> float:
        """Time of a Hessian product over its floor."""
        return self.seconds["dnnfem", HESSIAN] * self.peak / self.network.floor


def agreeing(workers: list[Worker], number: int) -> tuple[set[tuple[str, str]], list[str]]:
    """Make a network ready everywhere; return whose products agree with dnnfem's, and remarks on the others."""
    answers = [row for worker in workers for row in worker.ask(number)]
    own = {product: (probe, norm) for method, product, probe, norm in answers if method == "dnnfem"}
    right, remarks = set(), []
    for method, product, probe, norm in answers:
        # dnnfem stores a block as weights row by row, then biases; so do the peers.
        wanted = own[product]
        error = max(abs(probe - wanted[0]), abs(norm - wanted[1])) / wanted[1]
        if error <= AGREE:
            right.add((method, product))
        else:
            remarks.append(f"{method} {product} deviates by {error:.1e} and is left out")
    return right, remarks


def run(threads: int, numbers: list[int], rounds: int) -> Iterator[Result]:
    """Measure all networks with some threads."""
    started = {tool: Worker.start(tool, threads) for tool in TOOLS}
    for tool, worker in started.items():
        if isinstance(worker, str):
            print(f"{tool} is missing: {worker}", file=sys.stderr)
    workers = [worker for worker in started.values() if isinstance(worker, Worker)]
    for number in numbers:
        right, remarks = agreeing(workers, number)
        rows = [row for _ in range(rounds) for worker in workers for row in worker.ask("time")]
        times: dict[tuple[str, str], list[float]] = {}
        for method, product, value in rows:
            times.setdefault((method, product), []).append(value)
        peak = float(np.max(times.pop(("dgemm", "rate"))))
        seconds = {key: float(np.median(values)) for key, values in times.items() if key in right}
        result = Result(NETWORKS[number], threads, seconds, peak)
        print(f"\n{result.network}; threads: {threads}, dgemm {peak / 1e9:.0f} GFLOP/s; milliseconds")
        for product in PRODUCTS:
            cells = [f"{method} {1e3 * t:.3g}" for (method, p), t in seconds.items() if p == product]
            print(f"  {product:10s} {' | '.join(cells)} | ratio {result.ratio(product):.2f}", flush=True)
        print(f"  Hessian product over its floor: {result.over_floor:.2f}", *remarks, sep="\n  ", flush=True)
        yield result
    for worker in workers:
        worker.process.kill()


def mean(values: list[float]) -> float | None:
    """Return the geometric mean; None without values, or without a peer."""
    if not values or any(math.isnan(value) for value in values):
        return None
    return math.exp(sum(math.log(value) for value in values) / len(values))


def report(results: list[Result]) -> dict[str, float | None]:
    """Return the keys of the JSON line."""
    small = [r for r in results if max(r.network.widths[1:]) <= SMALL_WIDTH]
    large = [r for r in results if r.network.floor > LARGE]
    one = {r.network: r.seconds["dnnfem", HESSIAN] for r in large if r.threads == 1}
    speedups = [one[r.network] / r.seconds["dnnfem", HESSIAN] for r in large if r.threads == 2 and r.network in one]
    ratios = [r.ratio(HESSIAN) for r in results]
    return {
        "geomean_hvp_vs_best_peer_small": mean([r.ratio(HESSIAN) for r in small]),
        "worst_hvp_vs_best_peer": None if any(map(math.isnan, ratios)) else max(ratios),
        "hvp_over_floor": mean([r.over_floor for r in large]),
        "derivative_vs_best_peer": mean([r.ratio(DERIVATIVE) for r in results]),
        "curvature_vs_best_peer": mean([r.ratio(CURVATURE) for r in results]),
        "thread_speedup": mean(speedups),
    }


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", help="numbers of some networks, separated by commas; default all")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, help="1 or 2; default both")
    parser.add_argument("--quick", action="store_true", help="two networks and two rounds, to see that it runs")
    parser.add_argument("--json", action="store_true", help="print one JSON line, last")
    parser.add_argument("--worker", choices=list(TOOLS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.threads)
        return
    numbers = [int(n) for n in options.networks.split(",")] if options.networks else list(range(len(NETWORKS)))
    numbers, rounds = (numbers[:2], 2) if options.quick else (numbers, options.rounds)
    counts = [options.threads] if options.threads else [1, 2]
    results = [result for threads in counts for result in run(threads, numbers, rounds)]
    keys = report(results)
    for key, value in keys.items():
        print(f"{key}: {'no peer' if value is None else f'{value:.3f}'}")
    if options.json:
        print(json.dumps(keys))


if __name__ == "__main__":
    main()
