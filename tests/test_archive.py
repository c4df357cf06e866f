"""The archive: a run that was killed goes on bit for bit, and no file is ever harmed."""

import errno
import gc
import hashlib
import math
import multiprocessing
import os
import platform
import subprocess
import sys
import warnings
from dataclasses import dataclass, replace

import h5py
import numpy as np
import numpy.lib.recfunctions as rfn
import pytest

from dnnfem import archive as archive_module
from dnnfem.archive import Archive, ArchiveError, container, lock, read, schema
from dnnfem.archive.lock import lock_of
from dnnfem.problems import Regression
from dnnfem.quadrature import BoxMesh, Quadrature, SobolPoints
from dnnfem.records import Estimate, Interrupted, Status, Step, Steps
from dnnfem.refinement import coarsen, refine_quadrature, widen
from dnnfem.solvers import gauss_newton, nlscon
from dnnfem.spaces import FeedforwardSpace, Transfer
from dnnfem.spaces.feedforward import Neuron

SPACE = FeedforwardSpace(2, (2,), 1)
START = SPACE.initial(0)
LEVELS, MAX_STEPS = 3, 4


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    """Let archives write every snapshot, and let the disk take its time."""
    monkeypatch.setattr(archive_module, "WRITE_SHARE", 1e12)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def problem(scalar_problem):
    """Return the problem of all runs."""
    return scalar_problem


@pytest.fixture
def path(tmp_path):
    """Return the name of a file that does not exist yet."""
    return tmp_path / "run.h5"


