"""A million samples with ten features: memory, error and time against Adam with its learning rate searched.

    python tools/bench_large.py --json

The data are Friedman's first function on the unit cube, ``10 sin(pi p_1 p_2) + 20 (p_3 - 1/2)^2 + 10 p_4 + 5 p_5`` with
five more features that do nothing, and Gaussian noise of deviation one: inputs and targets in float32, 44 MB.

dnnfem    grows a network with two hidden layers on 100 samples per coefficient, until a level lowers the loss at 20 000
          other samples by less than 2 %, and solves on all samples
peer      torch's Adam on a network with two hidden layers of 64 tanh units, batches of 1024, float32, learning rates
          1e-1, 1e-2, 1e-3, 1e-4: each until two epochs have not improved the loss at 20 000 samples that are kept
          aside, at most 30 epochs; the best of them is taken.  All four runs are the time of the search.

Both run on one thread, one after the other, each in a process of its own.  Data are generated, and kernels loaded,
before a clock starts.  Keys:

peak_over_data        (peak memory of the process that runs dnnfem alone - 300 MB) / bytes of the data; the 300 MB stand
                      for interpreter and libraries, and are agreed, not measured: what was measured is printed
excess_error          root mean square error at 100 000 fresh samples with noise / deviation of the noise - 1
time_vs_adam_search   seconds of dnnfem / seconds of the search

Medians over the seeds, which draw the samples and everything else.  Ablations have as many coefficients: untrained
random features with one linear solve (best of three scales), growth with candidates as they are drawn, and a solve from
scratch, with 100 samples per coefficient; the last two end with the same solve on all samples as the adaptive network.
Their errors are without the noise, over its deviation; for each there is the key ``error_over_...`` of the adaptive
network.  `dim_ratio_at_best_ablation` is the size of the smallest network of the path, relative to the chosen one, that
after the solve on all samples is no worse than the best of them; null if none is.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Before NumPy and Numba are imported.
THREADS = "1"
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, THREADS)

import numpy as np  # noqa: E402

import dnnfem as fem  # noqa: E402
from dnnfem.spaces.feedforward import Neuron, ridges  # noqa: E402

Array = np.ndarray
FEATURES, NOISE, BLOCK = 10, 1.0, 10_000
HELD, TEST = 20_000, 100_000
FIRST_WIDTH, GROWTH, PER_COEFFICIENT, GAIN = 5, 0.5, 100, 0.02
LEVEL_STEPS, FINAL_STEPS, TOLERANCE = 20, 5, 0.02
CANDIDATES, SCORED = 32, 2000
RATES, BATCH, HIDDEN, PATIENCE, EPOCHS = (1e-1, 1e-2, 1e-3, 1e-4), 1024, 64, 2, 30
BASE = 300e6
ABLATIONS = ("random features", "uniform", "scratch")
GOALS = {"peak_over_data": 1.5, "excess_error": 0.05, "time_vs_adam_search": 0.33, "dim_ratio_at_best_ablation": 0.5}


def function(p: Array) -> Array:
    """Return Friedman's first function (Annals of Statistics 19 (1991) 1-67, section 4.3)."""
    wave, bowl = 10.0 * np.sin(np.pi * p[:, 0] * p[:, 1]), 20.0 * (p[:, 2] - 0.5) ** 2
    return wave + bowl + 10.0 * p[:, 3] + 5.0 * p[:, 4]


def draw(count: int, *key: int) -> tuple[Array, Array]:
    """Return inputs and noisy targets in float32; generated in blocks, without a copy of all in float64."""
    random = np.random.default_rng(key)
    inputs, targets = np.empty((count, FEATURES), np.float32), np.empty(count, np.float32)
    for start in range(0, count, BLOCK):
        p = random.uniform(size=(min(BLOCK, count - start), FEATURES))
        inputs[start : start + len(p)] = p
        targets[start : start + len(p)] = function(p) + NOISE * random.standard_normal(len(p))
    return inputs, targets


