"""Flows whose field is a module of torch: against built-in fields, by Taylor tests, and from end to end."""

import pickle
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import DEVICE
from sklearn.datasets import load_digits
from test_kernels import on_host
from torch import nn

import dnnfem as fem
from dnnfem import kernels
from dnnfem.archive import ArchiveError
from dnnfem.kernels.device import DeviceEvaluator, opaque, rows, samples
from dnnfem.kernels.laws import Misfit
from dnnfem.norms.frobenius import frobenius
from dnnfem.quadrature import Quadrature


class Images(nn.Module):
    """A convolutional block on square images: from one channel to some and back."""

    def __init__(self, side, channels=3, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.inner = nn.Conv2d(1, channels, 3, padding=1)
            self.outer = nn.Conv2d(channels, 1, 3, padding=1, bias=False)
        self.side = side

    def forward(self, z):
        images = z.unflatten(1, (1, self.side, self.side))
        return self.outer(torch.tanh(self.inner(images))).flatten(1)


class Own(nn.Module):
    """Any function of a parameter and the state."""

    def __init__(self, function, shape=()):
        super().__init__()
        self.factor = nn.Parameter(torch.full(shape, 0.5))
        self.function = function

    def forward(self, z):
        return self.function(self.factor, z)


def wave(count=40, inputs=2, seed=3):
    points = np.random.default_rng(seed).uniform(-1.0, 1.0, (count, inputs))
    return points, np.sin(3.0 * points[:, 0]) * points[:, 1]


def twins(width=3, **options):
    """Return a flow with a layer of torch, and with the built-in one."""
    options = {"cells": 2, "steps": 4, **options}
    field = fem.ModuleField(nn.Sequential(nn.Linear(width, width), nn.Tanh()))
    return [fem.FlowSpace.uniform(2, width, 1, field=field, **options) for field in (field, fem.SingleLayer())]


def images(side=6, outputs=1, **options):
    field = fem.ModuleField(Images(side))
    return fem.FlowSpace.uniform(
        side * side, side * side, outputs, field=field, **{"cells": 2, "scheme": "heun", **options}
    )


def close(found, expected, tolerance=1e-13):
    found, expected = on_host(found), on_host(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def agree(here, there, v, tolerance=1e-13):
    """Compare two linearizations."""
    close(here.value, there.value, tolerance)
    close(here.derivative, there.derivative, tolerance)
    for directions in (v, v[:, 0]):
        close(here.hessian(directions), there.hessian(directions), tolerance)
        close(here.curvature(directions), there.curvature(directions), tolerance)
    close(here.gram(), there.gram(), tolerance)


# ---- against built-in fields


@pytest.mark.parametrize(
    ("options", "encoder"),
    [
        ({"scheme": "euler", "degree": 0}, "padding"),
        ({"scheme": "euler", "degree": 1}, "affine"),
        ({"scheme": "heun", "degree": 0}, "affine"),
        ({"scheme": "heun", "degree": 1}, "padding"),
        ({"scheme": "rk4", "degree": 0}, "padding"),
        ({"scheme": "rk4", "degree": 1}, "padding"),
    ],
)
def test_a_layer_of_torch_is_the_built_in_one(options, encoder):
    ours, theirs = twins(encoder=encoder, **options)
    assert ours.dim == theirs.dim
    points, targets = wave()
    J, K = fem.Regression(points, targets).on(ours), fem.Regression(points, targets, backend="device").on(theirs)
    x, v = theirs.initial(1), np.random.default_rng(0).standard_normal((theirs.dim, 3))
    here, there = J.linearize(x), K.linearize(x)
    agree(here, there, v)
    close(here.system().matrix, there.system().matrix)
    close(here.system().residual, there.system().residual)
    for columns in (ours.at(0), ours.at(1)[::2], ours.condensable.ravel()):
        close(here.system(columns).matrix, there.system(columns).matrix)
    other = x + 0.1 * v[:, 0]
    close(here.mixed(J.linearize(other)), there.mixed(K.linearize(other)))
    for found, expected in zip(here.moments, there.moments, strict=True):
        close(found, expected)


@pytest.mark.parametrize("degree", [0, 1])
def test_a_loss_of_several_layers_with_trained_steps_is_the_built_in_one(degree):
    module = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 3))
    fields = [fem.TimeSteps(field) for field in (fem.ModuleField(module), fem.DoubleLayer(4, "gelu"))]
    ours, theirs = (fem.FlowSpace.uniform(2, 3, 2, 2, degree=degree, field=field) for field in fields)
    points, targets = wave(50)
    J, K = (fem.Classification(points, targets > 0.0, device=DEVICE).on(space) for space in (ours, theirs))
    x, v = theirs.initial(2), np.random.default_rng(0).standard_normal((theirs.dim, 2))
    agree(J.linearize(x), K.linearize(x), v)
    root = 0.1 * np.eye(ours.dim)
    close(J.left_out(x, root).losses, K.left_out(x, root).losses)


