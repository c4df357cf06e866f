"""Two processes against one, with one thread each: the same numbers, and how much sooner.

    python tools/bench_distributed.py --json

A network 10-32-32-1 on 50 000 samples: one linearization with twenty Hessian products, five trust-region steps, five
steps of Gauss-Newton for 10-16-1 (whose dense factorizations all processes do), and a hundred stochastic steps; the
lowest time of three.  Both runs begin with the processes started, and have the machine one after the other.

relative_difference  largest of value, derivative, Hessian products, trust-region and Gauss-Newton steps, stochastic
                     steps: norm of the difference over that of what one process computes
speedup              time of one process over that of two, geometric mean over products, trust region and Gauss-Newton:
                     batches of a few hundred samples are too little to be shared, and stochastic steps take as long
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import dnnfem as fem
from dnnfem.norms import weight_decay

ROOT = Path(__file__).parent.parent
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
REPEATS = 3


def tasks(samples: int) -> dict[str, Callable[[], np.ndarray]]:
    """Return what is timed, each with what it computes."""
    random = np.random.default_rng(0)
    points = random.uniform(-1.0, 1.0, (samples, 10))
    targets = np.sin(points @ random.standard_normal(10)) + 0.1 * random.standard_normal(samples)
    problem = fem.Regression(points, targets, backend="distributed")
    deep, wide = fem.FeedforwardSpace(10, (32, 32), 1), fem.FeedforwardSpace(10, (16,), 1)
    x, y = deep.initial(seed=0), wide.initial(seed=0)
    J, narrow = problem.on(deep), problem.on(wide)
    penalized = fem.Sum(J, fem.Tikhonov(deep, weight_decay, 1e-3))
    v = random.standard_normal(deep.dim)

    def products() -> np.ndarray:
        here = J.linearize(x)
        found = [np.array([here.value]), here.derivative]
        for _ in range(20):
            found.append(here.hessian(v))
        return np.concatenate(found)

    return {
        "products": products,
        "trust region": lambda: fem.trust_region(penalized, x, 0.0, norm=fem.Euclidean(deep), max_steps=5).x,
        "Gauss-Newton": lambda: fem.gauss_newton(narrow, y, 0.0, max_steps=5).x,
        "stochastic": lambda: fem.stochastic(J, x, 0.0, max_steps=100, seed=0).x,
    }


def worker(samples: int, output: Path) -> None:
    """Time all tasks; the first process writes results and times."""
    found = {}
    for name, task in tasks(samples).items():
        task()
        times = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            result = task()
            times.append(time.perf_counter() - began)
        found |= {name: result, f"seconds {name}": np.array(min(times))}
    if fem.distributed.processes()[0] == 0:
        np.savez(output, **found)


def measured(count: int, samples: int) -> dict[str, np.ndarray]:
    """Return results and times of some processes."""
    environment = os.environ | dict.fromkeys(ONE_THREAD, "1")
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "found.npz"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        command = [*launcher, __file__, "--worker", str(output), "--samples", str(samples)]
        subprocess.run(command, env=environment, check=True)
        with np.load(output) as file:
            return dict(file)


def main() -> None:
    """Parse the command line, run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--quick", action="store_true", help="2000 samples")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print one line of JSON last")
    options = parser.parse_args()
    samples = 2000 if options.quick else options.samples
    if options.worker is not None:
        worker(samples, options.worker)
        return
    one, two = (measured(count, samples) for count in (1, 2))
    names = [name for name in one if not name.startswith("seconds ")]
    differences = [float(np.linalg.norm(two[name] - one[name]) / np.linalg.norm(one[name])) for name in names]
    speedups = [float(one[f"seconds {name}"] / two[f"seconds {name}"]) for name in names]
    for name, difference, speedup in zip(names, differences, speedups, strict=True):
        seconds = float(one[f"seconds {name}"])
        print(f"{name:14} {seconds:8.3f} s alone, {speedup:.2f} times sooner in two, difference {difference:.1e}")
    shared = [speedup for name, speedup in zip(names, speedups, strict=True) if name != "stochastic"]
    summary = {"relative_difference": max(differences), "speedup": float(np.exp(np.mean(np.log(shared))))}
    print(f"relative difference {summary['relative_difference']:.1e}, speedup {summary['speedup']:.2f}")
    if options.json:
        print(json.dumps(summary | {f"speedup {name}": s for name, s in zip(names, speedups, strict=True)}))


if __name__ == "__main__":
    main()
