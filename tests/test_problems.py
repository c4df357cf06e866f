"""Regression: bad input is refused by name, odd input works, and scaling is nobody's business."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from dnnfem.problems import Regression
from dnnfem.quadrature import Quadrature
from dnnfem.solvers import gauss_newton
from dnnfem.spaces import FeedforwardSpace

RANDOM = np.random.default_rng(3)
INPUTS = RANDOM.uniform(-1.0, 1.0, (12, 2))
TARGETS = np.column_stack([INPUTS[:, 0] * INPUTS[:, 1], np.sin(INPUTS[:, 0])])
SPACE = FeedforwardSpace(2, (3,), 1)
PAIR = FeedforwardSpace(2, (3,), 2)

NAN, INFINITE = INPUTS.copy(), INPUTS.copy()
NAN[4, 1], INFINITE[5, 0] = np.nan, -np.inf

BAD = {
    "NaN in the inputs": ({"inputs": NAN}, "inputs", "row 4"),
    "infinity in the inputs": ({"inputs": INFINITE}, "inputs", "row 5"),
    "NaN in the targets": ({"targets": [np.nan] * 12}, "targets", "12 rows"),
    "infinity in the targets": ({"targets": [*range(11), np.inf]}, "targets", "row 11"),
    "fewer targets than inputs": ({"targets": TARGETS[:-1]}, "targets", "11 rows"),
    "more targets than inputs": ({"targets": np.ones(13)}, "targets", "13 rows"),
    "one sample": ({"inputs": INPUTS[:1], "targets": TARGETS[:1]}, "inputs", "1 samples"),
    "no samples": ({"inputs": np.empty((0, 2)), "targets": np.empty((0, 1))}, "inputs", "0 samples"),
    "empty lists": ({"inputs": [], "targets": []}, "inputs", "0 samples"),
    "no features": ({"inputs": np.empty((12, 0))}, "inputs", "(12, 0)"),
    "no outputs": ({"targets": np.empty((12, 0))}, "targets", "(12, 0)"),
    "inputs that are objects": ({"inputs": INPUTS.astype(object)}, "inputs", "object"),
    "targets that are objects": ({"targets": np.array([None] * 12)}, "targets", "object"),
    "complex inputs": ({"inputs": INPUTS * 1j}, "inputs", "complex128"),
    "complex targets": ({"targets": TARGETS + 0j}, "targets", "complex128"),
    "inputs that are words": ({"inputs": INPUTS.astype(str)}, "inputs", "<U"),
    "targets that are words": ({"targets": ["yes", "no"] * 6}, "targets", "<U"),
    "inputs with three axes": ({"inputs": INPUTS[:, :, None]}, "inputs", "(12, 2, 1)"),
    "targets with three axes": ({"targets": TARGETS[:, :, None]}, "targets", "(12, 2, 1)"),
    "a number for the inputs": ({"inputs": 3.0}, "inputs", "()"),
    "None for the targets": ({"targets": None}, "targets", "object"),
    "ragged inputs": ({"inputs": [[1.0, 2.0], [3.0]]}, "inputs", ""),
    "a negative weight": ({"weights": [1.0] * 11 + [-1.0]}, "weights", "-1.0"),
    "a zero weight": ({"weights": [0.0] + [1.0] * 11}, "weights", "0.0"),
    "a weight that is NaN": ({"weights": [np.nan] + [1.0] * 11}, "weights", "NaN"),
    "too few weights": ({"weights": [1.0, 2.0]}, "weights", "(2,)"),
    "weights with two axes": ({"weights": np.ones((12, 1))}, "weights", "(12, 1)"),
    "weights that are words": ({"weights": ["heavy"] * 12}, "weights", "<U"),
    "an unknown backend": ({"backend": "abacus"}, "backend", "abacus"),
}


def regression(inputs, targets, weights=None):
    """Return a problem for the reference kernels."""
    return Regression(inputs, targets, weights, backend="reference")


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name_with_what_was_got_and_what_is_expected(case):
    change, name, got = BAD[case]
    with pytest.raises(ValueError, match=rf"^({name}|inputs, targets): got.*expected") as error:
        Regression(**{"inputs": INPUTS, "targets": TARGETS, **change})
    assert got in str(error.value)


def frozen(array):
    """Return a read-only copy."""
    array = array.copy()
    array.setflags(write=False)
    return array


@pytest.mark.parametrize(
    "form",
    [
        lambda a: a.tolist(),
        np.asfortranarray,
        lambda a: np.repeat(a, 3, axis=0)[::3],
        lambda a: a[::-1][::-1],
        frozen,
        lambda a: a.astype(">f8"),
        lambda a: a.astype(np.longdouble),
    ],
    ids=["list", "column by column", "strided", "reversed twice", "read-only", "big-endian", "long double"],
)
def test_the_form_of_the_arrays_does_not_matter(form):
    x = PAIR.initial(1)
    expected = regression(INPUTS, TARGETS).on(PAIR).value(x)
    assert regression(form(INPUTS), form(TARGETS)).on(PAIR).value(x) == expected


def test_integers_and_truth_values_are_numbers():
    inputs = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    parity = inputs[:, 0] ^ inputs[:, 1]
    x = SPACE.initial(0)
    values = {
        regression(i, t).on(SPACE).value(x)
        for i in (inputs, inputs.astype(float), inputs.astype(bool), inputs.astype(np.uint8), inputs.tolist())
        for t in (parity, parity.astype(float), parity.astype(bool))
    }
    assert len(values) == 1


def test_a_problem_neither_copies_nor_changes_what_it_was_given():
    inputs, targets = INPUTS.copy(), TARGETS.copy()
    problem = regression(inputs, targets)
    gauss_newton(problem.on(PAIR), PAIR.initial(0), max_steps=2)
    assert np.shares_memory(problem.inputs, inputs) and np.shares_memory(problem.targets, targets)
    assert np.array_equal(inputs, INPUTS) and np.array_equal(targets, TARGETS)
    assert inputs.flags.writeable and targets.flags.writeable


def test_a_constant_target_is_fitted_exactly():
    problem = regression(INPUTS, np.full(12, 3.7))
    result = gauss_newton(problem.on(SPACE), SPACE.initial(0), max_steps=5)
    assert result.status.converged
    assert np.abs(problem.solution(SPACE, result.x)(INPUTS) - 3.7).max() <= 1e-15


@pytest.mark.parametrize("column", [0.0, 5.0, -1e9])
def test_a_constant_feature_is_mapped_to_zero_and_plays_no_role(column):
    wide = FeedforwardSpace(3, (3,), 1)
    inputs = np.column_stack([INPUTS, np.full(12, column)])
    problem = regression(inputs, TARGETS[:, 0])
    x = wide.initial(2)
    y = x.copy()
    y[wide.blocks[0].start + 2 : wide.blocks[0].bias_start : 3] += 10.0
    assert problem.on(wide).value(x) == problem.on(wide).value(y)
    # Nothing is known of other values of it either.
    u, other = problem.solution(wide, x), inputs + np.array([0.0, 0.0, 3.0])
    assert np.array_equal(u(other), u(inputs)) and not u.gradient(other)[..., 2].any()
    assert np.isfinite(u.gradient(other)).all() and problem.identity["input_scale"][2] == np.inf
    assert np.isfinite(gauss_newton(problem.on(wide), x, max_steps=3).value)


def test_duplicated_features_work():
    wide = FeedforwardSpace(3, (3,), 1)
    problem = regression(np.column_stack([INPUTS, INPUTS[:, 0]]), TARGETS[:, 0])
    result = gauss_newton(problem.on(wide), wide.initial(0), max_steps=5)
    assert result.value < result.steps[0].value


def test_two_samples_are_enough():
    problem = regression([[0.0], [1.0]], [1.0, 5.0])
    space = FeedforwardSpace(1, (1,), 1)
    result = gauss_newton(problem.on(space), space.initial(0), max_steps=5)
    assert problem.solution(space, result.x)([[0.0], [1.0]])[:, 0] == pytest.approx([1.0, 5.0], rel=1e-12)


def test_conditions_of_the_reference_problem():
    problem = regression(100.0 + 7.0 * INPUTS, TARGETS * [3.0, 1e-4] - 8.0)
    reference = problem.ansatz.reference(problem.inputs)
    assert reference.min(axis=0) == pytest.approx([-1.0, -1.0]) and reference.max(axis=0) == pytest.approx([1.0, 1.0])
    # The quadrature keeps the user's units; the law sees targets of mean 0 and deviation 1.
    assert np.array_equal(problem.quadrature.data, problem.targets)
    data = (problem.quadrature.data - problem.ansatz.output_shift) / problem.ansatz.output_scale
    assert data.mean(axis=0) == pytest.approx([0.0, 0.0], abs=1e-10)
    assert data.std(axis=0) == pytest.approx([1.0, 1.0], rel=1e-10)
    assert problem.on(PAIR).value(np.zeros(PAIR.dim)) == pytest.approx(1.0, rel=1e-10)


@given(st.integers(-60, 60), st.integers(-60, 60), st.integers(0, 100))
def test_powers_of_two_in_inputs_and_targets_change_no_bit(input_power, target_power, seed):
    x = PAIR.initial(seed)
    plain = regression(INPUTS, TARGETS).on(PAIR).linearize(x)
    scaled = regression(INPUTS * 2.0**input_power, TARGETS * 2.0**target_power).on(PAIR).linearize(x)
    assert scaled.value == plain.value
    assert np.array_equal(scaled.derivative, plain.derivative)


@given(st.floats(-12, 12), st.floats(-12, 12), st.floats(-3, 3))
def test_units_change_nothing_but_rounding(input_exponent, target_exponent, shift):
    x = PAIR.initial(0)
    a, b = 10.0**input_exponent, 10.0**target_exponent
    plain = regression(INPUTS, TARGETS).on(PAIR)
    scaled = regression(a * (INPUTS + shift), b * (TARGETS - shift)).on(PAIR)
    assert scaled.value(x) == pytest.approx(plain.value(x), rel=1e-13)
    assert scaled.linearize(x).derivative == pytest.approx(plain.linearize(x).derivative, rel=1e-12, abs=1e-13)


def test_the_extremes_of_double_precision_do_not_overflow():
    for scale in (1e-300, 1e300):
        problem = regression(scale * INPUTS, scale * TARGETS)
        x = PAIR.initial(0)
        expected = regression(INPUTS, TARGETS).on(PAIR).value(x)
        assert problem.on(PAIR).value(x) == pytest.approx(expected, rel=1e-12)
        assert np.isfinite(problem.solution(PAIR, x)(scale * INPUTS)).all()


@given(st.lists(st.integers(1, 4), min_size=12, max_size=12))
def test_integer_weights_are_repetitions_of_samples(counts):
    x = PAIR.initial(0)
    weighted = regression(INPUTS, TARGETS, counts)
    repeated = regression(np.repeat(INPUTS, counts, axis=0), np.repeat(TARGETS, counts, axis=0))
    assert weighted.on(PAIR).value(x) == pytest.approx(repeated.on(PAIR).value(x), rel=1e-13)
    left, right = weighted.on(PAIR).linearize(x), repeated.on(PAIR).linearize(x)
    assert left.derivative == pytest.approx(right.derivative, rel=1e-12, abs=1e-14)
    direction = np.linspace(-1.0, 1.0, PAIR.dim)
    assert left.hessian(direction) == pytest.approx(right.hessian(direction), rel=1e-11, abs=1e-13)


def test_the_sample_given_twice_or_in_another_order_changes_nothing():
    x = PAIR.initial(0)
    plain = regression(INPUTS, TARGETS)
    order = np.random.default_rng(1).permutation(np.repeat(np.arange(12), 2))
    twice = regression(INPUTS[order], TARGETS[order])
    assert twice.on(PAIR).value(x) == pytest.approx(plain.on(PAIR).value(x), rel=1e-13)
    assert twice.solution(PAIR, x)(INPUTS) == pytest.approx(plain.solution(PAIR, x)(INPUTS), rel=1e-13)


def test_the_functional_is_half_the_weighted_mean_square_of_the_scaled_misfit():
    weights = np.arange(1.0, 13.0)
    problem = regression(INPUTS, TARGETS, weights)
    x = PAIR.initial(4)
    misfit = (problem.solution(PAIR, x)(INPUTS) - TARGETS) / problem.ansatz.output_scale
    expected = 0.5 * np.average(np.sum(misfit**2, axis=1), weights=weights)
    assert problem.on(PAIR).value(x) == pytest.approx(expected, rel=1e-13)


def test_cellwise_contributions_sum_to_the_value():
    functional = regression(INPUTS, TARGETS).on(PAIR)
    x = PAIR.initial(0)
    cells = functional.cellwise(x)
    assert cells.shape == (12,) and (cells > 0).all()
    assert np.sum(cells) == pytest.approx(functional.value(x), rel=1e-14)


def test_rms_of_the_functional_is_the_error_in_the_units_of_the_target():
    problem = regression(INPUTS, 40.0 * TARGETS[:, 0] + 3.0)
    x = SPACE.initial(0)
    error = problem.solution(SPACE, x)(INPUTS)[:, 0] - problem.targets[:, 0]
    expected = np.sqrt(np.mean(error**2))
    assert problem.rms(np.sqrt(2.0 * problem.on(SPACE).value(x))) == pytest.approx(expected, rel=1e-13)


def test_rms_of_several_outputs_is_right_for_an_error_spread_like_the_targets():
    problem = regression(INPUTS, TARGETS * [5.0, 0.1])
    total = np.sqrt(2.0 * problem.on(PAIR).value(np.zeros(PAIR.dim)))
    error = problem.targets - problem.targets.mean(axis=0)
    assert problem.rms(total) == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-13)


def test_gradients_of_a_solution_are_the_limit_of_difference_quotients_in_user_units():
    problem = regression(INPUTS * [3.0, 0.01] + [5.0, -2.0], TARGETS * [1e3, 1.0])
    solution = problem.solution(PAIR, PAIR.initial(0))
    points = problem.inputs[:4]
    exact = solution.gradient(points)
    assert exact.shape == (4, 2, 2)
    errors = []
    for step in (1e-2, 5e-3):
        quotients = np.empty((4, 2, 2))
        for axis in range(2):
            shift = np.zeros(2)
            shift[axis] = step * problem.ansatz.input_scale[axis]
            quotients[:, :, axis] = (solution(points + shift) - solution(points - shift)) / (2.0 * shift[axis])
        errors.append(np.abs(quotients - exact).max(axis=(0, 1)))
    assert np.log2(errors[0] / errors[1]) == pytest.approx([2.0, 2.0], abs=0.1)


def test_solutions_are_called_with_any_number_of_points(backend):
    problem = Regression(INPUTS, TARGETS, backend=backend)
    solution = problem.solution(PAIR, PAIR.initial(0))
    together = solution(INPUTS)
    assert together == pytest.approx(np.concatenate([solution(INPUTS[k : k + 1]) for k in range(12)]), rel=1e-13)
    assert solution(np.empty((0, 2))).shape == (0, 2)
    assert solution.gradient(np.empty((0, 2))).shape == (0, 2, 2)
    assert solution(INPUTS.tolist()) == pytest.approx(together, rel=0)


@pytest.mark.parametrize(
    "points", [np.ones((3, 1)), np.ones((3, 3)), np.ones((3, 2, 1)), [[np.nan, 1.0]], [["a", "b"]]]
)
def test_solutions_refuse_points_that_do_not_fit(points):
    solution = regression(INPUTS, TARGETS).solution(PAIR, PAIR.initial(0))
    for evaluate in (solution, solution.gradient):
        with pytest.raises(ValueError, match="^points: got.*expected"):
            evaluate(points)


def test_solutions_refuse_coefficients_of_another_space():
    with pytest.raises(ValueError, match=r"^x: got shape \(13,\), expected \(17,\)"):
        regression(INPUTS, TARGETS).solution(PAIR, SPACE.initial(0))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_solutions_refuse_coefficients_that_are_not_finite(value):
    x = PAIR.initial(0)
    x[3] = value
    with pytest.raises(ValueError, match="^x: got NaN or infinity, expected finite numbers"):
        regression(INPUTS, TARGETS).solution(PAIR, x)


def test_the_coefficients_of_a_solution_cannot_be_written_to(backend):
    x = PAIR.initial(0)
    solution = Regression(INPUTS, TARGETS, backend=backend).solution(PAIR, x)
    with pytest.raises(ValueError, match="read-only"):
        solution.x[0] = 1.0
    x[0] = 1.0
    assert solution(INPUTS).shape == (12, 2)


def test_solutions_do_not_follow_later_changes_of_the_coefficients():
    x = PAIR.initial(0)
    solution = regression(INPUTS, TARGETS).solution(PAIR, x)
    before = solution(INPUTS)
    x[:] = 0.0
    assert np.array_equal(solution(INPUTS), before)


@pytest.mark.parametrize(
    ("space", "words"),
    [(FeedforwardSpace(2, (3,), 1), "1 outputs"), (FeedforwardSpace(3, (3,), 2), "3 inputs")],
)
def test_a_space_that_does_not_fit_is_refused(space, words):
    with pytest.raises(ValueError, match=f"^space: got {words}.*expected 2"):
        regression(INPUTS, TARGETS).on(space)


@pytest.mark.parametrize(
    "x", [np.zeros(3), np.zeros((17, 1)), np.zeros(17, dtype=complex), ["a"] * 17, np.zeros(17, dtype=object)]
)
def test_coefficients_that_do_not_fit_are_refused(x):
    functional = regression(INPUTS, TARGETS).on(PAIR)
    for use in (functional.value, functional.linearize, functional.cellwise):
        with pytest.raises(ValueError, match="^x: got.*expected"):
            use(x)


def test_a_subset_of_the_quadrature_is_the_problem_on_these_samples():
    problem = regression(INPUTS, TARGETS)
    x = PAIR.initial(0)
    whole = problem.on(PAIR)
    part = whole.on(quadrature=problem.quadrature.subset(slice(0, 6)))
    rest = whole.on(quadrature=problem.quadrature.subset(slice(6, 12)))
    assert 0.5 * (part.value(x) + rest.value(x)) == pytest.approx(whole.value(x), rel=1e-13)
    assert problem.on(PAIR, problem.quadrature.subset(slice(0, 6))).value(x) == part.value(x)


def test_a_quadrature_of_another_dimension_is_refused():
    with pytest.raises(ValueError, match="^space: got 2 inputs"):
        regression(INPUTS, TARGETS).on(PAIR, Quadrature([[1.0]], [1.0], [[1.0, 2.0]]))


def test_the_identity_tells_problems_apart():
    same, again = regression(INPUTS, TARGETS).identity, regression(INPUTS.tolist(), TARGETS).identity
    assert all(np.array_equal(same[key], again[key]) for key in same)
    others = [
        regression(INPUTS, 2 * TARGETS),
        regression(INPUTS + 1, TARGETS),
        regression(INPUTS, TARGETS, range(1, 13)),
    ]
    for other in others:
        assert any(not np.array_equal(same[key], other.identity[key]) for key in same)
