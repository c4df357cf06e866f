"""Several processes give what one gives, to rounding; they all get the same bits, and none waits for a lost one."""

import os
import random
import signal
import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import dnnfem as fem
from dnnfem.kernels import load
from dnnfem.norms import kronecker

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.uniform(-1.0, 1.0, (301, 2))
TARGETS = np.column_stack([np.sin(3.0 * INPUTS[:, 0]) * INPUTS[:, 1], np.exp(INPUTS[:, 0])])
TOLERANCE = {"rtol": 1e-12, "atol": 1e-13}


def free(port):
    """Whether nobody listens."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def launched(count, *arguments, **options):
    """Start this file as some processes that know of each other, as torchrun does."""
    # The system gives ports above these to whoever asks for any, which may be before the processes listen.
    port = next(filter(free, random.sample(range(20000, 30000), 100)))
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, __file__, *arguments],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        for rank in range(count)
    ]


def outputs(processes):
    """Return what they print."""
    told = [process.communicate(timeout=240) for process in processes]
    assert not any(process.returncode for process in processes), "\n".join(words[-2000:] for _, words in told)
    return [out for out, _ in told]


# ---- what the processes do


def wave(p, u):
    return torch.stack([u[0].dt + u[1].grad[0], u[1].dt + torch.sin(u[0].value)])


def problems():
    """Problems of all kinds, the sizes of which no number of processes divides."""
    yield fem.Regression(INPUTS, TARGETS), fem.FeedforwardSpace(2, (5, 5), 2)
    yield fem.Regression(INPUTS, TARGETS), fem.FlowSpace.uniform(2, 3, 2, cells=2, steps=4, encoder="affine")
    yield fem.Classification(INPUTS, (TARGETS > 0.5).sum(axis=1)), fem.FeedforwardSpace(2, (4,), 3)
    yield (
        fem.Collocation(wave, fem.Box([0.0], [1.0]), time=(0.0, 1.0), initial=[1.0, 0.0], outputs=2, exact=False),
        fem.FeedforwardSpace(2, (6,), 2),
    )
    # More processes than points.
    yield fem.Regression(INPUTS[:2], TARGETS[:2]), fem.FeedforwardSpace(2, (2,), 2)


def operations(device):
    """Compare every operation of a linearization."""
    draw = np.random.default_rng(1)
    # On torch the kernels are slower, and what is shared is the same.
    for problem, space in list(problems())[:: 1 if device is None else 3]:
        alone, shared = problem.on(space), replace(problem, backend="distributed", device=device).on(space)
        x, y = space.initial(seed=0), space.initial(seed=0) + 0.1 * draw.standard_normal(space.dim)
        v = draw.standard_normal((space.dim, 3))
        first, second = alone.linearize(x), shared.linearize(x)
        assert isinstance(second.derivative, np.ndarray)
        for name in ("value", "derivative"):
            assert np.allclose(getattr(second, name), getattr(first, name), **TOLERANCE), name
        for name in ("hessian", "curvature"):
            assert np.allclose(getattr(second, name)(v), getattr(first, name)(v), **TOLERANCE), name
        assert np.allclose(second.gram(), first.gram(), **TOLERANCE)
        assert shared.value(y) == pytest.approx(alone.value(y), rel=1e-12)
        if first.residual() is not None:
            assert np.allclose(np.sort(second.residual()), np.sort(first.residual()), **TOLERANCE)
            there = shared.linearize(y)
            assert np.allclose(second.mixed(there), first.mixed(alone.linearize(y)), **TOLERANCE)
            assert np.allclose(second.system().pull(there.residual()), second.mixed(there), **TOLERANCE)
        columns = np.arange(space.dim)[1::2]
        for one, other in ((first.system(), second.system()), (first.system(columns), second.system(columns))):
            assert other.samples == one.samples and other.value == pytest.approx(one.value, rel=1e-12)
            assert np.allclose(other.derivative, one.derivative, **TOLERANCE)
            w = v[: one.shape[1]]
            assert np.allclose(other.curvature(w), one.curvature(w), **TOLERANCE)
            assert np.allclose(other.lengths, one.lengths, **TOLERANCE)
        if isinstance(problem, fem.Regression):
            root = np.eye(space.dim)[:, :5] * 0.1
            assert np.allclose(shared.samplewise(x), alone.samplewise(x), **TOLERANCE)
            assert np.allclose(shared.cellwise(x), alone.cellwise(x), **TOLERANCE)
            for name in ("losses", "leverage", "margin"):
                own, other = (getattr(J.left_out(x, root), name) for J in (alone, shared))
                assert np.allclose(other, own, **TOLERANCE)
    cells = fem.Collocation(lambda p, u: u.laplacian + 1.0, fem.Box([0, 0], [1, 1]), dirichlet=0.0)
    space = fem.FeedforwardSpace(2, (3,), 1)
    x = space.initial(seed=0)
    one, other = (replace(cells, backend=name).on(space).cellwise(x) for name in (None, "distributed"))
    assert np.allclose(other, one, **TOLERANCE)


def solves():
    """Compare solvers, norms and estimators, and print what they find.

    Dense trust-region steps may come from a matrix in single precision: their paths are compared at the end, the others
    after five steps.
    """
    problem, space = fem.Regression(INPUTS, TARGETS), fem.FeedforwardSpace(2, (6,), 2)
    x, found = space.initial(seed=0), {}
    points = np.random.default_rng(0).uniform(-1.0, 1.0, (4001, 2))
    many = fem.Regression(points, np.column_stack([np.sin(3.0 * points[:, 0]), points[:, 1]]))
    for name in (None, "distributed"):
        J = replace(problem, backend=name).on(space)
        penalized = fem.Sum(J, fem.Tikhonov(space, fem.Euclidean, 1e-2))
        estimate = fem.hierarchical(J, x, fem.ridge_candidates(space, problem.quadrature, seed=0))
        found[name] = [
            fem.gauss_newton(J, x, 0.0, max_steps=5).x,
            fem.trust_region(penalized, x, 0.0, norm=kronecker(penalized), max_steps=5).x,
            np.append(estimate.indicators, estimate.total),
            np.array(fem.trust_region(penalized, x, 1e-9).value),
            fem.stochastic(replace(many, backend=name).on(space), x, 0.0, max_steps=20, seed=0).x,
        ]
    for one, other in zip(found[None], found["distributed"], strict=True):
        assert np.linalg.norm(other - one) <= 1e-11 * np.linalg.norm(one), np.linalg.norm(other - one)
    print([part.tobytes().hex() for part in found["distributed"]])


def loop(path, levels, die=None):
    """A loop with an archive; in process 1 it may end in the middle of a solve."""
    problem = fem.Regression(INPUTS, TARGETS, backend="distributed")
    space = fem.FeedforwardSpace(2, (2,), 2)
    archive = fem.SharedArchive.open(path, problem, space, space.initial(seed=0))
    space, x, state, quadrature, _ = archive.level
    rank, _ = fem.distributed.processes()

    def observer(snapshot):
        archive(snapshot)
        if die and rank == 1 and snapshot.state.progress.x.size > 14 and snapshot.step.number == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    while True:
        J = problem.on(space, quadrature)
        result = fem.gauss_newton(J, x, fem.relative(1e-3), state=state, observer=observer, max_steps=10)
        estimate = fem.hierarchical(J, result.x, fem.ridge_candidates(space, quadrature, seed=0))
        archive.solved(result, estimate)
        if space.hidden[0] >= levels:
            break
        marked = fem.fixed_fraction(estimate.indicators, 2.0 / len(estimate.cells))
        space, P = fem.widen(space, estimate.cells[marked])
        x, state = P(result.x), result.state
        archive.refined(marked, space, P)
    print(result.x.tobytes().hex(), len(archive.levels), len(archive.hierarchy.spaces))


def little(small):
    """Print what is told to others in a solve with few samples."""
    kernels.SMALL, told, total = small, [], kernels.total
    kernels.total = lambda array, what, key=0: (told.append(what), total(array, what, key))[1]
    J = fem.Regression(INPUTS, TARGETS, backend="distributed").on(fem.FeedforwardSpace(2, (2,), 2))
    fem.gauss_newton(J, J.space.initial(seed=0), 0.0, max_steps=2)
    print(told)


def apart():
    """Ask for different things."""
    J = fem.Regression(INPUTS, TARGETS, backend="distributed").on(fem.FeedforwardSpace(2, (2,), 2))
    x = J.space.initial(seed=fem.distributed.processes()[0])
    try:
        J.value(x)
    except RuntimeError as error:
        print(error)


# ---- tests


@pytest.mark.parametrize(("count", "device"), [(2, None), (3, "cpu")])
def test_every_operation_is_that_of_one_process(count, device):
    outputs(launched(count, "operations", *([device] if device else [])))


def test_solvers_take_the_same_steps_and_all_processes_get_the_same_bits():
    first, second = outputs(launched(2, "solves"))
    assert first == second != ""


def test_a_process_alone_may_use_what_is_for_several(tmp_path, capsys):
    assert fem.distributed.processes() == (0, 1)
    problem, space = fem.Regression(INPUTS, TARGETS), fem.FeedforwardSpace(2, (4,), 2)
    x = space.initial(seed=0)
    one, other = (fem.gauss_newton(replace(problem, backend=b).on(space), x, 1e-6) for b in (None, "distributed"))
    assert np.array_equal(one.x, other.x)
    loop(tmp_path / "run.h5", 4)
    assert capsys.readouterr().out.endswith(" 2 2\n")


def test_a_lost_process_ends_the_others_and_the_archive_goes_on_with_another_number(tmp_path):
    path, whole = str(tmp_path / "run.h5"), str(tmp_path / "whole.h5")
    (undisturbed,) = outputs(launched(1, "loop", whole, "6"))
    lost = launched(2, "loop", path, "6", "die")
    (_, words), _ = (process.communicate(timeout=240) for process in lost)
    assert lost[1].returncode == -signal.SIGKILL and lost[0].returncode == 1
    assert "distributed: another process has ended or does not answer; what an archive has stored is there" in words
    assert [level.x is not None for level in fem.read(path)] == [True, False]
    first, second, third = outputs(launched(3, "loop", path, "6"))
    assert first == second == third
    (x, *counts), (y, *others) = first.split(), undisturbed.split()
    assert counts == others == ["3", "3"]
    x, y = (np.frombuffer(bytes.fromhex(text)) for text in (x, y))
    assert np.linalg.norm(x - y) <= 1e-8 * np.linalg.norm(y)


def test_processes_that_do_different_things_say_so():
    for words in outputs(launched(2, "apart")):
        assert "asks for the value, another one for something else or at other coefficients" in words


def test_errors_of_the_archive_are_those_of_all_processes(tmp_path):
    (tmp_path / "run.h5").write_text("epoch,loss\n")
    for process in launched(2, "loop", str(tmp_path / "run.h5"), "2"):
        _, words = process.communicate(timeout=240)
        assert process.returncode == 1 and "not an HDF5 file, expected a dnnfem archive" in words


def test_little_is_done_by_every_process():
    assert set(outputs(launched(2, "little"))) == {"[]\n"}


if __name__ == "__main__":
    # The problems are small, and are shared nevertheless.
    kernels, small = load("distributed"), load("distributed").SMALL
    kernels.SMALL = 0
    what, *arguments = sys.argv[1:]
    if what == "operations":
        operations(*arguments or [None])
    elif what == "loop":
        loop(arguments[0], int(arguments[1]), *arguments[2:])
    else:
        {"solves": solves, "apart": apart, "little": lambda: little(small)}[what]()