def digest(path):
    """Return the hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pool(space):
    """Return new neurons that depend on the space alone."""
    random = np.random.default_rng(space.dim)
    cells = np.empty(3, dtype=object)
    cells[:] = [Neuron(0, random.standard_normal(2), float(random.standard_normal())) for _ in range(3)]
    return cells


def estimate(space, total=0.5):
    """Return an estimate whose cells are neurons."""
    return Estimate(
        "error",
        pool(space),
        np.array([0.3, 0.2, 0.1]),
        total,
        signed=np.array([0.3, -0.2, 0.1]),
        parts={"local": 0.1, "candidates": 3.0},
        cost=np.array([4.0, 4.0, 4.0]),
        guaranteed=True,
    )


class Killed(Exception):
    """The run ends here."""


def loop(path, problem, kill=None):
    """Run the adaptive loop; raise `Killed` before the event number `kill`."""
    events = iter(range(10**6))

    def event():
        if next(events) == kill:
            raise Killed

    archive = Archive.open(path, problem, SPACE, START)

    def observer(snapshot):
        event()
        archive(snapshot)

    while True:
        space, x, state, quadrature, _ = archive.level
        event()
        result = gauss_newton(
            problem.on(space, quadrature), x, 0.0, state=state, observer=observer, max_steps=MAX_STEPS
        )
        event()
        found = estimate(space)
        archive.solved(result, found)
        event()
        if len(archive.levels) == LEVELS:
            return archive
        marked = np.array([0, 2])
        fine, transfer = widen(space, found.cells[marked])
        archive.refined(marked, fine, transfer)
        event()


def same(left, right):
    """Assert that two runs are the same bit for bit."""
    assert len(left.levels) == len(right.levels)
    for a, b in zip(left.levels, right.levels, strict=True):
        assert a.space == b.space and a.status is b.status
        assert np.array_equal(a.start, b.start) and np.array_equal(a.x, b.x)
        for name in ("number", "value", "radius", "ratio", "length", "work"):
            assert np.array_equal(a.steps.column(name), b.steps.column(name), equal_nan=True)
        assert (a.marked is None) == (b.marked is None)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """Return a problem and the archive of a run that nobody killed."""
    random = np.random.default_rng(7)
    inputs = random.uniform(-1.0, 1.0, (40, 2))
    problem = Regression(inputs, np.sin(2 * inputs[:, 0]) * inputs[:, 1], backend="reference")
    return problem, loop(tmp_path_factory.mktemp("whole") / "run.h5", problem)


@pytest.mark.parametrize("kill", [0, 1, 3, 6, 7, 8, 9, 10, 11, 13, 17, 26])
def test_a_run_killed_at_any_event_goes_on_bit_for_bit(kill, whole_run, path):
    problem, whole = whole_run
    with pytest.raises(Killed):
        loop(path, problem, kill)
    resumed = loop(path, problem)
    same(resumed, whole)


def test_a_run_killed_again_and_again_arrives(whole_run, path):
    problem, whole = whole_run
    for _ in range(60):
        try:
            resumed = loop(path, problem, kill=5)
            break
        except Killed:
            continue
    same(resumed, whole)


def test_a_run_that_is_complete_is_read_without_a_step(whole_run, path, monkeypatch):
    problem, whole = whole_run
    path.write_bytes(whole.path.read_bytes())
    levels = loop(path, problem).levels
    assert [v.steps.column("seconds").tolist() for v in levels] == [
        v.steps.column("seconds").tolist() for v in whole.levels
    ]


def test_the_level_before_and_after_solve_and_refinement(problem, path):
    archive = Archive.open(path, problem, SPACE, START)
    level = archive.level
    assert level.space == SPACE and np.array_equal(level.x, START)
    assert level.state.radius is None and level.state.progress is None and level.previous is None
    assert level.quadrature is problem.quadrature

    snapshots = []
    result = gauss_newton(
        problem.on(SPACE), START, 0.0, max_steps=2, observer=lambda s: (snapshots.append(s), archive(s))
    )
    level = archive.level
    assert level.state.progress.status is Status.STEP_LIMIT
    assert np.array_equal(level.state.progress.x, result.x) and np.array_equal(level.x, START)

    found = estimate(SPACE)
    record = archive.solved(result, found)
    assert np.array_equal(record.x, result.x) and "not solved" not in str(record) and record.status is result.status
    level = archive.level
    assert level.state.radius == result.state.radius and level.state.progress.steps[-1] == result.steps[-1]
    assert level.previous is None

    fine, transfer = widen(SPACE, found.cells[[1]])
    archive.refined(np.array([1]), fine, transfer)
    level = archive.level
    assert level.space == fine and np.array_equal(level.x, transfer(result.x))
    assert level.state.radius == result.state.radius and level.state.progress is None
    assert level.previous.total == found.total
    assert str(archive.levels[-1]).endswith("not solved yet")
    assert archive.levels[0].marked.tolist() == [1]


def test_each_snapshot_is_on_the_disk_before_the_next_step(problem, path):
    archive = Archive.open(path, problem, SPACE, START)
    seen = []

    def observer(snapshot):
        archive(snapshot)
        stored = Archive.open(path, problem, SPACE, START).level.state
        assert np.array_equal(stored.progress.x, snapshot.x) and stored.radius == snapshot.state.radius
        assert repr(stored.progress.steps) == repr(snapshot.state.progress.steps)
        seen.append(snapshot.step.number)

    gauss_newton(problem.on(SPACE), START, 0.0, max_steps=3, observer=observer)
    assert seen == [0, 1, 2, 3, 3]


def test_writing_takes_only_a_share_of_the_time(problem, path, monkeypatch):
    monkeypatch.setattr(archive_module, "WRITE_SHARE", 1e-12)
    archive = Archive.open(path, problem, SPACE, START)
    numbers = []

    def observer(snapshot):
        archive(snapshot)
        numbers.append(archive.level.state.progress.steps[-1].number)

    gauss_newton(problem.on(SPACE), START, 0.0, max_steps=3, observer=observer)
    assert numbers == [0, 0, 0, 0, 3]


def test_solved_is_idempotent(problem, path):
    archive = Archive.open(path, problem, SPACE, START)
    result = gauss_newton(problem.on(SPACE), START, 0.0, max_steps=2, observer=archive)
    first = archive.solved(result, estimate(SPACE))
    for _ in range(3):
        again = archive.solved(result, estimate(SPACE))
    assert len(archive.levels) == 1
    assert np.array_equal(first.x, again.x) and repr(first.steps) == repr(again.steps)
    assert again.estimate.parts == first.estimate.parts


def test_a_solved_level_returns_its_result_without_an_evaluation(problem, path):
    archive = Archive.open(path, problem, SPACE, START)
    result = gauss_newton(problem.on(SPACE), START, 0.0, max_steps=400)
    assert result.status.final
    archive.solved(result, estimate(SPACE))
    level = Archive.open(path, problem, SPACE, START).level
    again = gauss_newton(problem.on(SPACE), level.x * np.nan, 0.0, state=level.state)
    assert np.array_equal(again.x, result.x) and again.status is result.status
    assert repr(again.steps) == repr(result.steps)


def test_coarsening_starts_from_the_projected_iterate(problem, path):
    archive = Archive.open(path, problem, SPACE, START)
    result = gauss_newton(problem.on(SPACE), START, 0.0, max_steps=2)
    cells = np.array([[0, 0], [0, 1]])
    archive.solved(result, Estimate("rise", cells, np.array([0.1, 0.2]), 0.1))
    coarse, back = coarsen(SPACE, cells[[0]])
    archive.refined(np.array([0]), coarse, back)
    level = archive.level
    assert level.space == coarse and np.array_equal(level.x, back.project(result.x))
    hierarchy = archive.hierarchy
    assert hierarchy.finest == coarse and hierarchy.transfers[0].shape == (SPACE.dim, coarse.dim)


def solve(problem, archive, max_steps, observer=None):
    """Solve the present level on from where it stands."""
    space, x, state, quadrature, _ = archive.level
    return gauss_newton(
        problem.on(space, quadrature), x, 0.0, state=state, observer=observer or archive, max_steps=max_steps
    )


def test_a_solve_that_goes_on_after_solved_is_resumed_where_it_stands(problem, path):
    archive = Archive.open(path, problem, SPACE, START)
    archive.solved(solve(problem, archive, 2), estimate(SPACE))
    seen = []

    def kill(snapshot):
        archive(snapshot)
        seen.append(snapshot)
        if snapshot.step.number == 4:
            raise Killed

    with pytest.raises(Killed):
        solve(problem, archive, 8, kill)
    level = Archive.open(path, problem, SPACE, START).level
    assert np.array_equal(level.state.progress.x, seen[-1].x) and level.state.progress.steps[-1].number == 4
    assert archive.levels[0].steps[-1].number == 2
    whole = gauss_newton(problem.on(SPACE), START, 0.0, max_steps=8)
    resumed = solve(problem, archive, 8)
    assert np.array_equal(resumed.x, whole.x) and len(resumed.steps) == 9


def test_refinement_of_a_level_that_was_solved_further_asks_for_the_new_result(problem, path):
    archive = Archive.open(path, problem, SPACE, START)
    archive.solved(solve(problem, archive, 2), estimate(SPACE))
    further = solve(problem, archive, 5)
    fine, transfer = widen(SPACE, pool(SPACE)[:1])
    before = digest(path)
    with pytest.raises(ValueError, match="^refined: level 0 has been solved on since .*, up to step 5"):
        archive.refined(np.array([0]), fine, transfer)
    assert digest(path) == before
    archive.solved(further, estimate(SPACE))
    archive.refined(np.array([0]), fine, transfer)
    level = archive.level
    assert np.array_equal(level.x, transfer(further.x)) and level.state.progress is None
    assert solve(problem, archive, 1).x.shape == (fine.dim,)


@pytest.mark.parametrize("watched", [True, False])
def test_a_level_that_was_stored_at_a_limit_goes_on_bit_for_bit(problem, path, watched):
    # Damping factors and scales are what this solver remembers.
    J = problem.on(SPACE)
    whole = nlscon(J, START, 0.0, max_steps=6)
    archive = Archive.open(path, problem, SPACE, START)
    archive.solved(nlscon(J, START, 0.0, max_steps=3, observer=archive if watched else None), estimate(SPACE))
    level = Archive.open(path, problem, SPACE, START).level
    assert level.state.progress.status is Status.STEP_LIMIT
    again = nlscon(J, level.x, 0.0, state=level.state, max_steps=6)
    assert np.array_equal(again.x, whole.x) and np.array_equal(again.steps.column("value"), whole.steps.column("value"))


def test_an_interrupt_before_the_first_row_can_be_stored(problem, path):
    J, archive = problem.on(SPACE), Archive.open(path, problem, SPACE, START)

    def stopped(snapshot):
        archive(snapshot)
        if snapshot.state.progress.status is None:
            raise KeyboardInterrupt

    @dataclass(frozen=True)
    class Broken:
        space = SPACE

        def linearize(self, x):
            raise KeyboardInterrupt

    for solve, observer in ((Broken(), archive), (J, stopped)):
        with pytest.raises(Interrupted):
            nlscon(solve, START, 0.0, max_steps=3, observer=observer)
        level = Archive.open(path, problem, SPACE, START).level
        assert level.state.progress.status is Status.INTERRUPTED
        again = nlscon(J, level.x * np.nan, 0.0, state=level.state, max_steps=3)
        assert np.array_equal(again.x, nlscon(J, START, 0.0, max_steps=3).x)


def test_a_level_begins_without_the_progress_of_the_one_before(problem, path):
    archive = Archive.open(path, problem, SPACE, START)
    archive.solved(solve(problem, archive, 2), estimate(SPACE))
    # Solved again to the same limit: nothing new, but a record of it.
    assert solve(problem, archive, 2).status is Status.STEP_LIMIT
    with h5py.File(path, "r") as file:
        assert file["current"].attrs["level"] == 0
    archive.refined(np.array([0]), *widen(SPACE, pool(SPACE)[:1]))
    with h5py.File(path, "r") as file:
        assert "current" not in file
    assert archive.level.state.progress is None


@pytest.mark.parametrize("number", [0, None])
def test_progress_of_another_level_is_not_read(number, problem, path):
    archive = Archive.open(path, problem, SPACE, START)
    archive.solved(solve(problem, archive, 2), estimate(SPACE))
    archive.refined(np.array([0]), SPACE, Transfer.identity(SPACE.dim))
    start = archive.level.x
    solve(problem, archive, 1)
    assert archive.level.state.progress is not None
    with container.writing(path) as file:
        del file["current"].attrs["level"]
        if number is not None:
            file["current"].attrs["level"] = number
    level = archive.level
    assert level.state.progress is None and np.array_equal(level.x, start)
    archive.solved(solve(problem, archive, 1), estimate(SPACE))
    assert archive.levels[1].steps[-1].number == 1


def test_snapshots_of_another_level_are_refused(problem, path):
    archive = Archive.open(path, problem, SPACE, START)
    archive.solved(solve(problem, archive, 1), estimate(SPACE))
    archive.refined(np.array([0]), *widen(SPACE, pool(SPACE)[:1]))
    before = digest(path)
    with pytest.raises(ValueError, match=r"^snapshot: got coefficients of shape \(9,\), expected \(13,\) on level 1"):
        gauss_newton(problem.on(SPACE), START, 0.0, max_steps=1, observer=archive)
    assert digest(path) == before


# Damage and mismatch


def solved_run(problem, path):
    """Write a run of one solved level."""
    archive = Archive.open(path, problem, SPACE, START)
    archive.solved(gauss_newton(problem.on(SPACE), START, 0.0, max_steps=1), estimate(SPACE))
    return archive


def version(path):
    """Pretend that a later library wrote the file."""
    path.write_bytes(path.read_bytes().replace(b"version 2\n", b"version 7\n", 1))


def foreign(path):
    """Put another program's HDF5 file in its place."""
    path.unlink()
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(3)


