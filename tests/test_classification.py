"""Classification: the problem, its probabilities, growth of classifiers, and the norm that preconditions them."""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import optimize

import dnnfem as fem
from dnnfem.archive import Archive, ArchiveError
from dnnfem.functionals import Composed
from dnnfem.functionals.protocols import MatrixNorm
from dnnfem.norms import kronecker, weight_decay
from dnnfem.spaces import Transfer
from dnnfem.testing import check_functional, check_norm


def rings(count=120, seed=0):
    """Return points in three rings and their numbers."""
    random = np.random.default_rng(seed)
    radius, angle = random.uniform(0.0, 3.0, count), random.uniform(0.0, 2.0 * np.pi, count)
    return np.column_stack([radius * np.cos(angle), 2.0 + radius * np.sin(angle)]), radius.astype(int)


def functional(problem, space, alpha=1e-2, quadrature=None):
    return fem.Sum(problem.on(space, quadrature), fem.Tikhonov(space, weight_decay, alpha))


SPACE = fem.FeedforwardSpace(2, (5,), 3)


def solved(problem, alpha=1e-2, space=SPACE, tolerance=1e-8):
    J = functional(problem, space, alpha)
    return J, fem.trust_region(J, space.initial(0), tolerance, norm=kronecker(J), dense=False)


@pytest.fixture(scope="module")
def problem():
    return fem.Classification(*rings())


# ---- the problem


def test_the_value_is_the_mean_of_minus_log_probabilities(problem):
    x = SPACE.initial(3)
    classifier = problem.solution(SPACE, x)
    p = classifier.probabilities(problem.inputs)
    own = p[np.arange(len(p)), problem.numbers(problem.labels)]
    assert problem.on(SPACE).value(x) == pytest.approx(-np.mean(np.log(own)), rel=1e-13)
    assert np.allclose(p.sum(axis=1), 1.0, atol=1e-14) and (p > 0).all()
    assert np.array_equal(np.log(p).argmax(axis=1), classifier(problem.inputs).argmax(axis=1))
    hot = problem.solution(SPACE, x, temperature=2.0)
    assert np.allclose(2.0 * hot(problem.inputs), classifier(problem.inputs))
    assert np.array_equal(hot.labels(problem.inputs), classifier.labels(problem.inputs))


@pytest.mark.parametrize("names", [("a", "b", "c"), (-7, 0, 3), (-1.0, 0.0, 2.0), (b"x", b"y", b"z")])
def test_labels_of_any_type(problem, names):
    inputs, numbers = rings()
    other = fem.Classification(inputs, [names[n] for n in numbers])
    assert other.classes.tolist() == list(names)
    assert np.array_equal(other.numbers([names[2], names[0]]), [2, 0])
    x = SPACE.initial(1)
    assert other.on(SPACE).value(x) == problem.on(SPACE).value(x)
    assert set(other.solution(SPACE, x).labels(inputs).tolist()) <= set(names)


def test_two_classes_and_booleans():
    inputs, numbers = rings()
    problem = fem.Classification(inputs, numbers == 2)
    space = fem.FeedforwardSpace(2, (4,), 2)
    _, result = solved(problem, 1e-3, space, 1e-4)
    assert np.mean(problem.solution(space, result.x).labels(inputs) == (numbers == 2)) > 0.95


def test_the_order_of_classes_does_not_matter(problem):
    """Renaming the classes permutes the rows of the output layer and nothing else."""
    inputs, numbers = rings()
    permutation = np.array([2, 0, 1])
    other = fem.Classification(inputs, permutation[numbers])
    x = SPACE.initial(2)
    y, outer = x.copy(), SPACE.condensable
    y[outer[permutation]] = x[outer]
    one, two = problem.on(SPACE).linearize(x), other.on(SPACE).linearize(y)
    assert two.value == pytest.approx(one.value, rel=1e-14)
    assert np.allclose(two.derivative[outer[permutation]], one.derivative[outer], rtol=1e-12, atol=1e-15)