LAWS = {
    "Laplacian": lambda p, u: -u.laplacian - u.value,
    "mixed and third": lambda p, u: u.d(0, 1) + u.value * u.d(0) + u.d(1, 1, 1),
}


@pytest.mark.parametrize("name", LAWS)
def test_jets_go_through_a_module(name):
    points = Quadrature(np.random.default_rng(0).uniform(0.0, 1.0, (30, 2)), np.full(30, 1 / 30))
    domain, found = fem.Box((0.0, 0.0), (1.0, 1.0)), []
    spaces = twins(scheme="heun", cells=1, steps=1)
    x, v = spaces[1].initial(1), np.random.default_rng(0).standard_normal((spaces[1].dim, 2))
    for space in spaces:
        problem = fem.Collocation(LAWS[name], domain, dirichlet=0.0, quadrature=points, device=DEVICE)
        found.append(problem.on(space).linearize(x))
    agree(*found, v, 1e-12)
    ours, theirs = (fem.Regression(*wave(), device=DEVICE).solution(space, x) for space in spaces)
    close(ours.gradient(wave()[0]), theirs.gradient(wave()[0]))


def test_trajectories_and_functions_of_torch_are_the_built_in_ones():
    points, targets = wave()
    x = twins()[1].initial(1)
    ours, theirs = (fem.Regression(points, targets, device=DEVICE).solution(space, x) for space in twins())
    close(ours(points), theirs(points))
    close(ours.trajectories(points), theirs.trajectories(points))
    p = torch.tensor(points, requires_grad=True)
    value = ours.to_torch()(p)
    close(value.detach(), theirs(points))
    close(torch.autograd.grad(value.sum(), p)[0], theirs.gradient(points)[:, 0])
    with pytest.raises(ValueError, match="the flow is not finite from step 1 of 1 on"):
        exploding = fem.FlowSpace(2, 3, 1, field=fem.ModuleField(Own(lambda a, z: torch.exp(1e3 * a * (2.0 + z)))))
        fem.Regression(points, targets).solution(exploding, exploding.initial())(points)


@pytest.mark.parametrize("law", [fem.Regression, fem.Classification])
def test_single_precision_is_right_to_its_rounding(monkeypatch, law):
    monkeypatch.setattr(opaque, "SUMMED", 16)
    space, (points, targets) = twins()[0], wave()
    space, targets = (space, targets) if law is fem.Regression else (replace(space, outputs=2), targets > 0.0)
    x, v = space.initial(1), np.random.default_rng(0).standard_normal((space.dim, 3))
    rough, exact = (law(points, targets, device=DEVICE, precision=name).on(space) for name in ("single", "double"))
    here, there = rough.linearize(x), exact.linearize(x)
    assert rough.evaluator.place.dtype == torch.float32
    agree(here, there, v, 1e-5)
    close(here.system().matrix, there.system().matrix, 1e-5)


# ---- convolutions


@pytest.mark.parametrize("degree", [0, 1])
def test_a_convolutional_block_keeps_the_contract_of_a_functional(degree):
    space = images(degree=degree)
    points, targets = wave(30, 36)
    x = space.initial(0)
    fem.testing.check_functional(fem.Regression(points, targets).on(space), x)
    J = fem.Classification(points, targets > 0.0).on(replace(space, outputs=2))
    fem.testing.check_functional(J, J.space.initial(0))


