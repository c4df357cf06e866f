"""Inverse problems: constants among the outputs of a space, laws that take them, their estimates and intervals."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import test_device
import test_jets
import test_kernels
import torch
from conftest import DEVICE
from test_jets import COMPONENTS
from test_kernels import check_parity

import dnnfem as fem
from dnnfem.archive import read, schema
from dnnfem.functionals import Integral
from dnnfem.kernels.laws import Misfit
from dnnfem.kernels.reference import evaluate
from dnnfem.problems.ansatz import AffineAnsatz
from dnnfem.testing import check_functional, check_refinement, check_space

PLAIN = fem.FeedforwardSpace(2, (4, 5), 2, unknowns=1)
PERIODIC = fem.FeedforwardSpace(2, (4, 3), 1, "sin", periodic=(1,), unknowns=2)
RESIDUAL = fem.FeedforwardSpace(2, (3, 3), 2, "gelu", (False, True), unknowns=2)
SPACES = {"plain": PLAIN, "periodic": PERIODIC, "residual": RESIDUAL}
RATE = 1.3


def without(space):
    """Return the space of the functions alone."""
    return fem.FeedforwardSpace(
        space.inputs, space.hidden, space.outputs, space.activation, space.residual, space.periodic
    )


def moved(space, seed=0):
    """Return coefficients with unknowns that are not zero."""
    x = space.initial(seed)
    x[space.dim - space.unknowns :] = 0.3 + np.arange(space.unknowns)
    return x


def decay(noise=0.0, count=40, seed=0, start=0.5, **options):
    """Return ``u' = -k u``, ``u(0) = 1`` on [0, 2] with observations."""
    random = np.random.default_rng(seed)
    points = random.uniform(0.0, 2.0, (count, 1))
    values = np.exp(-RATE * points[:, 0]) + noise * random.standard_normal(count)
    return fem.Collocation(
        lambda p, u, k: u.d(0) + k * u,
        fem.Box([0.0], [2.0]),
        dirichlet={(0, 0): 1.0},
        unknowns={"k": start},
        observations=(points, values),
        **options,
    )


def fitted(problem, width=6, seed=0, rounds=3, steps=30, quadrature=None):
    """Solve, and give the observations their weight, several times; return the functional and what is known then."""
    unknowns = len(problem.unknowns)
    space = fem.FeedforwardSpace(problem.domain.dim, (width,), problem.outputs, unknowns=unknowns)
    x, quadrature = space.initial(seed), quadrature or problem.quadrature
    for number in range(rounds):
        J = problem.on(space, quadrature)
        x = fem.trust_region(J, x, 0.0, curvature=True, max_steps=steps).x
        found = fem.confidence(J, x)
        if number < rounds - 1:
            quadrature = found.reweighted(quadrature)
    return J, x, found


def least_squares(problem):
    """Return the estimate of the rate, and its standard deviation, by least squares with the solution by hand."""
    (points, values), rate = problem.observations, RATE
    t = points[:, 0]
    for _ in range(50):
        slope = -t * np.exp(-rate * t)
        rate -= np.sum(slope * (np.exp(-rate * t) - values)) / np.sum(slope**2)
    variance = np.sum((np.exp(-rate * t) - values) ** 2) / (len(t) - 1)
    return rate, np.sqrt(variance / np.sum((t * np.exp(-rate * t)) ** 2))


# ---- spaces


@pytest.mark.parametrize("name", SPACES)
def test_unknowns_are_constant_outputs_behind_the_functions(name):
    space, x = SPACES[name], moved(SPACES[name])
    check_space(space)
    assert space.dim == without(space).dim + space.unknowns
    assert not space.initial(0)[space.dim - space.unknowns :].any()
    points = np.random.default_rng(0).uniform(-1.0, 1.0, (7, 2))
    outputs = evaluate(space.program, x, points)[frozenset()][0]
    functions = evaluate(without(space).program, x[: space.dim - space.unknowns], points)[frozenset()][0]
    assert outputs[:, : space.outputs] == pytest.approx(functions, rel=1e-14, abs=1e-15)
    assert np.array_equal(outputs[:, space.outputs :], np.tile(0.3 + np.arange(space.unknowns), (7, 1)))
    assert not np.isin(np.arange(space.dim - space.unknowns, space.dim), space.condensable).any()


