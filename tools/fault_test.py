"""Archives under faults: runs that are killed at random moments, damaged files, full disks, read-only folders.

    python tools/fault_test.py --kills 100 --json

A run of four levels is left in peace once.  Then the same run is started again and again, and killed with SIGKILL after
a time that is random between nothing and what the whole run takes; when it arrives at its end it is compared with the
one that was left in peace, and the next one begins with a file of its own.  After every kill the file is read.

kills            as many as were asked for
lost_levels      levels that a process had reported as stored and that the file does not have
unreadable       files that could not be read after a kill
runs             that have arrived at their end
bitwise_equal    1 if all of these have the spaces, coefficients, tables (without seconds), estimates and marked cells
                 of the run that was left in peace
leftovers        files that are beside the archives in the end
crashes          processes that ended in any other way than they were made to
flips, flips_detected    damaged copies of its archive, a byte changed in half of them, the others cut off, and how many
                         are refused with an `ArchiveError`, by `dnnfem.read` as by `dnnfem.Archive.open`
full_disk        1 if a run on a full disk says so and, when there is room, goes on to the same end
read_only        1 if a run in a folder that may only be read says so and leaves its archive as it was; null where this
                 cannot be tried
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

import dnnfem as fem

LEVELS, REFUSED = 4, 3
"""Levels of the run, and the exit code of one whose archive cannot be written."""

GOALS = {
    "lost_levels": 0,
    "unreadable": 0,
    "bitwise_equal": 1,
    "leftovers": 0,
    "crashes": 0,
    "full_disk": 1,
    "read_only": 1,
}


def setting() -> tuple[fem.Regression, fem.FeedforwardSpace, np.ndarray]:
    """Return the problem of all runs, and where they begin."""
    points = np.random.default_rng(0).uniform(-1.0, 1.0, (600, 2))
    problem = fem.Regression(points, np.exp(-4.0 * np.sum(points**2, axis=1)) * np.cos(3.0 * points[:, 0]))
    space = fem.FeedforwardSpace(2, (6,), 1)
    return problem, space, space.initial(seed=0)


def run(path: Path) -> int:
    """Run the loop on an archive, and report what is stored; return the exit code."""
    print("begin", flush=True)
    problem, space, x = setting()
    try:
        archive = fem.Archive.open(path, problem, space, x)
        space, x, state, quadrature, previous = archive.level
        while True:
            J = problem.on(space, quadrature)
            tolerance = 0.1 * previous.total if previous else fem.relative(1e-2)
            result = fem.gauss_newton(J, x, tolerance, state=state, observer=archive, max_steps=40)
            estimate = fem.hierarchical(J, result.x, fem.ridge_candidates(space, quadrature, seed=0))
            record = archive.solved(result, estimate)
            print(f"stored {record.number}", flush=True)
            if record.number == LEVELS - 1:
                return 0
            marked = fem.dorfler(estimate.indicators, theta=0.8)
            space, P = fem.widen(space, estimate.cells[marked])
            x, state, previous = P(result.x), result.state, estimate
            archive.refined(marked, space, P)
    except fem.ArchiveError as error:
        print(f"refused {error}", flush=True)
        return REFUSED


def started(path: Path, largest: int | None = None) -> subprocess.Popen[str]:
    """Start a run as a process of its own, with one thread; its files may not be larger than that many bytes."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

    command = [sys.executable, __file__, "--run", str(path)]
    if largest is not None:
        command += ["--largest", str(largest)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads})


def finished(path: Path, largest: int | None = None) -> tuple[int, str]:
    """Let a run end; return its exit code and what it has said."""
    process = started(path, largest)
    words, _ = process.communicate()
    return process.returncode, words


def stored(words: str) -> int:
    """Return how many levels a run has reported as stored."""
    return max((int(line.split()[1]) + 1 for line in words.splitlines() if line.startswith("stored")), default=0)


def content(path: Path) -> str:
    """Return all that has to be the same for the same run."""
    found = []
    for level in fem.read(path):
        estimate, steps = level.estimate, level.steps
        assert estimate is not None and steps is not None and level.x is not None
        rows = [replace(row, seconds=0.0) for row in steps]
        rows = [*rows, *sorted(estimate.parts.items())]
        arrays = (level.start, level.x, estimate.indicators, level.marked)
        bits = ["" if array is None else array.tobytes().hex() for array in arrays]
        found.append(repr((level.space, level.status, rows, estimate.total, list(estimate.cells), bits)))
    return hashlib.sha256("\n".join(found).encode()).hexdigest()