def test_weights_of_classes_are_repeated_samples():
    inputs, numbers = rings()
    given_ = fem.Classification(inputs, numbers, class_weights={0: 3, 2: 2})
    times = np.array([3, 1, 2])[numbers]
    repeated = fem.Classification(np.repeat(inputs, times, axis=0), np.repeat(numbers, times))
    x = SPACE.initial(4)
    one, two = given_.on(SPACE).linearize(x), repeated.on(SPACE).linearize(x)
    assert one.value == pytest.approx(two.value, rel=1e-13)
    assert np.allclose(one.derivative, two.derivative, rtol=1e-11, atol=1e-15)
    assert np.allclose(one.gram(), two.gram(), rtol=1e-10, atol=1e-14)


def test_balanced_weights_give_every_class_the_same_sum():
    inputs, numbers = rings()
    weights = np.random.default_rng(0).uniform(0.5, 2.0, len(numbers))
    balanced = fem.Classification(inputs, numbers, weights, "balanced")
    assert np.allclose(np.bincount(numbers, balanced.quadrature.weights), 1.0 / 3.0)


def test_balanced_weights_find_a_rare_class():
    """Two overlapping classes, 5 to 100: unweighted, the rare one is hardly ever predicted; balanced, as often."""
    random = np.random.default_rng(0)
    inputs, rare = random.standard_normal((2100, 2)), np.arange(2100) % 21 == 0
    inputs[rare, 0] += 1.5
    space = fem.FeedforwardSpace(2, (3,), 2)
    recall = {}
    for weights in (None, "balanced"):
        problem = fem.Classification(inputs[:1050], rare[:1050], class_weights=weights)
        _, result = solved(problem, 1e-2, space, 1e-4)
        found = problem.solution(space, result.x).labels(inputs[1050:])
        recall[weights] = [float(np.mean(found[rare[1050:] == own] == own)) for own in (False, True)]
    # The best boundary of two unit Gaussians at distance 1.5 is half way: 77 % of either class.
    assert recall[None][1] < 0.3 and recall[None][0] > 0.95
    assert all(0.6 < share < 0.95 for share in recall["balanced"])


def test_samples_can_be_left_out(problem):
    """The data of a part are those of the problem, so that folds see all classes and one scaling."""
    part = problem.quadrature.subset(np.arange(10))
    assert problem.on(SPACE, part).value(SPACE.initial(0)) == pytest.approx(
        float(np.mean(problem.on(SPACE).samplewise(SPACE.initial(0))[:10]) * 120), rel=1e-12
    )


def test_bad_input():
    inputs, numbers = rings(6)
    numbers = np.arange(6) % 2
    for message, arguments in (
        ("^labels: got 1 different ones", (inputs, np.zeros(6))),
        ("^labels: got 5, expected 6", (inputs, numbers[:5])),
        ("^labels: got shape \\(6, 1\\)", (inputs, numbers[:, None])),
        ("^labels: got values of type int, str", (inputs, [0, "0", 0, 1, 1, 1])),
        ("^labels: got values of type NoneType, str", (inputs, ["a", None, "a", "b", "b", "b"])),
        ("^labels: got NaN", (inputs, [0.0, np.nan, 1.0, 1.0, 1.0, 1.0])),
        ("^labels: got 1.5, expected whole numbers or names", (inputs, [0.0, 1.5, 1.0, 1.0, 1.0, 1.0])),
        ("^inputs: got NaN", (np.full((6, 2), np.nan), numbers)),
        ("^inputs: got shape", (np.empty((6, 0)), numbers)),
        ("^weights: got -1", (inputs, numbers, -np.ones(6))),
        ('^class_weights: got .even., expected "balanced"', (inputs, numbers, None, "even")),
        ("^class_weights: got \\[1.0, 2.0\\], expected .balanced. or a mapping", (inputs, numbers, None, [1.0, 2.0])),
        ("^class_weights: got \\[7\\], expected labels among \\[0, 1\\]", (inputs, numbers, None, {7: 1.0})),
        ("^class_weights: .*positive", (inputs, numbers, None, {1: 0.0})),
        ("^class_weights: got {0: 'x'}, expected positive", (inputs, numbers, None, {0: "x"})),
        ("^class_weights: got {0: None}, expected positive", (inputs, numbers, None, {0: None})),
        ("^class_weights: got {0: nan}, expected positive", (inputs, numbers, None, {0: np.nan})),
        ("^backend", (inputs, numbers, None, None, "none")),
    ):
        with pytest.raises(ValueError, match=message):
            fem.Classification(*arguments)
    problem = fem.Classification(inputs, numbers)
    with pytest.raises(ValueError, match="^space: got 3 outputs .* expected 2"):
        problem.on(SPACE)
    with pytest.raises(ValueError, match="^labels: got \\[5\\], expected labels among \\[0, 1\\]"):
        problem.numbers([0, 5])
    space = fem.FeedforwardSpace(2, (2,), 2)
    for temperature in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="^temperature"):
            problem.solution(space, space.initial(), temperature)