def test_a_space_without_unknowns_is_what_it_was():
    space = without(PLAIN)
    assert space.program.is_identity and "unknowns" not in space.attributes() and "unknown" not in str(space)
    assert str(PERIODIC) == "2-4-3-1 sin, periodic in 1, 2 unknowns" and str(PLAIN) == "2-4-5-2 tanh, 1 unknown"


@pytest.mark.parametrize("law", ["misfit", "cross entropy"])
@pytest.mark.parametrize("name", SPACES)
def test_backends_agree(name, law):
    check_parity(*test_kernels.problem(SPACES[name].program, law, m=70))
    check_parity(*test_device.problem(SPACES[name].program, law, m=70))


@pytest.mark.parametrize("name", SPACES)
def test_backends_agree_on_jets(name):
    check_parity(*test_jets.problem(SPACES[name].program, COMPONENTS["Laplacian"], m=70))
    check_parity(*test_device.jets(SPACES[name].program, COMPONENTS["Laplacian"], m=70))


@pytest.mark.parametrize("name", SPACES)
def test_columns_of_systems_are_those_of_the_unknowns(name):
    space, m = SPACES[name], 30
    random, outputs = np.random.default_rng(0), space.outputs + space.unknowns
    quadrature = fem.Quadrature.samples(random.uniform(-1, 1, (m, 2)), random.standard_normal((m, outputs)))
    ansatz = AffineAnsatz(np.zeros(2), np.ones(2), np.zeros(outputs), np.ones(outputs))
    here = Integral(space, quadrature, ansatz, Misfit()).linearize(moved(space))
    columns = np.array([space.dim - 1, 3, space.condensable[0, -1]])
    assert here.system(columns).matrix == pytest.approx(here.system().matrix[:, columns], rel=1e-12, abs=1e-14)
    # The derivative of a constant is one, in its own residual.
    expected = np.zeros((outputs, m))
    expected[-1] = np.sqrt(1.0 / m)
    assert np.sort(np.ravel(here.system(columns[:1]).matrix)) == pytest.approx(np.sort(expected.ravel()), abs=1e-14)


@pytest.mark.parametrize("name", SPACES)
def test_refinement_keeps_functions_and_unknowns(name):
    space, x = SPACES[name], moved(SPACES[name])
    quadrature = fem.Quadrature.samples(np.random.default_rng(0).uniform(-1, 1, (20, 2)), np.zeros(20))
    deep, transfer = fem.insert_layer(space, 1)
    check_refinement(space, deep, transfer, x)
    pool = fem.ridge_candidates(space, quadrature, count=3).draw(lambda p: p, x)
    wide, transfer = fem.widen(space, pool)
    check_refinement(space, wide, transfer, x)
    assert wide.unknowns == space.unknowns
    assert np.array_equal(transfer(x)[wide.dim - wide.unknowns :], x[space.dim - space.unknowns :])
    cells = [(n, k) for n, w in enumerate(space.hidden) for k in range(w, wide.hidden[n]) if not space.residual[n]]
    coarse, back = fem.coarsen(wide, cells)
    assert coarse == space and np.array_equal(back.project(transfer(x)), x)


# ---- problems


