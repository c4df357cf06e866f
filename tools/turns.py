"""Tools that are timed in turns: each in a process of its own, so that a slow moment of the machine hits all of them.

A benchmark names its `Suite`; its command line starts itself again as a worker for every tool, and `run` asks the
workers round after round.  What they return is compared first: a wrong product is no competitor.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PEERS = Path(__file__).resolve().parent.parent / ".venv-peers" / "bin" / "python"
SECONDS = 0.05
"""Of one measurement."""

AGREE = 1e-9
"""Relative difference of a product from the one that dnnfem returns."""

Products = dict[tuple[str, str], Callable[[], Any]]
"""Functions without arguments by (method, product)."""


@dataclass(frozen=True)
class Suite:
    """What is compared.

    Attributes
    ----------
    command : tuple of str
        A script and its options; with ``--worker TOOL --threads N`` it calls `work`.
    networks : sequence
        With a `costly` product and its `floor` in operations.
    tools : dict
        Functions of a network and a number of threads that return the products of a tool.
    """

    command: tuple[str, ...]
    networks: Sequence[Any]
    tools: dict[str, Callable[[Any, int], Products]]


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


def work(suite: Suite, tool: str, threads: int) -> None:
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
            products = suite.tools[tool](suite.networks[int(line)], threads)
            answer = []
            for (method, product), call in products.items():
                value = np.asarray(call()).ravel()
                probe = np.random.default_rng(1).standard_normal(value.size)
                answer.append([method, product, float(value @ probe), float(np.linalg.norm(value))])
        print(json.dumps(answer), flush=True)


@dataclass(frozen=True)
class Worker:
    """A process that runs one tool."""

    tool: str
    process: subprocess.Popen[str]

    @classmethod
    def start(cls, suite: Suite, tool: str, threads: int) -> Worker | str:
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
        command = [str(python), *suite.command, "--worker", tool, "--threads", str(threads)]
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

    network: Any
    threads: int
    seconds: dict[tuple[str, str], float]
    peak: float

    def best_peer(self, product: str) -> float:
        """Time of the fastest peer; NaN if there is none."""
        return min(
            (t for (method, p), t in self.seconds.items() if p == product and method != "dnnfem"), default=math.nan
        )

    def ratio(self, product: str) -> float:
        """Time over that of the fastest peer; NaN if there is none."""
        return self.seconds["dnnfem", product] / self.best_peer(product)

    @property
    def over_floor(self) -> float:
        """Time of the product that has a floor over it."""
        return self.seconds["dnnfem", self.network.costly] * self.peak / self.network.floor


def agreeing(workers: list[Worker], number: int) -> tuple[set[tuple[str, str]], list[str]]:
    """Make a network ready everywhere; return whose products agree with dnnfem's, and remarks on the others."""
    answers = [row for worker in workers for row in worker.ask(number)]
    own = {product: (probe, norm) for method, product, probe, norm in answers if method == "dnnfem"}
    right, remarks = set(), []
    peers = [row for row in answers if row[0] != "dnnfem"]
    for method, product, probe, norm in answers:
        # dnnfem stores a block as weights row by row, then biases; so do the peers.
        wanted = own[product]
        error = max(abs(probe - wanted[0]), abs(norm - wanted[1])) / wanted[1]
        if error <= AGREE:
            right.add((method, product))
        else:
            remarks.append(f"{method} {product} deviates by {error:.1e} and is left out")
    for product in own:
        found = [(method, p) for method, p, _, _ in peers if p == product]
        if found and not any(key in right for key in found):
            raise SystemExit(f"{product}: no peer agrees with dnnfem; {'; '.join(remarks)}")
    return right, remarks


def run(suite: Suite, threads: int, numbers: list[int], rounds: int) -> Iterator[Result]:
    """Measure and print some networks with some threads."""
    started = {tool: Worker.start(suite, tool, threads) for tool in suite.tools}
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
        result = Result(suite.networks[number], threads, seconds, peak)
        print(f"\n{result.network}; threads: {threads}, dgemm {peak / 1e9:.0f} GFLOP/s; milliseconds")
        for product in dict.fromkeys(product for _, product in seconds):
            cells = [f"{method} {1e3 * t:.3g}" for (method, p), t in seconds.items() if p == product]
            print(f"  {product:10s} {' | '.join(cells)} | ratio {result.ratio(product):.2f}", flush=True)
        print(f"  {result.network.costly} over its floor: {result.over_floor:.2f}", *remarks, sep="\n  ", flush=True)
        yield result
    for worker in workers:
        worker.process.kill()


def mean(values: list[float]) -> float | None:
    """Return the geometric mean; None without values, or without a peer."""
    if not values or any(math.isnan(value) for value in values):
        return None
    return math.exp(sum(math.log(value) for value in values) / len(values))