def test_an_archive_resumes_it(tmp_path, problem):
    path, start = tmp_path / "run.h5", SPACE.initial(0)
    archive = Archive.open(path, problem, SPACE, start)
    space, x, state, quadrature, _ = archive.level
    result = fem.trust_region(problem.on(space, quadrature), x, 0.0, state=state, observer=archive, max_steps=3)
    again = Archive.open(path, fem.Classification(*rings()), SPACE, start).level
    resumed = fem.trust_region(problem.on(space, again.quadrature), again.x, 0.0, state=again.state, max_steps=3)
    assert np.array_equal(resumed.x, result.x)
    with pytest.raises(ArchiveError, match="different in classes"):
        inputs, numbers = rings()
        Archive.open(path, fem.Classification(inputs, np.array(list("abc"))[numbers]), SPACE, start)


# ---- solving


@pytest.mark.parametrize("backend", ["reference", "compiled"])
def test_the_functional_keeps_its_contract(backend):
    problem = fem.Classification(*rings(50), backend=backend)
    check_functional(functional(problem, SPACE), SPACE.initial(1))


def test_softmax_regression_against_scipy():
    """With features held fixed the problem is convex: two solvers find one minimum."""
    problem = fem.Classification(*rings())
    J, x = functional(problem, SPACE, 1e-2), SPACE.initial(0)
    free = SPACE.condensable.ravel()
    matrix = np.zeros((SPACE.dim, free.size))
    matrix[free, np.arange(free.size)] = 1.0
    offset = x.copy()
    offset[free] = 0.0
    part = Composed(J, Transfer(matrix, offset))
    mine = fem.trust_region(part, np.zeros(free.size), 1e-10)
    theirs = optimize.minimize(**fem.as_scipy(part), x0=np.zeros(free.size), method="trust-ncg", options={"gtol": 1e-9})
    assert mine.value == pytest.approx(theirs.fun, rel=1e-12)
    here = part.linearize(mine.x)
    assert np.allclose(here.hessian(np.eye(free.size)), here.gram(), atol=1e-13)


def test_gauss_newton_and_condensation_refuse(problem):
    J = functional(problem, SPACE)
    assert J.condensable is None
    with pytest.raises(ValueError, match="no sum of squares"):
        fem.gauss_newton(J, SPACE.initial(0))
    with pytest.raises(ValueError, match="without condensable coefficients"):
        fem.condense(J)


@pytest.mark.parametrize("hidden", [(5,), (4, 3)])
@pytest.mark.parametrize("alpha", [0.0, 1e-2])
def test_the_kronecker_norm_is_one(problem, hidden, alpha):
    space = fem.FeedforwardSpace(2, hidden, 3, "gelu")
    J = functional(problem, space, alpha) if alpha else problem.on(space)
    check_norm(kronecker(J)(space, J.linearize(space.initial(1))))