@pytest.mark.parametrize("backend", ["reference", "compiled", "device"])
def test_derivatives_of_a_problem_with_unknowns(backend):
    problem = fem.Collocation(
        lambda p, u, a, b: [u[0].dt - a * u[0].laplacian + b * u[1] ** 2, u[1].dt - b * u[0]],
        fem.Box([0.0], [2.0]),
        time=(0.0, 1.0),
        dirichlet={(0, 0): [0.0, 1.0]},
        initial=lambda p: [p.x[0], torch.cos(p.x[0])],
        boundary={(0, 1): lambda p, u, b: u[0].normal - b * p.t},
        outputs=2,
        unknowns={"a": 0.2, "b": 0.0},
        observations=([[0.5, 0.5], [1.5, 1.0], [2.0, 0.2]], [[1.0, 2.0], [0.5, -1.0], [0.0, 1.0]]),
        backend=backend,
    )
    space = fem.FeedforwardSpace(2, (4,), 2, unknowns=2)
    x = moved(space)
    functional = problem.on(space)
    check_functional(functional, x)
    assert [term.region for term in functional.terms] == [None, "boundary", "observations"]
    assert functional.condensable is None and problem.laws["observations"].affine
    solution = problem.solution(space, x)
    # Sizes are those of the starting values, or one.
    assert solution.unknowns == pytest.approx({"a": 0.2 + 0.2 * 0.3, "b": 1.3})
    # Conditions are those of the functions, and observations are read where they are.
    edge = np.column_stack([np.zeros(5), np.linspace(0.0, 1.0, 5)])
    assert solution(edge) == pytest.approx(np.tile([0.0, 1.0], (5, 1)), abs=1e-14)
    assert solution.gradient(edge).shape == (5, 2, 2) and solution(np.empty((0, 2))).shape == (0, 2)
    assert solution.to_torch()(torch.tensor(edge)).numpy() == pytest.approx(solution(edge), abs=1e-13)
    points, values = problem.observations
    misfit = 0.5 * np.mean(np.sum((solution(points) - values) ** 2, axis=1))
    assert functional.terms[-1].value(x) == pytest.approx(misfit, rel=1e-12)


def test_a_law_with_given_unknowns_is_the_law_without():
    space, unknown = fem.FeedforwardSpace(1, (5,), 1), fem.FeedforwardSpace(1, (5,), 1, unknowns=1)
    with_k = decay(start=0.7)
    plain = fem.Collocation(lambda p, u: u.d(0) + 0.7 * u, fem.Box([0.0], [2.0]), dirichlet={(0, 0): 1.0})
    x = space.initial(3)
    scales = with_k.laws["law"].scale / plain.laws["law"].scale
    assert scales == pytest.approx(1.0, abs=0.5)
    law = with_k.on(unknown).terms[0]
    assert law.value(np.append(x, 0.0)) * scales**2 == pytest.approx(plain.on(space).value(x), rel=1e-12)
    assert plain.solution(space, x).unknowns == {}


def test_estimators_and_refinement_of_points_leave_observations_alone():
    problem = decay(0.01)
    space = fem.FeedforwardSpace(1, (5,), 1, unknowns=1)
    J, x = problem.on(space), space.initial(0)
    estimate = fem.residual(J, x)
    assert len(estimate.indicators) == problem.quadrature.cell_count
    fine = fem.refine_quadrature(problem.quadrature, estimate.cells[:3])
    assert len(fine) > len(problem.quadrature)
    assert fine.regions["observations"].hash == problem.quadrature.regions["observations"].hash
    neurons = fem.hierarchical(J, x, fem.ridge_candidates(space, fine, count=10))
    wide, transfer = fem.widen(space, neurons.cells)
    assert problem.on(wide, fine).value(transfer(x)) == pytest.approx(problem.on(space, fine).value(x), rel=1e-10)
    assert fem.insertion_sensitivity(J, x, neurons.cells).cost.tolist() == [3.0] * len(neurons.cells)
    assert fem.removal(J, x).cost.tolist() == [-3.0] * 5


# ---- recovery


@pytest.mark.parametrize("start", [0.1, 5.0, 0.0])
def test_without_noise_the_unknown_is_found_to_many_digits(start):
    _, _, found = fitted(decay(start=start), rounds=4, steps=200)
    assert abs(found.values["k"] / RATE - 1.0) < 1e-7
    low, high = found.intervals()["k"]
    assert high - low < 1e-5 and found.noise < 1e-6


