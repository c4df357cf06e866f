"""
A run that is killed three times
================================

The loop of the quick start, interrupted by SIGKILL, which no program can catch: once between solving and refining, once
in the middle of a solve, once right after refinement.  Each time the same script is started again and goes on from its
archive.  In the end the coefficients are compared with those of a run that was left in peace: bit for bit.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import dnnfem as fem

LEVELS = 4

# %%
# The run.  The archive stores what the solver does, and the loop begins with what the archive has; nothing else in it
# knows of a restart.  `kill` is there to have the process killed at a given place.


def run(path: Path, kill: str) -> None:
    """Run the loop on an archive; `kill` says where this process is to die: ``"solved 0"``, ``"step 1 4"``, ..."""

    def perhaps_die(here: str) -> None:
        if here == kill:
            os.kill(os.getpid(), signal.SIGKILL)

    random = np.random.default_rng(0)
    points = random.uniform(-1, 1, size=(600, 2))
    targets = np.exp(-4 * np.sum(points**2, axis=1)) * np.cos(3 * points[:, 0])

    problem = fem.Regression(points, targets)
    space = fem.FeedforwardSpace(inputs=2, hidden=(6,), outputs=1)
    archive = fem.Archive.open(path, problem, space, space.initial(seed=0))
    space, x, state, quadrature, previous = archive.level

    while True:
        level = len(archive.levels) - 1

        def observer(snapshot, level=level):
            archive(snapshot)
            perhaps_die(f"step {level} {snapshot.step.number}")

        J = problem.on(space, quadrature)
        tolerance = 0.1 * previous.total if previous else fem.relative(1e-2)
        result = fem.gauss_newton(J, x, tolerance=tolerance, state=state, observer=observer)
        estimate = fem.hierarchical(J, result.x, fem.ridge_candidates(space, quadrature, seed=0))
        print("   ", archive.solved(result, estimate), flush=True)
        perhaps_die(f"solved {level}")
        if level == LEVELS - 1:
            return
        marked = fem.dorfler(estimate.indicators, theta=0.8)
        space, P = fem.widen(space, estimate.cells[marked])
        x, state, previous = P(result.x), result.state, estimate
        archive.refined(marked, space, P)
        perhaps_die(f"refined {level + 1}")


# %%
# The same script, started again and again as a process of its own.


def start(path: Path, kill: str = "never") -> int:
    """Start this script as a process of its own, show what it prints, and return how it ended."""
    command = [sys.executable, __file__, str(path), kill]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    print(ended.stdout, end="")
    return ended.returncode


# %%
# Two archives, one of a run that is left in peace, one of a run that is killed in three places.


def compare() -> bool:
    """Say whether a run killed three times has the coefficients of one that was not."""
    with tempfile.TemporaryDirectory() as folder:
        quiet, killed = Path(folder) / "quiet.h5", Path(folder) / "killed.h5"
        print("left in peace:")
        assert start(quiet) == 0
        for kill in ("solved 0", "step 1 4", "refined 2"):
            print(f"to be killed at '{kill}':")
            assert start(killed, kill) == -signal.SIGKILL
        print("started a last time:")
        assert start(killed) == 0
        pairs = zip(fem.read(quiet), fem.read(killed), strict=True)
        equal = [np.array_equal(a.x, b.x) and a.space == b.space for a, b in pairs]
    print(f"levels whose coefficients are equal bit for bit: {sum(equal)} of {len(equal)}")
    return all(equal)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        run(Path(sys.argv[1]), sys.argv[2])
    elif not compare():
        sys.exit("the coefficients differ")