def test_the_kronecker_norm_of_softmax_regression_is_the_curvature():
    """With equal probabilities the two factors are independent, and with one layer there is nothing else."""
    inputs, numbers = rings()
    space, problem = fem.FeedforwardSpace(2, (2,), 3), fem.Classification(inputs, numbers)
    x = np.zeros(space.dim)
    x[:6] = [1.0, 0.3, -0.4, 1.0, 0.0, 0.2]
    J = functional(problem, space, 1e-1)
    norm, gram = kronecker(J)(space, J.linearize(x)).dense(), J.linearize(x).gram()
    last = np.sort(space.condensable.ravel())
    exact = gram[np.ix_(last, last)]
    # Up to the floor, a multiple of the penalty.
    rest = norm[np.ix_(last, last)] - exact
    penalty = 0.1 * weight_decay(space).weights[last]
    assert np.allclose(rest, np.diag(rest[0, 0] / penalty[0] * penalty), atol=1e-12)
    assert 0.0 < rest[0, 0] < 0.01 * exact[0, 0]


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_the_kronecker_norm_of_one_sample_is_the_curvature_of_each_layer(problem, factor):
    """What a layer reads and its cotangents cannot depend on each other if there is only one value of them."""
    space = fem.FeedforwardSpace(2, (4, 3), 3, "gelu")
    J = fem.Scaled(functional(problem, space, 1.0, problem.quadrature.subset([7])), factor)
    x = space.initial(5)
    norm, gram = kronecker(J)(space, J.linearize(x)).dense(), J.linearize(x).gram()
    penalty = factor * weight_decay(space).weights
    for block in space.blocks:
        part = np.arange(block.start, block.stop)
        inside = np.ix_(part, part)
        # Up to the floor, a small multiple of the penalty.
        floor = (norm - gram)[inside]
        assert np.allclose(floor, np.diag(floor[0, 0] / penalty[part[0]] * penalty[part]), atol=1e-12)
        assert 0.0 < floor[0, 0] < 1e-2 * penalty[part[0]]
        rest = np.setdiff1d(np.arange(space.dim), part)
        assert not norm[np.ix_(part, rest)].any()


def test_the_kronecker_norm_refuses(problem):
    J = functional(problem, SPACE)
    with pytest.raises(ValueError, match="^functional: got 2 integrals"):
        kronecker(fem.Sum(problem.on(SPACE), problem.on(SPACE)))
    with pytest.raises(ValueError, match="^functional: got Shifted"):
        kronecker(fem.Shifted(J, np.zeros(SPACE.dim)))
    full = MatrixNorm(np.eye(SPACE.dim) + 0.1)
    with pytest.raises(ValueError, match="^functional: got a penalty in the norm MatrixNorm, expected a diagonal one"):
        kronecker(fem.Sum(problem.on(SPACE), fem.Tikhonov(SPACE, lambda space: full, 1e-2)))
    # What a penalty of no weight is measured in does not matter, nor who wrote a diagonal norm.
    kronecker(fem.Sum(problem.on(SPACE), fem.Tikhonov(SPACE, lambda space: full, 0.0)))
    kronecker(fem.Sum(problem.on(SPACE), fem.Tikhonov(SPACE, lambda space: MatrixNorm(2.0 * np.eye(space.dim)), 1.0)))
    assert kronecker(fem.Scaled(J, 2.0))(SPACE, J.linearize(SPACE.initial(0))).inner(
        np.ones(SPACE.dim), np.ones(SPACE.dim)
    ) == pytest.approx(
        2.0 * kronecker(J)(SPACE, J.linearize(SPACE.initial(0))).inner(np.ones(SPACE.dim), np.ones(SPACE.dim))
    )


# ---- estimators


def test_the_algebraic_estimate_is_asymptotically_exact():
    problem = fem.Classification(*rings())
    J, result = solved(problem, 1e-2)
    H = J.linearize(result.x).hessian(np.eye(SPACE.dim))
    x = result.x + 1e-5 * np.random.default_rng(0).standard_normal(SPACE.dim)
    g = J.linearize(x).derivative
    C = J.linearize(x).gram()
    assert fem.algebraic(J, x).total == pytest.approx(np.sqrt(g @ np.linalg.solve(C, g)), rel=2e-3)
    assert np.linalg.eigvalsh(H).min() > 0.0