def test_several_unknowns_and_outputs():
    # u' = -a u + b v, v' = -b u, observed in both.
    a, b = 0.8, 2.5
    matrix = np.array([[-a, b], [-b, 0.0]])
    values, vectors = np.linalg.eig(matrix)

    def exact(t):
        modes = vectors * np.linalg.solve(vectors, np.array([1.0, 0.5]))
        return (np.exp(np.multiply.outer(t, values)) @ modes.T).real

    points = np.linspace(0.05, 1.0, 20)[:, None]
    problem = fem.Collocation(
        lambda p, u, a, b: [u[0].d(0) + a * u[0] - b * u[1], u[1].d(0) + b * u[0]],
        fem.Box([0.0], [1.0]),
        dirichlet={(0, 0): [1.0, 0.5]},
        outputs=2,
        unknowns={"a": 0.1, "b": 1.0},
        observations=(points, exact(points[:, 0])),
    )
    _, _, found = fitted(problem, width=8, rounds=4, steps=60)
    assert found.values == pytest.approx({"a": a, "b": b}, rel=1e-6)
    assert found.covariance.shape == (2, 2) and np.linalg.eigvalsh(found.covariance).min() > 0.0


# ---- intervals


def test_estimate_and_deviation_are_those_of_least_squares_with_the_exact_solution():
    problem = decay(0.02)
    J, x, found = fitted(problem)
    rate, deviation = least_squares(problem)
    assert abs(found.values["k"] - rate) < 0.02 * deviation
    assert found.deviations["k"] == pytest.approx(deviation, rel=0.02)
    assert found.fitted == pytest.approx(1.0, abs=0.05) and found.remarks == ()
    assert found.noise == pytest.approx(
        np.sqrt(2.0 * J.terms[1].value(x) / J.terms[1].quadrature.total * 40 / 39), 1e-2
    )
    assert str(found).startswith("k = 1.2") and "noise 0.02" in str(found)
    # One, two and three standard deviations of the normal distribution, where the noise is known.
    known = fem.confidence(J, x, noise=0.02)
    for level, width in ((0.682689, 1.0), (0.954500, 2.0), (0.997300, 3.0)):
        low, high = known.intervals(level)["k"]
        assert (high - low) / 2.0 == pytest.approx(width * known.deviations["k"], rel=1e-4)
    assert known.deviations["k"] == pytest.approx(deviation * 0.02 / found.noise, rel=0.02)


def test_formulas_against_dense_matrices():
    problem, space = decay(0.02), fem.FeedforwardSpace(1, (2,), 1, unknowns=1)
    J = problem.on(space)
    x = fem.trust_region(J, space.initial(0), 0.0, curvature=True, max_steps=10).x
    law, observations = (term.linearize(x) for term in J.terms)
    # Of a space this small the matrices of the normal equations are regular.
    H_e, H_o = law.gram(), observations.gram()
    inverse, m, w = np.linalg.inv(H_e + H_o), 40, 1.0 / 40
    W = inverse @ H_o
    freedom = m - 2.0 * np.trace(W) + np.trace(W @ W)
    variance = 2.0 * observations.value / w / freedom
    followed = variance * w * np.trace(W - W @ W)
    left = max(2.0 * law.value - followed, 0.2 * law.value) / np.trace(W)
    z = 0.5 * inverse[:, -1]
    found = fem.confidence(J, x)
    assert found.fitted == pytest.approx(np.trace(W), rel=1e-4) and found.freedom == pytest.approx(freedom, rel=1e-5)
    assert found.noise == pytest.approx(np.sqrt(variance), rel=1e-5)
    assert found.parts["noise"].item() == pytest.approx(variance * w * z @ H_o @ z, rel=1e-4)
    assert found.parts["equation"].item() == pytest.approx(left * z @ H_e @ z, rel=1e-3)
    assert found.weight == pytest.approx(max(m * left / variance, 0.1), rel=1e-3)
    assert found.correction == pytest.approx(-z @ J.linearize(x).derivative, rel=1e-3)
    assert found.residual == pytest.approx(np.sqrt(2.0 * law.value), rel=1e-9)
    quadrature = found.reweighted(problem.quadrature)
    assert quadrature.regions["observations"].total == pytest.approx(found.weight, rel=1e-12)
    assert problem.on(space, quadrature).value(x) == pytest.approx(law.value + found.weight * observations.value)