def cut(share):
    """Return a function that truncates a file."""

    def change(path):
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])

    return change


def flip(position):
    """Return a function that flips one bit."""

    def change(path):
        content = bytearray(path.read_bytes())
        content[position if position >= 0 else len(content) + position] ^= 4
        path.write_bytes(bytes(content))

    return change


DAMAGE = {
    "half of the file": (cut(0.5), "truncated or damaged"),
    "all but the last byte": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "truncated or damaged"),
    "part of the first block": (lambda path: path.write_bytes(path.read_bytes()[:100]), "truncated"),
    "nothing": (lambda path: path.write_bytes(b""), "empty"),
    "a bit in the data": (flip(-100), "truncated or damaged"),
    "a bit in the HDF5 signature": (flip(513), "truncated or damaged"),
    "a bit in the checksum": (flip(40), "truncated or damaged"),
    "a bit in the version": (flip(15 + 8), "damaged|version"),
    "a bit in the magic word": (flip(0), "not an HDF5 file"),
    "bytes at the end": (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "truncated or damaged"),
    "another HDF5 file": (foreign, "an HDF5 file of another program"),
    "a text": (lambda path: path.write_text("epoch,loss\n0,1.0\n" * 50), "not an HDF5 file"),
    "a later version": (version, "format version 7, this library reads up to 2; update"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_or_foreign_file_is_refused_with_a_reason_and_left_alone(kind, problem, path):
    archive = solved_run(problem, path)
    change, words = DAMAGE[kind]
    change(path)
    before = digest(path)
    result = gauss_newton(problem.on(SPACE), START, 0.0, max_steps=1)
    fine, transfer = widen(SPACE, pool(SPACE)[:1])
    uses = [
        lambda: Archive.open(path, problem, SPACE, START),
        lambda: read(path),
        lambda: archive.level,
        lambda: archive.solved(result, estimate(SPACE)),
        lambda: archive.refined(np.array([0]), fine, transfer),
        lambda: gauss_newton(problem.on(SPACE), START, 0.0, max_steps=1, observer=archive),
    ]
    for use in uses:
        with pytest.raises(ArchiveError, match=words) as error:
            use()
        assert str(path) in str(error.value)
        assert digest(path) == before
    assert os.listdir(path.parent) == [path.name]


def test_every_bit_of_the_header_is_worth_an_error_or_nothing(problem, path):
    archive = solved_run(problem, path)
    good = path.read_bytes()
    reference = archive.levels[0].x
    for position in range(0, 110):
        for bit in (1, 4, 64):
            content = bytearray(good)
            content[position] ^= bit
            path.write_bytes(bytes(content))
            try:
                levels = read(path)
            except ArchiveError:
                continue
            assert np.array_equal(levels[0].x, reference)


def test_a_constant_feature_is_the_same_problem_again(problem, path):
    wide = Regression(np.column_stack([problem.inputs, np.ones(40)]), problem.targets, backend="reference")
    space = FeedforwardSpace(3, (2,), problem.targets.shape[1])
    for _ in range(2):
        archive = Archive.open(path, wide, space, space.initial(0))
        gauss_newton(wide.on(space), archive.level.x, 0.0, state=archive.level.state, max_steps=2, observer=archive)
    assert archive.level.state.progress.steps[-1].number == 2


def test_another_problem_or_start_is_refused_by_name_and_the_file_left_alone(problem, path):
    solved_run(problem, path)
    before = digest(path)
    inputs, targets = problem.inputs, problem.targets
    other_space = FeedforwardSpace(2, (2,), 1, "sin")
    cases = [
        (
            Regression(inputs, targets + np.arange(40)[:, None], backend="reference"),
            SPACE,
            START,
            "another problem.*data",
        ),
        (Regression(2 * inputs, targets, backend="reference"), SPACE, START, "another problem.*input_scale"),
        (Regression(inputs, 2 * targets, backend="reference"), SPACE, START, "another problem.*output_scale"),
        (Regression(inputs[:-1], targets[:-1], backend="reference"), SPACE, START, "another problem"),
        (problem, SPACE, SPACE.initial(1), "started from another space or other coefficients"),
        (problem, other_space, START, "started from another space or other coefficients"),
        (
            problem,
            FeedforwardSpace(2, (3,), 1),
            FeedforwardSpace(2, (3,), 1).initial(0),
            "started from another space",
        ),
    ]
    for other, space, x, words in cases:
        with pytest.raises(ArchiveError, match=words):
            Archive.open(path, other, space, x)
        assert digest(path) == before


def test_another_law_with_the_same_data_is_noticed(problem, path):
    solved_run(problem, path)

    class Doubled:
        identity, quadrature = problem.identity, problem.quadrature

        def on(self, space, quadrature=None):
            return problem.on(space, quadrature.subset(slice(0, 20)))

    before = digest(path)
    with pytest.raises(ArchiveError, match="was the law or the backend changed"):
        Archive.open(path, Doubled(), SPACE, START)
    assert digest(path) == before


def test_wrong_calls_are_refused_and_the_file_left_alone(problem, path):
    archive = Archive.open(path, problem, SPACE, START)
    before = digest(path)
    fine, transfer = widen(SPACE, pool(SPACE)[:1])
    other = FeedforwardSpace(2, (6,), 1)
    with pytest.raises(ValueError, match="^refined: level 0 is not solved yet"):
        archive.refined(np.array([0]), fine, transfer)
    with pytest.raises(ValueError, match=r"^result: got coefficients of shape \(25,\), expected \(9,\)"):
        archive.solved(gauss_newton(problem.on(other), other.initial(0), max_steps=1), estimate(SPACE))
    assert digest(path) == before
    archive.solved(gauss_newton(problem.on(SPACE), START, 0.0, max_steps=1), estimate(SPACE))
    before = digest(path)
    for wrong in (Transfer.identity(SPACE.dim), Transfer.identity(fine.dim)):
        with pytest.raises(ValueError, match="^transfer: got shape.*expected"):
            archive.refined(np.array([0]), fine, wrong)
    assert digest(path) == before and os.listdir(path.parent) == [path.name]


def test_a_start_of_another_shape_creates_no_file(problem, path):
    with pytest.raises(ValueError, match="^x: got shape"):
        Archive.open(path, problem, SPACE, START[:-1])
    with pytest.raises(ValueError, match="^space: got 3 inputs"):
        space = FeedforwardSpace(3, (2,), 1)
        Archive.open(path, problem, space, space.initial(0))
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_start_that_is_not_finite_creates_no_file(value, problem, path):
    with pytest.raises(ValueError, match="^x: got NaN or infinity"):
        Archive.open(path, problem, SPACE, np.where(np.arange(SPACE.dim) == 3, value, START))
    assert os.listdir(path.parent) == []


def test_a_directory_is_refused_by_name(problem, tmp_path):
    for use in (read, lambda path: Archive.open(path, problem, SPACE, START)):
        with pytest.raises(ArchiveError, match="a directory, expected a file; append its name") as error:
            use(tmp_path)
        assert str(error.value).startswith(f"{tmp_path}: ")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there_is_named(problem, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "runs", tmp_path / "file"):
        with pytest.raises(ArchiveError, match="expected an existing one; create it first") as error:
            Archive.open(folder / "run.h5", problem, SPACE, START)
        assert str(error.value).startswith(f"{folder / 'run.h5'}: there is no folder {folder}")
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_that_is_not_there_is_not_an_archive(path):
    with pytest.raises(FileNotFoundError):
        read(path)


@pytest.mark.parametrize("where", ["write_solve", "write_estimate"])
def test_a_failure_inside_a_write_leaves_the_old_file_and_nothing_else(where, problem, path, monkeypatch):
    archive = solved_run(problem, path)
    before = digest(path)

    def broken(group, *arguments):
        group.attrs["half"] = "written"
        raise OSError("no space left")

    monkeypatch.setattr(archive_module.schema, where, broken)
    result = gauss_newton(problem.on(SPACE), START, 0.0, max_steps=1)
    with pytest.raises(OSError, match="no space left"):
        archive.solved(result, estimate(SPACE))
    assert digest(path) == before and os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_of_the_file_system_leaves_the_old_file_and_nothing_else(call, problem, path, monkeypatch):
    archive = solved_run(problem, path)
    before = digest(path)
    result = gauss_newton(problem.on(SPACE), START, 0.0, max_steps=1)

    def broken(*arguments):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(container.os, call, broken)
        with pytest.raises(OSError, match="no space left"):
            archive.solved(result, estimate(SPACE, total=0.7))
    assert digest(path) == before and os.listdir(path.parent) == [path.name]
    assert archive.solved(result, estimate(SPACE, total=0.7)).estimate.total == 0.7


# What is inside


def test_the_file_is_plain_hdf5(whole_run):
    _, whole = whole_run
    with h5py.File(whole.path, "r") as file:
        assert file.attrs["format"] == "dnnfem archive" and file.attrs["format_version"] == 2
        kinds = []

        def visit(name, item):
            for value in item.attrs.values():
                kinds.append(np.asarray(value).dtype)
            if isinstance(item, h5py.Dataset):
                fields = item.dtype.fields
                kinds.extend([d for d, _ in fields.values()] if fields else [item.dtype])

        file.visititems(visit)
        assert all(kind.kind in "iufbU" or h5py.check_string_dtype(kind) or kind.kind == "O" for kind in kinds)
        datasets = []
        file.visititems(lambda name, item: datasets.append(item) if isinstance(item, h5py.Dataset) else None)
        assert datasets and all(d.dtype.kind in "iufbV" for d in datasets)
        assert sorted(file["levels"]) == ["0000", "0001", "0002"]
        level = file["levels/0001"]
        space = whole.levels[1].space
        assert level["space"].attrs["hidden"].tolist() == list(space.hidden)
        assert level["coefficients"].shape == (space.dim,)
        matrix = level["transfer"]
        assert matrix["indptr"].shape == (space.dim + 1,) and matrix.attrs["shape"].tolist() == [17, 9]
        steps = level["solver/steps"]
        assert steps.dtype.names[:3] == ("number", "value", "dual_norm") and steps["number"][-1] == MAX_STEPS
        assert level["solver"].attrs["sentence"] == Status.STEP_LIMIT.value
        assert "current" not in file and "quadratures" not in file


def test_the_file_names_its_own_checksum(whole_run):
    _, whole = whole_run
    content = whole.path.read_bytes()
    head = content[: container.BLOCK].rstrip(b"\0").splitlines()
    assert head[0] == b"dnnfem archive" and head[1] == b"version 2"
    assert head[2] == b"sha256 " + hashlib.sha256(content[container.BLOCK :]).hexdigest().encode()


def test_writing_the_same_again_does_not_let_the_file_grow(problem, path):
    archive = Archive.open(path, problem, SPACE, START)
    snapshots = []
    gauss_newton(problem.on(SPACE), START, 0.0, max_steps=4, observer=snapshots.append)
    sizes = []
    for _ in range(5):
        for snapshot in snapshots[:-1]:
            archive(snapshot)
        sizes.append(path.stat().st_size)
    assert len(set(sizes)) == 1


def test_a_built_quadrature_is_stored_once_by_its_content(problem, path):
    archive = solved_run(problem, path)
    built = problem.quadrature.subset(slice(0, 25))
    again = Quadrature(built.points, built.weights, built.data, built.cells)
    for quadrature in (built, again, None):
        space = archive.level.space
        fine, transfer = widen(space, pool(space)[:1])
        archive.refined(np.array([0]), fine, transfer, quadrature)
        stored = archive.level.quadrature
        assert stored.hash == built.hash and np.array_equal(stored.cells, built.cells)
        result = gauss_newton(problem.on(fine, stored), archive.level.x, 0.0, max_steps=1)
        archive.solved(result, estimate(fine))
    with h5py.File(path, "r") as file:
        assert list(file["quadratures"]) == [built.hash]
        assert {file[f"levels/{k:04d}"].attrs["quadrature"] for k in (1, 2, 3)} == {built.hash}
    space = archive.level.space
    archive.refined(np.array([0]), *widen(space, pool(space)[:1]), problem.quadrature)
    assert archive.level.quadrature is problem.quadrature


def square():
    """Return a quadrature with a mesh and regions, the names not in the order of the alphabet."""
    rule = BoxMesh.uniform([0, 0], [1, 1], 2, points=2).quadrature()
    regions = {
        "right": BoxMesh.uniform([1, 0], [1, 1], 3).quadrature(),
        "left": SobolPoints([0, 0], [0, 1], 4, seed=5).finer().quadrature(),
        "größer": Quadrature([[0.5, 0.5]], 2.0, [3.0]),
    }
    return Quadrature(rule.points, rule.weights, cells=rule.cells, mesh=rule.mesh, regions=regions)


def test_a_quadrature_comes_back_with_mesh_and_regions_and_can_be_refined(problem, path):
    archive = solved_run(problem, path)
    quadrature = square()
    for marked in ([0, 3], [4, 7], [1]):
        space = archive.level.space
        archive.refined(np.array([0]), *widen(space, pool(space)[:1]), quadrature)
        back = Archive.open(path, problem, SPACE, START).level.quadrature
        assert back.hash == quadrature.hash and list(back.regions) == ["right", "left", "größer"]
        assert np.array_equal(back.points, quadrature.points) and type(back.mesh) is BoxMesh
        assert refine_quadrature(back, marked).hash == refine_quadrature(quadrature, marked).hash
        assert back.finer().hash == quadrature.finer().hash
        quadrature = refine_quadrature(back, marked)
        here = problem.on(archive.level.space)
        archive.solved(gauss_newton(here, archive.level.x, 0.0, max_steps=1), estimate(archive.level.space))
    with h5py.File(path, "r") as file:
        assert len(file["quadratures"]) == 3
        group = file[f"quadratures/{square().hash}"]
        assert group["mesh"].attrs["kind"] == "boxes" and group["mesh/lower"].shape == (4, 2)
        assert group["points"].shape == (16, 2) and group["regions/left/points"].shape == (16, 2)
        assert group["regions"].attrs["order"].tolist() == ["right", "left", "größer"]


def test_the_points_in_the_file_are_those_that_are_read(problem, path):
    archive = solved_run(problem, path)
    quadrature = square()
    archive.refined(np.array([0]), *widen(SPACE, pool(SPACE)[:1]), quadrature)
    with container.writing(path) as file:
        file[f"quadratures/{quadrature.hash}/points"][0, 0] += 1e-16
        shifted = file[f"quadratures/{quadrature.hash}/points"][()]
    assert np.array_equal(archive.level.quadrature.points, shifted)


def test_a_mesh_that_could_not_be_rebuilt_is_refused_and_the_file_left_alone(problem, path):
    class Triangles:
        cell_count = 3

        def attributes(self):
            return {"kind": "triangles"}

        def arrays(self):
            return {"corners": np.zeros((3, 2))}

    archive = solved_run(problem, path)
    before = digest(path)
    quadrature = Quadrature(np.eye(3, 2), 1.0, cells=[0, 1, 2], mesh=Triangles())
    with pytest.raises(ValueError, match="^mesh: got kind 'triangles', expected one of boxes, sobol"):
        archive.refined(np.array([0]), *widen(SPACE, pool(SPACE)[:1]), quadrature)
    assert digest(path) == before and os.listdir(path.parent) == [path.name]


def stored(problem, path, given):
    """Return an estimate as it comes back from the file."""
    archive = Archive.open(path, problem, SPACE, START)
    return archive.solved(gauss_newton(problem.on(SPACE), START, 0.0, max_steps=1), given).estimate


def test_estimates_with_neurons_come_back(problem, path):
    given = estimate(SPACE)
    back = stored(problem, path, given)
    for name in ("quantity", "total", "guaranteed"):
        assert getattr(back, name) == getattr(given, name)
    for name in ("indicators", "signed", "cost"):
        assert np.array_equal(getattr(back, name), getattr(given, name))
    assert back.parts == given.parts
    for left, right in zip(back.cells, given.cells, strict=True):
        assert left.layer == right.layer and left.bias == right.bias and np.array_equal(left.weights, right.weights)
    assert widen(SPACE, back.cells[np.array([0, 2])])[0].hidden == (4,)


@pytest.mark.parametrize("cells", [np.array([[0, 1], [0, 0]]), np.array([4, 7]), np.array([0.5, 1.5])])
def test_estimates_with_numbers_for_cells_come_back(cells, problem, path):
    back = stored(problem, path, Estimate("rise", cells, np.ones(2), 1.0))
    assert np.array_equal(back.cells, cells) and back.signed is None and back.cost is None and not back.guaranteed


def test_remarks_of_an_estimate_come_back_and_files_without_them_are_read(problem, path):
    remarks = ("x is not stationary", "größer als Null")
    back = stored(problem, path, Estimate("rise", np.arange(2), np.ones(2), 1.0, remarks=remarks))
    assert back.remarks == remarks
    # Files of earlier versions have no such dataset, as have those without remarks.
    plain = stored(problem, path.with_name("plain.h5"), Estimate("rise", np.arange(2), np.ones(2), 1.0))
    assert plain.remarks == ()


def test_a_list_of_cells_comes_back_as_an_array(problem, path):
    back = stored(problem, path, Estimate("rise", [(0, 1), (0, 0)], np.ones(2), 1.0))
    assert back.cells.tolist() == [[0, 1], [0, 0]]


def as_objects(*cells):
    """Return cells in an array of objects, as estimators do."""
    array = np.empty(len(cells), dtype=object)
    array[:] = cells
    return array


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["left", "Dörfler"], ["left", "Dörfler"]),
        (np.array(["left", "right"]), ["left", "right"]),
        (as_objects("left", ""), ["left", ""]),
        ([("left", "a"), ("right", "b")], [["left", "a"], ["right", "b"]]),
        (as_objects(3, 1), [3, 1]),
        (as_objects((0, 1), (0, 0)), [[0, 1], [0, 0]]),
        ([True, False], [True, False]),
    ],
)
def test_estimates_with_strings_or_objects_for_cells_come_back(cells, expected, problem, path):
    back = stored(problem, path, Estimate("e", cells, np.array([1.0, 2.0]), 1.0))
    assert back.cells.tolist() == expected and back.cells.dtype.kind in "biuU"
    assert back.cells[np.array([1])].tolist() == expected[1:]


