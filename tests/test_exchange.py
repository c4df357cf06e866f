"""Solutions for other programs and networks from them: the same functions, to rounding."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import onnxruntime
import pytest
import torch

import dnnfem as fem
from dnnfem.__main__ import main

VERSION_1 = Path(__file__).parent / "data" / "version1.h5"
RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.uniform(-2.0, 3.0, (60, 2))
AT = RANDOM.uniform(0.1, 0.9, (9, 2))


def g(p):
    return 1.0 + torch.sin(3.0 * p.x[0]) * p.x[1]


def regression():
    return fem.Regression(INPUTS, np.column_stack([np.sin(INPUTS[:, 0]), 100.0 + INPUTS[:, 1]]))


def classification():
    return fem.Classification(INPUTS, np.array(["inside", "outside"])[(np.abs(INPUTS).sum(axis=1) > 2.0).astype(int)])


def poisson():
    return fem.Collocation(lambda p, u: u.laplacian - 1.0, fem.Box([0, 0], [1, 1]), dirichlet=g)


def inverse():
    return fem.Collocation(
        lambda p, u, k: k * u.laplacian + 1.0,
        fem.Box([0, 0], [1, 1]),
        dirichlet=0.0,
        exact=False,
        unknowns={"k": 2.0},
        observations=(AT, AT[:, 0]),
    )


def network(problem, space, seed=0):
    """A function with coefficients that nothing has been done to."""
    return problem.solution(space, space.initial(seed=seed))


SOLUTIONS = {
    "feedforward": lambda: network(regression(), fem.FeedforwardSpace(2, (7, 7), 2, residual=(False, True))),
    "periodic": lambda: network(regression(), fem.FeedforwardSpace(2, (5,), 2, "gelu", periodic=(0,))),
    "flow": lambda: network(
        regression(), fem.FlowSpace.uniform(2, 4, 2, 2, 4, encoder="affine", field=fem.Hamiltonian())
    ),
    "classes": lambda: network(classification(), fem.FeedforwardSpace(2, (6,), 2, "sin")),
    "softplus": lambda: network(regression(), fem.FeedforwardSpace(2, (6,), 2, "softplus")),
    "unknowns": lambda: network(inverse(), fem.FeedforwardSpace(2, (6,), 1, unknowns=1)),
    "conditions": lambda: network(poisson(), fem.FeedforwardSpace(2, (6,), 1)),
}


def values(solution, points):
    return solution.probabilities(points) if isinstance(solution, fem.Classifier) else solution(points)


@pytest.fixture(params=SOLUTIONS)
def solution(request):
    return SOLUTIONS[request.param]()


def evaluated(path, points):
    """The network of a file of NumPy, as the manual says it is to be read."""
    act = {"identity": lambda z: z, "tanh": np.tanh, "sin": np.sin}
    net = np.load(path)
    registers = [(points - net["input_shift"]) / net["input_scale"]]
    for number, (read, block) in enumerate(zip(net["input"], net["block"], strict=True)):
        z = registers[read] @ net[f"W{block}"].T + net[f"b{block}"]
        value = net["scale"][number] * act[str(net["activation"][number])](z)
        for _, register, factor in net["carry"][net["carry"][:, 0] == number]:
            value = value + factor * registers[int(register)]
        registers.append(value)
    return net["output_shift"] + net["output_scale"] * registers[-1]


@pytest.mark.parametrize("name", ["feedforward", "flow", "classes", "unknowns"])
def test_numpy_evaluates_a_network_with_what_is_in_its_file(name, tmp_path):
    solution = SOLUTIONS[name]()
    fem.export(solution, tmp_path / "network.npz")
    found, logits = evaluated(tmp_path / "network.npz", AT), solution(AT)
    assert np.allclose(found, logits, rtol=1e-13, atol=1e-13)
    if name == "classes":
        assert np.load(tmp_path / "network.npz")["classes"].tolist() == ["inside", "outside"]


def test_torch_runs_an_exported_program_and_differentiates_it(solution, tmp_path):
    fem.export(solution, tmp_path / "network.pt2")
    module, points = torch.export.load(tmp_path / "network.pt2").module(), torch.tensor(AT, requires_grad=True)
    found = module(points)
    assert np.allclose(found.detach().numpy(), values(solution, AT), rtol=1e-13, atol=1e-13)
    if isinstance(solution, fem.Solution):
        (slope,) = torch.autograd.grad(found[:, 0].sum(), points)
        assert np.allclose(slope.numpy(), solution.gradient(AT)[:, 0], rtol=1e-11, atol=1e-11)
    assert np.allclose(module(points[:1]).detach().numpy(), values(solution, AT[:1]), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("name", "precision", "bound"),
    [
        ("feedforward", "mixed", 1e-7),
        ("flow", "double", 1e-13),
        ("classes", "single", 1e-6),
        ("conditions", "mixed", 1e-7),
        ("periodic", "mixed", 1e-6),
        ("softplus", "mixed", 1e-6),
        ("unknowns", "mixed", 1e-7),
    ],
)
def test_onnx_evaluates_the_same_function(name, precision, bound, tmp_path):
    solution = SOLUTIONS[name]()
    fem.export(solution, tmp_path / "network.onnx", precision)
    points = AT if precision == "double" else AT.astype(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    (found,) = session.run(["values"], {"points": points})
    exact = values(solution, points.astype(np.float64))
    assert found.dtype == points.dtype and found.shape == exact.shape
    assert np.abs(found - exact).max() <= bound * np.abs(exact).max()


def test_what_cannot_be_exported_is_refused_in_words(tmp_path):
    smooth, held = SOLUTIONS["periodic"](), SOLUTIONS["conditions"]()
    with pytest.raises(ValueError, match=r"precision: got 'double' for gelu, which ONNX runtimes have in float32 only"):
        fem.export(smooth, tmp_path / "network.onnx", "double")
    with pytest.raises(ValueError, match=r"path: there is no folder .*nowhere, expected an existing one"):
        fem.export(smooth, tmp_path / "nowhere" / "network.pt2")
    with pytest.raises(ValueError, match=r"precision: got 'half', expected one of mixed, single, double"):
        fem.export(smooth, tmp_path / "network.onnx", "half")
    with pytest.raises(ValueError, match=r"network.txt', expected a name that ends with .npz, .pt2, .onnx"):
        fem.export(smooth, tmp_path / "network.txt")
    with pytest.raises(ValueError, match=r"holds conditions exactly, expected .pt2 or .onnx"):
        fem.export(held, tmp_path / "network.npz")

    def undecided(p):
        return p.x[0] if p.x[0].sum() > 0.0 else 0.5 * p.x[0]

    branching = fem.Collocation(lambda p, u: u.laplacian, fem.Box([0, 0], [1, 1]), dirichlet=undecided)
    with pytest.raises(
        ValueError, match=r"could not be exported; conditions and modules have to be functions of tensors"
    ):
        fem.export(network(branching, fem.FeedforwardSpace(2, (3,), 1)), tmp_path / "network.pt2")
    assert not list(tmp_path.iterdir())


# ---- torch


def test_a_module_is_trained_by_torch_and_comes_back():
    problem = regression()
    space = fem.FlowSpace.uniform(2, 4, 2, 2, 4, encoder="affine", field=fem.Hamiltonian())
    x = space.initial(seed=1)
    J, module = problem.on(space), problem.solution(space, x).to_torch(trainable=True)
    assert [tuple(p.shape) for p in module.parameters()] == [(space.dim,)]
    target, scale = torch.tensor(problem.targets), torch.tensor(problem.ansatz.output_scale)
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=20)

    def loss():
        optimizer.zero_grad()
        value = 0.5 * (((module(torch.tensor(INPUTS)) - target) / scale) ** 2).sum(dim=1).mean()
        value.backward()
        return value

    assert float(loss().detach()) == pytest.approx(J.value(x), rel=1e-12)
    assert np.allclose(module.coefficients.grad.numpy(), J.linearize(x).derivative, rtol=1e-10, atol=1e-12)
    optimizer.step(loss)
    back = module.coefficients.detach().numpy()
    assert J.value(back) == pytest.approx(float(loss().detach()), rel=1e-12) and J.value(back) < 0.5 * J.value(x)


def test_optimizers_of_torch_run_on_any_functional():
    problem, space = poisson(), fem.FeedforwardSpace(2, (5,), 1)
    J = fem.Sum(problem.on(space), fem.Tikhonov(space, fem.Euclidean, 1e-3))
    x = torch.tensor(space.initial(seed=0), requires_grad=True)
    value = fem.as_torch(J)
    (3.0 * value(x) ** 2).backward()
    here = J.linearize(space.initial(seed=0))
    assert float(value(x).detach()) == here.value and np.allclose(x.grad.numpy(), 6.0 * here.value * here.derivative)
    optimizer = torch.optim.LBFGS([x], max_iter=15)

    def closure():
        optimizer.zero_grad()
        found = value(x)
        found.backward()
        return found

    optimizer.step(closure)
    assert J.value(x.detach().numpy()) < 0.5 * here.value
    with pytest.raises(ValueError, match=r"x: got shape \(3,\)"):
        value(torch.zeros(3))


def test_a_function_has_no_parameters_unless_asked_for():
    module = SOLUTIONS["feedforward"]().to_torch()
    assert not list(module.parameters()) and not module(torch.tensor(AT)).requires_grad
    assert module(torch.tensor(AT, dtype=torch.float32)).dtype == torch.float32


@pytest.mark.parametrize("bias", [True, False])
def test_networks_of_torch_come_in(bias):
    torch.manual_seed(0)
    inner = torch.nn.Sequential(torch.nn.Linear(2, 5, bias=bias), torch.nn.Softplus())
    module = torch.nn.Sequential(inner, torch.nn.Linear(5, 4), torch.nn.Softplus(), torch.nn.Linear(4, 2, bias=bias))
    problem = regression()
    space, x = fem.from_torch(module, problem)
    assert str(space) == "2-5-4-2 softplus"
    with torch.no_grad():
        expected = module(torch.tensor(INPUTS, dtype=torch.float32)).numpy()
    assert np.allclose(problem.solution(space, x)(INPUTS), expected, rtol=1e-5, atol=1e-5)


def test_a_constant_feature_of_a_network_of_torch_is_a_part_of_its_bias():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1)).double()
    points = np.column_stack([INPUTS[:, 0], np.full(60, 7.0)])
    problem = fem.Regression(points, np.sin(INPUTS[:, 0]))
    found = problem.solution(*fem.from_torch(module, problem))(points)
    assert np.allclose(found, module(torch.tensor(points)).detach().numpy(), rtol=1e-13, atol=1e-13)


def test_one_activation_may_be_shared():
    act, problem = torch.nn.Tanh(), regression()
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), act, torch.nn.Linear(3, 3), act, torch.nn.Linear(3, 2)).double()
    found = problem.solution(*fem.from_torch(module, problem))(AT)
    assert np.allclose(found, module(torch.tensor(AT)).detach().numpy(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("trainable", [True, False])
def test_the_state_of_a_module_is_all_of_it(trainable):
    space = fem.FeedforwardSpace(2, (4,), 2)
    one, other = regression(), fem.Regression(10.0 * INPUTS, np.exp(INPUTS))
    kept, module = network(one, space), network(other, space, seed=1).to_torch(trainable)
    module.load_state_dict(kept.to_torch(trainable).state_dict())
    assert np.allclose(module(torch.tensor(AT)).detach().numpy(), kept(AT), rtol=1e-13, atol=1e-13)


def test_other_modules_are_refused_in_words():
    linear, tanh = torch.nn.Linear, torch.nn.Tanh
    broken = linear(2, 3)
    torch.nn.init.constant_(broken.weight, float("nan"))
    cases = [
        (torch.nn.Sequential(broken, tanh(), linear(3, 2)), "module: got NaN or infinity"),
        (torch.nn.Sequential(linear(2, 4), tanh(), linear(5, 2)), "expected as many inputs as there are outputs"),
        (linear(2, 2), "got Linear, expected a torch.nn.Sequential"),
        (torch.nn.Sequential(linear(2, 3), tanh()), "got Linear, Tanh, expected"),
        (torch.nn.Sequential(linear(2, 3), linear(3, 3), linear(3, 2)), "got Linear, Linear, Linear, expected"),
        (torch.nn.Sequential(linear(2, 3), tanh(), linear(3, 3), torch.nn.ReLU(), linear(3, 2)), "one and the same"),
        (torch.nn.Sequential(linear(2, 3), torch.nn.Softplus(beta=2.0), linear(3, 2)), "with their defaults"),
        (torch.nn.Sequential(linear(2, 3), tanh(), linear(3, 1)), "got 2 inputs and 1 outputs, expected 2 and 2"),
    ]
    for module, words in cases:
        with pytest.raises(ValueError, match=words):
            fem.from_torch(module, regression())
    with pytest.raises(ValueError, match=r"problem: got one with ExactAnsatz, expected"):
        fem.from_torch(torch.nn.Sequential(linear(2, 3), tanh(), linear(3, 1)), poisson())


# ---- archives


def solved(path, problem, space):
    """A run of one level."""
    archive = fem.Archive.open(path, problem, space, space.initial(seed=0))
    result = fem.trust_region(problem.on(space), archive.level.x, fem.relative(1e-6), max_steps=2)
    archive.solved(result, fem.Estimate("nothing", np.arange(1), np.zeros(1), 0.0))
    return problem.solution(space, result.x)


@pytest.mark.parametrize("problem", [regression, classification])
def test_a_solution_is_loaded_without_its_problem(problem, tmp_path):
    kept = solved(tmp_path / "run.h5", problem(), fem.FeedforwardSpace(2, (4,), 2))
    found = fem.load(tmp_path / "run.h5")
    assert type(found) is type(kept) and np.array_equal(values(found, AT), values(kept, AT))
    if isinstance(kept, fem.Classifier):
        assert found.labels(AT).tolist() == kept.labels(AT).tolist()


@pytest.mark.parametrize(
    ("names", "dtype"),
    [
        ([0, 7], int),
        ([False, True], bool),
        ([-1.0, 2.0], float),
        (["a", "b"], str),
        (["a", "b"], object),
        ([3, 4], object),
        ([b"a", b"b"], bytes),
    ],
)
def test_labels_stay_what_they_are(names, dtype, tmp_path):
    labels = np.array(names, dtype=dtype)[(INPUTS[:, 0] > 0.0).astype(int)]
    kept = solved(tmp_path / "run.h5", fem.Classification(INPUTS, labels), fem.FeedforwardSpace(2, (4,), 2))
    found = fem.load(tmp_path / "run.h5")
    assert found.classes.dtype == kept.classes.dtype and found.classes.tolist() == names
    fem.export(kept, tmp_path / "network.npz")
    assert np.load(tmp_path / "network.npz")["classes"].tolist() == names


@pytest.mark.parametrize(("names", "words"), [([2**70, 1], "at most 64 bits"), (["a\0b", "c"], "null character")])
def test_labels_that_no_file_has_are_refused(names, words):
    labels = np.array(names, dtype=object)[(INPUTS[:, 0] > 0.0).astype(int)]
    with pytest.raises(ValueError, match=f"labels: got .*{words}"):
        fem.Classification(INPUTS, labels)


def test_unknowns_are_loaded_with_their_names(tmp_path):
    points = np.linspace(0.0, 1.0, 7)[:, None]
    problem = fem.Collocation(
        lambda p, u, k: k * u.laplacian + 1.0,
        fem.Box([0.0], [1.0]),
        unknowns={"k": 2.0},
        observations=(points, points * (1.0 - points)),
    )
    kept = solved(tmp_path / "run.h5", problem, fem.FeedforwardSpace(1, (4,), 1, unknowns=1))
    found = fem.load(tmp_path / "run.h5")
    assert found.unknowns == kept.unknowns and np.array_equal(found(points), kept(points))


def test_solutions_with_conditions_are_not_loaded(tmp_path):
    solved(tmp_path / "run.h5", poisson(), fem.FeedforwardSpace(2, (3,), 1))
    with pytest.raises(fem.ArchiveError, match=r"hold conditions exactly, which are functions of the script; expected"):
        fem.load(tmp_path / "run.h5")


def test_levels_that_are_not_solved_are_not_loaded(tmp_path):
    problem, space = regression(), fem.FeedforwardSpace(2, (3,), 2)
    fem.Archive.open(tmp_path / "run.h5", problem, space, space.initial(seed=0))
    with pytest.raises(fem.ArchiveError, match=r"no level is solved"):
        fem.load(tmp_path / "run.h5")
    solved(tmp_path / "run.h5", problem, space)
    with pytest.raises(fem.ArchiveError, match=r"level 3 is not solved, expected one of \[0\]"):
        fem.load(tmp_path / "run.h5", level=3)


@pytest.mark.parametrize("other", [3, fem.FlowSpace.uniform(2, 2, 1, 4)])
def test_a_space_of_another_kind_is_refused(other, tmp_path):
    solved(tmp_path / "run.h5", regression(), fem.FeedforwardSpace(2, (3,), 2))
    for reader in (fem.load, fem.read):
        with pytest.raises(ValueError, match=r"space: got .*, expected a FeedforwardSpace, as .*run\.h5 holds"):
            reader(tmp_path / "run.h5", space=other)


def test_the_command_writes_what_is_asked_for(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = solved(tmp_path / "run.h5", regression(), fem.FeedforwardSpace(2, (4,), 2))
    assert main(["export", "run.h5", "--to", "torch"]) == 0 and capsys.readouterr().out == "written: run.pt2\n"
    assert np.allclose(
        torch.export.load("run.pt2").module()(torch.tensor(AT)).numpy(), kept(AT), rtol=1e-13, atol=1e-13
    )
    assert main(["export", "run.h5", "--to", "npz", "-o", "other.npz", "--level", "0"]) == 0
    assert np.allclose(evaluated("other.npz", AT), kept(AT), rtol=1e-13, atol=1e-13)
    assert main(["export", "run.h5", "--to", "npz", "-o", "other.onnx"]) == 1
    assert "other.onnx: expected a name that ends with .npz" in capsys.readouterr().err
    assert main(["export", "none.h5", "--to", "npz"]) == 1


# ---- versions of the format


def version_1_problem():
    points = np.linspace(-1.0, 1.0, 20)
    return fem.Regression(points, np.round(np.sin(3.0 * points), 6)), fem.FeedforwardSpace(1, (2,), 1)


def test_files_of_version_1_are_read_and_migrated_by_the_first_write(tmp_path):
    path = tmp_path / "run.h5"
    shutil.copy(VERSION_1, path)
    levels, before = fem.read(path), path.read_bytes()
    assert [str(level.space) for level in levels] == ["1-2-1 tanh", "1-3-1 tanh"] and levels[0].steps[-1].number == 4
    with pytest.raises(fem.ArchiveError, match=r"has no ansatz; expected problem.solution"):
        fem.load(path)
    problem, space = version_1_problem()
    archive = fem.Archive.open(path, problem, space, np.round(space.initial(seed=0), 6))
    wider, x, state, _, previous = archive.level
    assert np.array_equal(x, levels[1].start) and previous.total == levels[0].estimate.total
    assert path.read_bytes() == before
    result = fem.gauss_newton(problem.on(wider), x, fem.relative(1e-3), state=state, max_steps=2)
    archive.solved(result, fem.Estimate("nothing", np.arange(1), np.zeros(1), 0.0))
    with h5py.File(path) as file:
        assert file.attrs["format_version"] == 2
    assert path.read_bytes().startswith(b"dnnfem archive\nversion 2\n")
    assert np.array_equal(fem.read(path)[0].x, levels[0].x)
    assert np.array_equal(fem.load(path)(AT[:, :1]), problem.solution(wider, result.x)(AT[:, :1]))
