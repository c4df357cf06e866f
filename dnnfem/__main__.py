"""Command line: ``python -m dnnfem``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np

from dnnfem.archive import ArchiveError, read
from dnnfem.functionals import condense
from dnnfem.problems import Regression
from dnnfem.spaces import FeedforwardSpace


def precompile() -> int:
    """Run every kernel once, so that later runs find it compiled on the disk."""
    began = time.perf_counter()
    random = np.random.default_rng(0)
    points = random.uniform(-1.0, 1.0, (130, 2))
    problem = Regression(points, np.sin(points))
    space = FeedforwardSpace(2, (3, 3), 2)
    functional, x = problem.on(space), space.initial()
    linearization = functional.linearize(x)
    linearization.hessian(x)
    linearization.curvature(x)
    linearization.gram()
    here = functional.evaluator.linearize(x)
    here.moments  # noqa: B018
    here.curvature_along({0: (np.eye(3), np.eye(3))})
    many = Regression(points, np.sin(points[:, [0] * 17])).on(FeedforwardSpace(2, (3,), 17))
    many.linearize(many.space.initial()).hessian(many.space.initial())
    reduced = condense(functional)
    reduced.linearize(x[reduced.inner]).system()
    functional.cellwise(x)
    problem.solution(space, x)(points)
    print(f"kernels compiled and cached in {time.perf_counter() - began:.1f} s")
    return 0


def show(path: str) -> int:
    """Print the levels of an archive."""
    for level in read(path):
        print(level)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="dnnfem", description="Adaptive multilevel algorithms for deep learning.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("precompile", help="compile the kernels and cache them on the disk")
    commands.add_parser("show", help="print the levels of an archive").add_argument("file")
    options = parser.parse_args(arguments)
    try:
        return precompile() if options.command == "precompile" else show(options.file)
    except (ArchiveError, OSError) as error:
        print(f"dnnfem: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