@pytest.mark.parametrize("directions", ["sphere", "pairs"])
def test_growth(directions):
    problem = fem.Classification(*rings(300))
    space = fem.FeedforwardSpace(2, (2,), 3)
    x, values = space.initial(0), []
    for _ in range(3):
        J = functional(problem, space, 1e-3)
        result = fem.trust_region(J, x, 1e-3, norm=kronecker(J), dense=False, max_steps=60)
        values.append(result.value)
        candidates = fem.ridge_candidates(space, problem.quadrature, seed=0, count=40, directions=directions)
        estimate = fem.hierarchical(J, result.x, candidates, polish=3)
        space, P = fem.widen(space, estimate.cells[fem.dorfler(estimate.indicators, theta=0.8)])
        x = P(result.x)
    assert values[0] > 1.2 * values[1] > values[2]
    assert set(estimate.parts) == {"candidates", "width", "algebraic", "sampling"}


def test_insertion_predicts_the_gain_of_small_steps(problem):
    """``g^T C^-1 g`` is twice the gain of a Newton step in the new coefficients, all others held fixed."""
    J, result = solved(problem, 1e-3)
    candidates = fem.ridge_candidates(SPACE, problem.quadrature, seed=1, count=50)
    estimate = fem.insertion_sensitivity(J, result.x, candidates)
    best = int(np.argmax(estimate.indicators))
    wide, P = fem.widen(SPACE, [estimate.cells[best]])
    new = wide.outgoing(0, 5)
    here = J.on(space=wide, transfer=P).linearize(P(result.x))
    g, C = here.derivative[new], here.gram()[np.ix_(new, new)]
    assert estimate.indicators[best] ** 2 == pytest.approx(g @ np.linalg.solve(C, g), rel=1e-6)
    # In small batches as in large ones.
    few = fem.insertion_sensitivity(J, result.x, list(estimate.cells[:3]))
    assert np.allclose(few.indicators, estimate.indicators[:3], rtol=1e-7)


def test_removal_of_a_neuron_that_does_nothing(problem):
    J, result = solved(problem, 1e-3)
    dead = fem.FeedforwardSpace(2, (6,), 3)
    neuron = fem.ridge_candidates(SPACE, problem.quadrature, count=1).draw(problem.ansatz.reference, result.x)
    wide, P = fem.widen(SPACE, neuron)
    assert wide == dead
    rise = fem.removal(J.on(space=wide, transfer=P), P(result.x))
    assert rise.indicators[5] < 1e-8 < rise.indicators[:5].min()


def test_noise_alone_is_no_error():
    """Labels drawn by chance: what candidates gain is what Fisher's information predicts, and is taken off."""
    gains = []
    for seed in range(8):
        random = np.random.default_rng(seed)
        inputs = random.uniform(-1.0, 1.0, (600, 2))
        problem = fem.Classification(inputs, random.integers(0, 3, 600))
        space = fem.FeedforwardSpace(2, (1,), 3)
        J = functional(problem, space, 1e-6)
        x = np.zeros(space.dim)
        x[:3] = [1.0, 0.0, 0.0]
        result = fem.trust_region(J, x, 1e-6, norm=kronecker(J), dense=False)
        estimate = fem.hierarchical(
            J, result.x, fem.ridge_candidates(space, problem.quadrature, seed=seed, count=60), polish=0
        )
        gains.append(estimate.parts["width"] ** 2 * 600)
        assert estimate.parts["sampling"] ** 2 * 600 < space.dim
    # Less than a tenth of the degrees of freedom that candidates have; without correction it would be all of them.
    assert np.median(gains) < 10.0
    assert problem.on(space).dispersion == pytest.approx(1.0 / 600)


# ---- calibration