def test_chunks_and_blocks_of_rows_change_nothing(monkeypatch):
    space, (points, targets) = images(), wave(31, 36)
    x, v = space.initial(0), np.random.default_rng(0).standard_normal((space.dim, 2))
    problem = fem.Regression(points, targets)
    whole = problem.on(space).linearize(x)
    monkeypatch.setattr(samples, "CHUNK", 10 * problem.on(space).evaluator.chunks.bytes)
    monkeypatch.setattr(rows, "ENTRIES", 1)
    parts = problem.on(space)
    assert parts.evaluator.chunks.count == 4
    agree(parts.linearize(x), whole, v, 1e-12)


def test_initial_is_what_the_parameters_are_when_the_field_is_made():
    module = Images(6)
    expected = np.concatenate([value.detach().numpy().ravel() for value in module.parameters()])
    space = fem.FlowSpace.uniform(36, 36, 1, cells=3, degree=1, field=fem.ModuleField(module))
    with torch.no_grad():
        module.inner.weight.mul_(2.0)
    x = space.initial(5)
    assert space.size == expected.size and np.array_equal(space.theta(x), np.tile(expected, (4, 1)))
    assert np.array_equal(x, space.initial(5)) and not np.array_equal(x, space.initial(6))
    before = [value.detach().clone() for value in module.parameters()]
    fem.Regression(*wave(20, 36)).on(space).linearize(x).hessian(x)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_parameters_that_are_shared_count_once():
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    space = fem.FlowSpace.uniform(2, 4, 1, field=fem.ModuleField(module))
    assert space.field.names == ("0.weight", "0.bias", "2.bias")
    fem.testing.taylor_test(fem.Regression(*wave()).on(space), space.initial(0), order=3)


def test_spaces_compare_by_the_very_module():
    module = Images(6)
    one, same, other = (fem.FlowSpace(36, 36, 1, field=fem.ModuleField(m)) for m in (module, module, Images(6)))
    assert one == same and hash(one) == hash(same) and one != other and len({one, same, other}) == 2
    assert one != replace(one, field=fem.TimeSteps(one.field)) and str(one).startswith("36-36-1 module flow")
    assert repr(one.field) == "ModuleField(Images, 57 parameters)"
    again = pickle.loads(pickle.dumps(one))
    assert np.array_equal(again.initial(0), one.initial(0)) and again != one


@pytest.mark.parametrize("degree", [0, 1])
def test_bisection_changes_nothing(degree):
    coarse = images(cells=2, steps=4, degree=degree, scheme="rk4")
    fine, transfer = fem.bisect(coarse, [1])
    x = coarse.initial(1) + 0.1 * np.random.default_rng(0).standard_normal(coarse.dim)
    problem = fem.Regression(*wave(25, 36))
    J, K = problem.on(coarse), problem.on(fine)
    assert fine.cells == 3 and fine.field is coarse.field
    close(K.value(transfer(x)), J.value(x))
    close(transfer.T @ K.linearize(transfer(x)).derivative, J.linearize(x).derivative, 1e-12)
    fem.testing.check_refinement(coarse, fine, transfer, x)


def test_solvers_and_estimators_run():
    space, (points, targets) = images(), wave(60, 36)
    J = fem.Sum(fem.Regression(points, targets).on(space), fem.Tikhonov(space, fem.L2, 1e-4))
    x = space.initial(0)
    result = fem.trust_region(J, x, curvature=True, max_steps=4)
    values = [step.value for step in result.steps]
    assert all(b <= a for a, b in pairwise(values)) and values[-1] < 0.9 * values[0]
    assert fem.trust_region(J, x, dense=False, max_steps=2).steps[-1].value < values[0]
    assert fem.gauss_newton(J, x, max_steps=3).steps[-1].value < values[0]
    for estimate in (fem.hierarchical(J, result.x), fem.goal_oriented(J, result.x)):
        assert len(estimate.cells) in (space.cells, space.steps) and np.isfinite(estimate.total)
    assert fem.algebraic(J, result.x).total > 0.0