def errors(predict: object, seed: int) -> tuple[float, float]:
    """Return root mean square errors at fresh samples, with and without their noise, over its deviation."""
    inputs, targets = draw(TEST, seed, 1)
    values = np.concatenate([predict(inputs[start : start + BLOCK]) for start in range(0, TEST, BLOCK)])
    exact = function(inputs.astype(float))
    pair = [float(np.sqrt(np.mean((values - wanted) ** 2))) / NOISE for wanted in (targets, exact)]
    return tuple(error if math.isfinite(error) else math.inf for error in pair)


def first(problem: fem.Regression, count: int) -> fem.Quadrature:
    """Return the first samples, without those at the end that are held out."""
    return problem.quadrature.subset(np.arange(min(count, len(problem.quadrature) - HELD)))


def grown(problem: fem.Regression, adaptive: bool = True) -> Iterator[tuple[fem.FeedforwardSpace, Array]]:
    """Yield the network of every level."""
    space = fem.FeedforwardSpace(FEATURES, (FIRST_WIDTH, FIRST_WIDTH), 1)
    x = space.initial(seed=0)
    while True:
        samples = first(problem, PER_COEFFICIENT * space.dim)
        J = problem.on(space, samples)
        x = fem.trust_region(J, x, TOLERANCE, curvature=True, max_steps=LEVEL_STEPS).x
        yield space, x
        candidates = fem.ridge_candidates(space, samples, seed=0, count=CANDIDATES)
        estimate = fem.insertion_sensitivity(problem.on(space, first(problem, SCORED)), x, candidates)
        chosen = []
        for layer, width in enumerate(space.hidden):
            own = np.array([number for number, neuron in enumerate(estimate.cells) if neuron.layer == layer])
            best = own[np.argsort(-estimate.indicators[own], kind="stable")] if adaptive else own
            chosen += list(estimate.cells[best[: math.ceil(GROWTH * width)]])
        space, P = fem.widen(space, chosen)
        x = P(x)


@dataclass(frozen=True)
class Fit:
    """The network, those of the levels up to it, their number and table, and the tolerance on all samples."""

    space: fem.FeedforwardSpace
    x: Array
    path: list[tuple[fem.FeedforwardSpace, Array]]
    levels: str
    tolerance: float


def final(problem: fem.Regression, space: fem.FeedforwardSpace, x: Array, tolerance: float) -> Array:
    """Solve on all samples."""
    return fem.trust_region(problem.on(space), x, tolerance, curvature=True, max_steps=FINAL_STEPS).x


def regression(problem: fem.Regression) -> Fit:
    """Grow a network as long as it pays, and solve on all samples."""
    size = len(problem.quadrature)
    held = problem.quadrature.subset(np.arange(size - HELD, size))
    best, chosen, path, lines = math.inf, 0, [], []
    for space, x in grown(problem):
        path.append((space, x))
        risk = problem.on(space, held).value(x)
        error = problem.rms(math.sqrt(2.0 * risk))
        samples = PER_COEFFICIENT * space.dim
        lines.append(f"  {space}: {space.dim} coefficients, {samples} samples, {error:.4f} held out")
        pays = risk < (1.0 - GAIN) * best
        if risk < best:
            best, chosen = risk, len(path)
        if not pays:
            break
    space, x = path[chosen - 1]
    # The estimate of the algebraic error is compared with what the samples can tell of the minimizer.
    tolerance = 0.3 * math.sqrt(2.0 * best * space.dim / size)
    return Fit(space, final(problem, space, x, tolerance), path[:chosen], "\n".join(lines), tolerance)


