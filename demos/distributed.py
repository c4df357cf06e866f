"""
Several processes: the same script, the same result
===================================================

Start this script with ``torchrun --nproc-per-node 2 demos/distributed.py``, or as always, ``python
demos/distributed.py``.  Each process has the kernels on its own share of the samples; values, derivatives and
least-squares systems are sums over all of them, so that the loop looks as it always does.  The archive is one file,
which the first process writes: a run that has begun with two processes may go on with three, or with one.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import dnnfem as fem
from dnnfem import plotting

output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
quick = "--quick" in sys.argv
samples, widest = (2000, 8) if quick else (200_000, 24)

# %%
# All processes have the same data.


def truth(points):
    """Return a ridge on a slope."""
    return np.tanh(6.0 * points @ [0.5, -0.6, 0.4]) + points[:, 0] * points[:, 1]


random = np.random.default_rng(0)
points = random.uniform(-1.0, 1.0, (samples, 3))
targets = truth(points) + 0.1 * random.standard_normal(samples)
problem = fem.Regression(points, targets, backend="distributed")
first = fem.FeedforwardSpace(inputs=3, hidden=(4,), outputs=1)
rank, count = fem.distributed.processes()


def say(text):
    """Print, in the first process."""
    if rank == 0:
        print(text, flush=True)


# %%
# The loop is the one of the quick start.


def solved(problem, archive):
    """Return the last space and its coefficients, and the estimates of all levels."""
    space, x, state, quadrature, previous = archive.level
    dims, totals = [], []
    while True:
        J = problem.on(space, quadrature)
        tolerance = 0.1 * previous.total if previous else fem.relative(1e-2)
        result = fem.gauss_newton(J, x, tolerance, state=state, observer=archive, max_steps=20)
        estimate = fem.hierarchical(J, result.x, fem.ridge_candidates(space, quadrature, seed=0))
        say(archive.solved(result, estimate))
        dims, totals = [*dims, space.dim], [*totals, problem.rms(estimate.total)]
        if space.hidden[0] >= widest:
            return space, result.x, dims, totals
        marked = fem.dorfler(estimate.indicators, theta=0.5)
        space, P = fem.widen(space, estimate.cells[marked])
        x, state, previous = P(result.x), result.state, estimate
        archive.refined(marked, space, P)


# Here it begins anew each time; without the next lines it would go on, or return what is there.
path = output / "distributed.h5"
if rank == 0:
    path.unlink(missing_ok=True)
began = time.perf_counter()
space, x, dims, totals = solved(problem, fem.SharedArchive.open(path, problem, first, first.initial(seed=0)))
say(f"{count} process{'es' * (count > 1)}, {samples} samples: {space}, {time.perf_counter() - began:.1f} s")

# %%
# The first process does it once more by itself, and compares.

if rank == 0:
    alone, other = replace(problem, backend=None), output / "alone.h5"
    other.unlink(missing_ok=True)
    archive = fem.Archive.open(other, alone, first, first.initial(seed=0))
    began = time.perf_counter()
    _, y, _, _ = solved(alone, archive)
    say(f"alone: {time.perf_counter() - began:.1f} s")
    test = np.random.default_rng(1).uniform(-1.0, 1.0, (5000, 3))
    values, others = (alone.solution(space, z)(test)[:, 0] for z in (x, y))
    say(f"the networks differ by {np.sqrt(np.mean((values - others) ** 2)):.1e} at fresh points, and are")
    say(f"{np.sqrt(np.mean((values - truth(test)) ** 2)):.4f} off the truth; the noise is 0.1")

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    axes[0].loglog(dims, totals, "o-", color=plotting.BLUE)
    axes[0].set_xlabel("coefficients")
    axes[0].set_ylabel("estimated error")
    line = np.column_stack([np.linspace(-1.0, 1.0, 200)] + [np.full(200, 0.3)] * 2)
    near = np.abs(points[:, 1:] - 0.3).max(axis=1) < 0.1
    for part in range(count):
        own = slice(samples * part // count, samples * (part + 1) // count)
        axes[1].plot(points[own, 0][near[own]], targets[own][near[own]], ".", markersize=3, label=f"process {part}")
    axes[1].plot(line[:, 0], problem.solution(space, x)(line)[:, 0], "k", label="network")
    axes[1].set_xlabel("first input")
    axes[1].legend(frameon=False, fontsize="small")
    figure.savefig(output / "distributed.png", dpi=110)
    say(f"picture: {output / 'distributed.png'}")