def test_handwritten_digits_are_told_apart():
    points, labels = load_digits(return_X_y=True)
    train, test = slice(0, 200), slice(200, 400)
    problem, space = fem.Classification(points[train], labels[train]), images(8, 10, cells=1)
    J = fem.Sum(problem.on(space), fem.Tikhonov(space, fem.L2, 1e-3))
    result = fem.trust_region(J, space.initial(0), curvature=True, dense=False, max_steps=4)
    right = np.mean(problem.solution(space, result.x).labels(points[test]) == labels[test])
    assert right > 0.7


# ---- what is refused


def flow_of(module, width=36):
    return fem.FlowSpace(width, width, 1, field=fem.ModuleField(module))


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (3, "module: got 3, expected a torch.nn.Module"),
        (nn.Tanh(), "module: got Tanh without parameters"),
        (nn.BatchNorm1d(36), "module: got BatchNorm1d with the buffers running_mean.*layer or group normalization"),
        (nn.Sequential(nn.Linear(36, 36), nn.BatchNorm1d(36).eval()), "buffers 1.running_mean"),
        (nn.BatchNorm1d(36, track_running_stats=False), "what BatchNorm1d makes of a sample depends on the others"),
        (nn.Sequential(nn.Linear(36, 36), nn.Dropout()), "returns something else when it is called again.*eval"),
        (nn.LazyLinear(36), "parameter weight of .* of a shape that is known"),
        (nn.Linear(36, 35), r"Linear returns torch.float64 of shape \(3, 35\).*expected torch.float64.*\(3, 36\)"),
        (nn.Linear(35, 36), r"Linear fails for torch.float64 of shape \(3, 36\), expected one that maps the width"),
        (Images(5), "Images fails"),
        (Own(lambda a, z: (a * z, z)), "Own returns tuple"),
        (Own(lambda a, z: (a * z).float()), "Own returns torch.float32 of shape"),
        (Own(lambda a, z: a * z * torch.ones(1, dtype=torch.float64)), "for torch.float32.*expected torch.float32"),
        (Own(lambda a, z: a * z.mul_(2.0)), "Own writes to its input"),
        (Own(lambda a, z: a * z * float(z.sum())), "depends on the others"),
        (Own(lambda a, z: a * z if bool(z[0, 0] > 0.0) else z * a), "torch cannot differentiate Own"),
        (Own(lambda a, z: a * z, (2,)), "Own fails"),
        (nn.Linear(36, 36, dtype=torch.complex128), "parameter weight of torch.complex128"),
    ],
    ids=lambda value: None if isinstance(value, nn.Module | int) else value[:40],
)
def test_modules_that_are_no_fields_are_refused(module, words):
    with pytest.raises(ValueError, match=words):
        flow_of(module)


def test_parameters_that_are_not_finite_are_refused():
    module = Images(6)
    with torch.no_grad():
        module.inner.bias[0] = torch.nan
    with pytest.raises(ValueError, match="parameters that are NaN or infinite"):
        fem.ModuleField(module)


def test_the_backend_is_chosen_and_another_one_is_refused():
    space, arguments = twins()[0], wave()
    x = space.initial(0)
    problem = fem.Regression(*arguments)
    assert isinstance(problem.on(space).evaluator, DeviceEvaluator)
    assert not isinstance(problem.on(twins()[1]).evaluator, DeviceEvaluator)
    for name in ("compiled", "reference"):
        words = rf"backend: got '{name}' for a network with ModuleField\(Sequential, 12 parameters\), expected 'device'"
        chosen = fem.Regression(*arguments, backend=name)
        with pytest.raises(ValueError, match=words):
            chosen.on(space).value(x)
        with pytest.raises(ValueError, match=words):
            chosen.solution(space, x)(arguments[0])
        with pytest.raises(ValueError, match=words):
            kernels.load(name).place(space.program, problem.quadrature, problem.ansatz, Misfit())
    named = fem.Regression(*arguments, backend="device").on(space)
    assert named.value(x) == problem.on(space).value(x)
    with pytest.raises(ValueError, match="precision: got 'single' for the backend compiled, expected double, or a dev"):
        fem.Regression(*arguments, precision="single")