def test_the_weight_of_the_observations_hardly_matters_below_the_balance():
    problem = decay(0.02)
    rate, deviation = least_squares(problem)
    estimates = {}
    for weight in (1e-3, 1e-2, 1.0, 100.0):
        region = problem.quadrature.regions["observations"]
        region = fem.Quadrature(region.points, weight * region.weights, region.data)
        quadrature = fem.Quadrature(
            problem.quadrature.points,
            problem.quadrature.weights,
            cells=problem.quadrature.cells,
            mesh=problem.quadrature.mesh,
            regions={"observations": region},
        )
        _, _, found = fitted(problem, rounds=1, steps=120, quadrature=quadrature)
        estimates[weight] = found
    assert all(abs(estimates[w].values["k"] - rate) < 0.05 * deviation for w in (1e-3, 1e-2))
    # With a large weight the equation gives way to the noise, and the estimate knows that.
    assert estimates[100.0].fitted > 3.0 and any("follow the noise" in r for r in estimates[100.0].remarks)
    assert estimates[100.0].deviations["k"] > 1.2 * deviation and estimates[100.0].weight < 50.0
    assert all(abs(found.values["k"] - rate) < 3.0 * found.deviations["k"] for found in estimates.values())


def test_intervals_cover_as_often_as_they_say():
    # Of 24 intervals at 80 %, less than 14 or all are covered with a probability below 1 % each.
    covered = 0
    for seed in range(24):
        _, _, found = fitted(decay(0.02, count=10, seed=seed, start=1.0), width=4, seed=seed, rounds=2)
        low, high = found.intervals(0.8)["k"]
        covered += low <= RATE <= high
    assert 14 <= covered <= 23


def test_intervals_are_in_the_units_of_the_user():
    # The rate per hour and per minute.
    small = decay(0.02)
    points, values = small.observations
    large = fem.Collocation(
        lambda p, u, k: u.d(0) + k * u,
        fem.Box([0.0], [120.0]),
        dirichlet={(0, 0): 1.0},
        unknowns={"k": 0.5 / 60.0},
        observations=(60.0 * points, values),
    )
    first, second = (fitted(problem)[2] for problem in (small, large))
    assert 60.0 * second.values["k"] == pytest.approx(first.values["k"], rel=1e-3)
    assert 60.0 * second.deviations["k"] == pytest.approx(first.deviations["k"], rel=1e-2)


def test_what_nothing_determines_is_said():
    problem = fem.Collocation(
        lambda p, u, a, b: u.d(0) + (a + b) * u,
        fem.Box([0.0], [2.0]),
        dirichlet={(0, 0): 1.0},
        unknowns={"a": 0.5, "b": 0.5},
        observations=decay(0.02).observations,
    )
    _, _, found = fitted(problem)
    assert any("a is not determined" in r for r in found.remarks)
    assert any("b is not determined" in r for r in found.remarks)
    low, high = found.intervals()["a"]
    assert high - low > 100.0


def test_far_from_a_minimizer_it_says_so():
    problem = decay(0.02)
    space = fem.FeedforwardSpace(1, (6,), 1, unknowns=1)
    assert any("not stationary" in r for r in fem.confidence(problem.on(space), space.initial(0)).remarks)


@pytest.mark.parametrize("options", [{"backend": "reference"}, {"device": DEVICE}])
def test_backends_have_the_same_intervals(options):
    problem, other = decay(0.02), decay(0.02, **options)
    J, x, _ = fitted(problem, rounds=1)
    here, there = fem.confidence(J, x), fem.confidence(other.on(J.space), x)
    assert there.covariance == pytest.approx(here.covariance, rel=1e-6)
    assert there.fitted == pytest.approx(here.fitted, rel=1e-6) and there.weight == pytest.approx(here.weight, rel=1e-6)


# ---- archive