def peak() -> float:
    """Return the peak memory of this process in bytes, so far."""
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def alone(samples: int, seed: int) -> dict[str, object]:
    """Run dnnfem in this process, and nothing else."""
    imported = peak()
    # Kernels are loaded before the clock starts.
    regression(fem.Regression(*draw(2 * HELD, seed, 0)))
    loaded = peak()
    inputs, targets = draw(samples, seed, 0)
    began = time.perf_counter()
    problem = fem.Regression(inputs, targets)
    fit = regression(problem)
    seconds, most = time.perf_counter() - began, peak()
    noisy, exact = errors(lambda p: problem.solution(fit.space, fit.x)(p)[:, 0], seed)
    return {
        "levels": fit.levels,
        "space": str(fit.space),
        "dim": fit.space.dim,
        "seconds": seconds,
        "imported": imported,
        "loaded": loaded,
        "peak": most,
        "data": inputs.nbytes + targets.nbytes,
        "error": noisy,
        "exact": exact,
        **ablations(problem, fit, seed, exact),
    }


def ablations(problem: fem.Regression, fit: Fit, seed: int, own: float) -> dict[str, float]:
    """Return the errors, without noise, of other networks with as many coefficients, and the ratio of sizes."""
    space, tolerance = fit.space, fit.tolerance
    samples = first(problem, PER_COEFFICIENT * space.dim)

    def error(other: fem.FeedforwardSpace, x: Array) -> float:
        return errors(lambda p: problem.solution(other, x)(p)[:, 0], seed)[1]

    uniform = next(pair for pair in grown(problem, adaptive=False) if pair[0].dim >= space.dim)
    J, start = problem.on(space, samples), space.initial(seed=seed)
    scratch = fem.trust_region(J, start, TOLERANCE, curvature=True, max_steps=len(fit.path) * LEVEL_STEPS).x
    count = (space.dim - 1) // (FEATURES + 2)
    narrow = fem.FeedforwardSpace(FEATURES, (1,), 1)
    points, random, frozen = problem.ansatz.reference(samples.points), np.random.default_rng((seed, 2)), math.inf
    for scales in ((0.5, 1.5), (1.0, 3.0), (2.0, 6.0)):
        weights, bias = ridges(random, points[random.integers(len(points), size=count)], scales)
        neurons = [Neuron(0, w, b) for w, b in zip(weights[1:], bias[1:], strict=True)]
        wide, P = fem.widen(narrow, neurons)
        reduced = fem.condense(problem.on(wide, samples))
        x = reduced.expand(P(np.concatenate([weights[0], bias[:1], np.zeros(2)]))[reduced.inner])
        frozen = min(frozen, error(wide, x))
    others = {
        "random features": frozen,
        "uniform": error(uniform[0], final(problem, *uniform, tolerance)),
        "scratch": error(space, final(problem, space, scratch, tolerance)),
    }
    reached = [s.dim for s, x in fit.path[:-1] if error(s, final(problem, s, x, tolerance)) <= min(others.values())]
    reached += [space.dim] if own <= min(others.values()) else []
    return {**others, "ratio": min(reached, default=math.inf) / space.dim}