@pytest.mark.parametrize(
    ("cells", "kinds"),
    [
        (as_objects({"mesh": 1}, "cell"), "dict, str"),
        ([(0, 1), (2,)], "tuple"),
        ([None, None], "NoneType"),
        ([1, "left"], "int, str"),
        ([(0, "left"), (1, "right")], "tuple"),
        (as_objects(Neuron(0, np.ones(2), 0.0), 1), "Neuron, int"),
        ([1j, 2j], "complex"),
        ([np.ones((2, 3)), np.ones((2, 4))], "ndarray"),
    ],
)
def test_cells_that_are_anything_else_are_refused_and_the_file_left_alone(cells, kinds, problem, path):
    archive = solved_run(problem, path)
    before = digest(path)
    result = gauss_newton(problem.on(SPACE), START, 0.0, max_steps=1)
    with pytest.raises(ValueError, match=f"^estimate: got cells of type {kinds}, expected neurons"):
        archive.solved(result, Estimate("e", cells, np.array([1.0, 2.0]), 1.0))
    assert digest(path) == before and os.listdir(path.parent) == [path.name]


def test_an_estimate_without_cells_comes_back(problem, path):
    back = stored(problem, path, Estimate("e", np.empty(0, dtype=object), np.empty(0), 0.0))
    assert len(back.cells) == len(back.indicators) == 0