def killed(folder: Path, kills: int, expected: str, seconds: float) -> dict[str, int]:
    """Kill runs at random moments; return what became of them."""
    random = np.random.default_rng(1)
    found = {"kills": 0, "lost_levels": 0, "unreadable": 0, "runs": 0, "bitwise_equal": 1, "crashes": 0}
    number, reported = 0, 0
    while found["kills"] < kills:
        path = folder / f"run{number}.h5"
        process = started(path)
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(random.uniform(0.0, seconds))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        words = process.stdout.read()
        code = process.wait()
        reported = max(reported, stored(words))
        if code == -signal.SIGKILL:
            found["kills"] += 1
            try:
                levels = fem.read(path) if path.exists() else []
                found["lost_levels"] += max(reported - sum(level.x is not None for level in levels), 0)
            except fem.ArchiveError:
                found["unreadable"] += 1
        elif code == 0:
            found["runs"] += 1
            found["bitwise_equal"] &= int(content(path) == expected)
            number, reported = number + 1, 0
        else:
            found["crashes"] += 1
            number, reported = number + 1, 0
    # What the last one was killed in the middle of is for the next one to tidy up.
    finished(folder / f"run{number}.h5")
    found["leftovers"] = sum(file.name.startswith(".") for file in folder.iterdir())
    return found


def damaged(path: Path, count: int) -> dict[str, int]:
    """Change bytes of an archive, or cut it off; return how often this is found."""
    random, good, copy = np.random.default_rng(2), path.read_bytes(), path.with_name("damaged.h5")
    detected = 0
    for number in range(count):
        where = int(random.integers(len(good)))
        if number % 2:
            bad = good[:where]
        else:
            bad = good[:where] + bytes([good[where] ^ int(random.integers(1, 256))]) + good[where + 1 :]
        copy.write_bytes(bad)
        try:
            fem.read(copy)
        except fem.ArchiveError:
            try:
                fem.Archive.open(copy, *setting())
            except fem.ArchiveError:
                detected += copy.read_bytes() == bad
    return {"flips": count, "flips_detected": detected}


@contextmanager
def mounted(folder: Path, size: int) -> Iterator[bool]:
    """Make a folder a small disk of its own; whether that was allowed."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    allowed = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield allowed
    finally:
        if allowed:
            subprocess.run(["umount", str(folder)], check=True)


def full_disk(folder: Path, expected: str, size: int) -> int:
    """Run on a disk, or with a largest file, that has no room for the whole run; then let it go on elsewhere."""
    small = folder / "small"
    small.mkdir()
    path, room = small / "run.h5", folder / "room.h5"
    with mounted(small, size) as disk:
        code, words = finished(path, None if disk else size // 2)
        if code != REFUSED or "could not be written" not in words:
            return 0
        levels = [level for level in fem.read(path) if level.x is not None]
        if stored(words) > len(levels) or [file.name for file in small.iterdir()] != [path.name]:
            return 0
        room.write_bytes(path.read_bytes())
    return int(finished(room)[0] == 0 and content(room) == expected)


def read_only(folder: Path) -> int | None:
    """Go on in a folder that may only be read."""
    place = folder / "locked"
    place.mkdir()
    with mounted(place, 2**24) as disk:
        if not disk and os.geteuid() == 0:
            return None
        path = place / "run.h5"
        problem, space, x = setting()
        fem.Archive.open(path, problem, space, x)
        before = path.read_bytes()
        if disk:
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        else:
            place.chmod(0o555)
        code, words = finished(path)
        left = path.read_bytes() == before and [file.name for file in place.iterdir()] == [path.name]
        if not disk:
            place.chmod(0o755)
        return int(code == REFUSED and "could not be written" in words and left)


def main() -> int:
    """Do all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="five kills, 50 damaged files")
    parser.add_argument("--json", action="store_true", help="print one line of JSON at the end")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--largest", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        if options.largest is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (options.largest, options.largest))
        return run(options.run)
    kills, flips = (5, 50) if options.quick else (options.kills, options.flips)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        quiet = folder / "quiet.h5"
        finished(folder / "first.h5")  # compiles what has to be
        process = started(quiet)
        assert process.stdout is not None
        process.stdout.readline()
        began = time.perf_counter()
        process.communicate()
        seconds, expected = time.perf_counter() - began, content(quiet)
        found: dict[str, int | None] = {**killed(folder, kills, expected, seconds), **damaged(quiet, flips)}
        # The copy that a write is made in needs as much again; the smallest archive has to fit.
        found["full_disk"] = full_disk(folder, expected, int(1.4 * quiet.stat().st_size))
        found["read_only"] = read_only(folder)
    for key, goal in {**GOALS, "flips_detected": flips}.items():
        print(f"{key} {found[key]}, goal {goal}")
    if options.json:
        print(json.dumps(found))
    met = all(found[key] in (goal, None) for key, goal in GOALS.items()) and found["flips_detected"] == flips
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