def test_what_reads_layers_is_refused():
    space = twins(cells=1, steps=1, scheme="euler", encoder="affine")[0]
    J = fem.Regression(*wave()).on(space)
    with pytest.raises(ValueError, match="expected one with an integral over a space whose coefficients are its weig"):
        frobenius(J)
    with pytest.raises(ValueError, match="has no theta with which it vanishes"):
        fem.insertion_sensitivity(J, space.initial(0))


# ---- archives


def test_a_run_is_resumed_with_the_module(tmp_path):
    path, space, problem = tmp_path / "run.h5", images(steps=4), fem.Regression(*wave(40, 36))
    space = replace(space, field=fem.TimeSteps(space.field))
    x = space.initial(0)
    archive = fem.Archive.open(path, problem, space, x)
    result = fem.gauss_newton(problem.on(space), x, max_steps=2, observer=archive)
    again = fem.Archive.open(path, problem, space, x)
    assert again.level.space == space and np.array_equal(again.level.state.progress.x, result.x)
    estimate = fem.hierarchical(problem.on(space), result.x)
    archive.solved(result, estimate)
    fine, transfer = fem.bisect(space, [0])
    archive.refined([0], fine, transfer)
    level = fem.Archive.open(path, problem, space, x).level
    assert level.space == fine and level.space.field.field is space.field.field
    close(problem.on(level.space).value(level.x), result.steps[-1].value, 1e-12)
    assert [record.space for record in archive.levels] == [space, fine] == list(archive.hierarchy.spaces)
    assert [record.space for record in fem.read(path, space)] == [space, fine]


def test_without_the_module_an_archive_is_read_but_nothing_is_run(tmp_path):
    path, space, problem = tmp_path / "run.h5", images(), fem.Regression(*wave(40, 36))
    x = space.initial(0)
    fem.Archive.open(path, problem, space, x)
    (record,) = fem.read(path)
    assert record.space.dim == space.dim and record.space != space and str(record.space) == str(space)
    assert record.space.attributes()["field_names"] == ("inner.weight", "inner.bias", "outer.weight")
    assert record.space.attributes()["field_shapes"] == ("3x1x3x3", "3", "1x3x3x3")
    words = "an archive has no modules, only the names and shapes of the parameters inner.weight, inner.bias"
    with pytest.raises(ValueError, match=words):
        problem.on(record.space).value(x)
    with pytest.raises(ValueError, match=words):
        record.space.initial(0)


def test_another_module_does_not_resume_a_run(tmp_path):
    path, problem = tmp_path / "run.h5", fem.Regression(*wave(40, 36))
    space = flow_of(Images(6))
    x = space.initial(0)
    fem.Archive.open(path, problem, space, x)
    before = path.read_bytes()

    class Renamed(Images):
        def __init__(self):
            super().__init__(6)
            self.first = self.inner
            del self.inner

        def forward(self, z):
            return self.outer(torch.tanh(self.first(z.unflatten(1, (1, 6, 6))))).flatten(1)

    for module, words in (
        (Images(6, 4), r"inner.weight \(3x1x3x3\) as parameter 0, got inner.weight \(4x1x3x3\)"),
        (Renamed(), r"inner.weight \(3x1x3x3\) as parameter 0, got outer.weight \(1x3x3x3\)"),
        (Own(lambda a, z: a * z), r"as parameter 0, got factor \(a number\)"),
    ):
        other = flow_of(module)
        with pytest.raises(ArchiveError, match=words):
            fem.Archive.open(path, problem, other, other.initial(0))
        with pytest.raises(ArchiveError, match=words):
            fem.read(path, other)
    for other in (replace(space, field=fem.TimeSteps(space.field)), replace(space, field=fem.SingleLayer())):
        with pytest.raises(ArchiveError, match="was started from another space"):
            fem.Archive.open(path, problem, other, other.initial(0))

    class Doubled(Images):
        def forward(self, z):
            return 2.0 * super().forward(z)

    with pytest.raises(ArchiveError, match="the problem gives"):
        fem.Archive.open(path, problem, flow_of(Doubled(6)), x)
    assert path.read_bytes() == before