def test_a_run_is_resumed_with_its_weights(tmp_path):
    problem, space = decay(0.02), fem.FeedforwardSpace(1, (3,), 1, unknowns=1)
    path, start = tmp_path / "run.h5", space.initial(0)
    for _ in range(2):
        archive = fem.Archive.open(path, problem, space, start)
        assert archive.level.space == space
        result = fem.trust_region(
            problem.on(space), archive.level.x, 0.0, curvature=True, max_steps=5, observer=archive
        )
    J = problem.on(space)
    quadrature = fem.confidence(J, result.x).reweighted(problem.quadrature)
    estimate = fem.hierarchical(J, result.x, fem.ridge_candidates(space, problem.quadrature, count=9))
    archive.solved(result, estimate)
    fine, transfer = fem.widen(space, estimate.cells)
    archive.refined(np.arange(len(estimate.cells)), fine, transfer, quadrature)
    assert [level.space for level in read(path)] == [space, fine]
    level = fem.Archive.open(path, decay(0.02), space, start).level
    assert np.array_equal(level.x, transfer(result.x)) and level.quadrature.hash == quadrature.hash
    assert problem.on(fine, level.quadrature).value(level.x) == problem.on(fine, quadrature).value(transfer(result.x))
    for other in (decay(0.02, start=0.6), decay(0.03)):
        with pytest.raises(fem.ArchiveError, match="another problem"):
            fem.Archive.open(path, other, space, start)


@pytest.mark.parametrize("name", SPACES)
def test_spaces_are_read_back_from_a_file(name, tmp_path):
    with h5py.File(tmp_path / "space.h5", "w") as file:
        schema.write_space(file, SPACES[name])
        assert schema.read_space(file) == SPACES[name]
        # As files of the first versions are.
        schema.write_space(file.create_group("plain"), without(SPACES[name]))
        assert "unknowns" not in file["plain"].attrs and schema.read_space(file["plain"]) == without(SPACES[name])


def test_observations_keep_the_weight_that_a_quadrature_brings():
    """A problem that is built anew with a quadrature, as `dataclasses.replace` does it, does not forget the weight."""
    problem = decay(0.02)
    region = problem.quadrature.regions["observations"]
    lighter = replace(region, weights=0.1 * region.weights)
    quadrature = replace(problem.quadrature, regions={**problem.quadrature.regions, "observations": lighter})
    again = replace(problem, quadrature=quadrature)
    assert again.quadrature.hash == quadrature.hash != problem.quadrature.hash
    points, values = problem.observations
    other = replace(problem, quadrature=quadrature, observations=(points, np.asarray(values) + 1.0))
    assert other.quadrature.regions["observations"].total == pytest.approx(1.0)


# ---- bad input

GOOD = {"unknowns": {"k": 0.5}, "observations": ([[0.5], [1.0]], [0.6, 0.4])}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unknowns": {"k": 0.5, "c": 1.0}}, r"unknowns: got \['c'\], expected ones that a law takes"),
        ({"unknowns": None}, "law: takes 'k' besides p and u, expected names of unknowns: none"),
        ({"unknowns": {"c": 1.0}}, "law: takes 'k' besides p and u, expected names of unknowns: c"),
        ({"unknowns": {"k": 0.5, "u": 1.0}}, r"unknowns: got 'u', the name of a parameter of law\(p, u\)"),
        ({"unknowns": {"k": 0.5, "p": 1.0}}, r"unknowns: got 'p', the name of a parameter of law\(p, u\)"),
        ({"unknowns": {"k": float("nan")}}, "unknowns: got nan for 'k', expected a finite number"),
        ({"unknowns": {"k": "fast"}}, "unknowns: got 'fast' for 'k', expected a finite number"),
        ({"unknowns": {"k": True}}, "unknowns: got True for 'k', expected a finite number"),
        ({"unknowns": {"k k": 1.0}}, "unknowns: got the name 'k k', expected a keyword"),
        ({"unknowns": ["k"]}, "unknowns: got list, expected names with starting values"),
        ({"observations": np.zeros((3, 2))}, "observations: got ndarray, expected a pair"),
        ({"observations": ([[0.5]], [0.6], [1.0])}, "observations: got tuple, expected a pair"),
        ({"observations": ([[0.5, 0.1]], [0.6])}, r"observations: got points of shape \(1, 2\), expected \(m, 1\)"),
        ({"observations": ([[0.5], [1.0]], [0.6])}, r"observations: got values of shape \(1,\), expected \(2,\)"),
        ({"observations": ([[0.5]], [[0.6, 0.1]])}, r"observations: got values of shape \(1, 2\), expected \(1,\)"),
        ({"observations": ([[0.5], [2.5]], [0.6, 0.4])}, r"observations: got the point \[2.5\], expected all of them"),
        ({"observations": ([[0.5], [np.nan]], [0.6, 0.4])}, r"observations\[0\]: got NaN or infinity in 1 rows"),
        ({"observations": ([[0.5], [1.0]], [0.6, np.inf])}, r"observations\[1\]: got NaN or infinity in 1 rows"),
        ({"observations": (np.empty((0, 1)), [])}, "points: got none"),
    ],
)
def test_bad_problems_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        fem.Collocation(
            lambda p, u, k: u.d(0) + k * u, fem.Box([0.0], [2.0]), dirichlet={(0, 0): 1.0}, **{**GOOD, **changes}
        )