def adam(samples: int, seed: int) -> dict[str, object]:
    """Search the learning rate of Adam in this process."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(int(THREADS))
    inputs, targets = (torch.from_numpy(array) for array in draw(samples, seed, 0))
    nn, size = torch.nn, samples - HELD

    def network() -> object:
        torch.manual_seed(seed)
        layers = (nn.Linear(FEATURES, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1))
        return nn.Sequential(*layers)

    began = time.perf_counter()
    middle, half = 0.5, 0.5
    scaled = (inputs - middle) / half
    mean, deviation = targets.mean(), targets.std()
    wanted = (targets - mean) / deviation
    best, chosen, runs = math.inf, None, {}
    for rate in RATES:
        module, least, waited, epochs = network(), math.inf, 0, 0
        optimizer = torch.optim.Adam(module.parameters(), lr=rate)
        while waited < PATIENCE and epochs < EPOCHS:
            for index in torch.randperm(size).split(BATCH):
                optimizer.zero_grad(set_to_none=True)
                loss = torch.mean((module(scaled[index])[:, 0] - wanted[index]) ** 2)
                loss.backward()
                optimizer.step()
            epochs += 1
            with torch.no_grad():
                held = float(torch.mean((module(scaled[size:])[:, 0] - wanted[size:]) ** 2))
            waited = 0 if held < least else waited + 1
            if held < least:
                least = held
                if held < best:
                    best, chosen = held, {key: value.clone() for key, value in module.state_dict().items()}
        runs[rate] = (epochs, math.sqrt(least) * float(deviation))
    seconds = time.perf_counter() - began
    module = network()
    module.load_state_dict(chosen)

    def predict(p: Array) -> Array:
        with torch.no_grad():
            values = module((torch.from_numpy(p) - middle) / half)[:, 0]
        return (values * deviation + mean).numpy().astype(float)

    noisy, exact = errors(predict, seed)
    lines = [f"  rate {rate:g}: {epochs} epochs, {error:.4f} held out" for rate, (epochs, error) in runs.items()]
    dim = sum(p.numel() for p in module.parameters())
    return {"rates": "\n".join(lines), "seconds": seconds, "error": noisy, "exact": exact, "dim": dim}


def child(mode: str, samples: int, seed: int) -> dict[str, object]:
    """Run one side in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--mode", mode, "--samples", str(samples)]
    done = subprocess.run([*command, "--seeds", str(seed)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="100 000 samples and one seed, to see that it runs")
    parser.add_argument("--json", action="store_true", help="print one JSON line, last")
    parser.add_argument("--mode", choices=["alone", "adam"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mode:
        print(json.dumps((alone if options.mode == "alone" else adam)(options.samples, options.seeds)))
        return
    samples, seeds = (100_000, 1) if options.quick else (options.samples, options.seeds)
    print(f"{samples} samples, {THREADS} threads; errors are root mean squares over the deviation of the noise")
    columns: dict[str, list[float]] = defaultdict(list)
    for seed in range(seeds):
        own, peer = child("alone", samples, seed), child("adam", samples, seed)
        print(f"seed {seed}\n{own['levels']}")
        print(
            f"  dnnfem {own['space']}: error {own['error']:.4f} with noise, {own['exact']:.4f} without, "
            f"{own['seconds']:.1f} s, peak {own['peak'] / 1e6:.0f} MB for {own['data'] / 1e6:.0f} MB of data "
            f"({own['imported'] / 1e6:.0f} MB after imports, {own['loaded'] / 1e6:.0f} MB after {2 * HELD} samples)\n"
            f"  without noise: random features {own['random features']:.4f}, uniform {own['uniform']:.4f}, "
            f"scratch {own['scratch']:.4f}; the best of them reached with {own['ratio']:.2f} of the coefficients\n"
            f"{peer['rates']}\n"
            f"  Adam {peer['dim']} coefficients: error {peer['error']:.4f}, {peer['exact']:.4f} without noise, "
            f"{peer['seconds']:.1f} s",
            flush=True,
        )
        columns["peak_over_data"].append((own["peak"] - BASE) / own["data"])
        columns["excess_error"].append(own["error"] - 1.0)
        columns["time_vs_adam_search"].append(own["seconds"] / peer["seconds"])
        for name in ABLATIONS:
            columns[f"error_over_{name.replace(' ', '_')}"].append(own["exact"] / own[name])
        columns["dim_ratio_at_best_ablation"].append(own["ratio"])
    line: dict[str, float | None] = {}
    for name, values in columns.items():
        # The worse of two values, not something between them: one of them may be infinite.
        lower, median, upper = np.quantile(values, [0.25, 0.5, 0.75], method="higher")
        goal = f", goal {GOALS[name]}" if name in GOALS else ""
        print(f"{name:26s} {median:.4f} ({lower:.4f} to {upper:.4f}){goal}")
        line[name] = float(median) if math.isfinite(median) else None
    if options.json:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
