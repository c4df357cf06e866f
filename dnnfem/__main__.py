"""Command line: ``dnnfem``, or ``python -m dnnfem``.

Exit codes: 0, or 1 if a file cannot be used as asked, or 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import dnnfem
from dnnfem import kernels
from dnnfem.archive import ArchiveError, LevelRecord, read, schema
from dnnfem.archive.container import reading
from dnnfem.functionals import condense
from dnnfem.problems import Regression
from dnnfem.spaces import FeedforwardSpace

PACKAGES = (
    *("numpy", "scipy", "torch", "numba", "h5py", "array-api-compat", "tqdm"),
    *("matplotlib", "scikit-learn", "onnx", "onnxscript"),
)
SUFFIXES = {"torch": ".pt2", "onnx": ".onnx", "npz": ".npz"}
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


def precompile() -> None:
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


def row(level: LevelRecord) -> dict[str, Any]:
    """Return a level as plain data; what is not there yet, or not a finite number, is None."""
    last = None if level.steps is None else level.steps[-1]
    estimate = level.estimate
    numbers = {
        "value": None if last is None else last.value,
        "estimate": None if estimate is None else estimate.total,
        "work": None if last is None else last.work,
        "seconds": None if last is None else last.seconds,
    }
    return {
        "level": level.number,
        "space": str(level.space),
        "coefficients": level.space.dim,
        "steps": None if last is None else last.number,
        **{name: None if value is None else _finite(value) for name, value in numbers.items()},
        "status": None if level.status is None else level.status.name,
        "quantity": None if estimate is None else estimate.quantity,
        "marked": None if level.marked is None else len(level.marked),
        "parts": None if estimate is None else {name: _finite(part) for name, part in estimate.parts.items()},
        "remarks": [] if estimate is None else list(estimate.remarks),
    }


def show(path: Path, steps: bool, as_json: bool) -> None:
    """Print the levels of an archive, and the tables of their solves if asked for."""
    levels = read(path)
    if as_json:
        rows = [row(level) for level in levels]
        for line, level in zip(rows, levels, strict=True):
            if steps and level.steps is not None:
                line["table"] = [{name: _finite(value) for name, value in vars(step).items()} for step in level.steps]
        print(json.dumps({"file": str(path), "levels": rows}))
        return
    for level in levels:
        print(level)
        if level.estimate is not None:
            parts = ", ".join(f"{name} {value:.2e}" for name, value in level.estimate.parts.items())
            print(f"  {level.estimate.quantity}{': ' if parts else ''}{parts}")
        for remark in () if level.estimate is None else level.estimate.remarks:
            print(f"  {remark}")
        if steps and level.steps is not None:
            print("\n".join(f"  {line}" for line in str(level.steps).splitlines()))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def check(paths: Sequence[Path], as_json: bool) -> bool:
    """Read archives as a whole, and say of each what it is; return whether all are sound."""
    found = []
    for path in paths:
        try:
            levels = read(path)
            with reading(path) as file:
                for group in file.get("quadratures", {}).values():
                    schema.read_quadrature(group)
            for before, level in pairwise(levels):
                _check_start(path, before, level)
            found.append({"file": str(path), "sound": True, "says": f"undamaged, levels: {len(levels)}"})
        except (ValueError, OSError) as error:
            found.append({"file": str(path), "sound": False, "says": str(error).removeprefix(f"{path}: ")})
    for line in found:
        print(json.dumps(line) if as_json else f"{line['file']}: {line['says']}")
    return all(line["sound"] for line in found)


def _check_start(path: Path, before: LevelRecord, level: LevelRecord) -> None:
    """Raise an `ArchiveError` unless a level starts where the transfer leads from the one before."""
    transfer, x = level.transfer, before.x
    if transfer is None or x is None:
        raise ArchiveError(f"{path}: level {level.number} begins without the one before, which is not solved")
    start = transfer(x) if transfer.shape == (len(level.start), len(x)) else transfer.project(x)
    if not np.allclose(start, level.start, rtol=1e-9, atol=1e-12, equal_nan=True):
        raise ArchiveError(f"{path}: level {level.number} does not start where the transfer leads from the one before")


def plot(path: Path, output: Path) -> None:
    """Draw estimates, hierarchy and solves of an archive."""
    levels = read(path)
    try:
        figure = dnnfem.plotting.overview(levels, path.name)
    except ImportError as error:
        raise ArchiveError(f"plot: {error.name} is not installed, expected pip install 'dnnfem[demos]'") from error
    try:
        figure.savefig(output, dpi=110)
    except ValueError as error:
        raise ArchiveError(f"{output}: {error}") from error
    print(f"picture: {output}")


def export(path: Path, kind: str, output: Path | None, level: int | None, precision: str) -> None:
    """Write the solution on a level of an archive to a file for other programs."""
    output = Path(f"{path.stem}{SUFFIXES[kind]}") if output is None else output
    if output.suffix != SUFFIXES[kind]:
        raise ArchiveError(f"{output}: expected a name that ends with {SUFFIXES[kind]}")
    solution = dnnfem.load(path, level)
    try:
        dnnfem.export(solution, output, precision)
    except ImportError as error:
        raise ArchiveError(f"export: {error.name} is not installed, expected pip install 'dnnfem[onnx]'") from error
    except ValueError as error:
        raise ArchiveError(f"{path}: {error}") from error
    print(f"written: {output}")


def info(as_json: bool) -> None:
    """Print what belongs into a report of a mistake: versions, processors, threads, libraries, GPUs."""
    found: dict[str, Any] = {
        "dnnfem": dnnfem.__version__,
        "Python": platform.python_version(),
        "system": platform.platform(),
    }
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    found |= {"BLAS of numpy": f"{blas.get('name')} {blas.get('version')}", "processors": os.cpu_count()}
    for backend in kernels.BACKENDS:
        found |= kernels.load(backend).resources()
    found |= {name: os.environ[name] for name in VARIABLES if name in os.environ}
    if as_json:
        print(json.dumps(found))
        return
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:{width}}  {'not installed' if value is None else value}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="dnnfem", description="Adaptive multilevel algorithms for deep learning.")
    commands = parser.add_subparsers(dest="command", required=True)
    told = argparse.ArgumentParser(add_help=False)
    told.add_argument("--json", action="store_true", help="print JSON")
    one = argparse.ArgumentParser(add_help=False)
    one.add_argument("file", type=Path, help="an archive")
    shown = commands.add_parser("show", parents=[one, told], help="print the levels of an archive")
    shown.add_argument("--steps", action="store_true", help="with the tables of their solves")
    drawn = commands.add_parser("plot", parents=[one], help="draw estimates, hierarchy and solves of an archive")
    drawn.add_argument("-o", "--output", type=Path, required=True, help="a picture, e.g. run.png")
    commands.add_parser("check", parents=[told], help="read archives as a whole").add_argument(
        "files", type=Path, nargs="+", help="archives"
    )
    given = commands.add_parser("export", parents=[one], help="write a solution to a file for other programs")
    given.add_argument("--to", choices=SUFFIXES, required=True, help="an exported program of torch, ONNX, or NumPy's")
    given.add_argument("-o", "--output", type=Path, help="default the name of the archive with another suffix, here")
    given.add_argument("--level", type=int, help="default the last one that is solved")
    given.add_argument("--precision", choices=("mixed", "single", "double"), default="mixed", help="of ONNX")
    commands.add_parser("info", parents=[told], help="print versions, threads and GPUs, for reports of mistakes")
    commands.add_parser("precompile", help="compile the kernels and cache them on the disk")
    options, code = parser.parse_args(arguments), 0
    try:
        if options.command == "show":
            show(options.file, options.steps, options.json)
        elif options.command == "plot":
            plot(options.file, options.output)
        elif options.command == "check":
            code = 0 if check(options.files, options.json) else 1
        elif options.command == "export":
            export(options.file, options.to, options.output, options.level, options.precision)
        elif options.command == "info":
            info(options.json)
        else:
            precompile()
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has seen enough, as head does; there is nobody to write to when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        print(f"dnnfem: {error}", file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