def test_spaces_of_another_number_of_unknowns_are_refused():
    with pytest.raises(ValueError, match="space: got 1-3-1 tanh, expected one with unknowns=1"):
        decay().on(fem.FeedforwardSpace(1, (3,), 1))
    plain = fem.Collocation(lambda p, u: u.d(0), fem.Box([0.0], [1.0]), dirichlet=0.0)
    with pytest.raises(ValueError, match="space: got 1-3-1 tanh, 1 unknown, expected one with unknowns=0"):
        plain.on(fem.FeedforwardSpace(1, (3,), 1, unknowns=1))
    points, unknown = np.linspace(0.0, 1.0, 8)[:, None], fem.FeedforwardSpace(1, (3,), 2, unknowns=1)
    two = fem.Regression(points, np.column_stack([points, points])), fem.Classification(points, np.arange(8) % 2)
    for problem in two:
        with pytest.raises(ValueError, match="space: got 1-3-2 tanh, 1 unknown, expected one with unknowns=0"):
            problem.on(unknown)
    for number in (-1, True, 1.5):
        with pytest.raises(ValueError, match=f"unknowns: got {number}, expected their number"):
            fem.FeedforwardSpace(1, (3,), 1, unknowns=number)


def test_bad_arguments_of_confidence_are_refused():
    problem, space = decay(0.02), fem.FeedforwardSpace(1, (3,), 1, unknowns=1)
    J, x = problem.on(space), space.initial(0)
    found = fem.confidence(J, x)
    with pytest.raises(ValueError, match="noise: got 0.0, expected a positive number"):
        fem.confidence(J, x, noise=0.0)
    with pytest.raises(ValueError, match="noise: got '1 %', expected a positive number"):
        fem.confidence(J, x, noise="1 %")
    with pytest.raises(ValueError, match="level: got 95, expected a probability"):
        found.intervals(95)
    with pytest.raises(ValueError, match="expected 'observations' among them"):
        found.reweighted(fem.Quadrature.samples([[0.0]], [0.0]))
    with pytest.raises(ValueError, match="with 0 terms of observations, expected one"):
        fem.confidence(J.terms[0], x)
    fixed = fem.Collocation(
        lambda p, u: u.d(0) + u, fem.Box([0.0], [2.0]), dirichlet={(0, 0): 1.0}, observations=GOOD["observations"]
    )
    plain = fem.FeedforwardSpace(1, (3,), 1)
    with pytest.raises(ValueError, match="got one without unknowns"):
        fem.confidence(fixed.on(plain), plain.initial(0))


def test_observations_on_the_boundary_may_be_rounded():
    problem = fem.Collocation(
        lambda p, u: u.d(0) + u, fem.Box([0.0], [0.3]), dirichlet={(0, 0): 1.0}, observations=([[0.1 + 0.2]], [0.7])
    )
    assert problem.quadrature.regions["observations"].points.item() > 0.3


def test_observations_do_not_go_on_in_another_slab():
    problem = fem.Collocation(
        lambda p, u, k: u.dt - k * u.laplacian, fem.Box([0.0], [1.0]), (0.0, 1.0), dirichlet=0.0, initial=0.0,
        unknowns={"k": 1.0}, observations=([[0.5, 0.5]], [0.1]),
    )  # fmt: skip
    space = fem.FeedforwardSpace(2, (3,), 1, unknowns=1)
    with pytest.raises(ValueError, match="problem: got one with observations"):
        fem.next_slab(problem, problem.solution(space, space.initial(0)), 2.0)