def test_results_that_are_not_finite_are_stored_as_they_are(problem, path):
    archive = Archive.open(path, problem, SPACE, START)
    result = gauss_newton(problem.on(SPACE), START, 0.0, max_steps=1)
    steps = Steps((Step(0, np.nan), Step(1, np.inf, algebraic=np.inf)))
    record = archive.solved(type(result)(START, Status.NOT_FINITE, steps, result.state), estimate(SPACE))
    assert record.status is Status.NOT_FINITE
    assert np.isnan(record.steps[0].value) and record.steps[1].algebraic == np.inf


def test_tables_of_steps_of_older_files_have_fewer_columns(problem, path):
    archive = Archive.open(path, problem, SPACE, START)
    archive.solved(gauss_newton(problem.on(SPACE), START, 0.0, max_steps=2), estimate(SPACE))
    with h5py.File("older", "w", driver="core", backing_store=False) as file:
        with container.reading(path) as stored:
            table = stored["levels/0000/solver/steps"][()]
            stored.copy("levels/0000/solver", file)
        kept = [name for name in table.dtype.names if name not in ("damping", "omega", "contraction")]
        del file["solver/steps"]
        file["solver/steps"] = rfn.repack_fields(table[kept])
        _, steps, _ = schema.read_solve(file["solver"])
    assert steps == archive.level.state.progress.steps and math.isnan(steps[-1].omega)


