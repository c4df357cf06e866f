"""How the time of a Hessian product grows with samples, width and depth, and how much memory a million samples take.

    python tools/bench_scaling.py --json

One thread; the first product at a point is not counted, as it takes the derivative along.  An exponent is the slope of
a line through the logarithms of all times, least squares; the table also shows the steepest step between neighbours.
Times are the lowest of several: what else runs on the machine only adds.

samples_exponent  10-64-64-1, from 1000 to a million samples; the largest ones are not kept but computed again
width_exponent    2-w-w-w-1 with 1024 samples, w from 8 to 1024
depth_exponent    residual layers of width 16, 2 to 1024 of them, 1024 samples
peak_over_data    largest resident memory of a process that places a million samples in float64 and asks the network
                  10-64-64-1 for value, derivative, and a product with Hessian and curvature: what is above 200 MB, over
                  the bytes of the samples
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numba
import numpy as np

import dnnfem as fem

SECONDS = 2.0
"""Time for the products of one size, at least three of them."""

BASE = 200e6
"""Bytes of a process that are not counted."""


def problem(space: fem.FeedforwardSpace, samples: int) -> fem.functionals.Integral:
    """Return a regression problem with random samples."""
    random = np.random.default_rng(0)
    points = random.uniform(-1.0, 1.0, (samples, space.inputs))
    return fem.Regression(points, np.sin(points.sum(axis=1))).on(space)


def seconds(space: fem.FeedforwardSpace, samples: int) -> float:
    """Return the lowest time of a Hessian product."""
    functional, x = problem(space, samples), space.initial(seed=0)
    linearization, times, began = functional.linearize(x), [], time.perf_counter()
    linearization.hessian(x)
    while len(times) < 3 or time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        linearization.hessian(x)
        times.append(time.perf_counter() - start)
    return min(times)


def exponent(name: str, sizes: Sequence[int], timed: Callable[[int], float]) -> float:
    """Print times of all sizes, and return the slope."""
    times = [timed(size) for size in sizes]
    x, y = np.log(sizes), np.log(times)
    slope = float(np.polyfit(x, y, 1)[0])
    print(f"{name}: " + ", ".join(f"{size} {1e3 * t:.3g} ms" for size, t in zip(sizes, times, strict=True)))
    print(f"  slope {slope:.3f}, steepest step {np.max(np.diff(y) / np.diff(x)):.3f}", flush=True)
    return slope


def peak(samples: int) -> float:
    """Return the largest resident memory of this process after all kinds of products, in bytes."""
    space = fem.FeedforwardSpace(10, (64, 64), 1)
    functional, x = problem(space, samples), space.initial(seed=0)
    linearization = functional.linearize(x)
    for value in (linearization.value, linearization.derivative, linearization.hessian(x), linearization.curvature(x)):
        assert np.isfinite(value).all()
    return high_water()


def high_water() -> float:
    """Return the largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # A new process inherits `ru_maxrss` from the one that started it.
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024.0 * float(lines["VmHWM"].split()[0])
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few and small sizes, to see that it runs")
    parser.add_argument("--json", action="store_true", help="print one JSON line last")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    numba.set_num_threads(1)
    if options.peak:
        print(peak(options.peak))
        return
    samples = (1000, 4000, 16000) if options.quick else (1000, 3000, 10000, 30000, 100_000, 300_000, 1_000_000)
    widths = (8, 16, 32) if options.quick else (8, 16, 32, 64, 128, 256, 512, 1024)
    depths = (2, 4, 8) if options.quick else (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

    def deep(depth: int) -> fem.FeedforwardSpace:
        return fem.FeedforwardSpace(2, (16,) * depth, 1, residual=(False, *[True] * (depth - 1)))

    report = {
        "samples_exponent": exponent("samples", samples, lambda m: seconds(fem.FeedforwardSpace(10, (64, 64), 1), m)),
        "width_exponent": exponent("width", widths, lambda w: seconds(fem.FeedforwardSpace(2, (w, w, w), 1), 1024)),
        "depth_exponent": exponent("depth", depths, lambda d: seconds(deep(d), 1024)),
    }
    command = [sys.executable, str(Path(__file__).resolve()), "--peak", str(samples[-1])]
    bytes_ = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    report["peak_over_data"] = (bytes_ - BASE) / (8.0 * 11 * samples[-1])
    print(f"peak {bytes_ / 1e6:.0f} MB")
    for key, value in report.items():
        print(f"{key}: {value:.3f}")
    if options.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