@given(st.floats(0.2, 5.0), st.integers(2, 5), st.integers(0, 1000))
def test_the_temperature_is_recovered(temperature, classes, seed):
    random = np.random.default_rng(seed)
    logits = 2.0 * random.standard_normal((20_000, classes))
    noise = random.gumbel(size=logits.shape)
    labels = np.argmax(logits + noise, axis=1)
    assert fem.calibrated(temperature * logits, labels) == pytest.approx(temperature, rel=0.06)


def test_the_temperature_minimizes_the_cross_entropy():
    random = np.random.default_rng(1)
    logits, labels = random.standard_normal((200, 3)), random.integers(0, 3, 200)
    logits[np.arange(200), labels] += 1.0

    def loss(t):
        u = logits / t
        return np.mean(np.log(np.exp(u).sum(axis=1)) - u[np.arange(200), labels])

    best = optimize.minimize_scalar(loss, bounds=(0.05, 20.0), method="bounded", options={"xatol": 1e-12})
    assert fem.calibrated(logits, labels) == pytest.approx(best.x, rel=1e-6)
    assert fem.calibrated(1e200 * logits, labels) == pytest.approx(1e200 * best.x, rel=1e-6)


def test_calibration_error():
    p = np.array([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 10)
    right = np.array([0] * 9 + [1] + [1] * 6 + [0] * 4)
    assert fem.expected_calibration_error(p, right) == pytest.approx(0.0, abs=1e-15)
    assert fem.expected_calibration_error(p, np.zeros(20, dtype=int)) == pytest.approx(0.5 * 0.1 + 0.5 * 0.6)
    assert fem.expected_calibration_error(p, right, bins=1) == pytest.approx(0.0, abs=1e-15)


def test_calibration_refuses():
    logits = np.array([[1.0, 0.0], [0.0, 1.0]])
    for labels in ([0, 1], [1, 0]):
        with pytest.raises(ValueError, match="^logits: got ones without a temperature"):
            fem.calibrated(logits, labels)
    with pytest.raises(ValueError, match="^labels: got numbers from 0 to 2"):
        fem.calibrated(logits, [0, 2])
    with pytest.raises(ValueError, match="^labels: got shape"):
        fem.calibrated(logits, [0])
    with pytest.raises(ValueError, match="^probabilities: got rows"):
        fem.expected_calibration_error(logits + 1.0, [0, 1])
    with pytest.raises(ValueError, match="^bins"):
        fem.expected_calibration_error(logits, [0, 1], 0)


def test_candidates_between_pairs_lie_in_the_data():
    """Directions are combinations of the data: none where these do not vary."""
    random = np.random.default_rng(0)
    points = random.standard_normal((40, 2)) @ random.standard_normal((2, 9))
    problem = fem.Classification(points, np.arange(40) % 2)
    space = fem.FeedforwardSpace(9, (1,), 2)
    rule = fem.ridge_candidates(space, problem.quadrature, count=30, directions="pairs")
    reference = problem.ansatz.reference(points)
    weights = np.array([n.weights for n in rule.draw(problem.ansatz.reference, space.initial(0))])
    span = np.linalg.svd(reference - reference.mean(axis=0))[2][:2]
    assert np.allclose(weights - weights @ span.T @ span, 0.0, atol=1e-12 * np.abs(weights).max())
    with pytest.raises(ValueError, match="^directions"):
        fem.ridge_candidates(space, problem.quadrature, directions="nowhere")


def test_the_temperature_is_that_of_samples_with_their_weights():
    random = np.random.default_rng(0)
    logits, labels = 3.0 * random.normal(size=(60, 3)), random.integers(0, 3, 60)
    logits[np.arange(40), labels[:40]] += 4.0
    counts = random.integers(0, 4, 60)
    repeated = fem.calibrated(np.repeat(logits, counts, axis=0), np.repeat(labels, counts))
    assert fem.calibrated(logits, labels, 0.1 * counts) == pytest.approx(repeated, rel=1e-10)
    for weights in (-counts, np.zeros(60), counts[:5]):
        with pytest.raises(ValueError, match=r"^weights: got"):
            fem.calibrated(logits, labels, weights)