def test_the_hierarchy_comes_back(whole_run):
    _, whole = whole_run
    hierarchy = whole.hierarchy
    assert [space.hidden for space in hierarchy.spaces] == [(2,), (4,), (6,)]
    levels = whole.levels
    x = levels[0].x
    assert np.array_equal(hierarchy.prolongation(0, 1)(x), levels[1].start)
    assert hierarchy.prolongation(0, 2).shape == (levels[2].space.dim, SPACE.dim)
    assert repr(hierarchy).splitlines()[-1].split()[:2] == ["2", str(levels[2].space.dim)]


def test_levels_print_what_they_are(whole_run):
    _, whole = whole_run
    assert str(whole.levels[1]).startswith("level 1: 2-4-1 tanh, 17 coefficients, 4 steps, J = ")
    assert [level.number for level in read(str(whole.path))] == [0, 1, 2]


def test_spaces_of_every_kind_come_back(problem, path):
    deep = FeedforwardSpace(2, (3, 3, 2), 1, "gelu", (False, True, False))
    Archive.open(path, problem, deep, deep.initial(0))
    assert read(path)[0].space == deep
    assert np.array_equal(read(path)[0].start, deep.initial(0))


# Several processes

SCRIPT = """
import sys
import numpy as np
from dnnfem.archive import Archive, ArchiveError, read
from dnnfem.problems import Regression
from dnnfem.spaces import FeedforwardSpace

inputs = np.linspace(-1.0, 1.0, 20).reshape(10, 2)
problem = Regression(inputs, inputs[:, 0], backend="reference")
space = FeedforwardSpace(2, (2,), 1)
if sys.argv[2] == "read":
    print(len(read(sys.argv[1])))
    sys.exit()
try:
    archive = Archive.open(sys.argv[1], problem, space, space.initial(0))
except ArchiveError as error:
    print(error)
    sys.exit(3)
print("open", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def process(path):
    """Return a function that starts a process with the archive, and end those that are left."""
    started = []

    def start(what):
        command = [sys.executable, "-c", SCRIPT, str(path), what]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for child in started:
        child.kill()
        child.communicate()


def test_a_second_writer_is_refused_readers_are_not_and_a_killed_writer_leaves_no_lock(process, path):
    first = process("write")
    assert first.stdout.readline() == "open\n"
    second = process("write")
    words, _ = second.communicate(timeout=60)
    assert second.returncode == 3 and f"another run writes to it (process {first.pid})" in words and str(path) in words
    assert process("read").communicate(timeout=60)[0] == "1\n"
    first.kill()
    first.wait()
    third = process("write")
    assert third.stdout.readline() == "open\n"
    third.communicate("\n", timeout=60)
    assert third.returncode == 0 and os.listdir(path.parent) == [path.name]
    assert not lock_of(path).exists()


def test_archives_of_one_process_share_the_lock_until_the_last_is_gone(problem, path):
    one = Archive.open(path, problem, SPACE, START)
    other = Archive.open(path, problem, SPACE, START)
    assert lock_of(path).read_text() == str(os.getpid())
    del one
    gc.collect()
    assert lock_of(path).exists()
    # Both know what the process has written last.
    other.solved(gauss_newton(problem.on(SPACE), START, 0.0, max_steps=1), estimate(SPACE))
    solved_run(problem, path)
    other.solved(gauss_newton(problem.on(SPACE), START, 0.0, max_steps=2), estimate(SPACE))
    del other
    gc.collect()
    assert not lock_of(path).exists()


def test_where_locks_are_not_seen_the_run_whose_file_has_changed_stops(problem, path):
    archive = solved_run(problem, path)
    mine = path.read_bytes()
    archive.solved(gauss_newton(problem.on(SPACE), START, 0.0, max_steps=2), estimate(SPACE))
    # Another machine puts its file in the place of ours.
    path.write_bytes(mine)
    result = gauss_newton(problem.on(SPACE), START, 0.0, max_steps=3)
    with pytest.raises(
        ArchiveError, match=r"has been written by another run since this one has opened it.*another file"
    ):
        archive.solved(result, estimate(SPACE))
    assert path.read_bytes() == mine
    # Whoever opens it again takes it as it is.
    assert Archive.open(path, problem, SPACE, START).solved(result, estimate(SPACE)).steps[-1].number == 3


@pytest.mark.parametrize("denied", [OSError(errno.EROFS, "read-only"), PermissionError(errno.EACCES, "denied")])
def test_without_a_place_for_locks_there_are_none(denied, problem, path, monkeypatch):
    def fails(*arguments, **options):
        raise denied

    with monkeypatch.context() as patch:
        patch.setattr(lock.Path, "mkdir", fails)
        archive = Archive.open(path, problem, SPACE, START)
    assert len(archive.levels) == 1 and not lock_of(path).exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_that_was_forked_leaves_the_lock_to_its_parent(process, problem, path):
    archive = Archive.open(path, problem, SPACE, START)
    child = multiprocessing.get_context("fork").Process(target=gc.collect)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child.start()
    child.join()
    assert child.exitcode == 0 and lock_of(path).read_text() == str(os.getpid())
    words, _ = process("write").communicate(timeout=60)
    assert f"another run writes to it (process {os.getpid()})" in words and archive.levels


def test_a_link_stays_a_link_and_its_target_is_written(process, problem, path):
    link = path.with_name("link.h5")
    Archive.open(path, problem, SPACE, START)
    link.symlink_to(path)
    archive = Archive.open(link, problem, SPACE, START)
    archive.solved(gauss_newton(problem.on(SPACE), START, 0.0, max_steps=1), estimate(SPACE))
    assert link.is_symlink() and read(path)[0].x is not None
    assert "another run writes" in process("write").communicate(timeout=60)[0]


def test_copies_of_killed_writers_are_removed_and_those_of_others_are_not(problem, path):
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    here = platform.node()
    names = [f".{path.name}.{here}-{number}.new" for number in (done.pid, os.getppid())]
    names += [
        f".{path.name}.elsewhere-{done.pid}.new",
        f".other.h5.{here}-{done.pid}.new",
        f".{path.name}.{here}-x.new",
    ]
    for name in names:
        path.with_name(name).write_bytes(b"half")
    Archive.open(path, problem, SPACE, START)
    assert sorted(os.listdir(path.parent)) == sorted([path.name, *names[1:]])


def test_what_the_problem_raises_is_no_failure_of_the_disk(problem, path, monkeypatch):
    def fails(*arguments):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Archive, "_probe", fails)
    with pytest.raises(RuntimeError, match="^out of memory$"):
        Archive.open(path, problem, SPACE, START)
    assert not path.exists()


def test_a_file_that_is_gone_or_has_no_levels_is_named(problem, path):
    archive = solved_run(problem, path)
    with container.writing(path) as file:
        del file["levels"]
    with pytest.raises(ArchiveError, match="an archive without what is expected there.*levels"):
        read(path)
    path.unlink()
    with pytest.raises(ArchiveError, match="no longer there"):
        archive.solved(gauss_newton(problem.on(SPACE), START, 0.0, max_steps=1), estimate(SPACE))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_fails_is_named_and_the_run_goes_on_later(number, problem, path, monkeypatch):
    archive = solved_run(problem, path)
    before = digest(path)
    result = gauss_newton(problem.on(SPACE), START, 0.0, max_steps=2)

    def broken(*arguments):
        raise OSError(number, os.strerror(number))

    for place in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(container.os, place, broken)
            with pytest.raises(
                ArchiveError, match=rf"could not be written \({os.strerror(number)}\).*goes on"
            ) as error:
                archive.solved(result, estimate(SPACE))
        assert isinstance(error.value, OSError) and digest(path) == before
    assert archive.solved(result, estimate(SPACE)).steps[-1].number == 2


def test_every_byte_of_the_user_block_counts(problem, path):
    solved_run(problem, path)
    good = path.read_bytes()
    for position in range(512):
        content = bytearray(good)
        content[position] ^= 1 << (position % 8)
        path.write_bytes(bytes(content))
        with pytest.raises(ArchiveError):
            read(path)


@pytest.mark.skipif(os.name != "posix", reason="no such modes")
def test_a_file_keeps_its_mode(problem, path):
    archive = Archive.open(path, problem, SPACE, START)
    path.chmod(0o640)
    result = gauss_newton(problem.on(SPACE), START, 0.0, max_steps=1)
    archive.solved(result, estimate(SPACE))
    assert path.stat().st_mode & 0o777 == 0o640


def test_several_processes_are_sent_to_the_archive_that_they_share(problem, path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"^problem: got one of several processes, expected dnnfem.SharedArchive.open"):
        Archive.open(path, replace(problem, backend="distributed"), SPACE, START)


@pytest.mark.parametrize("name", [None, 3])
def test_a_path_is_a_name(name):
    with pytest.raises(ArchiveError, match=r"^path: got .*, expected the name of a file"):
        read(name)
